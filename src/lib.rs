//! Inference for gated networks on CPUs: SIMD kernels that skip dead channels at run time, and an executor that leaves the
//! graph at a gate.
#![forbid(unsafe_code)]

/// The examples of the README are tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod error;
// Floor 6: ONNX files to graphs.
pub mod import;
// Floor 5: what runs, in which order, in which storage; and the running of it.
mod exec;
mod model;
mod plan;
#[cfg(feature = "rayon")]
mod threads;
// What every operator means: shapes of results, and the results in plain loops.
pub mod ops;
// Floor 4: what flows (tensors), what is computed (the graph), which channels live (masks).
pub mod graph;
mod mask;
pub mod tensor;

pub use error::{Error, Result};
pub use exec::{Macs, NodeTrace, Outcome, Outputs, Run, Session, Trace};
pub use mask::{BatchMask, ChannelMask};
pub use model::{Mode, Model, Options, default_isa};
pub use plan::{Gate, Plan, PlanNode};
pub use sluicegate_kernels as kernels;
pub use sluicegate_kernels::Isa;
pub use tensor::{DType, Shape, Tensor, View, ViewMut};
#[cfg(feature = "rayon")]
pub use threads::Threads;
