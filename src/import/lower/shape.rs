//! Operators that move elements.

use super::Results;
use crate::graph::{Binary, Op, PadMode};
use crate::import::builder::Builder;
use crate::import::call::Call;
use crate::{Result, Tensor};

pub(super) fn concat<'m>(b: &mut Builder<'m>, call: &Call<'m>) -> Result<Results> {
    call.arity(call.inputs.len().max(1)..=usize::MAX, 1)?;
    let axis = call.required_int("axis")?;
    b.emit(call, Op::Concat { axis }, call.inputs.clone())
}

pub(super) fn flatten<'m>(b: &mut Builder<'m>, call: &Call<'m>) -> Result<Results> {
    call.arity(1..=1, 1)?;
    let axis = call.int("axis")?.unwrap_or(1);
    b.emit(call, Op::Flatten { axis }, call.inputs.clone())
}

pub(super) fn gather<'m>(b: &mut Builder<'m>, call: &Call<'m>) -> Result<Results> {
    call.arity(2..=2, 1)?;
    let axis = call.int("axis")?.unwrap_or(0);
    b.emit(call, Op::Gather { axis }, call.inputs.clone())
}

pub(super) fn pad<'m>(b: &mut Builder<'m>, call: &Call<'m>) -> Result<Results> {
    let mode = match call.text("mode", "constant")? {
        "constant" => PadMode::Constant,
        "edge" => PadMode::Edge,
        "reflect" => PadMode::Reflect,
        "wrap" => PadMode::Wrap,
        other => return Err(call.unsupported(format!("attribute `mode` = `{other}`"))),
    };
    let mut inputs = call.inputs.clone();
    if call.version >= 11 {
        call.arity(2..=4, 1)?;
    } else {
        call.arity(1..=1, 1)?;
        let Some(pads) = call.ints("pads")? else {
            return Err(call.wrong("attribute `pads` is missing"));
        };
        inputs.push(Some(b.list(call, "pads", pads)?));
        if let Some(value) = call.optional_float("value")? {
            inputs.push(Some(b.operand(call, "value", Tensor::scalar(value))));
        }
    }
    b.emit(call, Op::Pad { mode }, inputs)
}

pub(super) fn reshape<'m>(b: &mut Builder<'m>, call: &Call<'m>) -> Result<Results> {
    call.arity(2..=2, 1)?;
    let allow_zero = call.flag("allowzero", false)?;
    b.emit(call, Op::Reshape { allow_zero }, call.inputs.clone())
}

pub(super) fn shape<'m>(b: &mut Builder<'m>, call: &Call<'m>) -> Result<Results> {
    call.arity(1..=1, 1)?;
    let op = Op::Shape {
        start: call.int("start")?.unwrap_or(0),
        end: call.int("end")?,
    };
    b.emit(call, op, call.inputs.clone())
}

/// (X, k?) -> X with zeros below (`upper`) or above the k-th diagonal of its last two axes: column - row >= k, or <= k, chooses.
pub(super) fn triangle<'m>(b: &mut Builder<'m>, call: &Call<'m>) -> Result<Results> {
    call.arity(1..=2, 1)?;
    let x = call.operand(0)?;
    let zero = b.operand(call, "zero", Tensor::scalar(0i64));
    let one = b.operand(call, "one", Tensor::scalar(1i64));
    let mut places = [zero; 2];
    for (place, (role, start, end)) in
        (places.iter_mut()).zip([("rows", -2, Some(-1)), ("columns", -1, None)])
    {
        let extent = b.part(
            call,
            &format!("{role}_shape"),
            Op::Shape { start, end },
            &[x],
        )?;
        let extent = b.part(call, &format!("{role}_extent"), Op::Squeeze, &[extent])?;
        *place = b.part(call, role, Op::Range, &[zero, extent, one])?;
    }
    let [mut rows, columns] = places;
    let axis = b.list(call, "rows_axis", &[1])?;
    rows = b.part(call, "rows_down", Op::Unsqueeze, &[rows, axis])?;
    if let Some(k) = call.input(1) {
        let k = b.part(call, "k", Op::Squeeze, &[k])?;
        rows = b.part(call, "rows_moved", Op::Binary(Binary::Add), &[rows, k])?;
    }
    let kept = match call.flag("upper", true)? {
        true => Binary::GreaterOrEqual,
        false => Binary::LessOrEqual,
    };
    let kept = b.part(call, "kept", Op::Binary(kept), &[columns, rows])?;
    let nothing = b.part(call, "nothing", Op::CastLike, &[zero, x])?;
    b.emit(call, Op::Where, vec![Some(kept), Some(x), Some(nothing)])
}

