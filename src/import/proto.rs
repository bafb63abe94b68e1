//! The messages of `onnx.proto`, as far as inference needs them. Texts and raw data borrow from the file.

use super::wire::{Field, Reader};
use crate::{Error, Result};

/// Messages in a file at most. The largest published models have some 100,000; each takes up to 200 bytes here but can be 2 bytes in
/// the file.
const MAX_MESSAGES: u32 = 1 << 21;

/// A model file.
#[derive(Debug, Default)]
pub(super) struct Model<'a> {
    pub(super) graph: Option<Graph<'a>>,
    pub(super) opsets: Vec<Opset<'a>>,
    pub(super) functions: Vec<Function<'a>>,
    pub(super) metadata: Vec<(&'a str, &'a str)>,
}

/// The version of one set of operators.
#[derive(Debug, Default)]
pub(super) struct Opset<'a> {
    pub(super) domain: &'a str,
    pub(super) version: i64,
}

/// A graph: the model's, or a branch of an `If`.
#[derive(Debug, Default)]
pub(super) struct Graph<'a> {
    pub(super) nodes: Vec<Node<'a>>,
    pub(super) initializers: Vec<TensorProto<'a>>,
    pub(super) inputs: Vec<ValueInfo<'a>>,
    pub(super) outputs: Vec<ValueInfo<'a>>,
    pub(super) values: Vec<ValueInfo<'a>>,
    pub(super) has_sparse_initializers: bool,
}

/// An operation.
#[derive(Debug, Default)]
pub(super) struct Node<'a> {
    pub(super) inputs: Vec<&'a str>,
    pub(super) outputs: Vec<&'a str>,
    pub(super) name: &'a str,
    pub(super) op: &'a str,
    pub(super) domain: &'a str,
    pub(super) overload: &'a str,
    pub(super) attributes: Vec<Attribute<'a>>,
}

/// An attribute of a node, or a default of a function.
#[derive(Debug)]
pub(super) struct Attribute<'a> {
    pub(super) name: &'a str,
    pub(super) value: Attr<'a>,
}

/// The value of an attribute.
#[derive(Debug)]
pub(super) enum Attr<'a> {
    Float(f32),
    Int(i64),
    Text(&'a [u8]),
    Tensor(Box<TensorProto<'a>>),
    Graph(Box<Graph<'a>>),
    Floats(Vec<f32>),
    Ints(Vec<i64>),
    /// The attribute of this name of the function in whose body the node stands.
    Reference(&'a str),
    /// A type that no supported operator has.
    Other,
}

impl Attr<'_> {
    /// The type, for error messages.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Attr::Float(_) => "a float",
            Attr::Int(_) => "an integer",
            Attr::Text(_) => "a text",
            Attr::Tensor(_) => "a tensor",
            Attr::Graph(_) => "a graph",
            Attr::Floats(_) => "a list of floats",
            Attr::Ints(_) => "a list of integers",
            Attr::Reference(_) => "a reference",
            Attr::Other => "of a type that no supported operator has",
        }
    }
}

/// A constant tensor. Its elements are in one of the lists, or in `raw`, or in another file.
#[derive(Debug, Default)]
pub(super) struct TensorProto<'a> {
    pub(super) name: &'a str,
    pub(super) dims: Vec<i64>,
    pub(super) data_type: i64,
    pub(super) raw: Option<&'a [u8]>,
    pub(super) floats: Vec<f32>,
    pub(super) doubles: Vec<f64>,
    /// `int32_data`, `int64_data` and `uint64_data`.
    pub(super) ints: Vec<i64>,
    pub(super) is_external: bool,
    /// Keys and values that say where the external data is.
    pub(super) external: Vec<(&'a str, &'a str)>,
}

/// The name, type and shape of a value.
#[derive(Debug, Default)]
pub(super) struct ValueInfo<'a> {
    pub(super) name: &'a str,
    pub(super) kind: ValueKind<'a>,
}

/// The type of a value.
#[derive(Debug, Default)]
pub(super) enum ValueKind<'a> {
    #[default]
    Unknown,
    Tensor {
        data_type: i64,
        dims: Option<Vec<DimProto<'a>>>,
    },
    /// A sequence, a map, an optional or a sparse tensor.
    Other,
}

