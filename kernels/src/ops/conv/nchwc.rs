//! Convolutions into maps in blocks of channels: products whose rows are pixels, stored as they are computed.
//!
//! ```text
//! for each strip of pixels                              a job, or for each thread some of its channels
//!     for each panel of N vectors of channels           with masks, panels put together from live columns and rows
//!         for each area                                 pixels whose windows have the same taps on the map
//!             for each depth block of KC terms          partial sums stay in y between them
//!                 for each tile of MR pixels            the micro-kernel: vector j of pixel i is a pixel of block j
//! ```
//! So the map is read where it lies, and what a window has on the padding is not computed. Small maps, whose areas would be a few pixels each, are copied
//! between zeros instead.
#![forbid(unsafe_code)]

mod along;
mod cut;
mod edges;
mod groups;
mod lists;
mod pass;
mod pixels;
mod source;
mod strip;
mod weights;
mod window;

use alloc::borrow::Cow;
use alloc::vec;
use alloc::vec::Vec;
use core::slice;

use super::taps;
use crate::isa::WIDEST;
use crate::ops::matmul::{MatMul, MatMulSpec};
use crate::ops::nchwc::{self, Live, compacted, held, is_compact};
use crate::ops::{ConvShape, ConvSpec};
use crate::pack::{check_len, check_mask, extent, gather};
use crate::panel::{LINE, Runs, from_line, lines, take, take_indices};
use crate::pool::{Cuts, Pool, Tile, worth};
use crate::{Channels, Error, Isa};

use groups::Groups;
use lists::Lists;
use pass::WIDE;
use source::{Places, Source};
use strip::Strip;
use weights::{Chosen, Weights};

/// Elements of a map whose channels threads share, at most: 1 MiB. Measured on a Xeon, two threads: 128 channels of 56 x 56 take 1.05 to 1.08 of the time with
/// strips, 256 of 28 x 28 0.93 to 1.01, and the depthwise layers behind them 0.68 to 0.83.
const SMALL: usize = 1 << 18;

/// Pixels whose windows read the rows of live terms so often that these are put together, at least, when all outputs live: of 784 it saves 2 to 5 %, of 225 it
/// costs as much.
const MANY_PIXELS: usize = 400;
/// Strips that are few.
const FEW_STRIPS: usize = 2;

/// A convolution that writes a map in [blocks](crate::ops::nchwc), ready to run.
#[derive(Debug)]
pub struct NchwcConv {
    isa: Isa,
    shape: ConvShape,
    /// For a group and those that begin with the same channel of a block, in turns: one, but where groups are not whole blocks.
    sources: Vec<Source>,
    /// What is read instead where so few channels live that it is faster.
    of_few: Option<Source>,
    /// Pixels of the output.
    pixels: usize,
    /// The weights as `[terms, c_out]`, terms being `[kh, kw, c_in]`.
    matmul: MatMul,
    /// Number of terms.
    depth: usize,
    groups: Groups,
}

impl NchwcConv {
    /// Whether it computes a convolution of maps of `hw`: of one group or of groups of some times four channels, and of extents that are not huge where windows
    /// go over them.
    pub fn serves(isa: Isa, shape: &ConvShape, hw: (usize, usize)) -> bool {
        let in_runs =
            |channels: usize| channels.is_multiple_of(shape.groups.saturating_mul(Runs::LEN));
        let groups = match shape.groups {
            1 => true,
            _ => in_runs(shape.c_in) && in_runs(shape.c_out) && shape.c_out >= isa.lanes(),
        };
        groups && Source::serves(shape, hw)
    }

    /// Whether it is estimated to take less time than [`Conv`](super::Conv) takes for planes. Groups that share blocks leave lanes empty: of 8 channels half
    /// of 16.
    pub fn pays(isa: Isa, shape: &ConvShape, hw: (usize, usize)) -> bool {
        groups::pay(isa, shape, hw)
    }

    /// Places that are listed, at most.
    pub fn listed(shape: &ConvShape) -> usize {
        // As many again for each channel of a block that a group may begin with.
        let sources = match shape.groups {
            1 => 1,
            _ => WIDEST / Runs::LEN,
        };
        Source::listed(shape).saturating_mul(4 * sources)
    }

    /// Takes a convolution of planes, `[c_in, h, w]`.
    ///
    /// # Errors
    /// As [`ConvSpec::check`]; [`Error::Invalid`] when it is not [served](Self::serves), has static masks, or does not fit the map.
    pub fn pack_planes(isa: Isa, spec: &ConvSpec<'_>, hw: (usize, usize)) -> Result<Self, Error> {
        Self::new(isa, spec, hw, 1)
    }

