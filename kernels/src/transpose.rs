//! Rows of pixels to pixels whose lanes are rows, and back.
#![forbid(unsafe_code)]

use crate::isa::{F32s, WIDEST};
use crate::pool::Rows;

/// [`each_row`] for as many rows as a vector has lanes.
macro_rules! each_lane {
    ($s:ty, $i:ident => $body:expr) => {
        $crate::tile::gemm::each_row!(@ <$s>::LANES, $i, $body, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
}
pub(crate) use each_lane;

/// Where blocks of LANES pixels begin that cover `len`: the last one reaches back over the one before, unless it is alone.
#[inline(always)]
fn blocks(len: usize, lanes: usize) -> impl Iterator<Item = usize> {
    let last = len.saturating_sub(lanes);
    (0..len).step_by(lanes).map(move |p| p.min(last))
}

/// The pixels from `p` on of rows of `len`, which are at least as many as there are lanes or all there are; lanes are rows.
#[inline(always)]
fn pixels_of<S: F32s>(s: S, rows: &[&[f32]; WIDEST], p: usize, len: usize) -> [S::V; WIDEST] {
    let mut v = [s.splat(0.0); WIDEST];
    if len < S::LANES {
        each_lane!(S, i => v[i] = s.load_some(&rows[i][..len]));
    } else {
        each_lane!(S, i => v[i] = s.load(&rows[i][..len][p..]));
    }
    s.transpose(&mut v);
    v
}

/// Transposes rows into pixels, `V` vectors from one to the next.
#[inline(always)]
pub(crate) fn to_pixels<S: F32s, const V: usize>(s: S, rows: &[&[f32]; WIDEST], to: &mut [f32]) {
    s.outline(
        #[inline(always)]
        || {
            let len = rows[0].len();
            for p in blocks(len, S::LANES) {
                let v = pixels_of(s, rows, p, len);
                let to = &mut to[p * const { V * S::LANES }..];
                if len < S::LANES {
                    each_lane!(S, i => if i < len {
                        s.store(v[i], &mut to[i * V * S::LANES..]);
                    });
                } else {
                    // One check for all.
                    let to = &mut to[..const { ((S::LANES - 1) * V + 1) * S::LANES }];
                    each_lane!(S, i => s.store(v[i], &mut to[i * V * S::LANES..]));
                }
            }
        },
    );
}

/// Transposes rows into pixels, each to its place.
#[inline(always)]
pub(crate) fn to_places<S: F32s>(s: S, rows: &[&[f32]; WIDEST], places: &[u32], to: &mut [f32]) {
    s.outline(
        #[inline(always)]
        || {
            let len = rows[0].len();
            let n = S::LANES.min(len);
            for p in blocks(len, S::LANES) {
                let v = pixels_of(s, rows, p, len);
                let places = &places[p..][..n];
                each_lane!(S, i => if i < n {
                    s.store(v[i], &mut to[places[i] as usize..]);
                });
            }
        },
    );
}

/// Transposes pixels, `V` vectors from one to the next, into rows.
#[inline(always)]
pub(crate) fn to_rows<S: F32s, const V: usize>(
    s: S,
    from: &[f32],
    pixels: usize,
    mut rows: impl Rows<WIDEST>,
) {
    s.outline(
        #[inline(always)]
        || {
            for p in blocks(pixels, S::LANES) {
                let mut v = [s.splat(0.0); WIDEST];
                let from = &from[p * const { V * S::LANES }..];
                if pixels < S::LANES {
                    each_lane!(S, i => if i < pixels {
                        v[i] = s.load(&from[i * V * S::LANES..]);
                    });
                    s.transpose(&mut v);
                    each_lane!(S, i => s.store_some(v[i], &mut rows.row(i)[..pixels]));
                } else {
                    // One check for all.
                    let from = &from[..const { ((S::LANES - 1) * V + 1) * S::LANES }];
                    each_lane!(S, i => v[i] = s.load(&from[i * V * S::LANES..]));
                    s.transpose(&mut v);
                    each_lane!(S, i => s.store(v[i], &mut rows.row(i)[p..]));
                }
            }
        },
    );
}
