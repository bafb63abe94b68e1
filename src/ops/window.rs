//! Sliding windows: padding resolved, extents of the output.

use crate::Result;
use crate::graph::{Padding, Window};
use crate::ops::fail;

/// Spatial axes that a window may have at most.
pub const SPATIAL: usize = 3;

/// A window over a map of known extents. Entries past `rank` are neutral: 1, and 0 for padding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResolvedWindow {
    /// Number of spatial axes, 1 to 3.
    pub rank: usize,
    /// Extents.
    pub kernel: [usize; SPATIAL],
    /// Steps between outputs.
    pub strides: [usize; SPATIAL],
    /// Steps between taps.
    pub dilations: [usize; SPATIAL],
    /// Padding before the map.
    pub begins: [usize; SPATIAL],
    /// Padding behind the map; in ceil mode the last window may reach further.
    pub ends: [usize; SPATIAL],
    /// Extents of the output.
    pub output: [usize; SPATIAL],
}

impl Window {
    /// The window over a map of extents `spatial_in`; `kernel` are its extents, those of the weights for a convolution. With `ceil` a last
    /// window that reaches over the end counts, unless it begins behind the map.
    ///
    /// # Errors
    /// [`crate::Error::Node`] without a label when lists do not fit, or the window does not fit the map.
    pub fn resolve(
        &self,
        kernel: &[usize],
        spatial_in: &[usize],
        ceil: bool,
    ) -> Result<ResolvedWindow> {
        let rank = spatial_in.len();
        if !(1..=SPATIAL).contains(&rank) {
            return Err(fail(format!(
                "windows have 1 to {SPATIAL} spatial axes, not {rank}"
            )));
        }
        if kernel.len() != rank {
            return Err(fail(format!(
                "the window {kernel:?} does not have {rank} axes, as the map has"
            )));
        }
        let mut resolved = ResolvedWindow {
            rank,
            kernel: [1; SPATIAL],
            strides: list(&self.strides, rank, "strides")?,
            dilations: list(&self.dilations, rank, "dilations")?,
            begins: [0; SPATIAL],
            ends: [0; SPATIAL],
            output: [1; SPATIAL],
        };
        resolved.kernel[..rank].copy_from_slice(kernel);
        if let Padding::Explicit(pads) = &self.padding
            && !pads.is_empty()
        {
            if pads.len() != 2 * rank {
                return Err(fail(format!(
                    "pads {pads:?} do not have {} entries",
                    2 * rank
                )));
            }
            resolved.begins[..rank].copy_from_slice(&pads[..rank]);
            resolved.ends[..rank].copy_from_slice(&pads[rank..]);
        }
        for axis in 0..rank {
            resolved
                .fit(axis, spatial_in[axis], &self.padding, ceil)
                .ok_or_else(|| {
                    fail(format!(
                        "the window {kernel:?} does not fit into the padded map {spatial_in:?}"
                    ))
                })?;
        }
        Ok(resolved)
    }
}

/// The list, or ones if it is empty. No entry may be zero.
fn list(given: &[usize], rank: usize, name: &str) -> Result<[usize; SPATIAL]> {
    let mut all = [1; SPATIAL];
    if given.is_empty() {
        return Ok(all);
    }
    if given.len() != rank || given.contains(&0) {
        return Err(fail(format!(
            "{name} {given:?} are not {rank} positive numbers"
        )));
    }
    all[..rank].copy_from_slice(given);
    Ok(all)
}

impl ResolvedWindow {
    /// Padding and output of one axis; `None` when there is no output or an extent overflows.
    fn fit(&mut self, axis: usize, extent: usize, padding: &Padding, ceil: bool) -> Option<()> {
        let (stride, dilation) = (self.strides[axis], self.dilations[axis]);
        // One less than the extents of the window with its holes.
        let reach = self.kernel[axis].checked_sub(1)?.checked_mul(dilation)?;
        if matches!(padding, Padding::SameUpper | Padding::SameLower) {
            let output = extent.div_ceil(stride);
            let needed = match output.checked_sub(1) {
                Some(last) => last
                    .checked_mul(stride)?
                    .checked_add(reach)?
                    .checked_add(1)?,
                None => 0,
            };
            let total = needed.saturating_sub(extent);
            let (less, more) = (total / 2, total - total / 2);
            (self.begins[axis], self.ends[axis]) = match padding {
                Padding::SameUpper => (less, more),
                _ => (more, less),
            };
            self.output[axis] = output;
            return Some(());
        }
        let before_end = extent.checked_add(self.begins[axis])?;
        let padded = before_end.checked_add(self.ends[axis])?;
        isize::try_from(padded.checked_add(reach)?.checked_add(stride)?).ok()?;
        let steps = match padded.checked_sub(reach.checked_add(1)?) {
            Some(room) if ceil => room.div_ceil(stride),
            Some(room) => room / stride,
            // Too small for a whole window: rounding up, one is left if less than a stride is missing.
            None if ceil && reach + 1 - padded < stride => 0,
            None => return None,
        };
        self.output[axis] = if ceil && steps > 0 && steps * stride >= before_end {
            steps
        } else {
            steps + 1
        };
        Some(())
    }

    /// The same window with the spatial axes moved to the end, so that the last is always the innermost.
    pub(super) fn right_aligned(&self) -> Self {
        let by = SPATIAL - self.rank;
        let mut turned = *self;
        for list in [
            &mut turned.kernel,
            &mut turned.strides,
            &mut turned.dilations,
            &mut turned.begins,
            &mut turned.ends,
            &mut turned.output,
        ] {
            list.rotate_right(by);
        }
        turned
    }

    /// The taps of output `at` that lie inside a map of this extent.
    pub(super) fn taps(&self, axis: usize, at: usize, extent: usize) -> std::ops::Range<usize> {
        let first = at * self.strides[axis];
        let dilation = self.dilations[axis];
        let begin = self.begins[axis].saturating_sub(first).div_ceil(dilation);
        let end = (extent + self.begins[axis])
            .saturating_sub(first)
            .div_ceil(dilation);
        begin..end.min(self.kernel[axis])
    }

    /// How many taps of output `at` lie inside the map or its padding.
    pub(super) fn padded_taps(&self, axis: usize, at: usize, extent: usize) -> usize {
        (extent + self.begins[axis] + self.ends[axis])
            .saturating_sub(at * self.strides[axis])
            .div_ceil(self.dilations[axis])
            .min(self.kernel[axis])
    }

    /// Where a tap of output `at` reads; the tap is one of [`ResolvedWindow::taps`].
    pub(super) fn position(&self, axis: usize, at: usize, tap: usize) -> usize {
        at * self.strides[axis] + tap * self.dilations[axis] - self.begins[axis]
    }
}

/// Spatial extents behind the first two axes, aligned like [`ResolvedWindow::right_aligned`].
pub(super) fn spatial(dims: &[usize]) -> [usize; SPATIAL] {
    let mut all = [1; SPATIAL];
    all[SPATIAL - dims.len()..].copy_from_slice(dims);
    all
}
