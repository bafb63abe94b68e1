//! Convolutions of any window and mask, grouped, depthwise or neither, against the reference, on every instruction set.
#![no_main]

mod common;

use common::{Backwards, CANARY, activation, admits, bits, floats, live, maybe_mask};
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use sluicegate::ChannelMask;
use sluicegate::kernels::ops::conv::{Conv, NchwcConv};
use sluicegate::kernels::ops::depthwise::{Depthwise, NchwcDepthwise};
use sluicegate::kernels::ops::nchwc::{self, Live};
use sluicegate::kernels::ops::{Algorithm, ConvShape, ConvSpec};
use sluicegate::kernels::pool::{Pool, Serial};
use sluicegate::kernels::reference::conv as reference;
use sluicegate::kernels::reference::matmul::Sum;
use sluicegate::kernels::{Channels, Error, Isa};

fuzz_target!(|bytes: &[u8]| {
    let mut u = Unstructured::new(bytes);
    let _ = match u.arbitrary() {
        Ok(0u8..=210) => sound(&mut u),
        _ => hostile(&mut u),
    };
});

/// The most MACs that one run of the reference may take.
const MACS: usize = 1 << 19;

fn two<T>(mut one: impl FnMut() -> Result<T>) -> Result<[T; 2]> {
    Ok([one()?, one()?])
}

fn shape(u: &mut Unstructured<'_>) -> Result<(ConvShape, (usize, usize))> {
    let (groups, ci, co) = match u.int_in_range(0..=6)? {
        6 => (
            u.int_in_range(2..=5)?,
            4 * u.int_in_range(1..=6)?,
            4 * u.int_in_range(1..=6)?,
        ),
        0 => (u.int_in_range(1..=40)?, 1, u.int_in_range(1..=3)?),
        1 => (
            u.int_in_range(1..=4)?,
            u.int_in_range(1..=9)?,
            u.int_in_range(1..=14)?,
        ),
        2 => (1, u.int_in_range(1..=140)?, u.int_in_range(1..=40)?),
        _ => (1, u.int_in_range(1..=20)?, u.int_in_range(1..=30)?),
    };
    let window = u.int_in_range(0..=3)?;
    let kernel = match window {
        0 => [1, 1],
        1 => [1, u.int_in_range(1..=11)?],
        2 => [3, 3],
        _ => two(|| u.int_in_range(1..=6))?,
    };
    let plain: bool = u.arbitrary()?;
    let stride = if plain {
        [1, 1]
    } else {
        two(|| u.int_in_range(1..=4))?
    };
    let dilation = if plain {
        [1, 1]
    } else {
        two(|| u.int_in_range(1..=3))?
    };
    let padded: bool = u.arbitrary()?;
    let mut pad = || if padded { u.int_in_range(0..=6) } else { Ok(0) };
    let pads = [pad()?, pad()?, pad()?, pad()?];
    let map = match u.int_in_range(0..=2)? {
        0 => (1, u.int_in_range(0..=300)?),
        1 => (u.int_in_range(0..=40)?, u.int_in_range(0..=40)?),
        _ => (u.int_in_range(0..=12)?, u.int_in_range(0..=12)?),
    };
    Ok((
        ConvShape {
            c_in: ci * groups,
            c_out: co * groups,
            groups,
            kernel,
            stride,
            dilation,
            pads,
        },
        map,
    ))
}

fn algorithm(u: &mut Unstructured<'_>, shape: &ConvShape) -> Result<Algorithm> {
    let one = [1, 1];
    let serves =
        (shape.kernel, shape.stride, shape.dilation, shape.groups) == ([3, 3], one, one, 1);
    Ok(match u.int_in_range(0..=4)? {
        1 => Algorithm::Fastest,
        4 => Algorithm::Adaptive,
        2 if serves => Algorithm::Winograd2,
        3 if serves => Algorithm::Winograd4,
        _ => Algorithm::Direct,
    })
}

/// Sums that admit what Winograd's filtering may make of them: the bound that `Conv` documents, for inputs up to 1.
fn loosened(sums: &[Sum], shape: &ConvShape, weights: &[f32]) -> Vec<Sum> {
    let each = shape.c_in / shape.groups * shape.kernel[0] * shape.kernel[1];
    let pixels = sums.len() / shape.c_out;
    let rows = weights.chunks(each).zip(sums.chunks(pixels.max(1)));
    let wider = rows.flat_map(|(row, sums)| {
        let norm: f64 = row.iter().map(|w| f64::from(w.abs())).sum();
        sums.iter().map(move |sum| Sum {
            magnitude: sum.magnitude + 176.0 * norm,
            terms: sum.terms + 24,
            ..*sum
        })
    });
    wider.collect()
}

fn view(mask: &Option<ChannelMask>) -> Option<Channels<'_>> {
    mask.as_ref().map(ChannelMask::as_channels)
}

