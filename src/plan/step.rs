//! What the executor walks: kernels with packed weights, and where their operands lie.

use sluicegate_kernels::epilogue::Activation;
use sluicegate_kernels::ops::binary::BinaryOp;
use sluicegate_kernels::ops::{attention, binary, conv, depthwise, matmul, pool, reduce};

use super::masks::MaskId;
use super::views::Attend;
use crate::graph::Op;
use crate::{DType, Shape};

/// Where a value lies in the arena: sample `s` of `n` is the `len` bytes at `offset * n + s * len`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) offset: usize,
    pub(crate) len: usize,
}

/// Where an operand is read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// A constant of the plan.
    Constant(usize),
    /// An input of the run, in the caller's memory.
    Input(usize),
    /// The result of an earlier step.
    Arena(Place),
}

/// Planes `[outer, channels, inner]` of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Planes {
    pub(crate) outer: usize,
    pub(crate) channels: usize,
    pub(crate) inner: usize,
}

impl Planes {
    pub(crate) fn of(shape: Shape, axis: usize) -> Self {
        Self {
            outer: shape[..axis].iter().product(),
            channels: shape[axis],
            inner: shape[axis + 1..].iter().product(),
        }
    }
}

/// How an operand of a binary kernel covers the planes of the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cover {
    Full,
    Scalar,
    Planes,
    Row,
}

/// A product of two operands that are both computed: per batch entry, offsets of A and B in matrices.
#[derive(Debug, Clone)]
pub(crate) struct Products {
    pub(crate) m: usize,
    pub(crate) k: usize,
    pub(crate) n: usize,
    pub(crate) pairs: Vec<(usize, usize)>,
}

/// A pooling of maps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Pooling {
    pub(crate) op: pool::PoolOp,
    pub(crate) shape: pool::PoolShape,
    pub(crate) images: usize,
    /// Channels, height and width.
    pub(crate) map: (usize, usize, usize),
    pub(crate) out: (usize, usize),
}

/// Attention, ready to run.
pub(crate) struct AttentionCall {
    pub(crate) attention: attention::Attention,
    pub(crate) at: Attend,
    /// The mask of scores is of truth values.
    pub(crate) truth: bool,
    /// The dead keys are not a mask of the plan, but have a score of -inf.
    pub(crate) keys_as_bias: bool,
}

/// What happens to maps in blocks of channels beside convolutions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum BlocksOp {
    FromPlanes,
    ToPlanes,
    /// The mean of every channel.
    Mean,
    /// The same, and the greatest.
    MeanMax,
    Activate(Activation),
    Binary(BinaryOp),
    Pool(Pooling),
    /// The live channels alone where masks skip, else all times the mask.
    Mask,
}

impl BlocksOp {
    pub(super) fn name(self) -> &'static str {
        match self {
            BlocksOp::FromPlanes => "FromPlanes",
            BlocksOp::ToPlanes => "ToPlanes",
            BlocksOp::Mean => "GlobalAveragePool",
            BlocksOp::MeanMax => "MeanMax",
            BlocksOp::Activate(_) => "Activation",
            BlocksOp::Binary(op) => match op {
                BinaryOp::Add => "Add",
                BinaryOp::Sub => "Sub",
                BinaryOp::Mul => "Mul",
                BinaryOp::Div => "Div",
                BinaryOp::Pow => "Pow",
                BinaryOp::Min => "Min",
                BinaryOp::Max => "Max",
            },
            BlocksOp::Pool(pooling) => match pooling.op {
                pool::PoolOp::Max => "MaxPool",
                pool::PoolOp::Mean { .. } => "AveragePool",
            },
            BlocksOp::Mask => "Mask",
        }
    }
}

/// A kernel of maps in blocks of channels, ready to run.
pub(crate) enum BlocksCall {
    /// Of planes, or of blocks.
    Conv {
        conv: Box<conv::NchwcConv>,
        planes: bool,
    },
    Depthwise(Box<depthwise::NchwcDepthwise>),
    /// Of maps of channels x pixels.
    Op {
        op: BlocksOp,
        extents: (usize, usize),
    },
}

