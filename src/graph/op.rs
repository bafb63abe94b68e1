//! The operations of a graph.

use crate::DType;

/// A sliding window over the spatial axes. Empty lists stand for ones (strides, dilations) and, for a convolution, for the extents of
/// its weights (kernel).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Window {
    /// Extents.
    pub kernel: Vec<usize>,
    /// Steps between outputs.
    pub strides: Vec<usize>,
    /// Steps between taps.
    pub dilations: Vec<usize>,
    /// What lies around the input.
    pub padding: Padding,
}

/// Padding of a [`Window`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Padding {
    /// All begins, then all ends; empty = none.
    Explicit(Vec<usize>),
    /// Output = ceil(input / stride), the odd element at the end.
    SameUpper,
    /// Output = ceil(input / stride), the odd element at the beginning.
    SameLower,
    /// None.
    Valid,
}

impl Default for Padding {
    fn default() -> Self {
        Padding::Explicit(Vec::new())
    }
}

/// Functions of one operand, element by element.
#[derive(Debug, Clone, Copy, PartialEq)]
#[expect(missing_docs, reason = "the operators of ONNX under their own names")]
pub enum Unary {
    Abs,
    Ceil,
    Elu {
        alpha: f32,
    },
    Erf,
    Exp,
    Floor,
    Gelu {
        tanh: bool,
    },
    HardSigmoid {
        alpha: f32,
        beta: f32,
    },
    HardSwish,
    LeakyRelu {
        alpha: f32,
    },
    Log,
    Neg,
    Not,
    Reciprocal,
    Relu,
    Round,
    Sigmoid,
    /// x * sigmoid(alpha * x); ONNX calls it Swish.
    Silu {
        alpha: f32,
    },
    Softplus,
    Sqrt,
    Tanh,
}

/// Functions of two operands with broadcasting, element by element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the operators of ONNX under their own names")]
pub enum Binary {
    Add,
    And,
    Div,
    Equal,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
    Max,
    Min,
    Mul,
    Or,
    Pow,
    Sub,
}

/// What a reduction does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the operators of ONNX under their own names")]
pub enum Reduction {
    Max,
    Mean,
    Sum,
}

/// How [`Op::Pad`] fills.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the modes of ONNX under their own names")]
pub enum PadMode {
    Constant,
    Edge,
    Reflect,
    Wrap,
}

/// Scaled dot-product attention ([`Op::Attention`]).
///
/// For each sample, each head and each query i, over all keys j:
///
/// ```text
/// s[j] = cap(scale · Σ_d Q[i, d] K[j, d]) + bias[i, j]        cap(x) = softcap · tanh(x / softcap), or x
/// p    = softmax(s)                                           Y[i] = Σ_j p[j] V[j]
/// ```
///
/// The bias is the sum of the mask (of truth values: 0 where true, -∞ where false) and of -∞ for each key that is out of [`Reach`], at or
/// past `kv_lengths[n]`, or dead. A key whose bias is -∞ contributes nothing, whatever it and its value hold. A row without a key, or
/// whose scores are all -∞, is a row of zeros.
///
/// | operand | shape | |
/// |---|---|---|
/// | 0 `Q` | `[N, heads, queries, width]` or `[N, queries, heads · width]` | f32 |
/// | 1 `K` | `[N, kv_heads, keys, width]` or `[N, keys, kv_heads · width]` | those of the past in front |
/// | 2 `V` | `[N, kv_heads, keys, v_width]` or `[N, keys, kv_heads · v_width]` | likewise |
/// | 3 `mask`? | broadcasts to `[N, heads, queries, keys]`, but fewer keys are padded with -∞, be it one | f32 or bool |
/// | 4 `kv_lengths`? | `[N]` | i64: the keys of each sample that count, from the first on |
/// | 5 `live`? | `[N or 1, keys]` | f32 or bool: keys that are not 0 are live |
/// | 6 `past`? | one element | i64: the keys that stand before the first query |
///
/// Each `heads / kv_heads` heads in a row share the head of keys and values. The first result is Y, shaped as Q with the width of V; the
/// second one [`Scores`], `[N, heads, queries, keys]`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Attention {
    /// Heads of queries, and of keys and values, when heads and width share the last axis; `None`: heads are axis 1.
    pub heads: Option<(usize, usize)>,
    /// Which keys a query sees by their places.
    pub reach: Reach,
    /// The factor of the products; `None` = 1 / √width.
    pub scale: Option<f32>,
    /// The bound that the products are bent to; 0 = none.
    pub softcap: f32,
    /// What the second result is.
    pub scores: Scores,
}

