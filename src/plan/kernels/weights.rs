//! Kernels with packed weights.

use sluicegate_kernels::Isa;
use sluicegate_kernels::ops::{Algorithm, ConvSpec, conv, depthwise, matmul};

use super::Made;
use crate::plan::masks::{MaskId, MaskTable, Skip};
use crate::plan::net::{Item, Net};
use crate::plan::rewrite::{Conv, Linear, Maps};
use crate::plan::step::{BlocksCall, Cost, Kernel};
use crate::{ChannelMask, Result};

/// The static mask of an id, and its channels where it is only known at run time.
fn split_mask(table: &MaskTable, id: Option<MaskId>) -> (Option<&ChannelMask>, usize) {
    match id {
        None => (None, 0),
        Some(id) => match table.as_static(id) {
            Some(mask) => (Some(mask), 0),
            None => (None, table.channels[id.0]),
        },
    }
}

pub(super) fn convolution(
    net: &Net,
    table: &MaskTable,
    item: &Item,
    skip: &Skip,
    work: &Conv,
    (isa, algorithm): (Isa, Algorithm),
) -> Result<Made> {
    let weights = item.input(1).and_then(|id| net.value(id).floats());
    let (live_in, dynamic_in) = split_mask(table, skip.input);
    let (live_out, dynamic_out) = split_mask(table, skip.output);
    let spec = ConvSpec {
        shape: work.shape,
        weights: weights.expect("weights are constant"),
        bias: item.input(2).and_then(|id| net.value(id).floats()),
        activation: work.activation,
        live_in: live_in.map(ChannelMask::as_channels),
        live_out: live_out.map(ChannelMask::as_channels),
        algorithm,
    };
    let (oh, ow) = work.shape.output(work.hw)?;
    let shape = &work.shape;
    let taps = (shape.c_in / shape.groups * shape.kernel[0] * shape.kernel[1]) as u64;
    let dense = (work.images * oh * ow * shape.c_out) as u64 * taps;
    let share =
        |mask: Option<&ChannelMask>| mask.map_or(1.0, |m| m.count() as f64 / m.len().max(1) as f64);
    let (images, hw) = (work.images, work.hw);
    let (kernel, planned, channels) = if work.maps != Maps::Planes {
        let call = match work.maps {
            _ if work.is_depthwise() => {
                let conv = depthwise::NchwcDepthwise::pack(isa, &spec, hw)?;
                BlocksCall::Depthwise(Box::new(conv))
            }
            Maps::IntoBlocks => {
                BlocksCall::Conv(Box::new(conv::NchwcConv::pack_planes(isa, &spec, hw)?))
            }
            _ => BlocksCall::Conv(Box::new(conv::NchwcConv::pack_blocks(isa, &spec, hw)?)),
        };
        (Kernel::Blocks { call, images }, dense as f64, (0, 0))
    } else if work.is_depthwise() {
        // Input and output masks are one and the same choice of planes.
        let conv = depthwise::Depthwise::pack(isa, &spec)?;
        let planned = dense as f64 * share(live_in.or(live_out));
        (
            Kernel::Depthwise { conv, images, hw },
            planned,
            (dynamic_in, 0),
        )
    } else {
        let conv = Box::new(conv::Conv::pack(isa, &spec, hw)?);
        let planned = dense as f64 * share(live_in) * share(live_out);
        (
            Kernel::Conv { conv, images },
            planned,
            (dynamic_in, dynamic_out),
        )
    };
    let cost = Cost {
        dense,
        planned: planned.round() as u64,
        channels,
        rows: 0,
    };
    Ok(Made {
        kernel,
        operands: vec![0],
        cost,
        folds: true,
    })
}

pub(super) fn linear(
    net: &Net,
    table: &MaskTable,
    item: &Item,
    skip: &Skip,
    work: &Linear,
    isa: Isa,
) -> Result<Made> {
    let weights = item.input(1).and_then(|id| net.value(id).floats());
    let (live_in, dynamic_in) = split_mask(table, skip.input);
    let (live_out, dynamic_out) = split_mask(table, skip.output);
    let matmul = matmul::MatMul::pack(
        isa,
        &matmul::MatMulSpec {
            k: work.k,
            n: work.n,
            b: weights.expect("weights are constant"),
            transposed: work.transposed,
            bias: item.input(2).and_then(|id| net.value(id).floats()),
            activation: work.activation,
            live_in: live_in.map(ChannelMask::as_channels),
            live_out: live_out.map(ChannelMask::as_channels),
            masked_rows: (dynamic_in > 0).then_some(work.rows),
        },
    )?;
    let kept = |mask: Option<&ChannelMask>, all: usize| mask.map_or(all, ChannelMask::count) as u64;
    let cost = Cost {
        dense: work.rows as u64 * work.k as u64 * work.n as u64,
        planned: work.rows as u64 * kept(live_in, work.k) * kept(live_out, work.n),
        channels: (dynamic_in, dynamic_out),
        rows: work.rows,
    };
    Ok(Made {
        kernel: Kernel::Linear {
            matmul,
            rows: work.rows,
        },
        operands: vec![0],
        cost,
        folds: true,
    })
}
