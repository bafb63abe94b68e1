//! Names to values: the order of nodes, function bodies, the branches of an `If`.

use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};

use super::builder::Builder;
use super::call::{Argument, Call};
use super::proto::{Attr, Function, Graph, Model, Node, Opset};
use super::{condition, contrib, gated, lower};
use crate::graph::ValueId;
use crate::{Error, Result};

/// Function bodies and branches inside each other at most.
const MAX_DEPTH: usize = 48;

/// The operator-set versions that are read.
const VERSIONS: std::ops::RangeInclusive<i64> = 7..=28;

/// Functions of the model and the operator sets it names.
#[derive(Debug)]
pub(super) struct Library<'m> {
    opsets: &'m [Opset<'m>],
    functions: HashMap<(&'m str, &'m str, &'m str), &'m Function<'m>>,
}

impl<'m> Library<'m> {
    pub(super) fn new(model: &'m Model<'m>) -> Result<Self> {
        let mut functions = HashMap::new();
        for f in &model.functions {
            let key = (standard(f.domain), f.name, f.overload);
            if functions.insert(key, f).is_some() {
                return Err(Error::Model(format!(
                    "there are two functions `{}` in domain `{}`",
                    f.name, f.domain
                )));
            }
        }
        Ok(Self {
            opsets: &model.opsets,
            functions,
        })
    }
}

/// The domain of the standard operators has two names.
pub(super) fn standard(domain: &str) -> &str {
    if domain == "ai.onnx" { "" } else { domain }
}

/// The nodes of a graph, of a function body or of a branch, and the values that they see.
#[derive(Debug)]
pub(super) struct Scope<'s, 'm> {
    values: HashMap<&'m str, Option<ValueId>>,
    outer: Option<&'s Scope<'s, 'm>>,
    /// Names that results get; others are made up from `prefix`.
    wishes: HashMap<&'m str, String>,
    /// The node that this scope is the body of; empty for the model's own graph.
    prefix: String,
    /// Attributes of the function whose body this is.
    arguments: &'s [Argument<'m>],
    opsets: &'m [Opset<'m>],
    /// The functions being inlined, outermost first.
    calls: Vec<&'m Function<'m>>,
    depth: usize,
}

impl<'s, 'm> Scope<'s, 'm> {
    /// The scope of the model's own graph.
    pub(super) fn top(library: &Library<'m>) -> Self {
        Self {
            values: HashMap::new(),
            outer: None,
            wishes: HashMap::new(),
            prefix: String::new(),
            arguments: &[],
            opsets: library.opsets,
            calls: Vec::new(),
            depth: 0,
        }
    }

    /// Gives a value a name.
    pub(super) fn bind(&mut self, name: &'m str, value: Option<ValueId>) -> Result<()> {
        match self.values.insert(name, value) {
            Some(_) => Err(Error::Model(format!("there are two values named `{name}`"))),
            None => Ok(()),
        }
    }

    /// The value of a name, also of the scopes around this one.
    pub(super) fn find(&self, name: &str) -> Option<Option<ValueId>> {
        let mut scope = self;
        loop {
            if let Some(&value) = scope.values.get(name) {
                return Some(value);
            }
            scope = scope.outer?;
        }
    }

    /// The version of a set of operators; 0 = not given.
    fn version(&self, domain: &str) -> i64 {
        let opset = self.opsets.iter().find(|o| standard(o.domain) == domain);
        opset.map_or(0, |o| o.version)
    }

