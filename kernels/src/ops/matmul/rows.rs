//! Rows of operands.
#![forbid(unsafe_code)]

use crate::Error;
use crate::pack::check_len;

/// Rows of an operand that is read: row `i` is `data[index[i] * ld..]`, or `data[i * ld..]` without an index.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    /// Elements.
    pub data: &'a [f32],
    /// Number of rows.
    pub m: usize,
    /// Elements from one row to the next.
    pub ld: usize,
    /// Which rows, `m` of them.
    pub index: Option<&'a [u32]>,
}

/// Rows of an operand that is written, as [`Rows`]. The rows of an index must be distinct.
#[derive(Debug)]
pub struct RowsMut<'a> {
    /// Elements.
    pub data: &'a mut [f32],
    /// Number of rows.
    pub m: usize,
    /// Elements from one row to the next.
    pub ld: usize,
    /// Which rows, `m` of them.
    pub index: Option<&'a [u32]>,
}

impl<'a> Rows<'a> {
    /// The first `m` rows of `data`.
    pub fn new(data: &'a [f32], m: usize, ld: usize) -> Self {
        Self {
            data,
            m,
            ld,
            index: None,
        }
    }
}

impl<'a> RowsMut<'a> {
    /// The first `m` rows of `data`.
    pub fn new(data: &'a mut [f32], m: usize, ld: usize) -> Self {
        Self {
            data,
            m,
            ld,
            index: None,
        }
    }
}

/// The number of rows that `m` rows or an index reach over, once everything of them is known to be in `len` elements.
pub(super) fn reach(
    index: Option<&[u32]>,
    (m, ld, width, len): (usize, usize, usize, usize),
    operand: &'static str,
) -> Result<usize, Error> {
    if let Some(index) = index
        && index.len() != m
    {
        return Err(Error::Mismatch {
            what: "number of indexed rows",
            expected: m,
            found: index.len(),
        });
    }
    let rows = match index {
        Some(index) => index.iter().map(|&i| i as usize + 1).max().unwrap_or(0),
        None => m,
    };
    if rows > 0 {
        if ld < width && rows > 1 {
            return Err(Error::Invalid {
                what: "a row is longer than the distance between rows",
            });
        }
        let needed = (rows - 1)
            .checked_mul(ld)
            .and_then(|n| n.checked_add(width))
            .ok_or(Error::TooLarge { operand })?;
        check_len(len, needed, operand)?;
    }
    Ok(rows)
}