/// The keys that a query sees by their places. Query i stands at place i + offset among the keys: the offset is `past` where that is
/// given, else `kv_lengths[n] - queries` where those are, else 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reach {
    /// So many keys before its own place; `None` = all.
    pub before: Option<usize>,
    /// So many keys behind its own place; `None` = all.
    pub after: Option<usize>,
}

impl Reach {
    /// No key that comes after the query.
    pub const CAUSAL: Reach = Reach {
        before: None,
        after: Some(0),
    };
}

/// The second result of an [`Attention`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scores {
    /// The scaled products, of all keys.
    #[default]
    Products,
    /// The same once they are bent.
    Capped,
    /// With the bias.
    Biased,
    /// Their softmax.
    Probabilities,
}

/// The rotation of pairs ([`Op::RotaryEmbedding`]): (a, b) becomes (a · cos - b · sin, a · sin + b · cos), in the first `dims` elements of
/// each head.
///
/// X is `[N, heads, T, width]`, or `[N, T, heads · width]` where `heads` says so. The tables are `[any, dims / 2]`, with a row for each
/// place in `places`, `[N, T]`; or, without places, `[N or 1, T, dims / 2]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rotary {
    /// Heads that share the last axis; `None`: heads are axis 1.
    pub heads: Option<usize>,
    /// Elements of each head that are rotated; `None` = all.
    pub dims: Option<usize>,
    /// Pairs are neighbours; else their halves are `dims / 2` apart.
    pub interleaved: bool,
}

/// The operations. Operands are those of the ONNX operator of the same name at its latest version, unless said otherwise.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "attributes of ONNX under their own names")]
pub enum Op {
    /// (Q, K, V, mask?, kv_lengths?, live?, past?) -> (Y, scores?)
    Attention(Attention),
    AveragePool {
        window: Window,
        ceil: bool,
        count_include_pad: bool,
    },
    BatchNorm {
        epsilon: f32,
    },
    Binary(Binary),
    Cast {
        to: DType,
    },
    /// (X, like) -> X in the type of `like`; planning knows the type and makes it a [`Op::Cast`].
    CastLike,
    /// (X, min?, max?)
    Clip,
    Concat {
        axis: i64,
    },
    Conv {
        window: Window,
        groups: usize,
    },
    Expand,
    Flatten {
        axis: i64,
    },
    Gather {
        axis: i64,
    },
    /// (score) -> nothing. The sample leaves the graph here when its score is less than the threshold.
    Gate {
        threshold: f32,
        index: usize,
    },
    Gemm {
        alpha: f32,
        beta: f32,
        trans_a: bool,
        trans_b: bool,
    },
    GlobalAveragePool,
    GlobalMaxPool,
    Identity,
    LayerNorm {
        axis: i64,
        epsilon: f32,
    },
    LogSoftmax {
        axis: i64,
        flatten: bool,
    },
    /// (X, mask) -> X * mask, the mask of shape [N or 1, C] with elements 0 and 1, C along `axis` of X.
    Mask {
        axis: usize,
    },
    MatMul,
    MaxPool {
        window: Window,
        ceil: bool,
        column_major_indices: bool,
    },
    /// (X, pads, value?, axes?)
    Pad {
        mode: PadMode,
    },
    /// (start, limit, delta)
    Range,
    /// (X, axes?)
    Reduce {
        kind: Reduction,
        keep_dims: bool,
        noop_with_empty_axes: bool,
    },
    Reshape {
        allow_zero: bool,
    },
    RmsNorm {
        axis: i64,
        epsilon: f32,
    },
    /// (X, cos, sin, places?)
    RotaryEmbedding(Rotary),
    Shape {
        start: i64,
        end: Option<i64>,
    },
    /// (X, starts, ends, axes?, steps?)
    Slice,
    /// `flatten`: the meaning before version 13, over all axes from `axis` on.
    Softmax {
        axis: i64,
        flatten: bool,
    },
    /// (X, sizes?); without sizes as many equal parts as outputs.
    Split {
        axis: i64,
    },
    /// (X, axes?)
    Squeeze,
    Transpose {
        perm: Option<Vec<usize>>,
    },
    Unary(Unary),
    /// (X, axes)
    Unsqueeze,
    Where,
}