/// One kernel call per sample, ready to run.
pub(crate) enum Kernel {
    /// act(x), elementwise over planes `(c, p)`.
    Activate {
        activation: Activation,
        extents: (usize, usize),
    },
    /// Softmax of scaled products over values. The mask of its input is over keys, that of its output over the elements of all heads.
    Attention(Box<AttentionCall>),
    /// Elementwise over planes `(c, p)`.
    Binary {
        op: BinaryOp,
        extents: (usize, usize),
        covers: [Cover; 2],
    },
    /// Maps in blocks of channels, one call an image.
    Blocks { call: BlocksCall, images: usize },
    /// Gives every channel of its operand, compact maps in blocks, its place again, zeros those that are dead.
    Expand {
        mask: MaskId,
        images: usize,
        pixels: usize,
    },
    /// Elementwise truth values over planes `(c, p)`.
    Compare {
        op: binary::CompareOp,
        extents: (usize, usize),
        covers: [Cover; 2],
    },
    /// One convolution an image.
    Conv {
        conv: Box<conv::Conv>,
        images: usize,
    },
    /// Rows of `from` bytes go to rows of `to` bytes at a distance, `at` bytes into each.
    Copy {
        rows: usize,
        from: (usize, usize),
        to: (usize, usize),
        len: usize,
    },
    /// One depthwise convolution an image.
    Depthwise {
        conv: depthwise::Depthwise,
        images: usize,
        hw: (usize, usize),
    },
    /// 1 where the operand is true, else 0.
    FromBool,
    /// Leaves the graph where the score is below the threshold.
    Gate { threshold: f32, index: usize },
    /// Rows through normalisation, scale and shift.
    LayerNorm { rows: usize, n: usize, epsilon: f32 },
    /// A product with packed weights.
    Linear { matmul: matmul::MatMul, rows: usize },
    /// Makes a mask out of a value or other masks.
    Mask(MaskId),
    /// A product of two computed operands.
    MatMul(Products),
    /// Mean and maximum of planes.
    MeanMax { channels: usize, inner: usize },
    /// Any operator, by its definition.
    Operator {
        op: Op,
        inputs: Vec<Option<(DType, Shape)>>,
        outputs: Vec<Option<(DType, Shape)>>,
    },
    /// Pooling of maps, per image.
    Pool(Pooling),
    /// Along one axis of `[outer, axis, inner]`.
    Reduce {
        op: reduce::ReduceOp,
        extents: [usize; 3],
    },
    /// Rows through normalisation and scale.
    RmsNorm { rows: usize, n: usize, epsilon: f32 },
    /// x * scale + shift per channel.
    ScaleShift {
        images: usize,
        extents: (usize, usize),
        scale: Vec<f32>,
        shift: Vec<f32>,
    },
    /// Writes zeros into the dead channels of its operand.
    Settle { mask: MaskId, planes: Planes },
    /// Softmax or its logarithm along one axis of `[outer, axis, inner]`.
    Softmax { log: bool, extents: [usize; 3] },
}

/// What a step leaves out, where that is decided at run time.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct StepMasks {
    /// Channels of the operand that are not read.
    pub(crate) input: Option<MaskId>,
    /// Channels of the result that are not written.
    pub(crate) output: Option<MaskId>,
    /// Rows of both.
    pub(crate) rows: Option<MaskId>,
}

impl StepMasks {
    /// The masks of the operand, the result, and the rows of both.
    pub(crate) fn all(self) -> [Option<MaskId>; 3] {
        [self.input, self.output, self.rows]
    }
}

/// A step of the plan.
pub(crate) struct Step {
    /// The node of the report that it belongs to.
    pub(crate) node: usize,
    pub(crate) kernel: Kernel,
    pub(crate) inputs: Vec<Option<Source>>,
    pub(crate) outputs: Vec<Option<Place>>,
    pub(crate) masks: StepMasks,
    pub(crate) cost: Cost,
    /// Of a product the one that follows soon: its weights come while this one is computed.
    pub(crate) then: Option<usize>,
}

/// Multiply-accumulates of a step, per sample.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cost {
    /// With every channel live.
    pub(crate) dense: u64,
    /// With static masks applied.
    pub(crate) planned: u64,
    /// Channels that the run-time masks are out of: operand and result. The result's is 0 where it does not count (depthwise).
    pub(crate) channels: (usize, usize),
    /// Rows that the mask of rows is out of.
    pub(crate) rows: usize,
}
