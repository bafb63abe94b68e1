//! Inference for gated networks on CPUs: SIMD kernels that skip dead channels at run time, and an executor that leaves the
//! graph at a gate.
#![forbid(unsafe_code)]

mod error;
// Floor 4: what flows (tensors), what is computed (the graph), which channels live (masks).
pub mod graph;
// Floor 6: ONNX files to graphs.
pub mod import;
// What every operator means: inference of shapes, the plain reference, the dense interpreter of a whole graph.
pub mod ops;
pub mod tensor;

pub use error::{Error, Result};
pub use sluicegate_kernels as kernels;
pub use tensor::{DType, Shape, Tensor, View, ViewMut};
