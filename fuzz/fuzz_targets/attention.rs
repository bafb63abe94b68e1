//! Attention of any shape, mask, window and stride against the reference, on every instruction set.
#![no_main]

mod common;

use common::{Backwards, CANARY, bits, floats, mask, maybe_mask};
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use sluicegate::ChannelMask;
use sluicegate::kernels::Isa;
use sluicegate::kernels::ops::attention::{
    Attention, AttentionSpec, Bias, Heads, HeadsMut, Layout, Live, Operands, Scores,
};
use sluicegate::kernels::pool::{Pool, Serial};
use sluicegate::kernels::reference::attention as reference;

fuzz_target!(|bytes: &[u8]| {
    let mut u = Unstructured::new(bytes);
    let _ = match u.arbitrary() {
        Ok(0u8..=220) => attend(&mut u),
        _ => hostile(&mut u),
    };
});

/// Extents: mostly small, sometimes beyond a block of keys or of queries; few enough for the reference.
fn spec(u: &mut Unstructured<'_>) -> Result<AttentionSpec> {
    let kv_heads = u.int_in_range(1..=3)?;
    let (group, queries, keys, most) = match u.int_in_range(0..=9)? {
        0 => (
            1,
            u.int_in_range(1..=5)?,
            u.int_in_range(0..=600)?,
            u.int_in_range(1..=40)?,
        ),
        1 => (u.int_in_range(1..=2)?, 1, u.int_in_range(200..=300)?, 260),
        2 => (
            u.int_in_range(1..=40)?,
            u.int_in_range(0..=4)?,
            u.int_in_range(0..=20)?,
            20,
        ),
        3 => (1, u.int_in_range(60..=150)?, u.int_in_range(0..=20)?, 30),
        _ => (
            u.int_in_range(1..=4)?,
            u.int_in_range(0..=40)?,
            u.int_in_range(0..=40)?,
            40,
        ),
    };
    let width = u.int_in_range(1..=most)?;
    let mut window = || -> Result<Option<usize>> {
        Ok(match u.int_in_range(0..=5)? {
            0 => Some(usize::MAX),
            1 => Some(0),
            2 => Some(u.int_in_range(0..=40)?),
            _ => None,
        })
    };
    let (before, after) = (window()?, window()?);
    Ok(AttentionSpec {
        q_heads: kv_heads * group,
        kv_heads,
        queries,
        keys,
        width,
        v_width: u.int_in_range(1..=most)?,
        scale: [1.7, -0.3, 0.0][u.choose_index(3)?] / (width as f32).sqrt(),
        softcap: [0.0, 0.0, 0.7, 30.0][u.choose_index(4)?],
        before,
        after,
    })
}

/// A tensor of heads in some order, or one head or token for all; NaN but where `lives` says so.
struct Tensor {
    data: Vec<f32>,
    head: usize,
    token: usize,
}

impl Tensor {
    fn new(
        u: &mut Unstructured<'_>,
        [heads, tokens, width]: [usize; 3],
        seed: u64,
        lives: impl Fn(usize, usize, usize) -> bool,
    ) -> Result<Self> {
        let gap = u.int_in_range(0..=2)?;
        let (head, token) = match u.int_in_range(0..=7)? {
            0 => (0, width + gap),
            1 => (width + gap, 0),
            2 => (1, heads),
            3..=5 => (width, heads * width + gap),
            _ => (tokens * width + gap, width),
        };
        let len = match heads * tokens {
            0 => 0,
            _ => (heads - 1) * head + (tokens - 1) * token + width,
        };
        let values = floats(len, seed);
        let mut data = vec![f32::NAN; len];
        for h in 0..heads {
            for t in 0..tokens {
                for c in (0..width).filter(|&c| lives(h, t, c)) {
                    let at = h * head + t * token + c;
                    data[at] = values[at];
                }
            }
        }
        Ok(Self { data, head, token })
    }
    fn view(&self) -> Heads<'_> {
        Heads {
            data: &self.data,
            head: self.head,
            token: self.token,
        }
    }
}

/// What is added to scores, with storage.
struct Added {
    add: Vec<f32>,
    keep: Vec<u8>,
    head: usize,
    query: usize,
}