    /// Takes a convolution of a map in blocks.
    ///
    /// # Errors
    /// As [`ConvSpec::check`]; [`Error::Invalid`] when it is not [served](Self::serves), has static masks, or does not fit the map.
    pub fn pack_blocks(isa: Isa, spec: &ConvSpec<'_>, hw: (usize, usize)) -> Result<Self, Error> {
        Self::new(isa, spec, hw, isa.lanes())
    }

    /// Takes a convolution of a map in blocks of so many channels.
    fn new(isa: Isa, spec: &ConvSpec<'_>, hw: (usize, usize), lanes: usize) -> Result<Self, Error> {
        spec.check()?;
        let shape = spec.shape;
        let output = shape.output(hw)?;
        if !Self::serves(isa, &shape, hw) {
            return Err(Error::Invalid {
                what: "in blocks, groups are some times four channels, and maps are not huge",
            });
        }
        nchwc::refuse_masks(spec)?;
        let pixels = extent(&[output.0, output.1], "y")?;
        nchwc::elements(isa, shape.c_out, pixels)?;
        let channels = shape.c_in / shape.groups;
        let depth = channels * taps(&shape);
        let weights = by_taps(spec.weights, (channels, taps(&shape)));
        let matmul = MatMul::pack(
            isa,
            &MatMulSpec {
                transposed: true,
                bias: spec.bias,
                activation: spec.activation,
                masked_columns: spec.masked_outputs,
                ..MatMulSpec::new(depth, shape.c_out, &weights)
            },
        )?;
        let source =
            |group, live| Source::new(&shape, hw, (lanes, isa), matmul.pitch(), group, live);
        let first = source(0, None)?;
        let of_few = match first.few {
            0 => None,
            few => Some(source(0, Some(few))?),
        };
        let mut sources = vec![first];
        while sources.len() < shape.groups && !(sources.len() * channels).is_multiple_of(lanes) {
            sources.push(source(sources.len(), None)?);
        }
        Ok(Self {
            isa,
            shape,
            sources,
            of_few,
            pixels,
            matmul,
            depth,
            groups: Groups::new(isa, &shape),
        })
    }

    /// What was packed.
    pub fn shape(&self) -> &ConvShape {
        &self.shape
    }

    /// Elements of scratch that [`NchwcConv::run`] needs; `masked` for calls with masks, too.
    pub fn scratch_len(&self, threads: usize, masked: bool) -> usize {
        let of_few = self.of_few.iter().filter(|_| masked);
        let all = self.sources.iter().chain(of_few);
        let each = all.map(|source| self.scratch_of(source, threads, masked));
        each.fold(0, usize::max)
    }

    fn scratch_of(&self, source: &Source, threads: usize, masked: bool) -> usize {
        let lists = lines(source.depths).saturating_mul(2);
        let lists = lists.saturating_add(lines(self.shape.c_in));
        let [bias, weights] = Chosen::scratch_len(&self.matmul, (self.depth, self.shape.c_out));
        let together = match (masked, self.has_few_strips(source)) {
            (false, _) => 0,
            (true, true) => bias.saturating_add(lines(self.depth)),
            (true, false) => bias
                .saturating_add(lines(self.depth))
                .saturating_add(weights),
        };
        self.room_len(source, masked)
            .saturating_mul(threads.max(1))
            .saturating_add(lists)
            .saturating_add(source.copy_len())
            .saturating_add(together)
            .saturating_add(LINE)
    }

    /// Elements that a job needs.
    fn room_len(&self, source: &Source, masked: bool) -> usize {
        match masked && self.has_few_strips(source) {
            true => Chosen::room_len(&self.matmul, self.depth),
            false => 0,
        }
    }

    /// Whether each strip puts panels together for itself: no room for all of them, and 0.99 of the time.
    fn has_few_strips(&self, source: &Source) -> bool {
        self.pixels <= FEW_STRIPS * source.strip
    }

    /// What is read with a mask of the inputs.
    fn sources_of(&self, live: Option<Live<'_>>) -> &[Source] {
        match (&self.of_few, live) {
            (Some(of_few), Some(live)) if live.channels().count() <= self.sources[0].few => {
                slice::from_ref(of_few)
            }
            _ => &self.sources,
        }
    }

