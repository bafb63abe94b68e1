//! Writes ONNX models, field by field.

/// A protobuf message.
#[derive(Debug, Clone, Default)]
pub(crate) struct Message(Vec<u8>);

fn varint(to: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

impl Message {
    pub(crate) fn int(mut self, field: u64, value: i64) -> Self {
        varint(&mut self.0, field << 3);
        varint(&mut self.0, value.cast_unsigned());
        self
    }

    pub(crate) fn float(mut self, field: u64, value: f32) -> Self {
        varint(&mut self.0, field << 3 | 5);
        self.0.extend(value.to_le_bytes());
        self
    }

    pub(crate) fn bytes(mut self, field: u64, value: &[u8]) -> Self {
        varint(&mut self.0, field << 3 | 2);
        varint(&mut self.0, value.len() as u64);
        self.0.extend(value);
        self
    }

    pub(crate) fn text(self, field: u64, value: &str) -> Self {
        self.bytes(field, value.as_bytes())
    }

    pub(crate) fn message(self, field: u64, value: &Message) -> Self {
        self.bytes(field, &value.0)
    }

    fn all(mut self, field: u64, values: &[Message]) -> Self {
        for value in values {
            self = self.message(field, value);
        }
        self
    }

    fn texts(mut self, field: u64, values: &[&str]) -> Self {
        for value in values {
            self = self.text(field, value);
        }
        self
    }

    /// A node with these attributes.
    pub(crate) fn with(self, attributes: &[Message]) -> Self {
        self.all(5, attributes)
    }

    /// A node with this name.
    pub(crate) fn named(self, name: &str) -> Self {
        self.text(3, name)
    }

    /// A node of this domain.
    pub(crate) fn of(self, domain: &str) -> Self {
        self.text(7, domain)
    }
}

/// A node.
pub(crate) fn node(op: &str, inputs: &[&str], outputs: &[&str]) -> Message {
    let node = Message::default().texts(1, inputs).texts(2, outputs);
    node.text(4, op)
}

fn attribute(name: &str, kind: i64) -> Message {
    Message::default().text(1, name).int(20, kind)
}

pub(crate) fn float(name: &str, value: f32) -> Message {
    attribute(name, 1).float(2, value)
}

pub(crate) fn int(name: &str, value: i64) -> Message {
    attribute(name, 2).int(3, value)
}

pub(crate) fn text(name: &str, value: &str) -> Message {
    attribute(name, 3).text(4, value)
}

pub(crate) fn tensor(name: &str, value: &Message) -> Message {
    attribute(name, 4).message(5, value)
}

pub(crate) fn branch(name: &str, value: &Message) -> Message {
    attribute(name, 5).message(6, value)
}

pub(crate) fn floats(name: &str, values: &[f32]) -> Message {
    (values.iter()).fold(attribute(name, 6), |m, &v| m.float(7, v))
}

pub(crate) fn ints(name: &str, values: &[i64]) -> Message {
    (values.iter()).fold(attribute(name, 7), |m, &v| m.int(8, v))
}

/// An attribute that is the one named `of` of the function around it.
pub(crate) fn reference(name: &str, of: &str, kind: i64) -> Message {
    attribute(name, kind).text(21, of)
}

/// A tensor of floats, stored raw.
pub(crate) fn f32s(name: &str, dims: &[i64], values: &[f32]) -> Message {
    let raw: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    proto(name, dims, 1).bytes(9, &raw)
}

/// A tensor of integers, stored in `int64_data`.
pub(crate) fn i64s(name: &str, dims: &[i64], values: &[i64]) -> Message {
    values
        .iter()
        .fold(proto(name, dims, 7), |m, &v| m.int(7, v))
}

/// A tensor of truth values, stored in `int32_data`.
pub(crate) fn bools(name: &str, dims: &[i64], values: &[bool]) -> Message {
    values
        .iter()
        .fold(proto(name, dims, 9), |m, &v| m.int(5, v.into()))
}

fn proto(name: &str, dims: &[i64], kind: i64) -> Message {
    let proto = dims.iter().fold(Message::default(), |m, &d| m.int(1, d));
    proto.int(2, kind).text(8, name)
}

/// A value of this element type with these extents; negative = the symbol `N`.
pub(crate) fn value(name: &str, kind: i64, dims: &[i64]) -> Message {
    let shape = dims.iter().fold(Message::default(), |m, &d| {
        let dim = match d {
            0.. => Message::default().int(1, d),
            _ => Message::default().text(2, "N"),
        };
        m.message(1, &dim)
    });
    let tensor = Message::default().int(1, kind).message(2, &shape);
    let kind = Message::default().message(1, &tensor);
    Message::default().text(1, name).message(2, &kind)
}

/// A graph: nodes, initializers, inputs, outputs.
pub(crate) fn graph(
    nodes: &[Message],
    initializers: &[Message],
    inputs: &[Message],
    outputs: &[&str],
) -> Message {
    let outputs: Vec<_> = (outputs.iter())
        .map(|o| Message::default().text(1, o))
        .collect();
    let graph = Message::default().all(1, nodes).all(5, initializers);
    graph.all(11, inputs).all(12, &outputs)
}

/// A function of domain `local` at operator-set version 17, with these defaults.
pub(crate) fn function(
    name: &str,
    inputs: &[&str],
    outputs: &[&str],
    nodes: &[Message],
    defaults: &[Message],
) -> Message {
    let function = Message::default().text(1, name).text(10, "local");
    let function = function.texts(4, inputs).texts(5, outputs);
    let function = function.all(7, nodes).all(11, defaults);
    let function = function.message(9, &opset("", 17));
    function.message(9, &opset("local", 1))
}

fn opset(domain: &str, version: i64) -> Message {
    Message::default().text(1, domain).int(2, version)
}

/// A model: an input `x` of f32 `[N, 4, 3, 3]` unless said otherwise.
#[derive(Debug, Clone)]
pub(crate) struct Model {
    pub(crate) version: i64,
    pub(crate) nodes: Vec<Message>,
    pub(crate) initializers: Vec<Message>,
    pub(crate) inputs: Vec<Message>,
    pub(crate) outputs: Vec<&'static str>,
    pub(crate) functions: Vec<Message>,
}

impl Model {
    /// Nodes at operator-set version 17 with these outputs.
    pub(crate) fn new(nodes: Vec<Message>, outputs: &[&'static str]) -> Self {
        Self {
            version: 17,
            nodes,
            initializers: Vec::new(),
            inputs: vec![value("x", 1, &[-1, 4, 3, 3])],
            outputs: outputs.to_vec(),
            functions: Vec::new(),
        }
    }

    pub(crate) fn version(mut self, version: i64) -> Self {
        self.version = version;
        self
    }

    pub(crate) fn constant(mut self, tensor: Message) -> Self {
        self.initializers.push(tensor);
        self
    }

    pub(crate) fn input(mut self, value: Message) -> Self {
        self.inputs.push(value);
        self
    }

    pub(crate) fn function(mut self, function: Message) -> Self {
        self.functions.push(function);
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let graph = graph(&self.nodes, &self.initializers, &self.inputs, &self.outputs);
        let mut model = Message::default().int(1, 9).message(7, &graph);
        for (domain, version) in [
            ("", self.version),
            ("local", 1),
            ("ai.sluicegate", 1),
            ("gc", 1),
        ] {
            model = model.message(8, &opset(domain, version));
        }
        model.all(25, &self.functions).0
    }
}
