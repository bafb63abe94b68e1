//! Floor 3: the operations, with their operands checked at the door.

use crate::table::{Row, on_every_isa};

pub mod binary;
mod check;
pub mod conv;
mod conv_shape;
pub mod depthwise;
pub mod matmul;
pub mod norm;
pub mod pointwise;
pub mod pool;
pub mod reduce;

pub use conv_shape::{ConvShape, ConvSpec};

/// The kernels of this floor that have no tile of their own.
pub(crate) const ROWS: &[Row] = on_every_isa! {};