impl Added {
    fn new(
        u: &mut Unstructured<'_>,
        [heads, queries, keys]: [usize; 3],
        seed: u64,
        lives: impl Fn(usize, usize, usize) -> bool,
    ) -> Result<Option<Self>> {
        let kind = u.int_in_range(0..=4)?;
        if kind > 2 {
            return Ok(None);
        }
        let gap = u.int_in_range(0..=2)?;
        let (head, query) = match u.int_in_range(0..=4)? {
            0 => (0, 0),
            1 => (0, keys + gap),
            2 => (keys + gap, 0),
            3 => (keys, heads * keys + gap),
            _ => (queries * keys + gap, keys),
        };
        let len = match heads * queries * keys {
            0 => 0,
            _ => (heads - 1) * head + (queries - 1) * query + keys,
        };
        let values = floats(len, seed);
        let mut added = Self {
            add: Vec::new(),
            keep: Vec::new(),
            head,
            query,
        };
        if kind == 0 {
            added.keep = values.iter().map(|&x| u8::from(x > -0.3)).collect();
            return Ok(Some(added));
        }
        let least = [f32::NEG_INFINITY, f32::MIN, -1e4][u.choose_index(3)?];
        added.add = vec![f32::NAN; len];
        for h in 0..heads {
            for i in 0..queries {
                for j in (0..keys).filter(|&j| lives(h, i, j)) {
                    let at = h * head + i * query + j;
                    let x = values[at];
                    added.add[at] = if x > 0.5 { least } else { 3.0 * x };
                }
            }
        }
        Ok(Some(added))
    }
    fn view(&self) -> Bias<'_> {
        Bias {
            scores: match self.add.is_empty() {
                true => Scores::Keep(&self.keep),
                false => Scores::Add(&self.add),
            },
            head: self.head,
            query: self.query,
        }
    }
}

fn attend(u: &mut Unstructured<'_>) -> Result<()> {
    let s = spec(u)?;
    let seed = u64::from(u.arbitrary::<u16>()?);
    let valid = match u.arbitrary()? {
        true => s.keys,
        false => u.int_in_range(0..=s.keys)?,
    };
    let offset = match u.int_in_range(0..=9)? {
        0 => isize::MIN,
        1 => isize::MAX,
        _ => u.int_in_range(-10..=40)?,
    };
    let elements = maybe_mask(u, s.q_heads * s.v_width)?;
    let heads = mask(u, s.q_heads)?;
    let outputs = elements.map(|live| {
        ChannelMask::from_fn(live.len(), |c| {
            live.contains(c) && heads.contains(c / s.v_width)
        })
    });
    let (queries, keys) = (maybe_mask(u, s.queries)?, maybe_mask(u, s.keys)?);
    let among = |live: &Option<ChannelMask>, i| live.as_ref().is_none_or(|live| live.contains(i));
    let output = |h: usize, c: usize| among(&outputs, h * s.v_width + c);
    let head = |h: usize| (0..s.v_width).any(|c| output(h, c));
    let key = |j: usize| j < valid && among(&keys, j);
    let group = s.q_heads / s.kv_heads;

    let q = Tensor::new(u, [s.q_heads, s.queries, s.width], seed, |h, i, _| {
        head(h) && among(&queries, i)
    })?;
    let k = Tensor::new(u, [s.kv_heads, s.keys, s.width], seed + 1, |h, j, _| {
        key(j) && (h * group..(h + 1) * group).any(head)
    })?;
    let v = Tensor::new(u, [s.kv_heads, s.keys, s.v_width], seed + 2, |h, j, c| {
        key(j) && (h * group..(h + 1) * group).any(|h| output(h, c))
    })?;
    let added = Added::new(u, [s.q_heads, s.queries, s.keys], seed + 3, |h, i, j| {
        head(h) && among(&queries, i) && key(j)
    })?;
    let x = Operands {
        q: q.view(),
        k: k.view(),
        v: v.view(),
        bias: added.as_ref().map(Added::view),
        valid,
        offset,
    };
    let live = Live {
        outputs: outputs.as_ref().map(ChannelMask::as_channels),
        queries: queries.as_ref().map(ChannelMask::as_channels),
        keys: keys.as_ref().map(ChannelMask::as_channels),
    };
    let row = s.q_heads * s.v_width;
    let layout = match u.arbitrary()? {
        true => Layout::Heads,
        false => Layout::Tokens(row + u.int_in_range(0..=3)?),
    };
    let threads = u.int_in_range(1..=4)?;
    let scratch_for = u.int_in_range(1..=threads)?;

    let expected = reference::attention(&s, &x, &live);
    for isa in Isa::available() {
        let kernel = Attention::new(isa, s).unwrap();
        let run = |pool: &dyn Pool, scratch_for: usize| {
            let mut scratch = vec![f32::NAN; kernel.scratch_len(scratch_for)];
            let len = match layout {
                Layout::Heads => s.queries * row,
                Layout::Tokens(ld) => s.queries * ld,
            };
            let mut y = vec![CANARY; len + 3];
            let to = HeadsMut {
                data: &mut y,
                layout,
            };
            kernel.run(pool, x, live, to, &mut scratch).unwrap();
            y
        };
        let y = run(&Serial, 1);
        let mut untouched = vec![true; y.len()];
        for (n, want) in expected.iter().enumerate() {
            let (h, i, c) = (
                n / s.v_width / s.queries,
                n / s.v_width % s.queries,
                n % s.v_width,
            );
            let Some(want) = want else { continue };
            let at = match layout {
                Layout::Heads => n,
                Layout::Tokens(ld) => i * ld + h * s.v_width + c,
            };
            untouched[at] = false;
            assert!(
                (f64::from(y[at]) - want.value).abs() <= want.tolerance,
                "{isa} [{h}, {i}, {c}]: {} {want:?} {s:?}",
                y[at]
            );
        }
        assert!(
            y.iter()
                .zip(untouched)
                .all(|(&y, untouched)| !untouched || y == CANARY),
            "{isa}: a canary {s:?}"
        );
        assert_eq!(
            bits(&run(&Backwards(threads), scratch_for)),
            bits(&y),
            "{isa}: {threads} threads {s:?}"
        );
    }
    Ok(())
}

