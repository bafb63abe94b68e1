//! The queries of one block against all keys.
#![forbid(unsafe_code)]

use core::ops::Range;

use super::{Attention, BLOCKS, Lists, Live, Operands, WIDE, keys_of_block, pitch};
use crate::epilogue::Activation;
use crate::isa::{F32s, Task, WIDEST};
use crate::ops::pointwise::exp2;
use crate::pack::even_height;
use crate::panel::{Apart, Below, Even, Gathered, Listed, Side, Spaced, Terms, take};
use crate::pool::Tile;
use crate::tile::gemm::{
    Columns, NV, Place, Start, Target, Whole, for_height, tallest, tallest_gathered, tile,
    without_lists,
};

/// Queries of some heads that share K and V.
pub(super) struct Block<'a, 't> {
    pub(super) attention: &'a Attention,
    pub(super) x: &'a Operands<'a>,
    pub(super) live: &'a Live<'a>,
    pub(super) lists: Lists<'a>,
    /// The first head of the block.
    pub(super) head: usize,
    /// The tokens that the output is for.
    pub(super) tokens: Range<usize>,
    /// Rows of the output are tokens and not heads.
    pub(super) by_token: bool,
    pub(super) out: Tile<'t>,
    pub(super) scratch: &'a mut [f32],
}

/// Rows of the tallest tile of so many vectors of queries. Twelve rows of K read where they are would leave no registers: their loads are all made first.
const fn tallest_of<S: F32s>(vectors: usize) -> usize {
    match vectors {
        WIDE => 6,
        _ if S::REGISTERS >= 32 => 8,
        _ => tallest::<S>(),
    }
}

/// The query of a lane: a head of the block and a token.
pub(super) type Lane = (usize, usize);

impl Task for Block<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: F32s>(mut self, s: S) {
        let heads = self.attention.heads;
        let mut lanes = [(0, 0); BLOCKS * NV * WIDEST];
        let mut count = 0;
        let mut put = |head: usize, token: usize| {
            lanes[count] = (head, token);
            count += 1;
        };
        for head in self.head..self.head + heads {
            if self
                .live_in(head)
                .is_some_and(|mut live| live.next().is_none())
            {
                continue;
            }
            match self.lists.queries {
                None => self.tokens.clone().for_each(|token| put(head, token)),
                Some(list) => {
                    let from = list.partition_point(|&i| (i as usize) < self.tokens.start);
                    let to = list.partition_point(|&i| (i as usize) < self.tokens.end);
                    list[from..to].iter().for_each(|&i| put(head, i as usize));
                }
            }
        }
        // What would leave most lanes of a vector idle is another kernel's. In cycles for a key: two FMAs in each, and softmax.
        let rest = count % S::LANES;
        let terms = self.attention.spec.width + self.attention.spec.v_width;
        let idle = rest * (terms / (2 * S::LANES) + 3) > terms / 2 + 7;
        let few = if idle { 0 } else { rest };
        let (mut lanes, few) = lanes[..count].split_at(count - few);
        let scratch = core::mem::take(&mut self.scratch);
        // Vectors that would be idle are not computed.
        let filling = |lanes: &[Lane], vectors: usize| {
            let over = lanes.len() % (vectors * S::LANES);
            let all = over > (vectors - 1) * S::LANES;
            lanes.len() - if all { 0 } else { over }
        };
        if const { S::REGISTERS >= 32 } {
            let wide;
            (wide, lanes) = lanes.split_at(filling(lanes, WIDE));
            self.attend::<S, WIDE>(s, wide, scratch);
        }
        let wide;
        (wide, lanes) = lanes.split_at(filling(lanes, NV));
        self.attend::<S, NV>(s, wide, scratch);
        self.attend::<S, 1>(s, lanes, scratch);
        if !few.is_empty() {
            self.few(s, few, scratch);
        }
    }
}

