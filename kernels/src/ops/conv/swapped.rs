//! Small maps: output channels are the lanes and pixels the rows of a product.
//!
//! ```text
//! c[p, co] = Σ_t planes[offsets[t] + p] · W[t, co]     with the weights in column panels, as those of a matmul
//! y[co, p] = c[p, co]                                  transposed a vector by a vector at a time
//! ```
//! 49 pixels are 4 vectors of 16 to 77 %, and each weight that comes from memory meets only 49 pixels: here no lane is wasted and the
//! weights are prefetched as those of a matmul are. The chain of an output is the same, so are its bits.
#![forbid(unsafe_code)]

use alloc::vec::Vec;

use crate::isa::{F32s, Task};
use crate::ops::conv::planes::Geometry;
use crate::ops::conv::{Terms, Wanted};
use crate::ops::matmul::{MatMul, MatMulSpec};
use crate::ops::{ConvShape, ConvSpec};
use crate::panel::{lines, take};
use crate::pool::{Pool, Tile};
use crate::{Channels, Error, Isa};

/// Terms of an output from which on transposing it does not count: it takes a cycle for three outputs, a term of 16 lanes half a cycle.
const DEPTH: usize = 128;

/// The weights of a group as column panels.
#[derive(Debug)]
pub(super) struct Swapped {
    matmul: MatMul,
    /// Outputs of the group, dropped ones included.
    c_out: usize,
    pixels: usize,
}

/// Whether lanes are better filled with channels than with pixels.
pub(super) fn serves(geometry: &Geometry, shape: &ConvShape) -> bool {
    let (pixels, lanes) = (geometry.pixels(), geometry.lanes);
    let (c_in, c_out) = (shape.c_in / shape.groups, shape.c_out / shape.groups);
    let filled = |n: usize, of: usize| n as f64 / n.next_multiple_of(of) as f64;
    geometry.is_flat()
        && geometry.strip() >= pixels
        && c_in * shape.kernel[0] * shape.kernel[1] >= DEPTH
        && filled(pixels, lanes) < 0.9 * filled(c_out, 2 * lanes)
}

impl Swapped {
    /// Packs the weights of group `g`.
    pub(super) fn pack(
        isa: Isa,
        spec: &ConvSpec<'_>,
        geometry: &Geometry,
        g: usize,
    ) -> Result<Self, Error> {
        let shape = spec.shape;
        let taps = shape.kernel[0] * shape.kernel[1];
        let (c_in, c_out) = (shape.c_in / shape.groups, shape.c_out / shape.groups);
        let k = c_in * taps;
        let live_in = spec.live_in.map(|live| words(live, g * c_in, c_in, taps));
        let live_out = spec.live_out.map(|live| words(live, g * c_out, c_out, 1));
        let matmul = MatMul::pack(
            isa,
            &MatMulSpec {
                k,
                n: c_out,
                b: &spec.weights[g * c_out * k..][..c_out * k],
                transposed: true,
                bias: spec.bias.map(|bias| &bias[g * c_out..][..c_out]),
                activation: spec.activation,
                live_in: view(&live_in, k)?,
                live_out: view(&live_out, c_out)?,
            },
        )?;
        Ok(Self {
            matmul,
            c_out,
            pixels: geometry.pixels(),
        })
    }

    pub(super) fn scratch_len(&self, threads: usize) -> usize {
        lines(self.pixels * self.c_out) + self.matmul.scratch_len(self.pixels, threads)
    }

    /// Computes the group into `out`, its channels x all pixels; `planes` holds what the terms read.
    pub(super) fn run(
        &self,
        (isa, pool): (Isa, &dyn Pool),
        planes: &[f32],
        terms: Terms<'_>,
        wanted: Wanted<'_>,
        out: Tile<'_>,
        mut scratch: &mut [f32],
    ) {
        let product = take(&mut scratch, self.pixels * self.c_out);
        let matmul = &self.matmul;
        matmul.run_planes(pool, (planes, self.pixels), terms, wanted, product, scratch);
        // As many rows as a vector has lanes are transposed together.
        let each = out
            .rows()
            .div_ceil(pool.threads().max(1))
            .next_multiple_of(isa.lanes());
        let pixels = self.pixels;
        out.split(pool, (each, pixels), |first, _, out| {
            isa.run(Transpose {
                product,
                ld: self.c_out,
                wanted: wanted.to,
                first,
                out,
            });
        });
    }
}

fn view(words: &Option<Vec<u64>>, len: usize) -> Result<Option<Channels<'_>>, Error> {
    words
        .as_ref()
        .map(|words| Channels::new(words, len))
        .transpose()
}

/// Channels of the group whose first is `first`, of a mask over all, `times` bits each.
fn words(live: Channels<'_>, first: usize, channels: usize, times: usize) -> Vec<u64> {
    let mut words = alloc::vec![0u64; (channels * times).div_ceil(64)];
    for bit in 0..channels * times {
        if live.contains(first + bit / times) {
            words[bit / 64] |= 1 << (bit % 64);
        }
    }
    words
}

/// Writes the wanted columns of `product` as the rows of `out`.
struct Transpose<'a, 't> {
    product: &'a [f32],
    /// From a row of the product to the next.
    ld: usize,
    /// Columns that are wanted, ascending.
    wanted: &'a [u32],
    /// The column that is the first row of `out`.
    first: usize,
    out: Tile<'t>,
}

impl Task for Transpose<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: F32s>(mut self, s: S) {
        let pixels = self.out.cols();
        let end = self.first + self.out.rows();
        let mut wanted =
            &self.wanted[self.wanted.partition_point(|&c| (c as usize) < self.first)..];
        while let Some(&c) = wanted.first()
            && (c as usize) < end
        {
            let at = c as usize / S::LANES * S::LANES;
            let block = wanted.partition_point(|&c| (c as usize) < end.min(at + S::LANES));
            let columns = S::LANES.min(self.ld - at);
            for p in (0..pixels).step_by(S::LANES) {
                let rows = S::LANES.min(pixels - p);
                let mut v = [s.splat(0.0); 16];
                for (r, v) in v[..rows].iter_mut().enumerate() {
                    *v = s.load_some(&self.product[(p + r) * self.ld + at..][..columns]);
                }
                transpose(s, &mut v);
                for &c in &wanted[..block] {
                    let row = &mut self.out.row(c as usize - self.first)[p..];
                    s.store_some(v[c as usize - at], &mut row[..rows]);
                }
            }
            wanted = &wanted[block..];
        }
    }
}

/// Lane `i` of vector `j` becomes lane `j` of vector `i`, of the first `LANES` vectors: each round halves the distance of what belongs
/// together, as the perfect shuffles of an FFT do.
#[inline(always)]
fn transpose<S: F32s>(s: S, v: &mut [S::V; 16]) {
    let half = S::LANES / 2;
    let mut round = 1;
    while round < S::LANES {
        let from = *v;
        for i in 0..half {
            (v[i], v[i + half]) = s.deinterleave(from[2 * i], from[2 * i + 1]);
        }
        round *= 2;
    }
}
