//! Kernels with packed weights.

use sluicegate_kernels::ops::{Algorithm, ConvShape, ConvSpec, conv, depthwise, matmul, nchwc};
use sluicegate_kernels::{Channels, Isa};

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
        masked_outputs: dynamic_out > 0,
        algorithm,
    };
    let (oh, ow) = work.shape.output(work.hw)?;
    let shape = &work.shape;
    let taps = (shape.c_in / shape.groups * shape.kernel[0] * shape.kernel[1]) as u64;
    let dense = (work.images * oh * ow * shape.c_out) as u64 * taps;
    let share =
        |mask: Option<&ChannelMask>| mask.map_or(1.0, |m| m.count() as f64 / m.len().max(1) as f64);
    let (images, hw) = (work.images, work.hw);
    let planned = dense as f64 * share(live_in) * share(live_out);
    let mut folds = [true; 2];
    let (kernel, planned, channels) = if work.maps != Maps::Planes {
        let (call, folded) = in_blocks(isa, &spec, work)?;
        folds = folded;
        let kernel = Kernel::Blocks { call, images };
        match work.is_depthwise() {
            true => (
                kernel,
                dense as f64 * share(live_in.or(live_out)),
                (dynamic_in, 0),
            ),
            false => (kernel, planned, (dynamic_in, dynamic_out)),
        }
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
        folds,
    })
}

/// With static masks, which groups do not have, it is one of fewer channels; those of planes are left to the run, which finds them where they are.
fn in_blocks(isa: Isa, spec: &ConvSpec<'_>, work: &Conv) -> Result<(BlocksCall, [bool; 2])> {
    let planes = work.maps == Maps::IntoBlocks;
    let lives = |mask: &Channels<'_>| !mask.is_empty() && nchwc::is_compact(*mask);
    let live_in = spec.live_in.filter(lives).filter(|_| !planes);
    let live_out = match work.is_depthwise() {
        true => live_in,
        false => spec.live_out.filter(lives),
    };
    let shape = &spec.shape;
    let all = |mask: Option<Channels<'_>>, channels: usize| -> Vec<usize> {
        mask.map_or_else(|| (0..channels).collect(), |mask| mask.live().collect())
    };
    let outputs = all(live_out, shape.c_out);
    let inputs = match work.is_depthwise() {
        true => vec![0],
        false => all(live_in, shape.c_in),
    };
    let taps = shape.kernel[0] * shape.kernel[1];
    let row = spec.weights.len() / shape.c_out.max(1);
    let pairs = outputs
        .iter()
        .flat_map(|co| inputs.iter().map(move |ci| co * row + ci * taps));
    let weights: Vec<f32> = match (live_in, live_out) {
        (None, None) => Vec::new(),
        _ => pairs
            .flat_map(|at| &spec.weights[at..][..taps])
            .copied()
            .collect(),
    };
    let bias: Option<Vec<f32>> = spec
        .bias
        .map(|bias| outputs.iter().map(|&co| bias[co]).collect());
    let (c_in, groups) = match work.is_depthwise() {
        true => (outputs.len(), outputs.len()),
        false => (inputs.len(), shape.groups),
    };
    let few = ConvSpec {
        shape: ConvShape {
            c_in,
            c_out: outputs.len(),
            groups,
            ..*shape
        },
        weights: if weights.is_empty() {
            spec.weights
        } else {
            &weights
        },
        bias: bias.as_deref(),
        live_in: None,
        live_out: None,
        ..*spec
    };
    let call = if work.is_depthwise() {
        let conv = depthwise::NchwcDepthwise::pack(isa, &few, work.hw)?;
        BlocksCall::Depthwise(Box::new(conv))
    } else {
        let conv = match planes {
            true => conv::NchwcConv::pack_planes(isa, &few, work.hw)?,
            false => conv::NchwcConv::pack_blocks(isa, &few, work.hw)?,
        };
        let conv = Box::new(conv);
        BlocksCall::Conv { conv, planes }
    };
    Ok((call, [live_in.is_some(), live_out.is_some()]))
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
            masked_columns: dynamic_out > 0,
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
        folds: [true; 2],
    })
}
