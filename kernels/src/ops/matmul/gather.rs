//! Column panels put together from live columns only.
#![forbid(unsafe_code)]

use super::block::Product;

/// Puts the live terms of the packed columns `from` into a panel of their own, and their bias into another.
pub(super) fn gather_columns(
    p: &Product<'_>,
    (t, terms): (usize, usize),
    from: &[u32],
    nr: usize,
    panel: &mut [f32],
    bias: &mut [f32],
) {
    for (j, &column) in from.iter().enumerate() {
        let column = column as usize;
        // Without terms there is no packed B.
        let first = column / nr * p.panel_len + column % nr;
        let data = &p.panels[first.min(p.panels.len())..];
        for (row, &at) in panel
            .chunks_exact_mut(nr)
            .zip(&p.of_b.as_slice()[t..t + terms])
        {
            row[j] = data[at as usize];
        }
        if let Some(all) = p.bias {
            bias[j] = all[column];
        }
    }
    for row in panel.chunks_exact_mut(nr).take(terms) {
        row[from.len()..].fill(0.0);
    }
    bias[from.len()..].fill(0.0);
}
