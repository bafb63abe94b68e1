//! Scaled dot-product attention in one pass over the keys.
//!
//! ```text
//! for a block of queries, the lanes of one or two vectors
//!     for keys in blocks of KC, live ones only
//!         s[j] = q · k[j]                              a product, keys broadcast
//!         m' = max(m, s[..]);  p[j] = 2^(s[j] - m')    lanes alone: no sum or maximum across a vector
//!         l = l 2^(m - m') + Σ p[j]
//!         o = o 2^(m - m') + Σ p[j] v[j]               a product, values broadcast
//!     y = o / l
//! ```
//! Queries are lanes, so K and V are read where they are, element by element: nothing is packed but the queries, a dead key is a step left
//! out of a list, and softmax has no horizontal part. Where a head of K and V is too large for L2, several blocks of queries take turns with
//! each block of keys. The running maximum is that of M. Milakov, N. Gimelshein, *Online normalizer
//! calculation for softmax*, 2018; the blocks over keys are those of T. Dao and others, *FlashAttention*, 2022.
#![forbid(unsafe_code)]

mod bias;
mod block;
mod few;
mod lanes;
mod reach;

use self::block::Block;
use super::check;
use crate::isa::F32s;
use crate::panel::{Below, Bounded, LINE, Terms, from_line, lines, take_indices};
use crate::pool::{Cuts, Pool, Tile, worth};
use crate::table;
use crate::tile::gemm::NV;
use crate::{Channels, Error, Isa, isa};

pub use bias::{Bias, Scores};

/// Keys of a block of few queries.
const KC: usize = 256;

/// Vectors of queries side by side, at most.
const WIDE: usize = 4;

/// Vectors of queries side by side. With 32 registers a tile of 6 keys takes 10 loads and two addresses for 24 FMAs; one of 12 keys by two vectors takes
/// 14 loads and four addresses.
const fn across(registers: usize) -> usize {
    if registers >= 32 { WIDE } else { NV }
}

/// Lanes of a row of queries, of scores or of sums.
const fn pitch<S: F32s>() -> usize {
    across(S::REGISTERS) * S::LANES
}

/// Keys of a block of queries: 32 KiB of scores, which stay in L1 beside what passes by, and whole tiles of 6 keys.
const fn keys_of_block(registers: usize) -> usize {
    if across(registers) == WIDE { 132 } else { KC }
}

/// Blocks of queries, at most, that one job has side by side.
const BLOCKS: usize = 8;

/// Floats of a head of K and V that stay in L2 from one block of queries to the next.
const CACHED: usize = 1 << 18;

/// What is computed, whatever the operands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionSpec {
    /// Heads of Q and of the result, a multiple of those of K and V: consecutive ones share a head of K and V.
    pub q_heads: usize,
    /// Heads of K and V.
    pub kv_heads: usize,
    /// Tokens of Q.
    pub queries: usize,
    /// Tokens of K and V.
    pub keys: usize,
    /// Elements of a token in a head of Q and K.
    pub width: usize,
    /// Elements of a token in a head of V and of the result.
    pub v_width: usize,
    /// Scores are multiplied by it.
    pub scale: f32,
    /// Scores become `softcap * tanh(score / softcap)`; not if it is zero.
    pub softcap: f32,
    /// Query `i` sees no key before `i + offset - before`.
    pub before: Option<usize>,
    /// Query `i` sees no key behind `i + offset + after`; zero makes it causal.
    pub after: Option<usize>,
}

/// A tensor of heads: element `c` of token `t` in head `h` is `data[h * head + t * token + c]`.
#[derive(Debug, Clone, Copy)]
pub struct Heads<'a> {
    /// The elements.
    pub data: &'a [f32],
    /// Distance between heads.
    pub head: usize,
    /// Distance between tokens.
    pub token: usize,
}