impl Op {
    /// The name of the ONNX operator.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Attention(_) => "Attention",
            Op::AveragePool { .. } => "AveragePool",
            Op::BatchNorm { .. } => "BatchNormalization",
            Op::Binary(op) => match op {
                Binary::Add => "Add",
                Binary::And => "And",
                Binary::Div => "Div",
                Binary::Equal => "Equal",
                Binary::Greater => "Greater",
                Binary::GreaterOrEqual => "GreaterOrEqual",
                Binary::Less => "Less",
                Binary::LessOrEqual => "LessOrEqual",
                Binary::Max => "Max",
                Binary::Min => "Min",
                Binary::Mul => "Mul",
                Binary::Or => "Or",
                Binary::Pow => "Pow",
                Binary::Sub => "Sub",
            },
            Op::Cast { .. } => "Cast",
            Op::CastLike => "CastLike",
            Op::Clip => "Clip",
            Op::Concat { .. } => "Concat",
            Op::Conv { .. } => "Conv",
            Op::Expand => "Expand",
            Op::Flatten { .. } => "Flatten",
            Op::Gather { .. } => "Gather",
            Op::Gate { .. } => "Gate",
            Op::Gemm { .. } => "Gemm",
            Op::GlobalAveragePool => "GlobalAveragePool",
            Op::GlobalMaxPool => "GlobalMaxPool",
            Op::Identity => "Identity",
            Op::LayerNorm { .. } => "LayerNormalization",
            Op::LogSoftmax { .. } => "LogSoftmax",
            Op::Mask { .. } => "Mask",
            Op::MatMul => "MatMul",
            Op::MaxPool { .. } => "MaxPool",
            Op::Pad { .. } => "Pad",
            Op::Range => "Range",
            Op::Reduce { kind, .. } => match kind {
                Reduction::Max => "ReduceMax",
                Reduction::Mean => "ReduceMean",
                Reduction::Sum => "ReduceSum",
            },
            Op::Reshape { .. } => "Reshape",
            Op::RmsNorm { .. } => "RMSNormalization",
            Op::RotaryEmbedding(_) => "RotaryEmbedding",
            Op::Shape { .. } => "Shape",
            Op::Slice => "Slice",
            Op::Softmax { .. } => "Softmax",
            Op::Split { .. } => "Split",
            Op::Squeeze => "Squeeze",
            Op::Transpose { .. } => "Transpose",
            Op::Unary(op) => match op {
                Unary::Abs => "Abs",
                Unary::Ceil => "Ceil",
                Unary::Elu { .. } => "Elu",
                Unary::Erf => "Erf",
                Unary::Exp => "Exp",
                Unary::Floor => "Floor",
                Unary::Gelu { .. } => "Gelu",
                Unary::HardSigmoid { .. } => "HardSigmoid",
                Unary::HardSwish => "HardSwish",
                Unary::LeakyRelu { .. } => "LeakyRelu",
                Unary::Log => "Log",
                Unary::Neg => "Neg",
                Unary::Not => "Not",
                Unary::Reciprocal => "Reciprocal",
                Unary::Relu => "Relu",
                Unary::Round => "Round",
                Unary::Sigmoid => "Sigmoid",
                Unary::Silu { .. } => "Swish",
                Unary::Softplus => "Softplus",
                Unary::Sqrt => "Sqrt",
                Unary::Tanh => "Tanh",
            },
            Op::Unsqueeze => "Unsqueeze",
            Op::Where => "Where",
        }
    }
}
