//! Functions of two operands with broadcasting.

use crate::graph::Binary;
use crate::ops::axes::{broadcast, stretched, strides};
use crate::ops::number::Number;
use crate::ops::operands::Operands;
use crate::ops::walk::Walk;
use crate::ops::{fail, undefined};
use crate::{DType, Result, Shape, View, ViewMut};

pub(super) fn result(op: Binary, x: Operands<'_, '_>) -> Result<(DType, Shape)> {
    let a = x.get(0, "A")?;
    let b = match op {
        Binary::Pow => x.get(1, "B")?,
        _ => x.typed(1, "B", a.dtype)?,
    };
    let truth = |dtype| dtype == DType::Bool;
    let (defined, dtype) = match op {
        Binary::And | Binary::Or => (truth(a.dtype), DType::Bool),
        Binary::Equal => (true, DType::Bool),
        Binary::Greater | Binary::GreaterOrEqual | Binary::Less | Binary::LessOrEqual => {
            (!truth(a.dtype), DType::Bool)
        }
        _ => (!truth(a.dtype) && !truth(b.dtype), a.dtype),
    };
    if !defined {
        return Err(undefined(a.dtype));
    }
    Ok((dtype, broadcast(a.shape, b.shape)?))
}

/// y[i] = f(a[i], b[i]) over the shape of the result.
fn zip<A: Copy, B: Copy, C>(
    shape: Shape,
    (a, a_shape): (&[A], Shape),
    (b, b_shape): (&[B], Shape),
    y: &mut [C],
    f: impl Fn(A, B) -> C,
) {
    let walk = Walk::new(
        &shape,
        [
            strides(shape),
            stretched(a_shape, shape),
            stretched(b_shape, shape),
        ],
    );
    let len = walk.len();
    let [_, a_step, b_step] = walk.steps();
    for [at, i, j] in walk.rows([0; 3]) {
        let (y, i, j) = (&mut y[at as usize..][..len], i as usize, j as usize);
        // The steps of an operand along a row of contiguous results are 1, or 0 where it is stretched.
        match (a_step != 0, b_step != 0) {
            (true, true) => {
                for ((y, &a), &b) in y.iter_mut().zip(&a[i..][..len]).zip(&b[j..][..len]) {
                    *y = f(a, b);
                }
            }
            (true, false) => {
                for (y, &a) in y.iter_mut().zip(&a[i..][..len]) {
                    *y = f(a, b[j]);
                }
            }
            (false, true) => {
                for (y, &b) in y.iter_mut().zip(&b[j..][..len]) {
                    *y = f(a[i], b);
                }
            }
            (false, false) => y.iter_mut().for_each(|y| *y = f(a[i], b[j])),
        }
    }
}

pub(super) fn eval(op: Binary, x: Operands<'_, '_>, y: &mut ViewMut<'_>) -> Result<()> {
    let (a, b) = (x.view(0, "A")?, x.view(1, "B")?);
    match op {
        Binary::And => truth(a, b, y, |a, b| a & b),
        Binary::Or => truth(a, b, y, |a, b| a | b),
        Binary::Equal if a.dtype() == DType::Bool => truth(a, b, y, |a, b| a == b),
        Binary::Pow => return pow(a, b, y),
        _ => numeric!(a.dtype(), T => numbers::<T>(op, a, b, y)?),
    }
    Ok(())
}

fn truth(a: View<'_>, b: View<'_>, y: &mut ViewMut<'_>, f: impl Fn(bool, bool) -> bool) {
    let shape = y.shape();
    zip(
        shape,
        (a.bytes(), a.shape()),
        (b.bytes(), b.shape()),
        y.bytes(),
        |a, b| f(a != 0, b != 0).into(),
    );
}

fn numbers<T: Number>(op: Binary, a: View<'_>, b: View<'_>, y: &mut ViewMut<'_>) -> Result<()> {
    let shape = y.shape();
    let a = (a.as_slice::<T>()?, a.shape());
    let b = (b.as_slice::<T>()?, b.shape());
    match op {
        Binary::Equal => zip(shape, a, b, y.bytes(), |a, b| (a == b).into()),
        Binary::Greater => zip(shape, a, b, y.bytes(), |a, b| (a > b).into()),
        Binary::GreaterOrEqual => zip(shape, a, b, y.bytes(), |a, b| (a >= b).into()),
        Binary::Less => zip(shape, a, b, y.bytes(), |a, b| (a < b).into()),
        Binary::LessOrEqual => zip(shape, a, b, y.bytes(), |a, b| (a <= b).into()),
        Binary::Add => zip(shape, a, b, y.as_slice()?, T::plus),
        Binary::Sub => zip(shape, a, b, y.as_slice()?, T::minus),
        Binary::Mul => zip(shape, a, b, y.as_slice()?, T::times),
        Binary::Max => zip(shape, a, b, y.as_slice()?, T::larger),
        Binary::Min => zip(shape, a, b, y.as_slice()?, T::smaller),
        Binary::Div => {
            if shape.elements() > 0 && b.0.iter().any(|b| b.is_integer_zero()) {
                return Err(fail("division of an integer by zero"));
            }
            zip(shape, a, b, y.as_slice()?, T::over);
        }
        Binary::And | Binary::Or | Binary::Pow => return Err(undefined(T::DTYPE)),
    }
    Ok(())
}

/// The type of the base is that of the result; the exponent may have another.
fn pow(a: View<'_>, b: View<'_>, y: &mut ViewMut<'_>) -> Result<()> {
    let shape = y.shape();
    let integers = |dtype| dtype != DType::F32;
    let (exact, a_shape, b_shape) = (
        integers(a.dtype()) && integers(b.dtype()),
        a.shape(),
        b.shape(),
    );
    numeric!(a.dtype(), A => numeric!(b.dtype(), B => {
        let a = (a.as_slice::<A>()?, a_shape);
        let b = (b.as_slice::<B>()?, b_shape);
        let rounded = |a: A, b: B| A::from_f64(a.to_f64().powf(b.to_f64()));
        if exact {
            zip(shape, a, b, y.as_slice()?, |a: A, b: B| match u64::try_from(b.to_i64()) {
                Ok(exponent) => power(a, exponent),
                Err(_) => rounded(a, b),
            });
        } else {
            zip(shape, a, b, y.as_slice()?, rounded);
        }
    }));
    Ok(())
}

/// x^exponent by squaring; wraps.
fn power<T: Number>(mut x: T, mut exponent: u64) -> T {
    let mut y = T::from_f64(1.0);
    while exponent > 0 {
        if exponent & 1 == 1 {
            y = y.times(x);
        }
        x = x.times(x);
        exponent >>= 1;
    }
    y
}
