//! Convolution and pooling.

use super::Results;
use crate::graph::{Op, Padding, ValueId, Window};
use crate::import::builder::Builder;
use crate::import::call::Call;
use crate::{Error, Result};

/// A convolution with these weights.
pub(in crate::import) fn conv<'m>(
    b: &Builder<'m>,
    call: &Call<'m>,
    weights: ValueId,
) -> Result<Op> {
    let weights = b.constant(weights).map(|w| w.shape());
    let taps = weights.and_then(|s| s.get(2..).map(<[usize]>::to_vec));
    let window = window(call, taps)?;
    let groups = call.int("group")?.unwrap_or(1);
    let groups = (usize::try_from(groups).ok())
        .filter(|&g| g >= 1 && i32::try_from(g).is_ok())
        .ok_or_else(|| call.wrong(format!("attribute `group` is {groups}")))?;
    Ok(Op::Conv { window, groups })
}

/// Average and maximum pooling.
pub(super) fn pool<'m>(b: &mut Builder<'m>, call: &Call<'m>) -> Result<Results> {
    let is_max = call.op == "MaxPool";
    call.arity(1..=1, if is_max { 2 } else { 1 })?;
    let window = window(call, None)?;
    if window.kernel.is_empty() {
        return Err(call.wrong("attribute `kernel_shape` is missing"));
    }
    let ceil = call.flag("ceil_mode", false)?;
    let op = if is_max {
        Op::MaxPool {
            window,
            ceil,
            column_major_indices: call.flag("storage_order", false)?,
        }
    } else {
        Op::AveragePool {
            window,
            ceil,
            count_include_pad: call.flag("count_include_pad", false)?,
        }
    };
    b.emit(call, op, call.inputs.clone())
}

/// The attributes of a window; `taps` are the extents that the weights of a convolution have.
fn window(call: &Call<'_>, taps: Option<Vec<usize>>) -> Result<Window> {
    let kernel = call.extents("kernel_shape", 1)?;
    let strides = call.extents("strides", 1)?;
    let dilations = call.extents("dilations", 1)?;
    let pads = match call.extents("pads", 0) {
        Err(Error::Node { .. }) if call.ints("pads")?.is_some_and(|p| p.iter().any(|&v| v < 0)) => {
            return Err(call.unsupported("negative padding"));
        }
        pads => pads?,
    };
    let axes =
        (taps.as_ref().map(Vec::len)).or_else(|| (!kernel.is_empty()).then_some(kernel.len()));
    if let Some(taps) = taps
        && !kernel.is_empty()
        && kernel != taps
    {
        return Err(call.wrong(format!(
            "attribute `kernel_shape` is {kernel:?}, the weights have {taps:?}"
        )));
    }
    let padding = match call.text("auto_pad", "NOTSET")? {
        "NOTSET" | "" => Padding::Explicit(pads),
        "SAME_UPPER" => Padding::SameUpper,
        "SAME_LOWER" => Padding::SameLower,
        "VALID" => Padding::Valid,
        other => return Err(call.unsupported(format!("attribute `auto_pad` = `{other}`"))),
    };
    let explicit = match &padding {
        Padding::Explicit(pads) => pads.len(),
        _ => 0,
    };
    for (name, length, per_axis) in [
        ("strides", strides.len(), 1),
        ("dilations", dilations.len(), 1),
        ("pads", explicit, 2),
    ] {
        if length % per_axis != 0 || (length > 0 && axes.is_some_and(|n| length != per_axis * n)) {
            return Err(call.wrong(format!(
                "attribute `{name}` has {length} numbers, which do not match the spatial axes"
            )));
        }
    }
    Ok(Window {
        kernel,
        strides,
        dilations,
        padding,
    })
}