fn sound(u: &mut Unstructured<'_>) -> Result<()> {
    let (shape, hw) = shape(u)?;
    let seed = u64::from(u.arbitrary::<u16>()?);
    let with_bias: bool = u.arbitrary()?;
    let act = activation(u)?;
    let static_masks = (maybe_mask(u, shape.c_in)?, maybe_mask(u, shape.c_out)?);
    let masks = (maybe_mask(u, shape.c_in)?, maybe_mask(u, shape.c_out)?);
    let threads = u.int_in_range(1..=4)?;
    let algorithm = algorithm(u, &shape)?;

    let weights = floats(shape.weights_len().unwrap(), seed + 1);
    let bias = with_bias.then(|| floats(shape.c_out, seed + 2));
    let plane = hw.0 * hw.1;
    let mut x = floats(shape.c_in * plane, seed);
    let effective = ChannelMask::from_fn(shape.c_in, |c| live(&static_masks.0, &masks.0, c));
    let out = shape.output(hw);
    let pixels = out.as_ref().map_or(0, |(oh, ow)| oh * ow);
    if pixels * weights.len() > MACS || shape.c_in * plane > MACS {
        return Ok(());
    }
    let expected = out.ok().map(|_| {
        reference::conv(
            &shape,
            hw,
            &x,
            &weights,
            bias.as_deref(),
            Some(effective.as_channels()),
        )
        .unwrap()
    });
    for c in effective.not().live() {
        x[c * plane..][..plane].fill(f32::NAN);
    }
    let written = |co: usize| live(&static_masks.1, &masks.1, co);
    let masked_outputs = u.arbitrary()?;
    for isa in Isa::available() {
        let spec = ConvSpec {
            shape,
            weights: &weights,
            bias: bias.as_deref(),
            activation: act,
            live_in: view(&static_masks.0),
            live_out: view(&static_masks.1),
            masked_outputs,
            algorithm,
        };
        let check = |what: &str,
                     expected: &Option<Vec<Sum>>,
                     run: &dyn Fn(&dyn Pool, &mut [f32]) -> Result<(), Error>| {
            let mut y = vec![CANARY; shape.c_out * pixels + 3];
            let answer = run(&Serial, &mut y);
            let Some(expected) = expected else {
                assert!(answer.is_err(), "{what} {isa}: a window that does not fit");
                return;
            };
            answer.unwrap();
            for (i, (y, sum)) in y.iter().zip(expected).enumerate() {
                let right = if written(i / pixels) {
                    admits(*y, sum, act)
                } else {
                    *y == CANARY
                };
                assert!(
                    right,
                    "{what} {isa} {act:?} [{}, {}]: {y} {sum:?}",
                    i / pixels,
                    i % pixels
                );
            }
            assert!(
                y[shape.c_out * pixels..].iter().all(|&y| y == CANARY),
                "{what} {isa}: a canary"
            );
            let mut again = vec![CANARY; y.len()];
            run(&Backwards(threads), &mut again).unwrap();
            assert_eq!(bits(&again), bits(&y), "{what} {isa}: {threads} threads");
        };
        let loose = match algorithm {
            Algorithm::Direct => expected.clone(),
            _ => expected
                .as_ref()
                .map(|sums| loosened(sums, &shape, &weights)),
        };
        match Conv::pack(isa, &spec, hw) {
            Ok(conv) => check("conv", &loose, &|pool, y| {
                let mut scratch = vec![f32::NAN; conv.scratch_len(pool.threads())];
                let (live_in, live_out) = (view(&masks.0), view(&masks.1));
                conv.run(pool, &x, live_in, live_out, y, &mut scratch)
            }),
            Err(_) => assert!(expected.is_none(), "a window that fits"),
        }
        if shape.groups == shape.c_in {
            let conv = Depthwise::pack(isa, &spec).unwrap();
            check("depthwise", &expected, &|pool, y| {
                let mut scratch = vec![f32::NAN; conv.scratch_len(hw, pool.threads())];
                let (live_in, live_out) = (view(&masks.0), view(&masks.1));
                conv.run(pool, &x, hw, live_in, live_out, y, &mut scratch)
            });
        } else {
            assert!(Depthwise::pack(isa, &spec).is_err());
        }
        in_blocks(isa, &spec, hw, [view(&masks.0), view(&masks.1)], &x, &|run| {
            check("nchwc", &expected, run);
        });
    }
    Ok(())
}

type Run<'a> = &'a dyn Fn(&dyn Pool, &mut [f32]) -> Result<(), Error>;

