use std::path::PathBuf;

use crate::DType;

/// What went wrong, in words that name the node, the operand or the file, and the remedy where there is one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// The bytes are not a well-formed ONNX model.
    #[error("malformed ONNX model: {what} (at byte {offset})")]
    Malformed {
        /// What is wrong.
        what: String,
        /// Where in the file.
        offset: usize,
    },
    /// The model is well-formed but says something that has no meaning.
    #[error("invalid model: {0}")]
    Model(String),
    /// An operator, an attribute or a type that is not supported.
    #[error("{node}: {what} is not supported")]
    Unsupported {
        /// The node, as `name (Operator)`.
        node: String,
        /// What is not supported.
        what: String,
    },
    /// A node cannot be applied to the operands that it gets.
    #[error("{node}: {what}")]
    Node {
        /// The node, as `name (Operator)`.
        node: String,
        /// What does not fit.
        what: String,
    },
    /// An input of `run` does not fit the model.
    #[error("input `{input}`: {what}")]
    Input {
        /// The input of the graph.
        input: String,
        /// What does not fit.
        what: String,
    },
    /// A shape has too many axes or too many elements.
    #[error("shape {dims:?}: {why}")]
    Shape {
        /// The extents.
        dims: Vec<usize>,
        /// What is wrong with them.
        why: &'static str,
    },
    /// A tensor holds another type than was asked for.
    #[error("tensor holds {found}, not {expected}")]
    Type {
        /// The type asked for.
        expected: DType,
        /// The type that it has.
        found: DType,
    },
    /// More memory would be needed than is allowed.
    #[error(
        "{what} needs {needed} bytes, more than the limit of {limit}; raise `Options::memory_limit` if the model is meant to be that large"
    )]
    TooLarge {
        /// What would be allocated.
        what: String,
        /// Bytes needed.
        needed: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// A kernel refused its operands.
    #[error(transparent)]
    Kernel(#[from] sluicegate_kernels::Error),
}

/// `Result` with the crate's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;
