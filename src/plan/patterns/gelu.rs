//! Gelu and Silu from erf, tanh and the logistic function.
//!
//! ```text
//! gelu = ½ x (1 + erf(x / √2))      or  ½ x (1 + tanh(√(2/π) (x + 0.044715 x³)))        silu = x σ(αx)
//! ```
//! Files write these products and sums in every order. So the item is read as a polynomial of x plus a polynomial of x times F, F being
//! the function, and the argument of F as a polynomial of x; the coefficients tell. What has no kernel of its own stays apart, or is taken apart.

use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_PI};

use super::super::rewrite::activation;
use super::{Found, Known, Operand, Step, is_close};
use crate::Tensor;
use crate::graph::{Binary, Op, Unary, ValueId};

/// Coefficients of 1, x, x², x³.
type Polynomial = [f64; 4];

/// Operations in one reading, at most.
const LONGEST: usize = 24;

/// Operations on the way from the item to the function, at most.
const DEEPEST: usize = 5;

pub(super) fn find(known: &Known<'_>, last: usize) -> Option<Found> {
    let item = &known.items[last];
    let y = item.output(0)?;
    if let Some(found) = apart(known, last) {
        return Some(found);
    }
    if !known.is_float(y)
        || !matches!(
            known.maker(y)?.2,
            Op::Binary(Binary::Mul | Binary::Add | Binary::Div)
        )
    {
        return None;
    }
    let (f, function, argument) = function(known, y, DEEPEST)?;
    // x is somewhere on the way to the argument.
    let mut candidates = vec![argument];
    let mut next = 0;
    while let Some(&x) = candidates.get(next).filter(|_| next < LONGEST) {
        next += 1;
        if let Some(found) = with(known, last, (f, function, argument), x) {
            return Some(found);
        }
        let Some((_, item, op)) = known.maker(x) else {
            continue;
        };
        let is_open = match op {
            Op::Binary(op) => matches!(op, Binary::Mul | Binary::Div | Binary::Add | Binary::Pow),
            op => *op == Op::Unary(Unary::Neg),
        };
        if is_open && candidates.len() < LONGEST {
            let open = item.inputs.iter().flatten().copied();
            candidates.extend(open.filter(|&id| known.scalar(id).is_none()));
        }
    }
    None
}

/// x · σ(αx) that no kernel computes at once.
fn apart(known: &Known<'_>, last: usize) -> Option<Found> {
    let item = &known.items[last];
    let (_, _, Op::Unary(op @ Unary::Silu { alpha })) = known.maker(item.output(0)?)? else {
        return None;
    };
    if activation(*op).is_some() || !known.is_float(item.x()) {
        return None;
    }
    let steps = vec![
        Step {
            op: Op::Binary(Binary::Mul),
            more: vec![Tensor::scalar(*alpha)],
        },
        Step::new(Op::Unary(Unary::Sigmoid)),
    ];
    let x = item.x();
    Some(Found {
        operands: vec![Some(Operand::Value(x)), Some(Operand::Of(steps, x))],
        ..Found::new(Op::Binary(Binary::Mul))
    })
}

/// The function that a value is made of, its result and its argument.
fn function(known: &Known<'_>, id: ValueId, depth: usize) -> Option<(ValueId, Unary, ValueId)> {
    let depth = depth.checked_sub(1)?;
    match known.maker(id)? {
        (_, item, Op::Unary(op @ (Unary::Erf | Unary::Tanh | Unary::Sigmoid))) => {
            Some((id, *op, item.x()))
        }
        (_, item, Op::Binary(Binary::Mul | Binary::Add | Binary::Div)) => {
            let mut operands = item.inputs.iter().flatten();
            operands.find_map(|&operand| function(known, operand, depth))
        }
        _ => None,
    }
}

