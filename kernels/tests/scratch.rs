//! What lies in scratch is no operand: lanes that are no output may read it, but then each step of a tile takes a hundred times as long if it is a
//! subnormal number, as indices and counts are that lay there before. The processor keeps a flag of such operands.
#![cfg(target_arch = "x86_64")]

mod common;

use std::arch::asm;

use common::conv::{Case, case_of};
use common::{Mask, floats, mask};
use proptest::prelude::*;
use sluicegate_kernels::ops::attention::{
    Attention, AttentionSpec, Heads, HeadsMut, Layout, Live, Operands,
};
use sluicegate_kernels::ops::conv::NchwcConv;
use sluicegate_kernels::ops::depthwise::Depthwise;
use sluicegate_kernels::ops::matmul::{MatMul, MatMulSpec, Rows, RowsMut};
use sluicegate_kernels::ops::{Algorithm, ConvShape, nchwc};
use sluicegate_kernels::pool::Serial;
use sluicegate_kernels::{Buffer, Isa};

/// MXCSR with all exceptions masked and none raised, and its flag of subnormal operands.
const QUIET: u32 = 0x1f80;
const SUBNORMAL: u32 = 1 << 1;

/// Whether `f` computes with a subnormal number.
fn meets_subnormals(f: impl FnOnce()) -> bool {
    let mut state = QUIET;
    // SAFETY: it is the state that threads begin with.
    unsafe { asm!("ldmxcsr [{}]", in(reg) &state, options(nostack, readonly)) };
    f();
    // SAFETY: it is written there.
    unsafe { asm!("stmxcsr [{}]", in(reg) &mut state, options(nostack)) };
    state & SUBNORMAL != 0
}

/// Scratch full of small indices.
fn scratch(len: usize) -> Buffer {
    let mut scratch = Buffer::zeros(len);
    scratch.fill(f32::from_bits(77));
    scratch
}