/// Q, K and V, and what is added to their scores.
#[derive(Debug, Clone, Copy)]
pub struct Operands<'a> {
    /// `[q_heads, queries, width]`
    pub q: Heads<'a>,
    /// `[kv_heads, keys, width]`
    pub k: Heads<'a>,
    /// `[kv_heads, keys, v_width]`
    pub v: Heads<'a>,
    /// Added to the scores.
    pub bias: Option<Bias<'a>>,
    /// Only so many keys from the first on are there; at most those of the spec.
    pub valid: usize,
    /// The key that query 0 stands at, for `before` and `after`.
    pub offset: isize,
}

/// What is live of the operands; none = all.
#[derive(Debug, Clone, Copy, Default)]
pub struct Live<'a> {
    /// Elements of all heads of the result, `q_heads * v_width`; a head without a live one is dead.
    pub outputs: Option<Channels<'a>>,
    /// Tokens of Q and of the result.
    pub queries: Option<Channels<'a>>,
    /// Tokens of K and V.
    pub keys: Option<Channels<'a>>,
}

/// The result.
#[derive(Debug)]
pub struct HeadsMut<'a> {
    /// The elements.
    pub data: &'a mut [f32],
    /// Their order.
    pub layout: Layout,
}

/// The order of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// `[q_heads, queries, v_width]`
    Heads,
    /// `[queries, q_heads * v_width]`, rows at this distance.
    Tokens(usize),
}

/// Attention over operands of known extents, for one instruction set.
#[derive(Debug)]
pub struct Attention {
    isa: Isa,
    spec: AttentionSpec,
    /// Heads of a block, which share K and V, and tokens of a job; their product is at most the lanes of its blocks.
    heads: usize,
    tokens: usize,
    /// Blocks of a job.
    blocks: usize,
    /// 0, 1, 2, ...: keys.
    keys: Bounded,
}

/// Keys and queries of one call.
#[derive(Clone, Copy)]
struct Lists<'a> {
    keys: Below<'a>,
    /// Live ones; none = all.
    queries: Option<&'a [u32]>,
}

impl Attention {
    /// Prepares the lists of a call, which take four bytes a key and eight an element of a token, whatever the operands will be.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the heads of K and V do not divide those of Q or an extent but the tokens is zero; [`Error::TooLarge`].
    pub fn new(isa: Isa, spec: AttentionSpec) -> Result<Self, Error> {
        if spec.kv_heads == 0 || !spec.q_heads.is_multiple_of(spec.kv_heads) || spec.q_heads == 0 {
            return Err(Error::Invalid {
                what: "the heads of K and V do not divide those of Q",
            });
        }
        if spec.width == 0 || spec.v_width == 0 {
            return Err(Error::Invalid {
                what: "heads without elements",
            });
        }
        let across = across(isa.registers());
        let lanes = isa.lanes() * across;
        let fits = |n: usize, what| match n.checked_mul(lanes) {
            Some(n) if n < u32::MAX as usize => Ok(()),
            _ => Err(Error::TooLarge { operand: what }),
        };
        fits(spec.width, "Q")?;
        fits(spec.keys, "K")?;
        fits(spec.queries, "Q")?;
        fits(spec.v_width, "V")?;
        if spec.q_heads.checked_mul(spec.v_width).is_none() {
            return Err(Error::TooLarge { operand: "V" });
        }
        let group = spec.q_heads / spec.kv_heads;
        let several = |heads: &usize| {
            let tokens = spec.queries.clamp(1, lanes);
            group.is_multiple_of(*heads) && heads * tokens <= lanes
        };
        let heads = (1..=group.min(lanes)).rev().find(several).unwrap_or(1);
        let tokens = (lanes / heads).min(spec.queries).max(1);
        // Several where K and V would come from memory for each, as long as there are jobs enough for all threads.
        let far = spec.keys.saturating_mul(spec.width + spec.v_width) > CACHED;
        let most = BLOCKS * NV / across;
        let many = spec.q_heads.saturating_mul(spec.queries) >= 16 * most * lanes;
        let blocks = if heads == 1 && far && many { most } else { 1 };
        Ok(Self {
            isa,
            spec,
            heads,
            tokens: tokens * blocks,
            blocks,
            keys: Bounded::new((0..spec.keys as u32).collect(), spec.keys.max(1)),
        })
    }

