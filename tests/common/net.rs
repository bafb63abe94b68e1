//! Graphs put together node by node.

use sluicegate::graph::{Dim, Graph, Node, Op, Padding, Value, ValueId, Window};
use sluicegate::tensor::Element;
use sluicegate::{DType, Tensor};

/// Numbers of a fixed pseudo-random sequence, in -1..1.
pub(crate) fn floats(n: usize, seed: u64) -> Vec<f32> {
    let mut s = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        s ^= s << 13;
        s ^= s >> 7;
        s ^= s << 17;
        (s >> 40) as f32 / 8_388_608.0 - 1.0
    };
    std::iter::repeat_with(next).take(n).collect()
}

/// A graph that grows.
#[derive(Default)]
pub(crate) struct Net {
    pub(crate) graph: Graph,
    gates: usize,
    weights: u64,
}

impl Net {
    /// An f32 input; an extent of 0 stands for the batch.
    pub(crate) fn input(&mut self, name: &str, dims: &[usize]) -> ValueId {
        let dims = dims.iter().map(|&d| match d {
            0 => Dim::Symbol("N".into()),
            d => Dim::Fixed(d),
        });
        let id = self.graph.add(Value {
            name: name.into(),
            dtype: Some(DType::F32),
            dims: Some(dims.collect()),
            constant: None,
        });
        self.graph.inputs.push(id);
        id
    }

    pub(crate) fn constant<T: Element>(&mut self, dims: &[usize], data: &[T]) -> ValueId {
        let name = format!("c{}", self.graph.values.len());
        let tensor = Tensor::new(dims, data.to_vec()).expect("a constant of the test");
        self.graph.add_constant(name, tensor)
    }

    /// A constant of pseudo-random numbers whose products over `dims[1..]` stay about 1.
    pub(crate) fn weights(&mut self, dims: &[usize]) -> ValueId {
        let n: usize = dims.iter().product();
        let scale = (dims[0] as f32 / n as f32).sqrt();
        self.weights += 1;
        let data: Vec<f32> = floats(n, self.weights)
            .iter()
            .map(|x| x * 1.7 * scale)
            .collect();
        self.constant(dims, &data)
    }

    pub(crate) fn node(&mut self, op: Op, inputs: &[ValueId]) -> ValueId {
        let name = format!("v{}", self.graph.values.len());
        let y = self.graph.add(Value {
            name: name.clone(),
            ..Value::default()
        });
        self.graph.nodes.push(Node {
            name: format!("make_{name}"),
            op,
            inputs: inputs.iter().map(|&id| Some(id)).collect(),
            outputs: vec![Some(y)],
        });
        y
    }

    pub(crate) fn gate(&mut self, score: ValueId, threshold: f32) {
        let index = self.gates;
        self.gates += 1;
        self.graph.nodes.push(Node {
            name: format!("gate{index}"),
            op: Op::Gate { threshold, index },
            inputs: vec![Some(score)],
            outputs: vec![],
        });
    }

    /// `kernel` x `kernel` with borders that keep the extents.
    pub(crate) fn conv(
        &mut self,
        x: ValueId,
        weights: ValueId,
        kernel: usize,
        groups: usize,
        bias: Option<ValueId>,
    ) -> ValueId {
        let window = Window {
            kernel: vec![kernel; 2],
            padding: Padding::SameUpper,
            ..Window::default()
        };
        let inputs: Vec<ValueId> = [x, weights].into_iter().chain(bias).collect();
        self.node(Op::Conv { window, groups }, &inputs)
    }

    pub(crate) fn output(&mut self, id: ValueId) {
        if !self.graph.outputs.contains(&id) {
            self.graph.outputs.push(id);
        }
    }
}
