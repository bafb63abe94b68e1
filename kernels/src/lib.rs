//! SIMD kernels for gated networks: every one of them skips the channels that a bitmap calls dead.
//!
//! The crate is `no_std` + `alloc`. It knows slices, shapes and bitmaps; graphs, files and threads live above it.
#![no_std]
#![forbid(clippy::panic_in_result_fn)]
#![cfg_attr(docsrs, feature(doc_cfg))]

extern crate alloc;
#[cfg(feature = "std")]
extern crate std;

// Floor 0: the set of live channels, as kernels see it, and memory.
mod buffer;
mod channels;
// The one error type: which operand is wrong, and how.
mod error;
// Floor 1: instruction sets as zero-sized tokens, and the vector vocabulary that bodies are written in.
pub mod isa;
// Who runs the jobs of a kernel, and the disjoint output tiles that they write.
pub mod pool;
// Floor 2: operands as micro-kernels read them, packed orders, micro-kernels, and what they do to a sum before they store it.
pub mod epilogue;
mod pack;
mod panel;
mod tile;
mod transpose;
// Floor 3: operations with checked operands, and the table of all kernels.
pub mod ops;
pub mod table;
// The oracles of the tests.
pub mod reference;

pub use buffer::Buffer;
pub use channels::{Channels, Live, Runs};
pub use error::Error;
pub use isa::Isa;