    /// The extents.
    pub fn spec(&self) -> &AttentionSpec {
        &self.spec
    }

    /// The table row of the kernel.
    pub fn row_name(&self) -> &'static str {
        table::find("attention", self.isa).name
    }

    /// Elements of scratch that one call needs for `threads` threads; it works with any number that suffices for one.
    pub fn scratch_len(&self, threads: usize) -> usize {
        let lists = lines(self.spec.keys) + 2 * lines(self.spec.queries);
        let each = threads.max(1).saturating_mul(self.each());
        each.saturating_add(LINE + lists)
    }

    /// Elements of scratch for each thread.
    fn each(&self) -> usize {
        let pitch = self.isa.lanes() * across(self.isa.registers());
        let s = &self.spec;
        let vectors =
            self.blocks * (s.width + s.v_width) + keys_of_block(self.isa.registers()).min(s.keys);
        let gathered = s.width * isa::WIDEST;
        let transposed = isa::WIDEST * (s.v_width + LINE);
        let bias = isa::WIDEST * isa::WIDEST;
        let many = vectors * pitch + lines(gathered) + lines(transposed) + bias + 4 * LINE;
        many.max(few::scratch_len(s.width, s.v_width))
    }

    /// `y[h, i, c] = Σ_j p[h, i, j] v[h', j, c]`,
    /// `p[h, i, ..] = softmax_j(cap(scale Σ_c q[h, i, c] k[h', j, c]) + bias[h, i, j])` over the live keys that query `i` sees,
    /// `h' = h kv_heads / q_heads`; zero where it sees none
    ///
    /// # Shapes    see [`AttentionSpec`], [`Operands`]
    /// # Masks     a dead key is no key; dead queries and elements of heads are not written. Of a dead head nothing is read, and nothing dead shows
    /// # Numerics  scores as matmul sums them; sums over keys in order in blocks of 132 or 256 live ones, joined with factors that are rounded.
    ///   `scale` goes into Q, together with 1 / ln 2
    /// # Errors    [`Error::TooShort`], [`Error::TooLarge`], [`Error::Mismatch`]; nothing is written then
    /// # Panics    never
    /// # Scratch   [`Attention::scratch_len`]
    /// # Source    M. Milakov, N. Gimelshein, Online normalizer calculation for softmax, 2018
    pub fn run(
        &self,
        pool: &dyn Pool,
        x: Operands<'_>,
        live: Live<'_>,
        y: HeadsMut<'_>,
        scratch: &mut [f32],
    ) -> Result<(), Error> {
        let s = &self.spec;
        self.check(&x, &live, &y)?;
        check::covers(
            "scratch of attention",
            &[self.scratch_len(1)],
            scratch.len(),
        )?;
        let mut rest = from_line(scratch);
        let keys = match live.keys.filter(|keys| !keys.is_full()) {
            None => self.keys.all().part(0..x.valid),
            Some(live) => {
                let list = take_indices(&mut rest, s.keys);
                let count = list_of(live.live().take_while(|&j| j < x.valid), list);
                Below::new(&list[..count], s.keys)
            }
        };
        let queries = match live.queries.filter(|queries| !queries.is_full()) {
            None => None,
            Some(live) => {
                let list = take_indices(&mut rest, s.queries);
                let count = list_of(live.live(), list);
                Some(&list[..count])
            }
        };
        let starts = take_indices(&mut rest, s.queries);
        let cuts = match queries {
            None => list_of((0..s.queries).step_by(self.tokens), starts),
            Some(list) => list_of(
                list.iter().step_by(self.tokens).map(|&i| i as usize),
                starts,
            ),
        };
        let starts = &starts[..cuts];
        let lists = Lists { keys, queries };
        let (out, cuts) = match y.layout {
            Layout::Tokens(ld) => (
                Tile::new(y.data, s.queries, s.q_heads * s.v_width, ld),
                (Cuts::At(starts, 1), Cuts::Every(self.heads * s.v_width)),
            ),
            Layout::Heads => {
                let row = s.queries * s.v_width;
                (
                    Tile::new(y.data, s.q_heads, row, row),
                    (Cuts::Every(self.heads), Cuts::At(starts, s.v_width)),
                )
            }
        };
        let macs = [s.queries, keys.len(), s.width + s.v_width]
            .iter()
            .fold(s.q_heads, |macs, &n| macs.saturating_mul(n));
        out.cut(
            worth(pool, macs),
            cuts,
            rest,
            self.each(),
            |r, c, out, scratch| {
                let (head, from, to) = match y.layout {
                    Layout::Tokens(_) => (c / s.v_width, r, r + out.rows()),
                    Layout::Heads => (r, c / s.v_width, (c + out.cols()) / s.v_width),
                };
                self.isa.run(Block {
                    attention: self,
                    x: &x,
                    live: &live,
                    lists,
                    head,
                    tokens: from..to,
                    by_token: y.layout != Layout::Heads,
                    out,
                    scratch,
                });
            },
        );
        Ok(())
    }

    fn check(&self, x: &Operands<'_>, live: &Live<'_>, y: &HeadsMut<'_>) -> Result<(), Error> {
        let s = &self.spec;
        reach("Q", &x.q, [s.q_heads, s.queries, s.width])?;
        reach("K", &x.k, [s.kv_heads, s.keys, s.width])?;
        reach("V", &x.v, [s.kv_heads, s.keys, s.v_width])?;
        if x.valid > s.keys {
            return Err(Error::Mismatch {
                what: "number of valid keys",
                expected: s.keys,
                found: x.valid,
            });
        }
        if let Some(bias) = &x.bias {
            bias.check([s.q_heads, s.queries, x.valid])?;
        }
        check::mask("queries of the mask of attention", live.queries, s.queries)?;
        check::mask("keys of the mask of attention", live.keys, s.keys)?;
        let outputs = s.q_heads * s.v_width;
        check::mask("outputs of the mask of attention", live.outputs, outputs)?;
        let what = "result of attention";
        match y.layout {
            Layout::Heads => {
                check::covers(what, &[s.q_heads, s.queries, s.v_width], y.data.len())?;
            }
            Layout::Tokens(ld) => {
                let row = s.q_heads * s.v_width;
                if ld < row {
                    return Err(Error::Mismatch {
                        what: "distance between rows of the result of attention",
                        expected: row,
                        found: ld,
                    });
                }
                extent(what, &[(s.queries, ld), (row, 1)], y.data.len())?;
            }
        }
        Ok(())
    }
}

/// Writes what `from` gives to the front of `list`, and says how many.
fn list_of(from: impl Iterator<Item = usize>, list: &mut [u32]) -> usize {
    let mut count = 0;
    for (to, i) in list.iter_mut().zip(from) {
        *to = i as u32;
        count += 1;
    }
    count
}

fn reach(
    what: &'static str,
    x: &Heads<'_>,
    [heads, tokens, width]: [usize; 3],
) -> Result<(), Error> {
    extent(
        what,
        &[(heads, x.head), (tokens, x.token), (width, 1)],
        x.data.len(),
    )
}

/// Checks that the element of greatest index is there, for extents with strides.
fn extent(what: &'static str, extents: &[(usize, usize)], len: usize) -> Result<(), Error> {
    if extents.iter().any(|&(n, _)| n == 0) {
        return Ok(());
    }
    let last = extents.iter().try_fold(0usize, |last, &(n, stride)| {
        last.checked_add((n - 1).checked_mul(stride)?)
    });
    let needed = last
        .and_then(|last| last.checked_add(1))
        .ok_or(Error::TooLarge { operand: what })?;
    if needed > len {
        return Err(Error::TooShort {
            operand: what,
            needed,
            given: len,
        });
    }
    Ok(())
}
