//! Tiles whose lanes are channels: some pixels of the output, of a block of channels.
#![forbid(unsafe_code)]

use crate::isa::{F32s, WIDEST};
use crate::panel::{Below, Rhs, Side, Stencil, Terms};
use crate::tile::gemm::each_row;

/// Columns from which on a row of a tile keeps two FMA units of four cycles busy by itself, nearly.
pub(super) const WIDE: usize = 7;

/// Whether windows of so many columns, with such a step, have tiles that hold them in registers.
pub(super) const fn in_registers(columns: usize, step: usize) -> bool {
    matches!((columns, step), (3 | 5, 1 | 2) | (7, 1))
}

/// Sums of a tile, at most.
pub(super) const fn most_sums(registers: usize) -> usize {
    if registers >= 32 { 16 } else { 8 }
}

/// [`each_row`] for so few taps and so many pixels: unused ones take time to compile.
macro_rules! each_tap {
    ($count:expr, $i:ident => $body:expr) => {
        each_row!(@ $count, $i, $body, 0 1 2 3 4 5 6)
    };
}
macro_rules! each_pixel {
    ($count:expr, $i:ident => $body:expr) => {
        each_row!(@ $count, $i, $body,
            0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34)
    };
}

/// Padding beside a row: half of the widest window, less its middle.
static ZEROS: [f32; 3 * WIDEST] = [0.0; 3 * WIDEST];

/// Some columns of some rows of the output, of each block.
pub(super) struct Tile<'a, V> {
    /// Where taps are in `map`, seen from the first output, and in `weights`.
    pub(super) taps: [Below<'a>; 2],
    /// Columns of the window, when all of them are in `map`, side by side; and from a row of it to the next.
    pub(super) window: Option<(usize, usize)>,
    pub(super) rows: usize,
    /// Whether half of a window, less its middle, is padding for the first and the last column: then `map` begins behind the padding.
    pub(super) sides: [bool; 2],
    pub(super) weights: &'a [f32],
    pub(super) bias: &'a [f32],
    pub(super) map: &'a [f32],
    pub(super) out: &'a mut [f32],
    /// From one output to that below it, in `map` and in `out`.
    pub(super) below: [usize; 2],
    /// How many blocks, and from one to the next, in `map` and in `out`.
    pub(super) blocks: usize,
    pub(super) apart: [usize; 2],
    pub(super) clamp: (V, V),
}