/// The pattern, if x is this value.
fn with(
    known: &Known<'_>,
    last: usize,
    (f, function, argument): (ValueId, Unary, ValueId),
    x: ValueId,
) -> Option<Found> {
    let y = known.items[last].y();
    if known.shape(x) != known.shape(y) || known.net.value(x).constant.is_some() {
        return None;
    }
    let mut reading = Reading {
        known,
        x,
        f: Some(f),
        parts: Vec::new(),
        left: LONGEST,
    };
    let [plain, times_f] = reading.read(y)?;
    reading.f = None;
    let [inner, _] = reading.read(argument)?;
    let only = |p: Polynomial, degree: usize| {
        let others = p.iter().enumerate().filter(|&(i, _)| i != degree);
        others
            .into_iter()
            .all(|(_, &c)| c == 0.0)
            .then_some(p[degree])
    };
    let is = |p: Polynomial, c: f64| only(p, 1).is_some_and(|found| is_close(found, c));
    let gelu = is(plain, 0.5) && is(times_f, 0.5);
    let op = match function {
        Unary::Erf if gelu && is(inner, FRAC_1_SQRT_2) => Unary::Gelu { tanh: false },
        Unary::Tanh if gelu => {
            let [zero, one, two, three] = inner;
            let root = FRAC_2_PI.sqrt();
            let fits = zero == 0.0 && two == 0.0 && is_close(one, root);
            if !(fits && is_close(three, 0.044715 * root)) {
                return None;
            }
            Unary::Gelu { tanh: true }
        }
        Unary::Sigmoid if plain == [0.0; 4] && is(times_f, 1.0) => Unary::Silu {
            alpha: only(inner, 1)? as f32,
        },
        _ => return None,
    };
    activation(op)?;
    let mut parts = reading.parts;
    parts.extend(known.maker(f).map(|(i, ..)| i));
    parts.sort_unstable();
    parts.dedup();
    parts.retain(|&i| i != last);
    Some(Found {
        op: Op::Unary(op),
        operands: vec![Some(Operand::Value(x))],
        parts,
    })
}

/// One way to read values: as polynomials of x, and of x times F.
struct Reading<'k, 'a> {
    known: &'k Known<'a>,
    x: ValueId,
    f: Option<ValueId>,
    /// The items that were read.
    parts: Vec<usize>,
    /// How many more may be.
    left: usize,
}

impl Reading<'_, '_> {
    fn read(&mut self, id: ValueId) -> Option<[Polynomial; 2]> {
        const ZERO: Polynomial = [0.0; 4];
        if id == self.x {
            return Some([[0.0, 1.0, 0.0, 0.0], ZERO]);
        }
        if Some(id) == self.f {
            return Some([ZERO, [1.0, 0.0, 0.0, 0.0]]);
        }
        if let Some(c) = self.known.scalar(id) {
            return Some([[c, 0.0, 0.0, 0.0], ZERO]);
        }
        self.left = self.left.checked_sub(1)?;
        let (i, item, op) = self.known.maker(id)?;
        self.parts.push(i);
        let a = self.read(item.x())?;
        match op {
            Op::Unary(Unary::Neg) => times(a, [[-1.0, 0.0, 0.0, 0.0], ZERO]),
            Op::Binary(Binary::Add) => Some(plus(a, self.read(item.input(1)?)?)),
            Op::Binary(Binary::Mul) => times(a, self.read(item.input(1)?)?),
            Op::Binary(Binary::Div) => {
                let by = 1.0 / self.known.scalar(item.input(1)?)?;
                times(a, [[by, 0.0, 0.0, 0.0], ZERO]).filter(|_| by.is_finite())
            }
            Op::Binary(Binary::Pow) => {
                let power = self.known.scalar(item.input(1)?)?;
                match power {
                    2.0 => times(a, a),
                    3.0 => times(times(a, a)?, a),
                    _ => None,
                }
            }
            _ => None,
        }
    }
}

fn plus(a: [Polynomial; 2], b: [Polynomial; 2]) -> [Polynomial; 2] {
    std::array::from_fn(|k| std::array::from_fn(|i| a[k][i] + b[k][i]))
}

/// The product, where neither x⁴ nor F² comes up.
fn times(a: [Polynomial; 2], b: [Polynomial; 2]) -> Option<[Polynomial; 2]> {
    let mut product = [[0.0; 4]; 2];
    for (k, l) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        for (i, j) in (0..4).flat_map(|i| (0..4).map(move |j| (i, j))) {
            let term = a[k][i] * b[l][j];
            if term != 0.0 {
                *product.get_mut(k + l)?.get_mut(i + j)? += term;
            }
        }
    }
    Some(product)
}
