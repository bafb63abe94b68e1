//! Operands as operators see them: before a run (what is known) and during one (tensors), through one type.

use crate::ops::fail;
use crate::{DType, Result, Shape, View};

/// What is known of an operand before the run.
#[derive(Debug, Clone, Copy)]
pub struct Fact<'a> {
    /// The element type.
    pub dtype: DType,
    /// The extents.
    pub shape: Shape,
    /// The elements, when they are known: constants and what was folded.
    pub value: Option<View<'a>>,
}

impl<'a> From<View<'a>> for Fact<'a> {
    fn from(view: View<'a>) -> Self {
        Self {
            dtype: view.dtype(),
            shape: view.shape(),
            value: Some(view),
        }
    }
}

/// The operands of one operation.
#[derive(Clone, Copy)]
pub(super) enum Operands<'o, 'a> {
    /// Before a run.
    Facts(&'o [Option<Fact<'a>>]),
    /// During a run.
    Views(&'o [Option<View<'a>>]),
}

impl<'a> Operands<'_, 'a> {
    /// Number of operands, with those left out.
    pub(super) fn count(self) -> usize {
        match self {
            Operands::Facts(all) => all.len(),
            Operands::Views(all) => all.len(),
        }
    }

    /// Operand `i`, if given.
    pub(super) fn optional(self, i: usize) -> Option<Fact<'a>> {
        match self {
            Operands::Facts(all) => all.get(i).copied().flatten(),
            Operands::Views(all) => all.get(i).copied().flatten().map(Fact::from),
        }
    }

    /// Operand `i`, which must be given.
    pub(super) fn get(self, i: usize, name: &str) -> Result<Fact<'a>> {
        self.optional(i)
            .ok_or_else(|| fail(format!("operand {i} (`{name}`) is missing")))
    }

    /// Operand `i`, which must be of this type.
    pub(super) fn typed(self, i: usize, name: &str, dtype: DType) -> Result<Fact<'a>> {
        let fact = self.get(i, name)?;
        if fact.dtype == dtype {
            Ok(fact)
        } else {
            Err(fail(format!(
                "operand {i} (`{name}`) is {}, not {dtype}",
                fact.dtype
            )))
        }
    }

    /// The elements of operand `i`, which must be given and known.
    pub(super) fn view(self, i: usize, name: &str) -> Result<View<'a>> {
        self.get(i, name)?.known(name)
    }

    /// The elements of operand `i`, if given; they must be known.
    pub(super) fn optional_view(self, i: usize, name: &str) -> Result<Option<View<'a>>> {
        self.optional(i).map(|fact| fact.known(name)).transpose()
    }

    /// The integers of operand `i`, which must be given and known.
    pub(super) fn ints(self, i: usize, name: &str) -> Result<Ints<'a>> {
        Ints::new(self.view(i, name)?, name)
    }

    /// The integers of operand `i`, if given; they must be known.
    pub(super) fn optional_ints(self, i: usize, name: &str) -> Result<Option<Ints<'a>>> {
        self.optional_view(i, name)?
            .map(|view| Ints::new(view, name))
            .transpose()
    }
}

impl<'a> Fact<'a> {
    fn known(self, name: &str) -> Result<View<'a>> {
        self.value.ok_or_else(|| {
            fail(format!(
                "the shape of the result depends on data that is computed at run time (operand `{name}`)"
            ))
        })
    }
}

/// A list of integers of either type.
#[derive(Clone, Copy)]
pub(super) enum Ints<'a> {
    Wide(&'a [i64]),
    Word(&'a [i32]),
}

impl<'a> Ints<'a> {
    pub(super) fn new(view: View<'a>, name: &str) -> Result<Self> {
        match view.dtype() {
            DType::I64 => Ok(Ints::Wide(view.as_slice()?)),
            DType::I32 => Ok(Ints::Word(view.as_slice()?)),
            other => Err(fail(format!("operand `{name}` is {other}, not i64 or i32"))),
        }
    }

    pub(super) fn len(self) -> usize {
        match self {
            Ints::Wide(all) => all.len(),
            Ints::Word(all) => all.len(),
        }
    }

    /// Element `i`, which is less than the length.
    pub(super) fn at(self, i: usize) -> i64 {
        match self {
            Ints::Wide(all) => all[i],
            Ints::Word(all) => all[i].into(),
        }
    }

    pub(super) fn iter(self) -> impl Iterator<Item = i64> + 'a {
        (0..self.len()).map(move |i| self.at(i))
    }
}
