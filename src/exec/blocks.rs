//! Calls of kernels for maps in blocks of channels. What has a mask is compact.

use sluicegate_kernels::ops::binary::{Operand, binary};
use sluicegate_kernels::ops::nchwc::{self, Live};
use sluicegate_kernels::ops::pointwise;
use sluicegate_kernels::pool::Pool;
use sluicegate_kernels::{Channels, Isa};

use crate::Result;
use crate::plan::step::{BlocksCall, BlocksOp, Pooling, StepMasks};

/// Elements of f32 scratch that a call needs.
pub(super) fn scratch_len(call: &BlocksCall, masks: &StepMasks, threads: usize) -> usize {
    let masked = masks.input.or(masks.output).is_some();
    match call {
        BlocksCall::Conv { conv, .. } => conv.scratch_len(threads, masked),
        BlocksCall::Depthwise(conv) => conv.scratch_len(threads, masked),
        BlocksCall::Op {
            op: BlocksOp::ToPlanes,
            extents: (_, pixels),
        } => pixels * threads,
        BlocksCall::Op { .. } => 0,
    }
}

/// One call an image.
pub(super) fn run(
    (call, images): (&BlocksCall, usize),
    (isa, pool): (Isa, &dyn Pool),
    operands: [Option<&[f32]>; 2],
    live: [Option<Channels<'_>>; 2],
    [y, second]: [&mut [f32]; 2],
    scratch: &mut [f32],
) -> Result<()> {
    for i in 0..images {
        let of = |len: usize| i * (len / images)..(i + 1) * (len / images);
        let operands = operands.map(|all| all.map_or(&[][..], |all| &all[of(all.len())]));
        let (y_of, second_of) = (of(y.len()), of(second.len()));
        let results = [&mut y[y_of], &mut second[second_of]];
        image(call, (isa, pool), operands, live, results, scratch)?;
    }
    Ok(())
}

fn image(
    call: &BlocksCall,
    (isa, pool): (Isa, &dyn Pool),
    [x, other]: [&[f32]; 2],
    [live_in, live_out]: [Option<Channels<'_>>; 2],
    [y, second]: [&mut [f32]; 2],
    scratch: &mut [f32],
) -> Result<()> {
    let (op, extents) = match call {
        BlocksCall::Conv { conv, planes } => {
            let live_in = live_in.map(match planes {
                true => Live::InPlace,
                false => Live::Compact,
            });
            return Ok(conv.run(pool, x, live_in, live_out, y, scratch)?);
        }
        BlocksCall::Depthwise(conv) => return Ok(conv.run(pool, x, live_in, y, scratch)?),
        BlocksCall::Op { op, extents } => (*op, *extents),
    };
    let (channels, pixels) = extents;
    // Elementwise, whatever lies behind the last channel.
    let len = nchwc::elements(isa, nchwc::held(live_in, channels), pixels)?;
    match op {
        BlocksOp::FromPlanes => nchwc::from_planes(isa, pool, x, extents, live_in, y)?,
        BlocksOp::ToPlanes => nchwc::to_planes(isa, pool, x, extents, live_in, y, scratch)?,
        BlocksOp::Mean => nchwc::mean(isa, x, extents, live_in, y)?,
        BlocksOp::MeanMax => nchwc::mean_max(isa, x, extents, live_in, y, second)?,
        BlocksOp::Activate(activation) => {
            pointwise::activate(isa, activation, &x[..len], &mut y[..len])?;
        }
        BlocksOp::Binary(op) => {
            let (a, b) = (Operand::Full(&x[..len]), Operand::Full(&other[..len]));
            binary(isa, op, a, b, (1, len), None, &mut y[..len])?;
        }
        BlocksOp::Pool(Pooling {
            op,
            shape,
            map,
            out,
            ..
        }) => nchwc::pool2d(isa, pool, op, &shape, x, map, live_in, out, y)?,
        BlocksOp::Mask => match live_out {
            Some(live) => nchwc::compact(isa, pool, x, pixels, live, y)?,
            None => nchwc::scale(isa, x, extents, other, y)?,
        },
    }
    Ok(())
}
