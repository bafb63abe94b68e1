use alloc::string::String;
use core::fmt;

/// Why a kernel refused its operands. The message names the operand.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// A slice is shorter than its shape says.
    TooShort {
        /// The operand.
        operand: &'static str,
        /// Elements needed.
        needed: usize,
        /// Elements given.
        given: usize,
    },
    /// Two operands disagree about an extent.
    Mismatch {
        /// What is disagreed about, with the operand that has the wrong one.
        what: &'static str,
        /// The extent that the kernel was prepared for.
        expected: usize,
        /// The extent found.
        found: usize,
    },
    /// A parameter has no meaning (a stride of zero, groups that do not divide the channels).
    Invalid {
        /// The parameter and the reason.
        what: &'static str,
    },
    /// The product of the extents does not fit an address.
    TooLarge {
        /// The operand.
        operand: &'static str,
    },
    /// The instruction set that was asked for is unknown or not on this machine.
    Isa {
        /// The name asked for.
        name: String,
        /// Why it cannot be had.
        why: &'static str,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::TooShort {
                operand,
                needed,
                given,
            } => {
                write!(f, "{operand} holds {given} elements, {needed} are needed")
            }
            Error::Mismatch {
                what,
                expected,
                found,
            } => write!(f, "{what} is {found}, expected {expected}"),
            Error::Invalid { what } => write!(f, "invalid parameter: {what}"),
            Error::TooLarge { operand } => {
                write!(f, "the extents of {operand} overflow the address space")
            }
            Error::Isa { name, why } => write!(f, "instruction set `{name}`: {why}"),
        }
    }
}

impl core::error::Error for Error {}
