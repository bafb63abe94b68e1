//! Means and maxima of channels.
#![forbid(unsafe_code)]

use super::{compacted, elements, held};
use crate::isa::{F32s, Task, WIDEST};
use crate::ops::check;
use crate::{Channels, Error, Isa};

/// `y[c] = Σ_p x[c / L, p, c % L] / pixels`
///
/// # Shapes    `x` [`elements`]; `y` `[channels]`
/// # Masks     with `live`, x is what [the module](super) says; where it is compact, the means of dead channels are not written
/// # Numerics  to the bit what [`global_mean`](crate::ops::pool::global_mean) gives of planes
/// # Errors    [`Error::TooShort`], [`Error::TooLarge`], [`Error::Mismatch`]
/// # Panics    never
pub fn mean(
    isa: Isa,
    x: &[f32],
    extents: (usize, usize),
    live: Option<Channels<'_>>,
    y: &mut [f32],
) -> Result<(), Error> {
    head(isa, x, extents, live, (y, None))
}

/// [`mean`], and `max[c] = max_p x[c / L, p, c % L]`, NaN when one is NaN, in one pass: the head of a gate
///
/// # Shapes    `x` [`elements`]; `mean`, `max` `[channels]`
/// # Masks     with `live`, x is what [the module](super) says; where it is compact, nothing of dead channels is written
/// # Numerics  as [`mean`]; either of the greatest, if they are zeros
/// # Errors    [`Error::TooShort`], [`Error::TooLarge`], [`Error::Mismatch`]
/// # Panics    never
/// # Source    X. Li et al., arXiv 2303.08970, section 3
pub fn mean_max(
    isa: Isa,
    x: &[f32],
    extents: (usize, usize),
    live: Option<Channels<'_>>,
    mean: &mut [f32],
    max: &mut [f32],
) -> Result<(), Error> {
    head(isa, x, extents, live, (mean, Some(max)))
}

fn head(
    isa: Isa,
    x: &[f32],
    (channels, pixels): (usize, usize),
    live: Option<Channels<'_>>,
    (mean, max): (&mut [f32], Option<&mut [f32]>),
) -> Result<(), Error> {
    check::mask("length of the mask of means", live, channels)?;
    let live = compacted(live);
    let held = held(live, channels);
    let len = check::covers("blocks", &[elements(isa, held, pixels)?], x.len())?;
    check::covers("means", &[channels], mean.len())?;
    if let Some(max) = &max {
        check::covers("maxima", &[channels], max.len())?;
    }
    isa.run(Head {
        x: &x[..len],
        extents: (channels, pixels),
        live,
        mean,
        max,
    });
    Ok(())
}

struct Head<'a> {
    x: &'a [f32],
    extents: (usize, usize),
    live: Option<Channels<'a>>,
    mean: &'a mut [f32],
    max: Option<&'a mut [f32]>,
}

impl Task for Head<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: F32s>(self, s: S) {
        let (channels, pixels) = self.extents;
        let width = pixels * S::LANES;
        let (mut places, mut next) = (self.live.map(|live| live.live()), 0..channels);
        let held = held(self.live, channels);
        let (mean, mut max) = (self.mean, self.max);
        for first in (0..held).step_by(S::LANES) {
            let block = &self.x[first / S::LANES * width..][..width];
            let (mut means, mut maxima) = ([0.0; WIDEST], [0.0; WIDEST]);
            s.store(mean_of(s, block), &mut means);
            if max.is_some() {
                s.store(max_of(s, block), &mut maxima);
            }
            for lane in 0..S::LANES.min(held - first) {
                let place = match &mut places {
                    Some(places) => places.next(),
                    None => next.next(),
                };
                let Some(c) = place else { return };
                mean[c] = means[lane];
                if let Some(max) = &mut max {
                    // A sum that is no number tells that one of its terms may be none.
                    max[c] = match means[lane].is_nan() {
                        true => max_of_lane(&block[lane..], S::LANES),
                        false => maxima[lane],
                    };
                }
            }
        }
    }
}

/// The means of the pixels of a block: each channel's in the order of a plane's, whose pixel `p` goes to lane `p % L` of sum `p / L % 4`.
#[inline(always)]
fn mean_of<S: F32s>(s: S, block: &[f32]) -> S::V {
    let zero = s.splat(0.0);
    let count = s.splat((block.len() / S::LANES) as f32);
    let mut parts = [zero; 4 * WIDEST];
    let parts = &mut parts[..4 * S::LANES];
    for pixels in block.chunks(4 * S::LANES * S::LANES) {
        for (part, pixel) in parts.iter_mut().zip(pixels.chunks_exact(S::LANES)) {
            *part = s.add(*part, s.load(pixel));
        }
    }
    // Joined as a vector's accumulators are, and then its lanes.
    for i in 0..S::LANES {
        let of = |sum: usize| parts[sum * S::LANES + i];
        parts[i] = s.add(s.add(of(0), of(1)), s.add(of(2), of(3)));
    }
    let mut half = S::LANES / 2;
    while half > 0 {
        for i in 0..half {
            parts[i] = s.add(parts[i], parts[i + half]);
        }
        half /= 2;
    }
    s.div(parts[0], count)
}

/// The greatest of the pixels of a block, those that are NaN apart.
#[inline(always)]
fn max_of<S: F32s>(s: S, block: &[f32]) -> S::V {
    let mut best = [s.splat(f32::NEG_INFINITY); 4];
    for pixels in block.chunks(4 * S::LANES) {
        for (best, pixel) in best.iter_mut().zip(pixels.chunks_exact(S::LANES)) {
            *best = s.max(s.load(pixel), *best);
        }
    }
    let [a, b, c, d] = best;
    s.max(s.max(a, b), s.max(c, d))
}

fn max_of_lane(block: &[f32], lanes: usize) -> f32 {
    let greater = |a: f32, &b: &f32| if a.is_nan() || a > b { a } else { b };
    block.iter().step_by(lanes).fold(f32::NEG_INFINITY, greater)
}
