//! Operators that make constants.

use std::sync::Arc;

use super::Results;
use crate::graph::Op;
use crate::import::builder::Builder;
use crate::import::call::Call;
use crate::{Result, Shape, Tensor};

pub(super) fn constant<'m>(b: &mut Builder<'m>, call: &Call<'m>) -> Result<Results> {
    call.arity(0..=0, 1)?;
    if call.attributes.len() != 1 {
        return Err(call.wrong("exactly one of the attributes `value..` must be there"));
    }
    let tensor = if let Some(proto) = call.tensor("value")? {
        b.tensor(call, proto)?
    } else {
        Arc::new(if let Some(value) = call.optional_float("value_float")? {
            Tensor::scalar(value)
        } else if let Some(value) = call.int("value_int")? {
            Tensor::scalar(value)
        } else if let Some(list) = call.floats("value_floats")? {
            b.spend(list.len())?;
            Tensor::new(&[list.len()], list.to_vec())?
        } else if let Some(list) = call.ints("value_ints")? {
            b.spend(list.len())?;
            Tensor::new(&[list.len()], list.to_vec())?
        } else {
            let name = call.attributes[0].name;
            return Err(call.unsupported(format!("attribute `{name}`")));
        })
    };
    // The name is the result's. A constant that nobody asks for needs none.
    let Some(Some(name)) = call.results.first() else {
        return Ok(Vec::new());
    };
    Ok(vec![Some(b.add_constant(name.clone(), tensor))])
}

/// One element, spread over a shape.
pub(super) fn constant_of_shape<'m>(b: &mut Builder<'m>, call: &Call<'m>) -> Result<Results> {
    call.arity(1..=1, 1)?;
    let value = match call.tensor("value")? {
        Some(proto) => {
            let tensor = b.tensor(call, proto)?;
            if tensor.shape().elements() != 1 {
                return Err(call.wrong("attribute `value` must have one element"));
            }
            let mut scalar = Tensor::zeros(tensor.dtype(), Shape::SCALAR);
            scalar
                .view_mut()
                .bytes()
                .copy_from_slice(tensor.view().bytes());
            scalar
        }
        None => Tensor::scalar(0f32),
    };
    let value = b.operand(call, "value", value);
    b.emit(call, Op::Expand, vec![Some(value), call.input(0)])
}