impl<V: Copy> Tile<'_, V> {
    /// `count` columns, R at a time, of Q rows at a time.
    #[inline(always)]
    pub(super) fn columns<S: F32s<V = V>, const T: usize>(
        mut self,
        s: S,
        q: usize,
        count: usize,
        columns: usize,
    ) {
        let most = most_sums(S::REGISTERS);
        let is_row = self.rows == 1;
        let mut left = count;
        while left > 0 {
            let r = columns.min(left);
            let right = self.sides[1] && r == left;
            // Tiles of a single row, but for its ends, are rows, one behind the other: of one call.
            let together = match is_row && !self.sides[0] {
                true => ((left - 1) / r).max(1),
                false => 1,
            };
            if is_row {
                self.rows = together;
                self.below = [r * T, r].map(|pixels| pixels * S::LANES);
            }
            macro_rules! windows {
                ($k:literal: $($r:literal)*) => {
                    match r {
                        $($r if $r <= most => {
                            s.outline(#[inline(always)] || self.window::<S, $k, T, $r>(s, right));
                        })*
                        _ => unreachable!("no such tile"),
                    }
                };
            }
            macro_rules! tiles {
                ($(($r:literal, $q:literal))*) => {
                    for i in (0..self.rows).step_by(q) {
                        match (r, q.min(self.rows - i)) {
                            // Functions of their own: else the checks of all are made before each.
                            $(($r, $q) => if $r * $q <= most {
                                s.outline(#[inline(always)] || self.run::<S, T, $r, $q>(s, i));
                            })*
                            _ => unreachable!("no such tile"),
                        }
                    }
                };
            }
            match self.window {
                Some((k, _)) if q == 1 && r >= WIDE && in_registers(k, T) => match k {
                    3 => windows! { 3: 7 8 9 10 11 12 13 14 15 16 },
                    5 => windows! { 5: 7 8 9 10 11 12 13 14 15 16 },
                    _ if T == 1 => windows! { 7: 7 8 9 10 11 12 13 14 15 16 },
                    _ => unreachable!("no such window"),
                },
                _ => tiles! {
                (1, 1) (2, 1) (3, 1) (4, 1) (5, 1) (6, 1) (7, 1) (8, 1) (9, 1) (10, 1) (11, 1) (12, 1) (13, 1) (14, 1)
                (15, 1) (16, 1) (1, 4) (1, 5) (1, 6) (1, 7) (1, 8) (2, 4) (1, 2) (2, 2) (3, 2) (4, 2) (5, 2) (6, 2) (7, 2) (8, 2) (1, 3) (2, 3) (3, 3) (4, 3) (5, 3)
                },
            }
            left -= r * together;
            if left > 0 {
                let side = match self.window {
                    Some((k, _)) if self.sides[0] => k / 2,
                    _ => 0,
                };
                self.sides[0] = false;
                self.map = behind(self.map, (r * together * T - side) * S::LANES);
                self.out = &mut core::mem::take(&mut self.out)[r * together * S::LANES..];
            }
        }
    }

    /// R columns of a window of K whose taps are side by side. Each pixel is loaded once: an FMA with a pixel from memory takes nearly twice as
    /// long as one without. The padding beside them is read from zeros.
    #[inline(always)]
    fn window<S: F32s<V = V>, const K: usize, const T: usize, const R: usize>(
        &mut self,
        s: S,
        right: bool,
    ) {
        let side = const { K / 2 * S::LANES };
        let inner = const { ((R - 1) * T + K - K / 2 * 2) * S::LANES };
        let lead = if self.sides[0] { 0 } else { side };
        let (places, weights) = (self.taps[0].as_slice(), self.taps[1].as_slice());
        let below = self.window.map_or(0, |(_, below)| below);
        let (lo, hi) = self.clamp;
        let each = self.weights.len() / self.blocks;
        for block in 0..self.blocks {
            let bias = s.load(&self.bias[block * S::LANES..]);
            for i in 0..self.rows {
                let mut sums = [bias; R];
                if let (Some(&place), Some(&first)) = (places.first(), weights.first()) {
                    let from = block * self.apart[0] + i * self.below[0] + place as usize;
                    let map = &self.map[from..];
                    let of_block = &self.weights[block * each + first as usize..];
                    for row in 0..places.len() / K {
                        let map = &map[row * below..];
                        let before = if lead == 0 { &ZEROS[..] } else { map };
                        let before = &before[..side];
                        let inside = &map[lead..][..inner];
                        let after = if right {
                            &ZEROS[..]
                        } else {
                            &map[lead + inner..]
                        };
                        let after = &after[..side];
                        let weights = &of_block[row * K * S::LANES..][..K * S::LANES];
                        let mut of_row = [sums[0]; K];
                        each_tap!(K, l => of_row[l] = s.load(&weights[l * S::LANES..]));
                        each_pixel!((R - 1) * T + K, m => {
                            let at = m * S::LANES;
                            let pixel = if at < side {
                                s.load(&before[at..])
                            } else if at < side + inner {
                                s.load(&inside[at - side..])
                            } else {
                                s.load(&after[at - side - inner..])
                            };
                            each_tap!(K, l => if l <= m && (m - l).is_multiple_of(T) && (m - l) / T < R {
                                let r = (m - l) / T;
                                sums[r] = s.mul_add(pixel, of_row[l], sums[r]);
                            });
                        });
                    }
                }
                let out = block * self.apart[1] + i * self.below[1];
                let out = &mut self.out[out..][..R * S::LANES];
                each_row!(R, r => s.store(s.min(hi, s.max(lo, sums[r])), &mut out[r * S::LANES..]));
            }
        }
    }

    #[inline(always)]
    fn run<S: F32s<V = V>, const T: usize, const R: usize, const Q: usize>(
        &mut self,
        s: S,
        i: usize,
    ) {
        let [places, weights] = self.taps;
        let (lo, hi) = self.clamp;
        let each = self.weights.len() / self.blocks;
        for block in 0..self.blocks {
            let map = behind(self.map, block * self.apart[0] + i * self.below[0]);
            let map = Stencil::<S, R, Q, T>::new(map, self.below[0], places);
            let of_block = &self.weights[block * each..][..each];
            let weights = Side::<S, _, 1, 1>::new([of_block], weights.part(0..map.len()));
            let mut sums = [[s.load(&self.bias[block * S::LANES..]); R]; Q];
            for t in 0..map.len() {
                let [weight] = weights.at::<1>(s, t, 0);
                each_row!(Q, q => {
                    let pixels = map.at(s, t, q);
                    each_row!(R, r => sums[q][r] = s.mul_add(pixels[r], weight, sums[q][r]));
                });
            }
            let out = &mut self.out[block * self.apart[1] + i * self.below[1]..];
            each_row!(Q, q => {
                let out = &mut out[q * self.below[1]..][..R * S::LANES];
                each_row!(R, r => {
                    s.store(s.min(hi, s.max(lo, sums[q][r])), &mut out[r * S::LANES..]);
                });
            });
        }
    }
}

/// What there is behind `at` elements: without taps there need not be any.
#[inline(always)]
fn behind(map: &[f32], at: usize) -> &[f32] {
    &map[at.min(map.len())..]
}