impl<'a> Block<'a, '_> {
    /// Blocks of queries side by side: what one reads of K and V, the next ones find in the cache.
    #[inline(always)]
    fn attend<S: F32s, const N: usize>(&mut self, s: S, lanes: &[Lane], scratch: &mut [f32]) {
        if lanes.is_empty() {
            return;
        }
        let spec = self.attention.spec;
        let pitch = pitch::<S>();
        let blocks = self.attention.blocks;
        let kc = const { keys_of_block(S::REGISTERS) };
        let mut rest = scratch;
        let q = take(&mut rest, blocks * spec.width * pitch);
        let p = take(&mut rest, kc.min(spec.keys) * pitch);
        let o = take(&mut rest, blocks * spec.v_width * pitch);

        // Rows of dead elements are divided with the others: subnormal numbers, which may lie there, would take a hundred times as long.
        if self.live_rows().is_some() {
            o.fill(0.0);
        }
        let kv = self.kv();
        let of = |lanes: &[Lane], b: usize| -> usize { (b * N * S::LANES).min(lanes.len()) };
        let lanes_of = |b: usize| &lanes[of(lanes, b)..of(lanes, b + 1)];
        let count = lanes.len().div_ceil(N * S::LANES);
        let mut keys_of = [self.lists.keys; BLOCKS];
        let mut longest = 0;
        for b in 0..count {
            let q = &mut q[b * spec.width * pitch..][..spec.width * pitch];
            self.load_queries::<S, N>(s, lanes_of(b), q, rest);
            keys_of[b] = self.seen(lanes_of(b));
            longest = longest.max(keys_of[b].len());
        }
        let mut max = [[s.splat(f32::MIN); N]; BLOCKS];
        let mut sum = [[s.splat(0.0); N]; BLOCKS];
        for from in (0..longest).step_by(kc) {
            for b in 0..count {
                let keys = keys_of[b];
                if keys.len() <= from {
                    continue;
                }
                let keys = keys.part(from..keys.len().min(from + kc));
                let q = &q[b * spec.width * pitch..][..spec.width * pitch];
                let o = &mut o[b * spec.v_width * pitch..][..spec.v_width * pitch];
                self.scores::<S, N>(s, kv, keys, q, p, rest);
                let p = &mut p[..keys.len() * pitch];
                self.finish_scores::<S, N>(s, lanes_of(b), keys.as_slice(), p, rest);
                let (max, sum) = (&mut max[b], &mut sum[b]);
                let factor = s.outline(
                    #[inline(always)]
                    || exponentials::<S, N>(s, p, max, sum),
                );
                let mut factors = [0.0; WIDE * WIDEST];
                for j in 0..N {
                    s.store(factor[j], &mut factors[j * S::LANES..]);
                }
                let start = if from > 0 {
                    Start::Partial
                } else {
                    Start::Zero
                };
                let start = (start, &factors);
                self.values::<S, N>(s, kv, keys, p, o, start);
            }
        }
        for b in 0..count {
            let o = &mut o[b * spec.v_width * pitch..][..spec.v_width * pitch];
            if keys_of[b].len() == 0 {
                o.fill(0.0);
            }
            self.store::<S, N>(s, lanes_of(b), &sum[b], o, rest);
        }
    }

    /// p[j] = k[j] · q
    #[inline(always)]
    fn scores<S: F32s, const N: usize>(
        &self,
        s: S,
        kv: usize,
        keys: Below<'_>,
        q: &[f32],
        p: &mut [f32],
        rest: &mut [f32],
    ) {
        let a = self.attention;
        let k = &self.x.k;
        let width = a.spec.width;
        let pitch = pitch::<S>();
        let data = &k.data[kv * k.head..];
        let list = keys.as_slice();
        let height = even_height(list.len(), tallest_of::<S>(N));
        let mut out = Tile::new(p, list.len(), pitch, pitch);
        s.outline(
            #[inline(always)]
            || {
                for from in (0..list.len()).step_by(height) {
                    let list = &list[from..list.len().min(from + height)];
                    let (first, last) = (list[0] as usize, list[list.len() - 1] as usize);
                    let (data, ld) = if last - first == list.len() - 1 {
                        (&data[first * k.token..], k.token)
                    } else {
                        for (to, &j) in rest.chunks_exact_mut(width).zip(list) {
                            to.copy_from_slice(&data[j as usize * k.token..][..width]);
                        }
                        (&*rest, width)
                    };
                    for_height!(list.len(), MR => if const { MR <= tallest_of::<S>(N) } {
                        let keys = Spaced::new(data, ld, Even::new(0, 1, width));
                        let lhs = Apart::<MR>::new(keys);
                        let columns = Even::new(0, const { super::pitch::<S>() }, width);
                        let rhs = Side::<S, _, 1, N>::new([q], columns);
                        let place = Place {
                            to: (out.in_order::<MR>(from), Whole(0)),
                            start: Start::Zero,
                            activation: Activation::None,
                        };
                        tile::<S, MR, N, _>(s, width, lhs, rhs, place);
                    });
                }
            },
        );
    }

    /// o[c] = o[c] factors + Σ_j v[j, c] p[j]
    #[inline(always)]
    fn values<S: F32s, const N: usize>(
        &self,
        s: S,
        kv: usize,
        keys: Below<'_>,
        p: &[f32],
        o: &mut [f32],
        (start, factors): (Start<'_>, &Factors),
    ) {
        let a = self.attention;
        let v = &self.x.v;
        let width = a.spec.v_width;
        let pitch = pitch::<S>();
        let depth = keys.len();
        let data = &v.data[kv * v.head..];
        let gathered = tallest_gathered::<S>().min(const { tallest_of::<S>(N) });
        let mut out = Tile::new(o, width, pitch, pitch);
        let mut live = self.live_rows();
        s.outline(
            #[inline(always)]
            || match &mut live {
                None => {
                    let height = even_height(width, tallest_of::<S>(N));
                    let (first, last) = (keys.as_slice()[0] as usize, keys.as_slice()[depth - 1]);
                    let in_a_row = last as usize - first == depth - 1;
                    for c in (0..width).step_by(height) {
                        for_height!(height.min(width - c), MR => if const { MR <= tallest_of::<S>(N) } {
                            let rows = Even::new(0, const { super::pitch::<S>() }, depth);
                            let rhs = Side::<S, _, 1, N>::new([p], rows);
                            let place = Place {
                                to: Rescaled((out.in_order::<MR>(c), Whole(0)), factors),
                                start,
                                activation: Activation::None,
                            };
                            if const { without_lists::<S>() } && in_a_row {
                                let keys = Even::new(first * v.token, v.token, depth);
                                let lhs = Listed::<_, MR>::new(&data[c..], 1, keys);
                                tile::<S, MR, N, _>(s, depth, lhs, rhs, place);
                            } else {
                                let lhs = Listed::<_, MR>::new(&data[c..], v.token, keys);
                                tile::<S, MR, N, _>(s, depth, lhs, rhs, place);
                            }
                        });
                    }
                }
                Some(some) => loop {
                    let mut list = [0u32; WIDEST];
                    let mut count = 0;
                    for (to, c) in list
                        .iter_mut()
                        .zip(some.by_ref().take(gathered))
                    {
                        *to = c as u32;
                        count += 1;
                    }
                    if count == 0 {
                        break;
                    }
                    // One height: the last element again in the place of those that are missing is the same sum, stored again.
                    let last = list[count - 1];
                    list[count..].fill(last);
                    for_height!(@ gathered, MR, if const { MR <= tallest_of::<S>(N) } {
                        let list: &[u32; MR] = list.first_chunk().expect("as many");
                        let starts = list.map(|c| c as usize);
                        let lhs = Gathered::<MR>::new(data, starts, v.token, keys);
                        let rows = Even::new(0, const { super::pitch::<S>() }, depth);
                        let rhs = Side::<S, _, 1, N>::new([p], rows);
                        let place = Place {
                            to: Rescaled((out.listed::<MR>(list, 0), Whole(0)), factors),
                            start,
                            activation: Activation::None,
                        };
                        tile::<S, MR, N, _>(s, depth, lhs, rhs, place);
                    }, 4 6 8);
                },
            },
        );
    }

    /// The elements that are computed, if some are not: heads together have all that one of them has.
    #[inline(always)]
    fn live_rows(&self) -> Option<impl Iterator<Item = usize> + use<'a>> {
        match self.attention.heads {
            1 => self.live_in(self.head),
            _ => None,
        }
    }

    /// The live elements of a head of the result, if some are dead.
    #[inline(always)]
    pub(super) fn live_in(&self, head: usize) -> Option<impl Iterator<Item = usize> + use<'a>> {
        let width = self.attention.spec.v_width;
        let (from, to) = (head * width, (head + 1) * width);
        let live = self.live.outputs?;
        let elements = live
            .live_from(from)
            .take_while(move |&c| c < to)
            .map(move |c| c - from);
        (elements.clone().count() < width).then_some(elements)
    }

    /// y[lane] = row
    #[inline(always)]
    pub(super) fn write(&mut self, (head, token): Lane, row: &[f32]) {
        let width = row.len();
        let (r, c) = if self.by_token {
            (token - self.tokens.start, head - self.head)
        } else {
            (head - self.head, token - self.tokens.start)
        };
        let live = self.live_in(head);
        let to = &mut self.out.row(r)[c * width..][..width];
        match live {
            None => to.copy_from_slice(row),
            Some(live) => live.for_each(|c| to[c] = row[c]),
        }
    }
}