    /// `y[co, oh, ow] = act(Σ_{ci ∈ live} Σ_{kh, kw} W[co, ci, kh, kw] · x[ci, oh·sh + kh·dh - top, ow·sw + kw·dw - left] + bias[co])`
    ///
    /// # Shapes    `x` planes `[c_in, h, w]` or a map in blocks, as it was packed for; `y` a map `[c_out, oh, ow]` in blocks
    /// # Masks     what dead inputs hold is no part of any sum, and [`nchwc::Live`] says where live ones are: those of planes in place;
    ///   with `live_out`, y is what [`nchwc`] says. None of several groups, but outputs of which so many live that the map is not compact
    /// # Numerics  one chain an output, upwards from the bias in (kh, kw, ci), one mul_add a term of a live channel, the padding being zeros;
    ///   then the activation. The bits depend neither on threads nor on how a channel died
    /// # Errors    [`Error::TooShort`], [`Error::Mismatch`], [`Error::Invalid`] for compact planes and for masks of groups; nothing is written then
    /// # Panics    never
    /// # Scratch   [`NchwcConv::scratch_len`] elements, contents ignored
    pub fn run(
        &self,
        pool: &dyn Pool,
        x: &[f32],
        live_in: Option<Live<'_>>,
        live_out: Option<Channels<'_>>,
        y: &mut [f32],
        scratch: &mut [f32],
    ) -> Result<(), Error> {
        let lanes = self.isa.lanes();
        let shape = &self.shape;
        let mask = live_in.map(Live::channels);
        check_mask(mask, shape.c_in, "length of the input mask")?;
        check_mask(live_out, shape.c_out, "length of the output mask")?;
        let refused = |what| Err(Error::Invalid { what });
        if matches!(live_in, Some(Live::Compact(_))) && !self.sources[0].of_blocks() {
            return refused("planes are not compact");
        }
        let live_in = live_in.filter(|live| match *live {
            Live::InPlace(live) => !live.is_full(),
            Live::Compact(live) => is_compact(live),
        });
        let (zeros, live_out) = (nchwc::zeros(live_out), compacted(live_out));
        let compact = match live_in {
            Some(Live::Compact(live)) => Some(live),
            _ => None,
        };
        if shape.groups > 1 && (live_in.is_some() || live_out.is_some()) {
            return refused("in blocks, groups have no masks");
        }
        let sources = self.sources_of(live_in);
        let source = &sources[0];
        let size = source.len(held(compact, shape.c_in));
        check_len(x.len(), size, "x")?;
        let pixels = self.pixels;
        let outputs = held(live_out, shape.c_out);
        let blocks = outputs.div_ceil(lanes);
        let row = pixels * lanes;
        check_len(y.len(), blocks * row, "y")?;
        let masked = live_in.is_some() || live_out.is_some();
        check_len(scratch.len(), self.scratch_len(1, masked), "scratch")?;
        let mut rest = from_line(scratch);
        let in_place = match live_in {
            Some(Live::InPlace(live)) => Some(live),
            _ => None,
        };
        let read = (in_place, held(compact, shape.c_in));
        let beside = in_place.filter(|live| {
            source.is_read_often() && live.count() <= shape.c_in / 2 && is_compact(*live)
        });
        let x = match beside {
            Some(live) => {
                let copy = take(&mut rest, source.len(live.count()));
                nchwc::compact(self.isa, pool, x, pixels, live, copy)?;
                copy
            }
            None => source.between_zeros(pool, x, read, &mut rest),
        };
        let many = self.pixels >= MANY_PIXELS;
        let chooses = match live_in.filter(|_| live_out.is_none()) {
            Some(Live::InPlace(live)) => many && !source.flat && is_compact(live),
            Some(Live::Compact(_)) => many,
            None => masked,
        };
        let places = |beside| if beside { Places::Beside } else { Places::Kept };
        let beside = beside.is_some() || compact.is_some();
        let lists = self.lists(
            source,
            live_in,
            (places(beside), places(chooses)),
            &mut rest,
        );
        let chosen = chooses.then(|| self.choose(live_in, live_out, &mut rest));
        let weights = match chosen {
            Some(chosen) if !self.has_few_strips(source) => {
                chosen.gather(self.isa, pool, &mut rest)
            }
            _ => Weights::all(&self.matmul),
        };
        let chosen = chosen.filter(|_| self.has_few_strips(source));
        let pool = worth(pool, row * blocks * lists.channels * taps(shape));
        let tile = Tile::new(&mut y[..blocks * row], blocks, row, row);
        let threads = pool.threads().max(1);
        let cuts = self.shares(source, threads, (blocks, size));
        tile.cut(
            pool,
            cuts,
            rest,
            self.room_len(source, masked),
            |block, first, tile, room| {
                // Another thread may have written some of x: a line from its caches takes 100 ns. With few outputs asking takes as long.
                let fetch = match threads > 1 && tile.rows() >= WIDE {
                    true => lists.channels.div_ceil(lanes),
                    false => 0,
                };
                self.isa.run(Strip {
                    conv: self,
                    sources,
                    x,
                    lists,
                    weights,
                    chosen,
                    zeros,
                    fetch,
                    channel: block * lanes,
                    pixel: first / lanes,
                    tile,
                    room,
                });
            },
        );
        Ok(())
    }

