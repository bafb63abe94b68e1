//! Attention of real nets, ready to be run.

use sluicegate::ChannelMask;
use sluicegate::kernels::ops::attention::{
    Attention, AttentionSpec, Heads, HeadsMut, Layout, Live, Operands,
};
use sluicegate::kernels::pool::Pool;
use sluicegate::kernels::{Isa, reference};

use super::net::floats;
use super::{Pattern, mask};

/// What a mask is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Masked {
    Nothing,
    Heads,
    Tokens,
}

/// Tokens of `width` elements, as projections leave them: `[tokens, heads, width]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    /// `HEADS_TOKENS_WIDTH`, or `QHEADSxKVHEADS_QUERIESxKEYS_WIDTH`.
    pub(crate) name: &'static str,
    heads: [usize; 2],
    tokens: [usize; 2],
    width: usize,
    causal: bool,
    pub(crate) masked: Masked,
}

const fn own(name: &'static str, heads: usize, tokens: usize, masked: Masked) -> Shape {
    Shape {
        name,
        heads: [heads; 2],
        tokens: [tokens; 2],
        width: 64,
        causal: false,
        masked,
    }
}

/// Layers of ViT-Base and of a keyword transformer, of a language model over a prompt, and one step of its decoding.
pub(crate) const SHAPES: &[Shape] = &[
    own("12_197_64", 12, 197, Masked::Nothing),
    own("4_98_64", 4, 98, Masked::Nothing),
    own("8_1024_64", 8, 1024, Masked::Nothing),
    Shape {
        causal: true,
        ..own("causal_8_1024_64", 8, 1024, Masked::Nothing)
    },
    own("heads_12_197_64", 12, 197, Masked::Heads),
    own("tokens_12_197_64", 12, 197, Masked::Tokens),
    own("tokens_8_1024_64", 8, 1024, Masked::Tokens),
    Shape {
        tokens: [1, 1024],
        ..own("8x8_1x1024_64", 8, 1, Masked::Nothing)
    },
    Shape {
        heads: [32, 8],
        tokens: [1, 1024],
        width: 128,
        ..own("32x8_1x1024_128", 32, 1, Masked::Nothing)
    },
    Shape {
        heads: [8, 2],
        ..own("8x2_512_64", 8, 512, Masked::Nothing)
    },
];

pub(crate) struct Attended {
    kernel: Attention,
    qkv: [Vec<f32>; 3],
    y: Vec<f32>,
    scratch: Vec<f32>,
}

impl Shape {
    /// What lives: elements of all heads, or tokens.
    pub(crate) fn live(&self, density: f64) -> Option<ChannelMask> {
        match self.masked {
            Masked::Nothing => None,
            Masked::Heads => {
                let heads = mask(self.heads[0], density, Pattern::Random);
                heads.map(|heads| heads.stretch(self.width))
            }
            Masked::Tokens => mask(self.tokens[1], density, Pattern::Random),
        }
    }

    /// Multiplications and additions of what lives, and of everything.
    pub(crate) fn operations(&self, live: Option<&ChannelMask>) -> [u64; 2] {
        let [queries, keys] = self.tokens;
        let all = self.heads[0] * queries * keys;
        let pairs = match (self.masked, live) {
            (Masked::Heads, Some(live)) => live.count() / self.width * queries * keys,
            (Masked::Tokens, Some(live)) => self.heads[0] * live.count() * live.count(),
            _ if self.causal => self.heads[0] * queries * (queries + 1) / 2,
            _ => all,
        };
        [pairs, all].map(|pairs| (4 * pairs * self.width) as u64)
    }

    pub(crate) fn prepare(self, isa: Isa, threads: usize) -> Attended {
        let ([q_heads, kv_heads], [queries, keys]) = (self.heads, self.tokens);
        let spec = AttentionSpec {
            q_heads,
            kv_heads,
            queries,
            keys,
            width: self.width,
            v_width: self.width,
            scale: 1.0 / (self.width as f32).sqrt(),
            softcap: 0.0,
            before: None,
            after: self.causal.then_some(0),
        };
        let kernel = Attention::new(isa, spec).expect("heads that divide each other");
        let of = |heads, tokens, seed| floats(heads * tokens * self.width, seed);
        Attended {
            scratch: vec![0.0; kernel.scratch_len(threads)],
            kernel,
            qkv: [
                of(q_heads, queries, 1),
                of(kv_heads, keys, 2),
                of(kv_heads, keys, 3),
            ],
            y: vec![0.0; queries * q_heads * self.width],
        }
    }
}

impl Attended {
    pub(crate) fn run(&mut self, pool: &dyn Pool, live: Live<'_>) {
        let row = self.kernel.spec().q_heads * self.kernel.spec().v_width;
        let x = operands(self.kernel.spec(), &self.qkv);
        let y = HeadsMut {
            data: &mut self.y,
            layout: Layout::Tokens(row),
        };
        let done = self.kernel.run(pool, x, live, y, &mut self.scratch);
        done.expect("operands that fit");
    }

    /// The same by plain loops in f64; the sum of the elements.
    pub(crate) fn reference(&self) -> f64 {
        let x = operands(self.kernel.spec(), &self.qkv);
        let y = reference::attention::attention(self.kernel.spec(), &x, &Live::default());
        y.iter().flatten().map(|y| y.value).sum()
    }
}

fn operands<'a>(s: &AttentionSpec, [q, k, v]: &'a [Vec<f32>; 3]) -> Operands<'a> {
    let of = |data, heads| Heads {
        data,
        head: s.width,
        token: heads * s.width,
    };
    Operands {
        q: of(q, s.q_heads),
        k: of(k, s.kv_heads),
        v: of(v, s.kv_heads),
        bias: None,
        valid: s.keys,
        offset: 0,
    }
}
