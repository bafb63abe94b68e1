//! The checks at the door that several operations share.
#![forbid(unsafe_code)]

use crate::{Channels, Error};

/// The product of `extents`, when `slice_len` elements cover it.
pub(crate) fn covers(
    operand: &'static str,
    extents: &[usize],
    slice_len: usize,
) -> Result<usize, Error> {
    let needed = extents
        .iter()
        .try_fold(1usize, |n, &e| n.checked_mul(e))
        .ok_or(Error::TooLarge { operand })?;
    if slice_len < needed {
        return Err(Error::TooShort {
            operand,
            needed,
            given: slice_len,
        });
    }
    Ok(needed)
}

/// A mask over `channels`, or none.
pub(crate) fn mask(
    what: &'static str,
    live: Option<Channels<'_>>,
    channels: usize,
) -> Result<(), Error> {
    match live {
        Some(live) if live.len() != channels => Err(Error::Mismatch {
            what,
            expected: channels,
            found: live.len(),
        }),
        _ => Ok(()),
    }
}

/// Calls `job` with the runs of live channels, or once with all of them.
#[inline(always)]
pub(crate) fn each_run(
    live: Option<Channels<'_>>,
    channels: usize,
    mut job: impl FnMut(core::ops::Range<usize>),
) {
    match live {
        None => job(0..channels),
        // Not `for_each`: what it calls is not compiled for the instruction set.
        Some(live) => {
            for run in live.runs() {
                job(run);
            }
        }
    }
}