    /// What threads share of `blocks` that are made of a map of a size, as many parts each.
    ///
    /// The channels of a small map: each thread reads its part of the weights, and a depthwise layer, which shares them the same way, finds its own in its
    /// caches. Of a large map, or where there are not so many channels, the strips.
    fn shares(
        &self,
        source: &Source,
        threads: usize,
        (blocks, size): (usize, usize),
    ) -> (Cuts<'_>, Cuts<'_>) {
        let lanes = self.isa.lanes();
        let (strips, unit) = source.strips();
        if blocks >= WIDE * threads && (size <= SMALL || strips < threads) {
            let panel = (self.matmul.panel_width() / lanes).max(1);
            let channels = match self.isa.registers() {
                32.. => Cuts::Even(threads, 1),
                // Half a panel has tiles of one vector.
                _ => Cuts::Every(blocks.div_ceil(threads).next_multiple_of(panel)),
            };
            return (channels, Cuts::Even(strips, unit * lanes));
        }
        let strips = strips.next_multiple_of(threads);
        (Cuts::Every(blocks), Cuts::Even(strips, unit * lanes))
    }

    /// Where the terms of the live channels are, in x and in the panels.
    fn lists<'a>(
        &'a self,
        source: &'a Source,
        live: Option<Live<'_>>,
        places: (Places, Places),
        rest: &mut &'a mut [f32],
    ) -> Lists<'a> {
        let all = Lists {
            of_x: &source.terms,
            of_w: None,
            channels: live.map_or(self.shape.c_in / self.shape.groups, |live| {
                live.channels().count()
            }),
            listed: false,
        };
        match live {
            None => return all,
            // The first terms of all.
            Some(Live::Compact(_)) if source.flat && places.1 == Places::Beside => return all,
            Some(_) => {}
        }
        let channels = take_indices(rest, all.channels);
        gather::list(live.map(Live::channels), 0, channels);
        let len = source.depths;
        let (of_x, of_w) = (take_indices(rest, len), take_indices(rest, len));
        source.live(channels, places, (of_x, of_w));
        let in_order = !source.flat && places.1 == Places::Beside;
        Lists {
            of_x,
            of_w: (!in_order).then_some(&*of_w),
            listed: true,
            ..all
        }
    }

    /// The weights of live terms and outputs.
    fn choose<'a>(
        &'a self,
        live_in: Option<Live<'_>>,
        live_out: Option<Channels<'a>>,
        rest: &mut &'a mut [f32],
    ) -> Chosen<'a> {
        let (all, live) = (self.shape.c_in, live_in.map(Live::channels));
        let count = live.map_or(all, |live| live.count());
        let rows = take_indices(rest, count * taps(&self.shape));
        for (tap, rows) in rows.chunks_exact_mut(count.max(1)).enumerate() {
            gather::list(live, 0, rows);
            for row in rows {
                *row += (tap * all) as u32;
            }
        }
        let outputs = (live_out, self.shape.c_out);
        Chosen::new(self.isa, &self.matmul, rows, outputs, rest)
    }
}

/// `[c_out, kh, kw, c_in]` of weights `[c_out, c_in, kh, kw]`.
fn by_taps(weights: &[f32], (channels, taps): (usize, usize)) -> Cow<'_, [f32]> {
    if taps == 1 || channels == 1 {
        return Cow::Borrowed(weights);
    }
    let outputs = weights.chunks_exact((channels * taps).max(1));
    let ordered = outputs
        .flat_map(|of| (0..taps).flat_map(move |tap| of[tap..].iter().step_by(taps).copied()));
    Cow::Owned(ordered.collect())
}
