//! Floor 2: micro-kernels, one body each for all instruction sets and tile sizes.

pub(crate) mod gemm;