/// The same with maps in blocks of channels, where that can be computed.
fn in_blocks(
    isa: Isa,
    spec: &ConvSpec<'_>,
    hw: (usize, usize),
    [live_in, live_out]: [Option<Channels<'_>>; 2],
    x: &[f32],
    check: &dyn Fn(Run<'_>),
) {
    let Ok((oh, ow)) = spec.shape.output(hw) else {
        return;
    };
    let (from, to) = ((spec.shape.c_in, hw.0 * hw.1), (spec.shape.c_out, oh * ow));
    let elements = |(c, p)| nchwc::elements(isa, c, p).unwrap();
    let laid_out = |live: Option<Channels<'_>>| {
        let mut blocks = vec![f32::NAN; elements(from)];
        nchwc::from_planes(isa, &Serial, x, from, live, &mut blocks).unwrap();
        blocks
    };
    let planes = |pool: &dyn Pool, y: &mut [f32], run: Run<'_>| {
        let mut out = vec![f32::NAN; elements(to)];
        run(pool, &mut out)?;
        let mut spare = vec![f32::NAN; to.1 * pool.threads()];
        nchwc::to_planes(isa, pool, &out, to, live_out, y, &mut spare)
    };
    if live_in == live_out
        && let Ok(conv) = NchwcDepthwise::pack(isa, spec, hw)
    {
        let x = laid_out(live_in);
        check(&|pool, y| {
            planes(pool, y, &|pool, y| {
                let mut scratch = vec![f32::NAN; conv.scratch_len(pool.threads(), true)];
                conv.run(pool, &x, live_in, y, &mut scratch)
            })
        });
    }
    if spec.shape.groups > 1 && (live_in.is_some() || live_out.is_some()) {
        return;
    }
    let convs = [
        (NchwcConv::pack_planes(isa, spec, hw), x.to_vec(), live_in.map(Live::InPlace)),
        (NchwcConv::pack_blocks(isa, spec, hw), laid_out(None), live_in.map(Live::InPlace)),
        (NchwcConv::pack_blocks(isa, spec, hw), laid_out(live_in), live_in.map(Live::Compact)),
    ];
    for (conv, x, live) in convs {
        let Ok(conv) = conv else { continue };
        check(&|pool, y| {
            planes(pool, y, &|pool, y| {
                let mut scratch = vec![f32::NAN; conv.scratch_len(pool.threads(), true)];
                conv.run(pool, &x, live, live_out, y, &mut scratch)
            })
        });
    }
}

/// Parameters and lengths that do not fit each other: an answer or an error.
fn hostile(u: &mut Unstructured<'_>) -> Result<()> {
    let mut extent = || -> Result<usize> {
        Ok(match u.int_in_range(0..=6)? {
            0 => usize::MAX - u.int_in_range(0..=2)?,
            1 => 1 << u.int_in_range(8..=63)?,
            _ => u.int_in_range(0..=5)?,
        })
    };
    let shape = ConvShape {
        c_in: extent()?,
        c_out: extent()?,
        groups: extent()?,
        kernel: two(&mut extent)?,
        stride: two(&mut extent)?,
        dilation: two(&mut extent)?,
        pads: [extent()?, extent()?, extent()?, extent()?],
    };
    let hw = (extent()?, extent()?);
    let exact = shape.weights_len().ok().filter(|&n| n < 4096);
    let mut len = || u.int_in_range(0..=700usize);
    let (x, weights) = (floats(len()?, 1), floats(exact.unwrap_or(len()?), 2));
    let bias = floats(shape.c_out.min(64), 3);
    let (mut y, mut scratch) = (vec![CANARY; len()?], vec![0.0; 40 * len()?]);
    let fixed: bool = u.arbitrary()?;
    let (over_in, over_out) = (shape.c_in.min(70), shape.c_out.min(70));
    let masks = (maybe_mask(u, over_in)?, maybe_mask(u, over_out)?);
    let spec = ConvSpec {
        shape,
        weights: &weights,
        bias: u.arbitrary::<bool>()?.then_some(&bias),
        activation: activation(u)?,
        live_in: view(&masks.0).filter(|_| fixed),
        live_out: view(&masks.1).filter(|_| fixed),
        masked_outputs: u.arbitrary()?,
        algorithm: algorithm(u, &shape)?,
    };
    let isa = Isa::best();
    let _ = shape.output(hw);
    if let Ok(conv) = Conv::pack(isa, &spec, hw) {
        let _ = conv.scratch_len(4);
        let _ = conv.run(
            &Serial,
            &x,
            view(&masks.0),
            view(&masks.1),
            &mut y,
            &mut scratch,
        );
        let _ = conv.macs(over_in, over_out);
    }
    if let Ok(conv) = Depthwise::pack(isa, &spec) {
        let mut scratch = vec![0.0; conv.scratch_len(hw, 1).min(1 << 20)];
        let (live_in, live_out) = (view(&masks.0), view(&masks.1));
        let _ = conv.run(&Serial, &x, hw, live_in, live_out, &mut y, &mut scratch);
    }
    if let Ok(conv) = NchwcDepthwise::pack(isa, &spec, hw) {
        let _ = conv.scratch_len(4, true);
        let _ = conv.run(&Serial, &x, view(&masks.0), &mut y, &mut scratch);
    }
    for conv in [NchwcConv::pack_blocks(isa, &spec, hw), NchwcConv::pack_planes(isa, &spec, hw)] {
        if let Ok(conv) = conv {
            let _ = conv.scratch_len(4, true);
            for live in [Live::InPlace, Live::Compact] {
                let live = view(&masks.0).map(live);
                let _ = conv.run(&Serial, &x, live, view(&masks.1), &mut y, &mut scratch);
            }
        }
    }
    Ok(())
}