/// One extent.
#[derive(Debug, Clone, Copy, Default)]
pub(super) enum DimProto<'a> {
    #[default]
    Unknown,
    Value(i64),
    Symbol(&'a str),
}

/// A function of the model's own.
#[derive(Debug, Default)]
pub(super) struct Function<'a> {
    pub(super) name: &'a str,
    pub(super) domain: &'a str,
    pub(super) overload: &'a str,
    pub(super) inputs: Vec<&'a str>,
    pub(super) outputs: Vec<&'a str>,
    /// Attributes that have a default; those without one are listed in the file but not needed here.
    pub(super) defaults: Vec<Attribute<'a>>,
    pub(super) nodes: Vec<Node<'a>>,
    pub(super) opsets: Vec<Opset<'a>>,
}

/// Reads a model file.
pub(super) fn model(bytes: &[u8]) -> Result<Model<'_>> {
    let mut left = MAX_MESSAGES;
    let mut model = Model::default();
    each(Reader::new(bytes), &mut left, |field, left| {
        match field.number {
            7 => model.graph = Some(graph(field.message()?, left)?),
            8 => model.opsets.push(opset(field.message()?, left)?),
            14 => model.metadata.push(entry(field.message()?, left)?),
            25 => model.functions.push(function(field.message()?, left)?),
            _ => {}
        }
        Ok(())
    })?;
    Ok(model)
}

/// Calls `read` on every field of a message. `left` counts the messages down.
fn each<'a>(
    mut message: Reader<'a>,
    left: &mut u32,
    mut read: impl FnMut(&Field<'a>, &mut u32) -> Result<()>,
) -> Result<()> {
    *left = left
        .checked_sub(1)
        .ok_or_else(|| Error::Model(format!("the file has more than {MAX_MESSAGES} messages")))?;
    while let Some(field) = message.field()? {
        read(&field, left)?;
    }
    Ok(())
}

fn opset<'a>(message: Reader<'a>, left: &mut u32) -> Result<Opset<'a>> {
    let mut opset = Opset::default();
    each(message, left, |field, _| {
        match field.number {
            1 => opset.domain = field.text()?,
            2 => opset.version = field.int()?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(opset)
}

fn graph<'a>(message: Reader<'a>, left: &mut u32) -> Result<Graph<'a>> {
    let mut graph = Graph::default();
    each(message, left, |field, left| {
        match field.number {
            1 => graph.nodes.push(node(field.message()?, left)?),
            5 => graph.initializers.push(tensor(field.message()?, left)?),
            11 => graph.inputs.push(value_info(field.message()?, left)?),
            12 => graph.outputs.push(value_info(field.message()?, left)?),
            13 => graph.values.push(value_info(field.message()?, left)?),
            15 => graph.has_sparse_initializers = true,
            _ => {}
        }
        Ok(())
    })?;
    Ok(graph)
}

fn node<'a>(message: Reader<'a>, left: &mut u32) -> Result<Node<'a>> {
    let mut node = Node::default();
    each(message, left, |field, left| {
        match field.number {
            1 => node.inputs.push(field.text()?),
            2 => node.outputs.push(field.text()?),
            3 => node.name = field.text()?,
            4 => node.op = field.text()?,
            5 => node.attributes.push(attribute(field.message()?, left)?),
            7 => node.domain = field.text()?,
            8 => node.overload = field.text()?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(node)
}

fn attribute<'a>(message: Reader<'a>, left: &mut u32) -> Result<Attribute<'a>> {
    let (mut name, mut reference, mut kind) = ("", "", 0);
    let (mut f, mut i, mut s) = (None, None, None);
    let (mut t, mut g) = (None, None);
    let (mut floats, mut ints) = (Vec::new(), Vec::new());
    each(message, left, |field, left| {
        match field.number {
            1 => name = field.text()?,
            2 => f = Some(field.float()?),
            3 => i = Some(field.int()?),
            4 => s = Some(field.bytes()?),
            5 => t = Some(Box::new(tensor(field.message()?, left)?)),
            6 => g = Some(Box::new(graph(field.message()?, left)?)),
            7 => field.floats(&mut floats)?,
            8 => field.ints(&mut ints)?,
            20 => kind = field.int()?,
            21 => reference = field.text()?,
            _ => {}
        }
        Ok(())
    })?;
    if kind == 0 {
        // Files older than IR version 2 leave the type out: it is that of the field that is there.
        kind = match (&f, &i, &s, &t, &g) {
            (Some(_), ..) => 1,
            (_, Some(_), ..) => 2,
            (_, _, Some(_), ..) => 3,
            (_, _, _, Some(_), _) => 4,
            (_, _, _, _, Some(_)) => 5,
            _ if !floats.is_empty() => 6,
            _ if !ints.is_empty() => 7,
            _ => 0,
        };
    }
    let value = match kind {
        _ if !reference.is_empty() => Attr::Reference(reference),
        1 => Attr::Float(f.unwrap_or_default()),
        2 => Attr::Int(i.unwrap_or_default()),
        3 => Attr::Text(s.unwrap_or_default()),
        4 => Attr::Tensor(t.unwrap_or_default()),
        5 => Attr::Graph(g.unwrap_or_default()),
        6 => Attr::Floats(floats),
        7 => Attr::Ints(ints),
        _ => Attr::Other,
    };
    Ok(Attribute { name, value })
}

