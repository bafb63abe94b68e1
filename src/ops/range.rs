//! Range: numbers with even steps between them.

use crate::ops::operands::{Ints, Operands};
use crate::ops::{fail, undefined};
use crate::{DType, Result, Shape, ViewMut};

const NAMES: [&str; 3] = ["start", "limit", "delta"];

/// The three operands, each one number, as integers.
fn integers(x: Operands<'_, '_>) -> Result<[i128; 3]> {
    let mut all = [0; 3];
    for (i, (to, name)) in all.iter_mut().zip(NAMES).enumerate() {
        *to = Ints::new(x.view(i, name)?, name)?.at(0).into();
    }
    Ok(all)
}

fn floats(x: Operands<'_, '_>) -> Result<[f64; 3]> {
    let mut all = [0.0; 3];
    for (i, (to, name)) in all.iter_mut().zip(NAMES).enumerate() {
        *to = x.view(i, name)?.as_slice::<f32>()?[0].into();
    }
    Ok(all)
}

pub(super) fn result(x: Operands<'_, '_>) -> Result<(DType, Shape)> {
    let dtype = x.get(0, NAMES[0])?.dtype;
    for (i, name) in NAMES.into_iter().enumerate() {
        let shape = x.typed(i, name, dtype)?.shape;
        if shape.elements() != 1 {
            return Err(fail(format!("`{name}` of shape {shape} is not one number")));
        }
    }
    let step = || fail("`delta` must lead from `start` to `limit`: it is 0, or no number");
    let count = match dtype {
        DType::I64 | DType::I32 => {
            let [start, limit, delta] = integers(x)?;
            let (way, step) = match delta {
                0 => return Err(step()),
                1.. => (limit - start, delta),
                _ => (start - limit, -delta),
            };
            usize::try_from(way.max(0).unsigned_abs().div_ceil(step.unsigned_abs())).ok()
        }
        DType::F32 => {
            let [start, limit, delta] = floats(x)?;
            let count = ((limit - start) / delta).ceil();
            if delta == 0.0 || count.is_nan() {
                return Err(step());
            }
            // Saturates, which no shape allows.
            Some(count.max(0.0) as usize)
        }
        other => return Err(undefined(other)),
    };
    Ok((dtype, Shape::new(&[count.unwrap_or(usize::MAX)])?))
}

/// Y[i] = start + i · delta
pub(super) fn eval(x: Operands<'_, '_>, y: &mut ViewMut<'_>) -> Result<()> {
    match y.dtype() {
        DType::F32 => {
            let [start, _, delta] = floats(x)?;
            for (i, y) in y.as_slice::<f32>()?.iter_mut().enumerate() {
                *y = (start + i as f64 * delta) as f32;
            }
        }
        DType::I32 => {
            let [start, _, delta] = integers(x)?;
            for (i, y) in y.as_slice::<i32>()?.iter_mut().enumerate() {
                *y = (start + i as i128 * delta) as i32;
            }
        }
        _ => {
            let [start, _, delta] = integers(x)?;
            for (i, y) in y.as_slice::<i64>()?.iter_mut().enumerate() {
                *y = (start + i as i128 * delta) as i64;
            }
        }
    }
    Ok(())
}
