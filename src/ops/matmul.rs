//! Products of matrices: MatMul, Gemm.

use crate::ops::axes::{ShapeBuilder, Strides, broadcast, stretched, stretches, strides};
use crate::ops::number::{Number, Wide};
use crate::ops::operands::Operands;
use crate::ops::walk::Walk;
use crate::ops::{fail, undefined};
use crate::tensor::MAX_RANK;
use crate::{DType, Result, Shape, ViewMut};

/// Columns that are summed together, on the stack.
const CHUNK: usize = 64;

/// A matrix in a slice: its elements from the first on, and the steps between rows and columns.
#[derive(Clone, Copy)]
struct Matrix<'a, T> {
    data: &'a [T],
    rows: usize,
    columns: usize,
}

/// Σ_k A[i, k] · B[k, j] for each i and j, handed to `store`.
fn product<T: Number>(
    (m, k, n): (usize, usize, usize),
    a: Matrix<'_, T>,
    b: Matrix<'_, T>,
    mut store: impl FnMut(usize, usize, T::Wide),
) {
    for i in 0..m {
        for begin in (0..n).step_by(CHUNK) {
            let len = CHUNK.min(n - begin);
            let mut sums = [T::Wide::default(); CHUNK];
            for p in 0..k {
                let x = a.data[i * a.rows + p * a.columns].wide();
                let row = &b.data[p * b.rows + begin * b.columns..];
                let sums = sums[..len].iter_mut();
                let add = |(sum, w): (&mut T::Wide, &T)| *sum = sum.plus(x.times(w.wide()));
                if b.columns == 1 {
                    sums.zip(row).for_each(add);
                } else {
                    sums.zip(row.iter().step_by(b.columns.max(1))).for_each(add);
                }
            }
            for (j, &sum) in sums[..len].iter().enumerate() {
                store(i, begin + j, sum);
            }
        }
    }
}

/// MatMul as a batch of products: a vector is a matrix of one row on the left, of one column on the right.
struct Batch {
    a: Shape,
    b: Shape,
    m: usize,
    k: usize,
    n: usize,
}

impl Batch {
    fn new(a: Shape, b: Shape) -> Result<Self> {
        let no = || {
            fail(format!(
                "matrices of shapes {a} and {b} cannot be multiplied"
            ))
        };
        let (a_batch, m, k) = match &*a {
            [k] => (&[][..], 1, *k),
            [batch @ .., m, k] => (batch, *m, *k),
            [] => return Err(no()),
        };
        let (b_batch, depth, n) = match &*b {
            [k] => (&[][..], *k, 1),
            [batch @ .., k, n] => (batch, *k, *n),
            [] => return Err(no()),
        };
        if depth != k {
            return Err(no());
        }
        Ok(Self {
            a: Shape::new(a_batch)?,
            b: Shape::new(b_batch)?,
            m,
            k,
            n,
        })
    }
}

fn arithmetic(dtype: DType) -> Result<()> {
    match dtype {
        DType::F32 | DType::I64 | DType::I32 => Ok(()),
        other => Err(undefined(other)),
    }
}

pub(super) fn result(x: Operands<'_, '_>) -> Result<(DType, Shape)> {
    let a = x.get(0, "A")?;
    let b = x.typed(1, "B", a.dtype)?;
    arithmetic(a.dtype)?;
    let batch = Batch::new(a.shape, b.shape)?;
    let outer = broadcast(batch.a, batch.b)?;
    let rows = (a.shape.rank() > 1).then_some(batch.m);
    let columns = (b.shape.rank() > 1).then_some(batch.n);
    let dims = outer.iter().copied().chain(rows).chain(columns);
    Ok((a.dtype, ShapeBuilder::collect(dims)?))
}

