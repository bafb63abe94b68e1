//! The product of two run-time operands.
#![forbid(unsafe_code)]

use super::block::{self, Columns, Product};
use crate::Error;
use crate::epilogue::Activation;
use crate::isa::Isa;
use crate::pack::{check_len, column_panels, extent, panel_width};
use crate::panel::{Below, from_line, lines, take, take_indices};
use crate::pool::{Pool, Tile, worth};

/// A matrix of any strides: element (i, j) is `data[i * strides.0 + j * strides.1]`.
#[derive(Debug, Clone, Copy)]
pub struct Strided<'a> {
    /// Elements.
    pub data: &'a [f32],
    /// From row to row, and from column to column.
    pub strides: (usize, usize),
}

impl Strided<'_> {
    fn check(&self, rows: usize, cols: usize, operand: &'static str) -> Result<(), Error> {
        if rows == 0 || cols == 0 {
            return Ok(());
        }
        let last = |n: usize, stride: usize| (n - 1).checked_mul(stride);
        let needed = last(rows, self.strides.0)
            .zip(last(cols, self.strides.1))
            .and_then(|(r, c)| r.checked_add(c)?.checked_add(1))
            .ok_or(Error::TooLarge { operand })?;
        check_len(self.data.len(), needed, operand)
    }
}

/// Elements of scratch that [`matmul`] needs.
pub fn matmul_scratch_len(isa: Isa, m: usize, k: usize, n: usize, threads: usize) -> usize {
    let nr = panel_width(isa.lanes());
    let panels = n.div_ceil(nr).saturating_mul(nr).saturating_mul(k);
    let own = lines(block::scratch_len(m, n, isa.lanes())).saturating_mul(threads.max(1));
    panels
        .saturating_add(lines(k).saturating_mul(3))
        .saturating_add(own)
        .saturating_add(64)
}

/// C[m, n] = Σ_k A[m, k] · B[k, n], both known only now.
///
/// # Shapes
/// A `[m, k]` and B `[k, n]` of any strides; C `[m, n]`, row-major, contiguous.
/// # Masks
/// None; strides and extents are how a part of a tensor is named.
/// # Numerics
/// As [`MatMul`](super::MatMul) without bias.
/// # Errors
/// [`Error::TooShort`] and [`Error::TooLarge`], naming the operand.
/// # Panics
/// Never.
/// # Scratch
/// [`matmul_scratch_len`] elements, contents ignored.
/// # Source
/// As [`MatMul`](super::MatMul).
pub fn matmul(
    isa: Isa,
    pool: &dyn Pool,
    m: usize,
    k: usize,
    n: usize,
    a: Strided<'_>,
    b: Strided<'_>,
    c: &mut [f32],
    scratch: &mut [f32],
) -> Result<(), Error> {
    let nr = panel_width(isa.lanes());
    a.check(m, k, "A")?;
    b.check(k, n, "B")?;
    check_len(c.len(), extent(&[m, n], "C")?, "C")?;
    extent(&[m, k], "A")?;
    extent(&[k, a.strides.1], "a row of A")?;
    extent(&[k.max(1), n.div_ceil(nr), nr], "packed B")?;
    check_len(
        scratch.len(),
        matmul_scratch_len(isa, m, k, n, 1),
        "scratch",
    )?;
    if m == 0 || n == 0 {
        return Ok(());
    }
    let mut rest = from_line(scratch);
    let panel_len = k * nr;
    let panels = take(&mut rest, n.div_ceil(nr) * panel_len);
    let (of_a, of_b) = (take_indices(&mut rest, k), take_indices(&mut rest, k));
    for t in 0..k {
        (of_a[t], of_b[t]) = ((t * a.strides.1) as u32, (t * nr) as u32);
    }
    if k > 0 {
        let (rs, cs) = b.strides;
        let whole = Tile::new(panels, n.div_ceil(nr), panel_len, panel_len);
        whole.split(worth(pool, m * k * n), (1, panel_len), |p, _, mut panel| {
            let panel = panel.row(0);
            let width = nr.min(n - p * nr);
            if cs == 1 {
                for (t, row) in panel.chunks_exact_mut(nr).enumerate() {
                    row[..width].copy_from_slice(&b.data[t * rs + p * nr..][..width]);
                    row[width..].fill(0.0);
                }
            } else {
                panel.fill(0.0);
                column_panels(panel, nr, (k, width), |t, j| {
                    b.data[t * rs + (p * nr + j) * cs]
                });
            }
        });
    }
    let product = Product {
        a: a.data,
        a_index: None,
        lda: a.strides.0,
        of_a: Below::new(of_a, k.saturating_sub(1) * a.strides.1 + 1),
        in_order: a.strides.1 == 1,
        of_b: Below::new(of_b, k.saturating_sub(1) * nr + 1),
        close: &[],
        places: Below::all(&[]),
        panels,
        by_columns: None,
        first_panel: 0,
        nr,
        pitch: nr,
        panel_len,
        n,
        bias: None,
        activation: Activation::None,
        columns: Columns::All,
        c_index: None,
        m,
        then: &[],
    };
    product.run(isa, pool, Tile::new(c, m, n, n), rest);
    Ok(())
}