    /// Lowers all nodes, in an order in which every operand is made before it is read.
    pub(super) fn run(
        &mut self,
        b: &mut Builder<'m>,
        library: &Library<'m>,
        nodes: &'m [Node<'m>],
    ) -> Result<()> {
        if self.depth > MAX_DEPTH {
            return Err(Error::Model(
                "functions and branches are nested too deeply".into(),
            ));
        }
        for i in self.order(b, nodes)? {
            self.node(b, library, &nodes[i], i)?;
        }
        Ok(())
    }

    /// An order of the nodes in which every value is made before it is read: the order of the file where that is one.
    fn order(&self, b: &mut Builder<'m>, nodes: &'m [Node<'m>]) -> Result<Vec<usize>> {
        let mut makers: HashMap<&str, usize> = HashMap::new();
        for (i, node) in nodes.iter().enumerate() {
            b.spend(1 + node.outputs.len())?;
            for &name in node.outputs.iter().filter(|n| !n.is_empty()) {
                if makers.insert(name, i).is_some() || self.values.contains_key(name) {
                    return Err(Error::Model(format!("there are two values named `{name}`")));
                }
            }
        }
        let mut readers = vec![Vec::new(); nodes.len()];
        let mut waiting = vec![0usize; nodes.len()];
        for (i, node) in nodes.iter().enumerate() {
            let mut reads = Vec::new();
            names_read(b, node, &mut reads)?;
            for name in reads {
                if let Some(&maker) = makers.get(name) {
                    readers[maker].push(i);
                    waiting[i] += 1;
                }
            }
        }
        let mut ready: BinaryHeap<_> = (0..nodes.len())
            .filter(|&i| waiting[i] == 0)
            .map(Reverse)
            .collect();
        let mut order = Vec::with_capacity(nodes.len());
        while let Some(Reverse(i)) = ready.pop() {
            order.push(i);
            for &reader in &readers[i] {
                waiting[reader] -= 1;
                if waiting[reader] == 0 {
                    ready.push(Reverse(reader));
                }
            }
        }
        let Some(mut i) = (0..nodes.len()).find(|&i| waiting[i] > 0) else {
            return Ok(order);
        };
        // A node that waits may only hang on the cycle; whoever it waits for leads there.
        let mut awaited = vec![None; nodes.len()];
        for (maker, readers) in readers.iter().enumerate().filter(|m| waiting[m.0] > 0) {
            for &reader in readers {
                awaited[reader] = Some(maker);
            }
        }
        let mut seen = HashSet::new();
        while seen.insert(i) {
            i = awaited[i].expect("a waiting node waits for a waiting node");
        }
        Err(Error::Model(format!(
            "node `{}` needs its own result: the graph has a cycle",
            name_of(&nodes[i], i)
        )))
    }

    fn node(
        &mut self,
        b: &mut Builder<'m>,
        library: &Library<'m>,
        node: &'m Node<'m>,
        index: usize,
    ) -> Result<()> {
        let call = self.call(b, node, index)?;
        let domain = standard(node.domain);
        let results = if domain.is_empty() && node.op == "If" {
            self.branch(b, library, &call)?
        } else if domain.is_empty() {
            let is_old = call.version >= 1 && lower::SINCE_VERSION_1.contains(&node.op);
            if !VERSIONS.contains(&call.version) && !is_old {
                return Err(call.unsupported(format!(
                    "operator-set version {} (this reader knows {} to {})",
                    call.version,
                    VERSIONS.start(),
                    VERSIONS.end()
                )));
            }
            let results = lower::lower(b, &call)?;
            call.all_attributes_read()?;
            results
        } else if let Some(function) = gated::function(domain, node.op) {
            gated::lower(b, &call, function)?
        } else if let Some(f) = library.functions.get(&(domain, node.op, node.overload)) {
            self.inline(b, library, &call, f)?
        } else if domain == contrib::DOMAIN
            && let Some(results) = contrib::lower(b, &call)?
        {
            call.all_attributes_read()?;
            results
        } else {
            return Err(
                call.unsupported(format!("the operator `{}` of domain `{domain}`", node.op))
            );
        };
        for (i, &name) in node.outputs.iter().enumerate() {
            if !name.is_empty() {
                let Some(&Some(value)) = results.get(i) else {
                    return Err(call.wrong(format!("there is no result {i}")));
                };
                self.bind(name, Some(value))?;
            }
        }
        Ok(())
    }

    /// Resolves the operands and attributes of a node.
    fn call(&self, b: &mut Builder<'m>, node: &'m Node<'m>, index: usize) -> Result<Call<'m>> {
        b.spend(1 + node.inputs.len() + node.outputs.len() + node.attributes.len())?;
        let name = name_of(node, index);
        let name = if self.prefix.is_empty() {
            name
        } else {
            b.unique(&self.prefix, &name)
        };
        let inputs = (node.inputs.iter())
            .map(|&input| match self.find(input) {
                _ if input.is_empty() => Ok(None),
                Some(value) => Ok(value),
                None => Err(Error::Node {
                    node: format!("{name} ({})", node.op),
                    what: format!("reads `{input}`, which nobody makes"),
                }),
            })
            .collect::<Result<_>>()?;
        let results = (node.outputs.iter())
            .map(|&output| {
                if output.is_empty() {
                    None
                } else if let Some(wish) = self.wishes.get(output) {
                    Some(wish.clone())
                } else if self.depth == 0 {
                    Some(output.to_string())
                } else {
                    Some(b.unique(&self.prefix, output))
                }
            })
            .collect();
        let mut attributes: Vec<Argument<'m>> = Vec::with_capacity(node.attributes.len());
        for attribute in &node.attributes {
            if attributes.iter().any(|a| a.name == attribute.name) {
                return Err(Error::Model(format!(
                    "node `{name}` has two attributes `{}`",
                    attribute.name
                )));
            }
            let value = match attribute.value {
                Attr::Reference(to) => match self.arguments.iter().find(|a| a.name == to) {
                    Some(argument) => argument.value,
                    // An attribute of the function without a default that the call leaves out is left out here, too.
                    None => continue,
                },
                _ => &attribute.value,
            };
            attributes.push(Argument {
                name: attribute.name,
                value,
                read: Cell::new(false),
            });
        }
        Ok(Call {
            version: self.version(standard(node.domain)),
            name,
            op: node.op,
            inputs,
            results,
            attributes,
        })
    }

    /// Puts the body of a function in the place of its call.
    fn inline(
        &self,
        b: &mut Builder<'m>,
        library: &Library<'m>,
        call: &Call<'m>,
        f: &'m Function<'m>,
    ) -> Result<Vec<Option<ValueId>>> {
        if self.calls.iter().any(|&c| std::ptr::eq(c, f)) {
            return Err(call.wrong("the function calls itself"));
        }
        call.arity(0..=f.inputs.len(), f.outputs.len())?;
        let mut arguments = call.attributes.clone();
        for default in &f.defaults {
            if !arguments.iter().any(|a| a.name == default.name) {
                arguments.push(Argument {
                    name: default.name,
                    value: &default.value,
                    read: Cell::new(false),
                });
            }
        }
        let mut calls = self.calls.clone();
        calls.push(f);
        let mut body = Scope {
            values: HashMap::new(),
            outer: None,
            wishes: wishes(f.outputs.iter().copied(), call),
            prefix: call.name.clone(),
            arguments: &arguments,
            opsets: if f.opsets.is_empty() {
                library.opsets
            } else {
                &f.opsets
            },
            calls,
            depth: self.depth + 1,
        };
        for (i, &input) in f.inputs.iter().enumerate() {
            body.bind(input, call.input(i))?;
        }
        body.run(b, library, &f.nodes)?;
        body.results(f.outputs.iter().copied(), call)
    }

    /// An `If`: the branch behind a gate, or the one that a constant chooses.
    fn branch(
        &self,
        b: &mut Builder<'m>,
        library: &Library<'m>,
        call: &Call<'m>,
    ) -> Result<Vec<Option<ValueId>>> {
        call.arity(1..=1, usize::MAX)?;
        let then = match condition::value(b, call.operand(0)?) {
            Some(then) => then,
            None => {
                return Err(call.unsupported(
                    "a condition that is neither a constant nor the `stop` of a gate",
                ));
            }
        };
        let name = if then { "then_branch" } else { "else_branch" };
        let graph = call.branch(name)?;
        let mut body = Scope {
            values: HashMap::new(),
            outer: Some(self),
            wishes: wishes(graph.outputs.iter().map(|o| o.name), call),
            prefix: call.name.clone(),
            arguments: self.arguments,
            opsets: self.opsets,
            calls: self.calls.clone(),
            depth: self.depth + 1,
        };
        body.initializers(b, graph)?;
        body.run(b, library, &graph.nodes)?;
        body.results(graph.outputs.iter().map(|o| o.name), call)
    }

    /// Binds the initializers of a graph.
    pub(super) fn initializers(&mut self, b: &mut Builder<'m>, graph: &'m Graph<'m>) -> Result<()> {
        if graph.has_sparse_initializers {
            return Err(Error::Unsupported {
                node: "graph".into(),
                what: "a sparse initializer".into(),
            });
        }
        for proto in &graph.initializers {
            let name = if self.depth == 0 {
                proto.name.to_string()
            } else {
                b.unique(&self.prefix, proto.name)
            };
            let id = b.initializer(name, proto)?;
            self.bind(proto.name, Some(id))?;
        }
        Ok(())
    }

    /// The values of a body's outputs.
    fn results(
        &self,
        outputs: impl Iterator<Item = &'m str>,
        call: &Call<'m>,
    ) -> Result<Vec<Option<ValueId>>> {
        let results: Vec<_> = outputs.map(|name| self.find(name).flatten()).collect();
        match (0..call.results.len())
            .find(|&i| call.wants(i) && !matches!(results.get(i), Some(Some(_))))
        {
            Some(i) => Err(call.wrong(format!("the body does not make result {i}"))),
            None => Ok(results),
        }
    }
}

/// What a body's outputs are called outside.
fn wishes<'m>(outputs: impl Iterator<Item = &'m str>, call: &Call<'m>) -> HashMap<&'m str, String> {
    (outputs.zip(&call.results))
        .filter_map(|(inside, outside)| Some((inside, outside.clone()?)))
        .collect()
}

/// The name of a node, or its operator and number.
fn name_of(node: &Node<'_>, index: usize) -> String {
    if node.name.is_empty() {
        format!("{}_{index}", node.op)
    } else {
        node.name.to_string()
    }
}

/// The names that a node reads, also those that its branches take from outside.
fn names_read<'m>(b: &mut Builder<'m>, node: &'m Node<'m>, reads: &mut Vec<&'m str>) -> Result<()> {
    b.spend(1 + node.inputs.len())?;
    reads.extend(node.inputs.iter().filter(|n| !n.is_empty()));
    for attribute in &node.attributes {
        if let Attr::Graph(graph) = &attribute.value {
            let mut inner = Vec::new();
            for node in &graph.nodes {
                names_read(b, node, &mut inner)?;
            }
            inner.extend(graph.outputs.iter().map(|o| o.name));
            let own: HashSet<&str> = (graph.nodes.iter())
                .flat_map(|n| n.outputs.iter().copied())
                .collect();
            reads.extend(inner.into_iter().filter(|n| !own.contains(n)));
        }
    }
    Ok(())
}