/// One for each lane. As many as there may be: then no tile checks their number.
type Factors = [f32; WIDE * WIDEST];

/// Sums that are multiplied by a factor for each lane as a tile takes them up.
struct Rescaled<'a, T>(T, &'a Factors);

impl<S: F32s, T: Target<S, MR, NV>, const MR: usize, const NV: usize> Target<S, MR, NV>
    for Rescaled<'_, T>
{
    #[inline(always)]
    fn load(&mut self, s: S, i: usize) -> [S::V; NV] {
        let mut sums = self.0.load(s, i);
        let factors: [S::V; NV] = Whole(0).load(s, self.1);
        for j in 0..NV {
            sums[j] = s.mul(sums[j], factors[j]);
        }
        sums
    }
    #[inline(always)]
    fn store(&mut self, s: S, sums: &[[S::V; NV]; MR]) {
        self.0.store(s, sums);
    }
}

/// Scores become powers of two less the maximum of each lane; returns what earlier sums are to be multiplied by.
#[inline(always)]
fn exponentials<S: F32s, const N: usize>(
    s: S,
    p: &mut [f32],
    max: &mut [S::V; N],
    sum: &mut [S::V; N],
) -> [S::V; N] {
    let pitch = pitch::<S>();
    let before = *max;
    // Two chains: a maximum takes longer than a load.
    let mut other = before;
    let mut pairs = p.chunks_exact(2 * pitch);
    for pair in &mut pairs {
        for j in 0..N {
            max[j] = s.max(max[j], s.load(&pair[j * S::LANES..]));
            other[j] = s.max(other[j], s.load(&pair[pitch + j * S::LANES..]));
        }
    }
    let last = pairs.remainder();
    for j in 0..N {
        max[j] = s.max(max[j], other[j]);
        if last.len() >= pitch {
            max[j] = s.max(max[j], s.load(&last[j * S::LANES..]));
        }
    }
    let mut factor = *max;
    for j in 0..N {
        factor[j] = exp2(s, s.sub(before[j], max[j]));
        sum[j] = s.mul(sum[j], factor[j]);
    }
    for row in p.chunks_exact_mut(pitch) {
        for j in 0..N {
            let at = &mut row[j * S::LANES..];
            let e = exp2(s, s.sub(s.load(at), max[j]));
            sum[j] = s.add(sum[j], e);
            s.store(e, at);
        }
    }
    factor
}
