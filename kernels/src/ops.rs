//! Floor 3: the operations, with their operands checked at the door.

use crate::table::{Row, on_every_isa};

pub mod attention;
pub mod binary;
mod check;
pub mod conv;
mod conv_shape;
pub mod depthwise;
pub mod matmul;
pub mod nchwc;
pub mod norm;
pub mod pointwise;
pub mod pool;
pub mod reduce;
mod span;

pub use conv_shape::{Algorithm, ConvShape, ConvSpec};

/// The kernels of this floor that have no tile of their own.
pub(crate) const ROWS: &[Row] = on_every_isa! {
    // Sums of the rows in flight, by vectors of columns.
    "dwconv_3x3s1" 3 4;
    "dwconv_3x3s2" 2 2;
    "dwconv_5x5s1" 5 4;
    "dwconv_5x5s2" 3 2;
    "dwconv_7x7s1" 7 2;
    "dwconv_7x7s2" 4 2;
    "dwconv_line" 1 8;
    "dwconv" 1 4;
    "dwconv_nchwc" 16 1;
    // Two vectors of tiles; one takes twice the rows.
    "winograd_2x2" 8 2;
    "winograd_4x4" 8 2;
    // Keys by queries, and elements by queries.
    "attention" 12 2;
    "maxpool" 1 1;
    "avgpool" 1 1;
    "mean_max" 1 4;
    "activate" 1 1;
    "binary" 1 1;
    "compare" 1 1;
    "softmax" 1 4;
    "log_softmax" 1 4;
    "layer_norm" 1 4;
    "rms_norm" 1 4;
    "scale_shift" 1 1;
    "reduce" 1 4;
};