/// The number of elements: the second extent of all of them in one row.
pub(super) fn size<'m>(b: &mut Builder<'m>, call: &Call<'m>) -> Result<Results> {
    call.arity(1..=1, 1)?;
    let row = b.part(call, "row", Op::Flatten { axis: 0 }, &[call.operand(0)?])?;
    let op = Op::Shape {
        start: 1,
        end: Some(2),
    };
    let extent = b.part(call, "extent", op, &[row])?;
    b.emit(call, Op::Squeeze, vec![Some(extent)])
}

pub(super) fn slice<'m>(b: &mut Builder<'m>, call: &Call<'m>) -> Result<Results> {
    let mut inputs = call.inputs.clone();
    if call.version >= 10 {
        call.arity(3..=5, 1)?;
    } else {
        call.arity(1..=1, 1)?;
        for name in ["starts", "ends"] {
            let Some(list) = call.ints(name)? else {
                return Err(call.wrong(format!("attribute `{name}` is missing")));
            };
            inputs.push(Some(b.list(call, name, list)?));
        }
        if let Some(axes) = call.ints("axes")? {
            inputs.push(Some(b.list(call, "axes", axes)?));
        }
    }
    b.emit(call, Op::Slice, inputs)
}

pub(super) fn split<'m>(b: &mut Builder<'m>, call: &Call<'m>) -> Result<Results> {
    let parts = call.results.len();
    let mut inputs = call.inputs.clone();
    if call.version >= 13 {
        call.arity(1..=2, usize::MAX)?;
        let said = if call.version >= 18 {
            call.int("num_outputs")?
        } else {
            None
        };
        if said.is_some_and(|n| n != parts as i64) {
            return Err(call.wrong(format!(
                "attribute `num_outputs` does not say {parts}, the number of results"
            )));
        }
    } else {
        call.arity(1..=1, usize::MAX)?;
        if let Some(sizes) = call.ints("split")? {
            inputs.push(Some(b.list(call, "split", sizes)?));
        }
    }
    let axis = call.int("axis")?.unwrap_or(0);
    b.emit(call, Op::Split { axis }, inputs)
}

/// Squeeze and Unsqueeze, whose axes are an operand from version 13 on.
pub(super) fn squeeze<'m>(b: &mut Builder<'m>, call: &Call<'m>) -> Result<Results> {
    let (op, least) = match call.op {
        "Squeeze" => (Op::Squeeze, 1),
        _ => (Op::Unsqueeze, 2),
    };
    let mut inputs = call.inputs.clone();
    if call.version >= 13 {
        call.arity(least..=2, 1)?;
    } else {
        call.arity(1..=1, 1)?;
        match call.ints("axes")? {
            Some(axes) => inputs.push(Some(b.list(call, "axes", axes)?)),
            None if least == 2 => return Err(call.wrong("attribute `axes` is missing")),
            None => {}
        }
    }
    b.emit(call, op, inputs)
}

pub(super) fn transpose<'m>(b: &mut Builder<'m>, call: &Call<'m>) -> Result<Results> {
    call.arity(1..=1, 1)?;
    let is_absent = call.ints("perm")?.is_none();
    let perm = call.extents("perm", 0)?;
    let mut sorted = perm.clone();
    sorted.sort_unstable();
    if sorted.iter().enumerate().any(|(i, &p)| i != p) {
        return Err(call.wrong(format!("attribute `perm` = {perm:?} is not a permutation")));
    }
    let perm = (!is_absent).then_some(perm);
    b.emit(call, Op::Transpose { perm }, call.inputs.clone())
}
