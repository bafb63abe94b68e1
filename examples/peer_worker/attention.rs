//! Attention: `heads`, `n` tokens of `d` elements, `causal=1`; `density` with `what=heads` or `what=tokens`.

use sluicegate::Threads;
use sluicegate_kernels::ops::attention::{
    Attention, AttentionSpec, Heads, HeadsMut, Layout, Live, Operands,
};
use sluicegate_kernels::pool::Pool as _;
use sluicegate_kernels::{Buffer, Channels, Isa};

use super::{Case, Outcome, Run, check, floats, mask};

/// Self-attention of some heads, with storage.
struct Attended {
    kernel: Attention,
    qkv: [Buffer; 3],
    y: Buffer,
    scratch: Buffer,
    /// Live elements of all heads, and live tokens.
    outputs: Option<Vec<u64>>,
    tokens: Option<Vec<u64>>,
}

fn channels(words: Option<&Vec<u64>>, len: usize) -> Option<Channels<'_>> {
    words.map(|words| Channels::new(words, len).expect("a set of so many"))
}

impl Attended {
    fn run(&mut self, pool: &Threads) -> Result<(), sluicegate_kernels::Error> {
        let s = *self.kernel.spec();
        let heads = |data| Heads {
            data,
            head: s.keys * s.width,
            token: s.width,
        };
        let [q, k, v] = &self.qkv;
        let x = Operands {
            q: heads(q),
            k: heads(k),
            v: heads(v),
            bias: None,
            valid: s.keys,
            offset: 0,
        };
        let live = Live {
            outputs: channels(self.outputs.as_ref(), s.q_heads * s.v_width),
            queries: channels(self.tokens.as_ref(), s.queries),
            keys: channels(self.tokens.as_ref(), s.keys),
        };
        let y = HeadsMut {
            data: &mut self.y,
            layout: Layout::Heads,
        };
        self.kernel.run(pool, x, live, y, &mut self.scratch)
    }

    /// An element of the result in f64; zero where nothing is written.
    fn expected(&self, at: usize) -> f64 {
        let s = self.kernel.spec();
        let (i, c) = (at / s.width % s.queries, at % s.width);
        let head = at / s.width / s.queries * s.queries * s.width;
        let tokens = channels(self.tokens.as_ref(), s.keys);
        let outputs = channels(self.outputs.as_ref(), s.q_heads * s.v_width);
        let lives = |t: usize| tokens.is_none_or(|live| live.contains(t));
        let output = head / s.queries + c;
        if !lives(i) || outputs.is_some_and(|live| !live.contains(output)) {
            return 0.0;
        }
        let of = |x: &Buffer, t: usize, c: usize| f64::from(x[head + t * s.width + c]);
        let [q, k, v] = &self.qkv;
        let last = if s.after.is_some() { i + 1 } else { s.keys };
        let scores = (0..last).filter(|&j| lives(j)).map(|j| {
            let terms = (0..s.width).map(|c| of(q, i, c) * of(k, j, c));
            (j, terms.sum::<f64>() * f64::from(s.scale))
        });
        let (mut sum, mut weights) = (0.0, 0.0);
        for (j, score) in scores {
            // No score of numbers between -1 and 1 is too great for exp in f64.
            weights += score.exp();
            sum += score.exp() * of(v, j, c);
        }
        sum / weights
    }
}

pub(crate) fn attention(case: &Case<'_>, isa: Isa, pool: Threads) -> Outcome<(Run, &'static str)> {
    let (heads, n, d) = (case.get("heads", 0), case.get("n", 0), case.get("d", 0));
    let kernel = Attention::new(
        isa,
        AttentionSpec {
            q_heads: heads,
            kv_heads: heads,
            queries: n,
            keys: n,
            width: d,
            v_width: d,
            scale: 1.0 / (d as f32).sqrt(),
            softcap: 0.0,
            before: None,
            after: (case.get("causal", 0) == 1).then_some(0),
        },
    )?;
    let (outputs, tokens) = match case.text("what") {
        "tokens" => (None, mask(n, case.density())),
        "" | "heads" => {
            let live = mask(heads, case.density());
            (live.map(|words| stretched(&words, heads, d)), None)
        }
        what => return Err(format!("what {what}").into()),
    };
    let mut attended = Attended {
        scratch: Buffer::zeros(kernel.scratch_len(pool.threads())),
        kernel,
        qkv: [1, 2, 3].map(|seed| floats(heads * n * d, seed)),
        y: Buffer::zeros(heads * n * d),
        outputs,
        tokens,
    };
    attended.run(&pool)?;
    check(&attended.y, |at| attended.expected(at))?;
    let name = attended.kernel.row_name();
    let run = move || attended.run(&pool).expect("checked");
    Ok((Box::new(run), name))
}

/// Each of `len` channels as so many.
fn stretched(words: &[u64], len: usize, times: usize) -> Vec<u64> {
    let mut all = vec![0; (len * times).div_ceil(64)];
    for c in (0..len * times).filter(|c| words[c / times / 64] >> (c / times % 64) & 1 == 1) {
        all[c / 64] |= 1 << (c % 64);
    }
    all
}
