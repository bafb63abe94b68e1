//! What the kernels must compute, in plain loops with f64 sums.

pub mod attention;
pub mod binary;
pub mod conv;
pub mod depthwise;
pub mod matmul;
pub mod norm;
pub mod pointwise;
pub mod pool;
pub mod reduce;