/// Extents, strides and lengths that do not fit each other: an answer or an error.
fn hostile(u: &mut Unstructured<'_>) -> Result<()> {
    let mut extent = || -> Result<usize> {
        Ok(match u.int_in_range(0..=7)? {
            0 => usize::MAX - u.int_in_range(0..=2)?,
            1 => 1 << u.int_in_range(10..=63)?,
            2 => 0,
            _ => u.int_in_range(0..=20)?,
        })
    };
    let (kv_heads, group) = (extent()?, extent()?);
    let (queries, keys, width, v_width) = (extent()?, extent()?, extent()?, extent()?);
    let (valid, before, after) = (extent()?, extent()?, extent()?);
    let mut heads = || Ok((extent()?, extent()?));
    let (q_at, k_at, v_at, bias_at, ld) = (heads()?, heads()?, heads()?, heads()?, extent()?);
    let mut len = || u.int_in_range(0..=500usize);
    let (q, k, v) = (floats(len()?, 1), floats(len()?, 2), floats(len()?, 3));
    let (add, keep) = (floats(len()?, 4), vec![1; len()?]);
    let (mut y, mut scratch) = (vec![CANARY; len()?], vec![0.0; 100 * len()?]);
    let mut live = || -> Result<Option<ChannelMask>> {
        let over = u.int_in_range(0..=30)?;
        maybe_mask(u, over)
    };
    let (outputs, live_queries, live_keys) = (live()?, live()?, live()?);
    let spec = AttentionSpec {
        q_heads: kv_heads.wrapping_mul(group),
        kv_heads,
        queries,
        keys,
        width,
        v_width,
        scale: 0.5,
        softcap: if u.arbitrary()? { 0.0 } else { 2.0 },
        before: u.arbitrary::<bool>()?.then_some(before),
        after: u.arbitrary::<bool>()?.then_some(after),
    };
    // The lists of keys and of elements take memory whatever the operands; a pass over keys that are all one takes time.
    let refused = |n: usize| n > 1 << 40;
    if [keys, width, v_width, queries]
        .iter()
        .any(|&n| n > 1 << 12 && !refused(n))
    {
        return Ok(());
    }
    let Ok(kernel) = Attention::new(Isa::best(), spec) else {
        return Ok(());
    };
    fn of(data: &[f32], (head, token): (usize, usize)) -> Heads<'_> {
        Heads { data, head, token }
    }
    fn view(mask: &Option<ChannelMask>) -> Option<sluicegate::kernels::Channels<'_>> {
        mask.as_ref().map(ChannelMask::as_channels)
    }
    let scores = match u.arbitrary()? {
        true => Scores::Add(&add),
        false => Scores::Keep(&keep),
    };
    let (head, query) = bias_at;
    let x = Operands {
        q: of(&q, q_at),
        k: of(&k, k_at),
        v: of(&v, v_at),
        bias: u.arbitrary::<bool>()?.then_some(Bias {
            scores,
            head,
            query,
        }),
        valid,
        offset: u.arbitrary()?,
    };
    let live = Live {
        outputs: view(&outputs),
        queries: view(&live_queries),
        keys: view(&live_keys),
    };
    let to = HeadsMut {
        data: &mut y,
        layout: match u.arbitrary()? {
            true => Layout::Heads,
            false => Layout::Tokens(ld),
        },
    };
    let _ = kernel.scratch_len(usize::MAX);
    let _ = kernel.run(&Serial, x, live, to, &mut scratch);
    Ok(())
}