fn tensor<'a>(message: Reader<'a>, left: &mut u32) -> Result<TensorProto<'a>> {
    let mut tensor = TensorProto::default();
    each(message, left, |field, left| {
        match field.number {
            1 => field.ints(&mut tensor.dims)?,
            2 => tensor.data_type = field.int()?,
            4 => field.floats(&mut tensor.floats)?,
            5 | 7 | 11 => field.ints(&mut tensor.ints)?,
            8 => tensor.name = field.text()?,
            9 => tensor.raw = Some(field.bytes()?),
            10 => field.doubles(&mut tensor.doubles)?,
            13 => tensor.external.push(entry(field.message()?, left)?),
            14 => tensor.is_external = field.int()? == 1,
            _ => {}
        }
        Ok(())
    })?;
    Ok(tensor)
}

/// A key and its value.
fn entry<'a>(message: Reader<'a>, left: &mut u32) -> Result<(&'a str, &'a str)> {
    let mut entry = ("", "");
    each(message, left, |field, _| {
        match field.number {
            1 => entry.0 = field.text()?,
            2 => entry.1 = field.text()?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(entry)
}

fn value_info<'a>(message: Reader<'a>, left: &mut u32) -> Result<ValueInfo<'a>> {
    let mut info = ValueInfo::default();
    each(message, left, |field, left| {
        match field.number {
            1 => info.name = field.text()?,
            2 => each(field.message()?, left, |field, left| {
                match field.number {
                    1 => info.kind = tensor_type(field.message()?, left)?,
                    4 | 5 | 7 | 8 | 9 => info.kind = ValueKind::Other,
                    _ => {}
                }
                Ok(())
            })?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(info)
}

fn tensor_type<'a>(message: Reader<'a>, left: &mut u32) -> Result<ValueKind<'a>> {
    let (mut data_type, mut dims) = (0, None);
    each(message, left, |field, left| {
        match field.number {
            1 => data_type = field.int()?,
            2 => {
                let mut all = Vec::new();
                each(field.message()?, left, |field, left| {
                    if field.number == 1 {
                        all.push(dim(field.message()?, left)?);
                    }
                    Ok(())
                })?;
                dims = Some(all);
            }
            _ => {}
        }
        Ok(())
    })?;
    Ok(ValueKind::Tensor { data_type, dims })
}

fn dim<'a>(message: Reader<'a>, left: &mut u32) -> Result<DimProto<'a>> {
    let mut dim = DimProto::Unknown;
    each(message, left, |field, _| {
        match field.number {
            1 => dim = DimProto::Value(field.int()?),
            2 => dim = DimProto::Symbol(field.text()?),
            _ => {}
        }
        Ok(())
    })?;
    Ok(dim)
}

fn function<'a>(message: Reader<'a>, left: &mut u32) -> Result<Function<'a>> {
    let mut function = Function::default();
    each(message, left, |field, left| {
        match field.number {
            1 => function.name = field.text()?,
            4 => function.inputs.push(field.text()?),
            5 => function.outputs.push(field.text()?),
            7 => function.nodes.push(node(field.message()?, left)?),
            9 => function.opsets.push(opset(field.message()?, left)?),
            10 => function.domain = field.text()?,
            11 => function.defaults.push(attribute(field.message()?, left)?),
            13 => function.overload = field.text()?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(function)
}
