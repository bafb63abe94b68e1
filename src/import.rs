//! Reads ONNX files into the [`Graph`].
//!
//! What a file cannot do, whatever its bytes: make this reader panic, make it allocate more than a small multiple of the file (lengths
//! are checked against the bytes that are there), or keep it busy without end (messages, nodes, names and the depth of functions and
//! branches are counted). External data is read only from regular files below the model's folder.
//!
//! ```text
//! bytes -> wire -> proto -> scope -> call -> lower, contrib, gated -> builder -> masks, finish -> Graph
//! ```

mod builder;
mod call;
mod condition;
mod constants;
mod contrib;
mod finish;
mod gated;
mod lower;
mod masks;
mod proto;
mod scope;
mod wire;

use std::path::Path;

use crate::graph::{Dim, Graph, Value, ValueId};
use crate::tensor::MAX_RANK;
use crate::{Error, Result};

use builder::Builder;
use proto::{DimProto, ValueInfo, ValueKind};
use scope::{Library, Scope};

/// Reads a model from the bytes of an ONNX file. External data is looked for in `dir`.
///
/// # Errors
/// [`Error::Malformed`] when the bytes are not ONNX; [`Error::Model`] and [`Error::Node`] when they are but make no sense;
/// [`Error::Unsupported`] when they say what the engine does not have; [`Error::Io`] when external data cannot be read.
pub fn from_bytes(bytes: &[u8], dir: Option<&Path>) -> Result<Graph> {
    let model = proto::model(bytes)?;
    let Some(main) = &model.graph else {
        return Err(Error::Malformed {
            what: "there is no graph".into(),
            offset: 0,
        });
    };
    let library = Library::new(&model)?;
    let mut b = Builder::new(dir);
    let mut scope = Scope::top(&library);
    for name in (main.inputs.iter().map(|i| i.name))
        .chain(main.initializers.iter().map(|i| i.name))
        .chain(main.nodes.iter().flat_map(|n| n.outputs.iter().copied()))
    {
        b.reserve(name);
    }
    scope.initializers(&mut b, main)?;
    for info in &main.inputs {
        // Before IR version 4 initializers had to be inputs as well.
        if scope.find(info.name).is_none() {
            let value = input(info)?;
            let id = b.graph.add(value);
            b.graph.inputs.push(id);
            scope.bind(info.name, Some(id))?;
        }
    }
    b.declared = (main.values.iter())
        .filter_map(|info| match &info.kind {
            ValueKind::Tensor { dims, .. } => Some((info.name, dims.as_ref()?.len())),
            _ => None,
        })
        .collect();
    scope.run(&mut b, &library, &main.nodes)?;
    finish::outputs(&mut b, &scope, main)?;
    for info in main.values.iter().chain(&main.outputs) {
        if let Some(Some(id)) = scope.find(info.name) {
            declare(&mut b.graph, id, info);
        }
    }
    masks::find(&mut b.graph);
    finish::prune(&mut b.graph);
    b.graph.metadata = (model.metadata.iter())
        .map(|&(key, value)| (key.to_string(), value.to_string()))
        .collect();
    Ok(b.graph)
}

/// Reads a model from an ONNX file. External data is looked for beside it.
///
/// # Errors
/// As [`from_bytes`], and [`Error::Io`] when the file cannot be read.
pub fn from_file(path: impl AsRef<Path>) -> Result<Graph> {
    let path = path.as_ref();
    let bytes = std::fs::read(path).map_err(|source| Error::Io {
        path: path.to_path_buf(),
        source,
    })?;
    from_bytes(&bytes, Some(path.parent().unwrap_or(Path::new("."))))
}

/// The value of an input.
fn input(info: &ValueInfo<'_>) -> Result<Value> {
    let unsupported = |what: String| Error::Unsupported {
        node: format!("input `{}`", info.name),
        what,
    };
    let (dtype, dims) = match &info.kind {
        ValueKind::Unknown => (None, None),
        ValueKind::Other => {
            return Err(unsupported(
                "a sequence, a map, an optional or a sparse tensor".into(),
            ));
        }
        ValueKind::Tensor { data_type, dims } => {
            let dtype = constants::dtype(*data_type).ok_or_else(|| {
                unsupported(format!(
                    "the element type {}",
                    constants::type_name(*data_type)
                ))
            })?;
            (Some(dtype), dims.as_deref().map(extents))
        }
    };
    if dims.as_ref().is_some_and(|d| d.len() > MAX_RANK) {
        return Err(unsupported(format!("more than {MAX_RANK} axes")));
    }
    Ok(Value {
        name: info.name.to_string(),
        dtype,
        dims,
        constant: None,
    })
}

/// Notes what the file says about a value that is not a constant.
fn declare(graph: &mut Graph, id: ValueId, info: &ValueInfo<'_>) {
    let value = &mut graph.values[id.index()];
    if let ValueKind::Tensor { data_type, dims } = &info.kind
        && value.constant.is_none()
        && value.name == info.name
    {
        value.dtype = value.dtype.or(constants::dtype(*data_type));
        let is_open = |d: &Vec<Dim>| d.iter().all(|d| *d == Dim::Unknown);
        if value.dims.as_ref().is_none_or(is_open) {
            value.dims = dims.as_deref().map(extents);
        }
    }
}

fn extents(dims: &[DimProto<'_>]) -> Vec<Dim> {
    dims.iter()
        .map(|dim| match *dim {
            DimProto::Value(n) => usize::try_from(n).map_or(Dim::Unknown, Dim::Fixed),
            DimProto::Symbol(name) if !name.is_empty() => Dim::Symbol(name.to_string()),
            _ => Dim::Unknown,
        })
        .collect()
}