/// Y[.., i, j] = Σ_k A[.., i, k] · B[.., k, j]
pub(super) fn eval(x: Operands<'_, '_>, y: &mut ViewMut<'_>) -> Result<()> {
    let (a, b) = (x.view(0, "A")?, x.view(1, "B")?);
    let batch = Batch::new(a.shape(), b.shape())?;
    let (m, k, n) = (batch.m, batch.k, batch.n);
    let outer = broadcast(batch.a, batch.b)?;
    let scaled = |steps: Strides, by: usize| steps.map(|step| step * by as isize);
    let walk = Walk::new(
        &outer,
        [
            scaled(strides(outer), m * n),
            scaled(stretched(batch.a, outer), m * k),
            scaled(stretched(batch.b, outer), k * n),
        ],
    );
    if y.shape().elements() == 0 {
        return Ok(());
    }
    numeric!(y.dtype(), T => {
        let (a, b, y) = (a.as_slice::<T>()?, b.as_slice::<T>()?, y.as_slice::<T>()?);
        let steps = walk.steps();
        for row in walk.rows([0; 3]) {
            for i in 0..walk.len() as isize {
                let [to, a_at, b_at] =
                    std::array::from_fn(|t| (row[t] + i * steps[t]) as usize);
                let y = &mut y[to..][..m * n];
                let a = Matrix { data: &a[a_at..], rows: k, columns: 1 };
                let b = Matrix { data: &b[b_at..], rows: n, columns: 1 };
                product::<T>((m, k, n), a, b, |i, j, sum| y[i * n + j] = T::narrow(sum));
            }
        }
    });
    Ok(())
}

/// Rows and columns of a matrix that may be transposed, and its steps between them.
fn matrix(shape: Shape, transposed: bool, name: &str) -> Result<([usize; 2], [usize; 2])> {
    match (&*shape, transposed) {
        (&[rows, columns], false) => Ok(([rows, columns], [columns, 1])),
        (&[columns, rows], true) => Ok(([rows, columns], [1, rows])),
        _ => Err(fail(format!("`{name}` of shape {shape} is not a matrix"))),
    }
}

pub(super) fn gemm_result(
    x: Operands<'_, '_>,
    trans_a: bool,
    trans_b: bool,
) -> Result<(DType, Shape)> {
    let a = x.get(0, "A")?;
    let b = x.typed(1, "B", a.dtype)?;
    arithmetic(a.dtype)?;
    let ([m, k], _) = matrix(a.shape, trans_a, "A")?;
    let ([depth, n], _) = matrix(b.shape, trans_b, "B")?;
    if k != depth {
        return Err(fail(format!(
            "matrices of shapes {} and {} cannot be multiplied",
            a.shape, b.shape
        )));
    }
    let shape = Shape::new(&[m, n])?;
    if x.optional(2).is_some() {
        stretches(x.typed(2, "C", a.dtype)?.shape, shape, "C")?;
    }
    Ok((a.dtype, shape))
}

/// Y = alpha · A · B + beta · C
pub(super) fn gemm(
    x: Operands<'_, '_>,
    alpha: f32,
    beta: f32,
    trans_a: bool,
    trans_b: bool,
    y: &mut ViewMut<'_>,
) -> Result<()> {
    let (a, b, c) = (x.view(0, "A")?, x.view(1, "B")?, x.optional_view(2, "C")?);
    let ([m, k], a_steps) = matrix(a.shape(), trans_a, "A")?;
    let ([_, n], b_steps) = matrix(b.shape(), trans_b, "B")?;
    let c_steps = c.map_or([0; MAX_RANK], |c| stretched(c.shape(), y.shape()));
    if y.shape().elements() == 0 {
        return Ok(());
    }
    numeric!(y.dtype(), T => {
        let (a, b, y) = (a.as_slice::<T>()?, b.as_slice::<T>()?, y.as_slice::<T>()?);
        let c = c.map(|c| c.as_slice::<T>()).transpose()?;
        let a = Matrix { data: a, rows: a_steps[0], columns: a_steps[1] };
        let b = Matrix { data: b, rows: b_steps[0], columns: b_steps[1] };
        product::<T>((m, k, n), a, b, |i, j, sum| {
            let c = c.map(|c| c[i * c_steps[0] as usize + j * c_steps[1] as usize]);
            y[i * n + j] = scaled(alpha, sum, beta, c);
        });
    });
    Ok(())
}

/// alpha · sum + beta · c, of integers exactly where the factors are 1; c is not read when beta is 0
fn scaled<T: Number>(alpha: f32, sum: T::Wide, beta: f32, c: Option<T>) -> T {
    let c = c.filter(|_| beta != 0.0);
    if alpha == 1.0 && (beta == 1.0 || c.is_none()) {
        return T::narrow(sum.plus(c.map(T::wide).unwrap_or_default()));
    }
    let c = c.map_or(0.0, |c| f64::from(beta) * c.to_f64());
    T::from_f64(f64::from(alpha) * sum.to_f64() + c)
}