fn layer() -> impl Strategy<Value = Case> {
    let kernel = prop_oneof![
        Just([3, 3]),
        Just([1, 1]),
        Just([1, 9]),
        Just([5, 5]),
        Just([4, 10])
    ];
    let extents = (1..3usize, 1..66usize, 1..66usize, 1..30usize, 1..50usize);
    let steps = (1..3usize, 1..3usize, any::<bool>());
    let shapes = (kernel, extents, steps).prop_map(
        |([kh, kw], (groups, ci, co, h, w), (stride, dilation, padded))| {
            let (top, left) = if padded { (kh / 2, kw / 2) } else { (0, 0) };
            let shape = ConvShape {
                c_in: groups * ci,
                c_out: groups * co,
                groups,
                kernel: [kh, kw],
                stride: [stride; 2],
                dilation: [dilation; 2],
                pads: [top, left, top, left],
            };
            (shape, (h + (kh - 1) * dilation, w + (kw - 1) * dilation))
        },
    );
    case_of(shapes)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn of_convolutions(layer in layer(), filtered in any::<bool>()) {
        let algorithm = if filtered { Algorithm::Fastest } else { Algorithm::Direct };
        let x = layer.x();
        let mut y = vec![0.0; layer.shape.c_out * layer.pixels()];
        for isa in Isa::available() {
            let conv = layer.pack(isa, algorithm, false);
            let mut scratch = scratch(conv.scratch_len(1));
            let met = meets_subnormals(|| {
                let (live_in, live_out) = (Some(layer.live_in.view()), Some(layer.live_out.view()));
                conv.run(&Serial, &x, live_in, live_out, &mut y, &mut scratch).unwrap();
            });
            prop_assert!(!met, "{isa}");
        }
    }

    #[test]
    fn of_convolutions_in_blocks(layer in layer()) {
        let (weights, bias) = (layer.weights(), layer.bias());
        let spec = layer.spec(&weights, bias.as_deref(), Algorithm::Direct);
        for isa in Isa::available().filter(|&isa| NchwcConv::serves(isa, &layer.shape, layer.hw)) {
            let conv = NchwcConv::pack_blocks(isa, &spec, layer.hw).unwrap();
            let map = layer.hw.0 * layer.hw.1;
            let len = |channels, pixels| nchwc::elements(isa, channels, pixels).unwrap();
            let x = floats(len(layer.shape.c_in, map), layer.seed);
            let mut y = vec![0.0; len(layer.shape.c_out, layer.pixels())];
            // Outputs of one group are skipped.
            let live_out = (layer.shape.groups == 1).then(|| layer.live_out.view());
            let mut scratch = scratch(conv.scratch_len(1, live_out.is_some()));
            let met = meets_subnormals(|| {
                conv.run(&Serial, &x, None, live_out, &mut y, &mut scratch).unwrap();
            });
            prop_assert!(!met, "{isa}");
        }
    }

    #[test]
    fn of_depthwise_convolutions(layer in layer()) {
        let shape = ConvShape { c_out: layer.shape.c_in, groups: layer.shape.c_in, ..layer.shape };
        let layer = Case { shape, ..layer };
        let (weights, bias, x) = (layer.weights(), layer.bias(), layer.x());
        let spec = layer.spec(&weights, bias.as_deref(), Algorithm::Direct);
        let mut y = vec![0.0; shape.c_out * layer.pixels()];
        for isa in Isa::available() {
            let conv = Depthwise::pack(isa, &spec).unwrap();
            let mut scratch = scratch(conv.scratch_len(layer.hw, 1));
            let met = meets_subnormals(|| {
                let live = Some(layer.live_in.view());
                conv.run(&Serial, &x, layer.hw, live, None, &mut y, &mut scratch).unwrap();
            });
            prop_assert!(!met, "{isa}");
        }
    }

    #[test]
    fn of_attention(
        (heads, queries, keys, width) in (1..4usize, 1..70usize, 1..200usize, 1..70usize),
        (some, live) in (any::<bool>(), prop::collection::vec(any::<bool>(), 4 * 70)),
        seed in 0..1000u64,
    ) {
        let spec = AttentionSpec {
            q_heads: heads,
            kv_heads: heads,
            queries,
            keys,
            width,
            v_width: width,
            scale: 0.1,
            softcap: 0.0,
            before: None,
            after: None,
        };
        let [q, k, v] = [queries, keys, keys].map(|n| floats(heads * n * width, seed + n as u64));
        let heads_of = |data, tokens: usize| Heads { data, head: tokens * width, token: width };
        let x = Operands {
            q: heads_of(&q, queries),
            k: heads_of(&k, keys),
            v: heads_of(&v, keys),
            bias: None,
            valid: keys,
            offset: 0,
        };
        let outputs = Mask::new(&live[..heads * width]);
        let mut y = vec![0.0; heads * queries * width];
        for isa in Isa::available() {
            let attention = Attention::new(isa, spec).unwrap();
            let mut scratch = scratch(attention.scratch_len(1));
            let met = meets_subnormals(|| {
                let live = Live { outputs: some.then(|| outputs.view()), queries: None, keys: None };
                let y = HeadsMut { data: &mut y, layout: Layout::Heads };
                attention.run(&Serial, x, live, y, &mut scratch).unwrap();
            });
            prop_assert!(!met, "{isa}");
        }
    }

    #[test]
    fn of_products(
        (m, k, n, live_in, live_out) in (1..50usize, 1..140usize, 1..140usize).prop_flat_map(|(m, k, n)| {
            (Just(m), Just(k), Just(n), prop::option::of(mask(k)), prop::option::of(mask(n)))
        }),
        seed in 0..1000u64,
    ) {
        let (a, b, bias) = (floats(m * k, seed), floats(k * n, seed + 1), floats(n, seed + 2));
        let mut c = vec![0.0; m * n];
        for isa in Isa::available() {
            let spec = MatMulSpec { bias: Some(&bias), ..MatMulSpec::new(k, n, &b) };
            let product = MatMul::pack(isa, &spec).unwrap();
            let mut scratch = scratch(product.scratch_len(m, 1));
            let met = meets_subnormals(|| {
                let masks = (live_in.as_ref().map(Mask::view), live_out.as_ref().map(Mask::view));
                let (a, c) = (Rows::new(&a, m, k), RowsMut::new(&mut c, m, n));
                product.run(&Serial, a, masks.0, masks.1, c, &mut scratch).unwrap();
            });
            prop_assert!(!met, "{isa}");
        }
    }
}
