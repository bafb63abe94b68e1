//! A node on its way into the graph: its operands resolved, its attributes with the references of function bodies replaced.

use std::cell::Cell;
use std::ops::RangeInclusive;

use super::proto::{Attr, Graph, TensorProto};
use crate::graph::ValueId;
use crate::{Error, Result};

/// A node to be lowered.
#[derive(Debug)]
pub(super) struct Call<'m> {
    /// Its name, or `Operator_3` where it has none.
    pub(super) name: String,
    /// The operator.
    pub(super) op: &'m str,
    /// The version of the operator set.
    pub(super) version: i64,
    /// Operands; `None` = left out.
    pub(super) inputs: Vec<Option<ValueId>>,
    /// The names that the results get; `None` = not asked for.
    pub(super) results: Vec<Option<String>>,
    /// Attributes; those that were never asked for are unknown to the operator.
    pub(super) attributes: Vec<Argument<'m>>,
}

/// An attribute of a [`Call`].
#[derive(Debug, Clone)]
pub(super) struct Argument<'m> {
    pub(super) name: &'m str,
    pub(super) value: &'m Attr<'m>,
    pub(super) read: Cell<bool>,
}

/// Numbers of a window, a group count and the like, at most: sums and products of a few of them stay far from overflow.
const MAX_EXTENT: i64 = i32::MAX as i64;

impl<'m> Call<'m> {
    /// `name (Operator)`.
    pub(super) fn label(&self) -> String {
        format!("{} ({})", self.name, self.op)
    }

    /// The node says something that has no meaning.
    pub(super) fn wrong(&self, what: impl Into<String>) -> Error {
        Error::Node {
            node: self.label(),
            what: what.into(),
        }
    }

    /// The node wants something that the engine does not have.
    pub(super) fn unsupported(&self, what: impl Into<String>) -> Error {
        Error::Unsupported {
            node: self.label(),
            what: what.into(),
        }
    }

    /// Checks the number of operands, and that the first ones are there; and the number of results.
    pub(super) fn arity(&self, inputs: RangeInclusive<usize>, results: usize) -> Result<()> {
        let (least, most, n) = (*inputs.start(), *inputs.end(), self.inputs.len());
        if n > most {
            return Err(self.wrong(format!("{n} operands where at most {most} are meant")));
        }
        if let Some(i) = (0..least).find(|&i| self.input(i).is_none()) {
            return Err(self.wrong(format!("operand {i} is missing")));
        }
        if self.results.len() > results {
            return Err(self.wrong(format!(
                "{} results where at most {results} are meant",
                self.results.len()
            )));
        }
        Ok(())
    }

    /// An operand, if it is there.
    pub(super) fn input(&self, i: usize) -> Option<ValueId> {
        self.inputs.get(i).copied().flatten()
    }

    /// An operand that must be there.
    pub(super) fn operand(&self, i: usize) -> Result<ValueId> {
        self.input(i)
            .ok_or_else(|| self.wrong(format!("operand {i} is missing")))
    }

    /// Is this result asked for?
    pub(super) fn wants(&self, result: usize) -> bool {
        self.results.get(result).is_some_and(Option::is_some)
    }

    fn get<T>(
        &self,
        name: &str,
        expected: &str,
        read: impl FnOnce(&'m Attr<'m>) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(attribute) = self.attributes.iter().find(|a| a.name == name) else {
            return Ok(None);
        };
        attribute.read.set(true);
        match read(attribute.value) {
            Some(value) => Ok(Some(value)),
            None => Err(self.wrong(format!(
                "attribute `{name}` is {}, not {expected}",
                attribute.value.kind()
            ))),
        }
    }

    /// An integer.
    pub(super) fn int(&self, name: &str) -> Result<Option<i64>> {
        self.get(name, "an integer", |a| match a {
            Attr::Int(v) => Some(*v),
            _ => None,
        })
    }

    /// An integer that must be there.
    pub(super) fn required_int(&self, name: &str) -> Result<i64> {
        self.int(name)?
            .ok_or_else(|| self.wrong(format!("attribute `{name}` is missing")))
    }

    /// An integer that means yes or no.
    pub(super) fn flag(&self, name: &str, default: bool) -> Result<bool> {
        match self.int(name)? {
            None => Ok(default),
            Some(v @ (0 | 1)) => Ok(v == 1),
            Some(v) => Err(self.wrong(format!("attribute `{name}` is {v}, not 0 or 1"))),
        }
    }

    /// A float.
    pub(super) fn float(&self, name: &str, default: f32) -> Result<f32> {
        Ok(self.optional_float(name)?.unwrap_or(default))
    }

    /// A float that may be left out.
    pub(super) fn optional_float(&self, name: &str) -> Result<Option<f32>> {
        self.get(name, "a float", |a| match a {
            Attr::Float(v) => Some(*v),
            _ => None,
        })
    }

    /// A list of floats.
    pub(super) fn floats(&self, name: &str) -> Result<Option<&'m [f32]>> {
        self.get(name, "a list of floats", |a| match a {
            Attr::Floats(v) => Some(&v[..]),
            _ => None,
        })
    }

    /// A list of integers.
    pub(super) fn ints(&self, name: &str) -> Result<Option<&'m [i64]>> {
        self.get(name, "a list of integers", |a| match a {
            Attr::Ints(v) => Some(&v[..]),
            _ => None,
        })
    }

    /// A list of extents, each at least `least`; empty when it is left out.
    pub(super) fn extents(&self, name: &str, least: i64) -> Result<Vec<usize>> {
        let Some(list) = self.ints(name)? else {
            return Ok(Vec::new());
        };
        list.iter()
            .map(|&v| match usize::try_from(v) {
                Ok(extent) if v >= least && v <= MAX_EXTENT => Ok(extent),
                _ => Err(self.wrong(format!("attribute `{name}` has the extent {v}"))),
            })
            .collect()
    }

    /// A text.
    pub(super) fn text(&self, name: &str, default: &'m str) -> Result<&'m str> {
        let text = self.get(name, "a text", |a| match a {
            Attr::Text(v) => std::str::from_utf8(v).ok(),
            _ => None,
        })?;
        Ok(text.unwrap_or(default))
    }

    /// A tensor.
    pub(super) fn tensor(&self, name: &str) -> Result<Option<&'m TensorProto<'m>>> {
        self.get(name, "a tensor", |a| match a {
            Attr::Tensor(v) => Some(&**v),
            _ => None,
        })
    }

    /// A branch.
    pub(super) fn branch(&self, name: &str) -> Result<&'m Graph<'m>> {
        let graph = self.get(name, "a graph", |a| match a {
            Attr::Graph(v) => Some(&**v),
            _ => None,
        })?;
        graph.ok_or_else(|| self.wrong(format!("attribute `{name}` is missing")))
    }

    /// Attributes that are read by nobody because they change nothing at inference.
    pub(super) fn ignore(&self, names: &[&str]) {
        for attribute in &self.attributes {
            if names.contains(&attribute.name) {
                attribute.read.set(true);
            }
        }
    }

    /// Fails when there is an attribute that nobody asked for: what it would have changed is unknown.
    pub(super) fn all_attributes_read(&self) -> Result<()> {
        match self.attributes.iter().find(|a| !a.read.get()) {
            Some(a) => Err(self.unsupported(format!(
                "attribute `{}` at operator-set version {}",
                a.name, self.version
            ))),
            None => Ok(()),
        }
    }
}
