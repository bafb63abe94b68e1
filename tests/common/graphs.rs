//! Random small gated graphs, built from a list of choices, and what must hold of them.

use sluicegate::graph::{
    Attention, Binary, Dim, Graph, Node, Op, Padding, Reduction, Unary, Value, ValueId, Window,
};
use sluicegate::{DType, Tensor};

#[path = "graphs/truth.rs"]
pub(crate) mod truth;

/// A list of choices: bytes that a fuzzer or a property test made. Behind its end every choice is the first.
pub(crate) struct Choices<'a> {
    bytes: std::slice::Iter<'a, u8>,
    seed: u64,
}

impl<'a> Choices<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes: bytes.iter(),
            seed: bytes.iter().fold(0x9e37_79b9_7f4a_7c15, |h, &b| {
                (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3)
            }),
        }
    }

    /// One of `0..n`.
    pub(crate) fn pick(&mut self, n: usize) -> usize {
        self.bytes.next().map_or(0, |&b| b as usize % n)
    }

    pub(crate) fn flip(&mut self) -> bool {
        self.pick(2) == 1
    }

    /// A number in -1..1, not from the list: there are too many of them.
    pub(crate) fn float(&mut self) -> f32 {
        self.seed = self
            .seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((self.seed >> 40) as f32 / (1 << 23) as f32) - 1.0
    }

    pub(crate) fn floats(&mut self, n: usize, scale: f32) -> Vec<f32> {
        (0..n).map(|_| self.float() * scale).collect()
    }
}

/// A graph and the extents of one sample of its input.
pub(crate) struct Case {
    pub(crate) graph: Graph,
    pub(crate) sample: Vec<usize>,
    /// Outputs whose sign decides a mask: too close to zero, and the masks may differ by rounding.
    pub(crate) logits: Vec<String>,
}

struct Builder<'c, 'b> {
    c: &'c mut Choices<'b>,
    graph: Graph,
    logits: Vec<String>,
    gates: usize,
    /// The live tokens `[N, T]`, once a layer has said so.
    live: Option<ValueId>,
    /// Values so far with their extents, the batch left out.
    values: Vec<(ValueId, Vec<usize>)>,
}

impl Builder<'_, '_> {
    fn constant(&mut self, dims: &[usize], scale: f32) -> ValueId {
        let data = self.c.floats(dims.iter().product(), scale);
        self.tensor(Tensor::new(dims, data).unwrap())
    }

    fn tensor(&mut self, tensor: Tensor) -> ValueId {
        let name = format!("c{}", self.graph.values.len());
        self.graph.add_constant(name, tensor)
    }

    fn node(&mut self, op: Op, inputs: &[ValueId]) -> ValueId {
        let name = format!("v{}", self.graph.values.len());
        let y = self.graph.add(Value {
            name: name.clone(),
            ..Value::default()
        });
        self.graph.nodes.push(Node {
            name: format!("n{name}"),
            op,
            inputs: inputs.iter().map(|&id| Some(id)).collect(),
            outputs: vec![Some(y)],
        });
        y
    }

    fn output(&mut self, id: ValueId) -> String {
        if !self.graph.outputs.contains(&id) {
            self.graph.outputs.push(id);
        }
        self.graph.value(id).name.clone()
    }

    fn axes(&mut self, axes: &[i64]) -> ValueId {
        self.tensor(Tensor::new(&[axes.len()], axes.to_vec()).unwrap())
    }

    fn reduce(&mut self, kind: Reduction, x: ValueId, axes: &[i64]) -> ValueId {
        let axes = self.axes(axes);
        let op = Op::Reduce {
            kind,
            keep_dims: false,
            noop_with_empty_axes: false,
        };
        self.node(op, &[x, axes])
    }

    fn gemm(&mut self, x: ValueId, k: usize, n: usize) -> ValueId {
        let w = self.constant(&[k, n], 1.0 / (k as f32).sqrt());
        let b = self.constant(&[n], 0.5);
        self.node(
            Op::Gemm {
                alpha: 1.0,
                beta: 1.0,
                trans_a: false,
                trans_b: false,
            },
            &[x, w, b],
        )
    }

    /// A gated compression layer over `[C, H, W]` (axis 1) or `[T, C]` (axis 2).
    fn gc(&mut self, x: ValueId, dims: &[usize]) -> ValueId {
        let tokens = dims.len() == 2;
        let (c, axes, axis): (usize, &[i64], usize) = if tokens {
            (dims[1], &[1], 2)
        } else {
            (dims[0], &[2, 3], 1)
        };
        let mean = self.reduce(Reduction::Mean, x, axes);
        if self.c.flip() {
            let max = self.reduce(Reduction::Max, x, axes);
            let pooled = self.node(Op::Concat { axis: 1 }, &[mean, max]);
            let logit = self.gemm(pooled, 2 * c, 1);
            let score = self.node(Op::Unary(Unary::Sigmoid), &[logit]);
            self.output(score);
            let threshold = [0.3, 0.5, 0.7, 0.0][self.c.pick(4)];
            let index = self.gates;
            self.gates += 1;
            self.graph.nodes.push(Node {
                name: format!("gate{index}"),
                op: Op::Gate { threshold, index },
                inputs: vec![Some(score)],
                outputs: vec![],
            });
        }
        let mask = match self.c.pick(4) {
            0 => {
                let keep = [0.9, 0.0, -0.9, 1.1, -1.1][self.c.pick(5)];
                let bits = self
                    .c
                    .floats(c, 1.0)
                    .iter()
                    .map(|&v| if v < keep { 1.0 } else { 0.0 })
                    .collect();
                self.tensor(Tensor::new(&[1, c], bits).unwrap())
            }
            _ => {
                let logit = self.gemm(mean, c, c);
                let name = self.output(logit);
                self.logits.push(name);
                let zero = self.tensor(Tensor::scalar(0.0f32));
                let keep = self.node(Op::Binary(Binary::Greater), &[logit, zero]);
                self.node(Op::Cast { to: DType::F32 }, &[keep])
            }
        };
        if self.c.pick(4) == 3 {
            self.output(x);
        }
        self.node(Op::Mask { axis }, &[x, mask])
    }

    fn pointwise(&mut self, x: ValueId) -> ValueId {
        let op = [
            Unary::Relu,
            Unary::Sigmoid,
            Unary::LeakyRelu { alpha: 0.1 },
            Unary::HardSwish,
            Unary::Tanh,
            Unary::Gelu { tanh: false },
            Unary::Abs,
        ][self.c.pick(7)];
        self.node(Op::Unary(op), &[x])
    }

    /// x with an earlier value of the same extents.
    fn residual(&mut self, x: ValueId, dims: &[usize]) -> ValueId {
        let same: Vec<ValueId> = self
            .values
            .iter()
            .filter(|(_, d)| d == dims)
            .map(|(id, _)| *id)
            .collect();
        let other = same[self.c.pick(same.len())];
        let op = [Binary::Add, Binary::Mul, Binary::Sub, Binary::Max][self.c.pick(4)];
        if self.c.flip() {
            self.node(Op::Binary(op), &[x, other])
        } else {
            self.node(Op::Binary(op), &[other, x])
        }
    }

    fn map_layer(&mut self, x: ValueId, dims: &[usize]) -> (ValueId, Vec<usize>) {
        let (c, h, w) = (dims[0], dims[1], dims[2]);
        let same = |id| (id, dims.to_vec());
        match self.c.pick(8) {
            0 | 1 => {
                let (kernel, pad) =
                    [([1, 1], 0), ([3, 3], 1), ([3, 1], 1), ([2, 3], 1)][self.c.pick(4)];
                let stride = 1 + self.c.pick(2);
                let groups = if c % 2 == 0 && self.c.pick(4) == 3 {
                    2
                } else {
                    1
                };
                let out = groups * (1 + self.c.pick(24));
                let weights = self.constant(
                    &[out, c / groups, kernel[0], kernel[1]],
                    1.0 / ((c / groups * kernel[0] * kernel[1]) as f32).sqrt(),
                );
                let mut inputs = vec![x, weights];
                if self.c.flip() {
                    inputs.push(self.constant(&[out], 0.5));
                }
                let extent = |n: usize, k: usize| (n + 2 * pad - k) / stride + 1;
                if h + 2 * pad < kernel[0] || w + 2 * pad < kernel[1] {
                    return same(x);
                }
                let window = Window {
                    kernel: kernel.to_vec(),
                    strides: vec![stride; 2],
                    dilations: vec![],
                    padding: Padding::Explicit(vec![pad; 4]),
                };
                let y = self.node(Op::Conv { window, groups }, &inputs);
                (y, vec![out, extent(h, kernel[0]), extent(w, kernel[1])])
            }
            2 => {
                let multiplier = 1 + self.c.pick(2);
                let weights = self.constant(&[c * multiplier, 1, 3, 3], 0.4);
                let mut inputs = vec![x, weights];
                if self.c.pick(3) == 2 {
                    inputs.push(self.constant(&[c * multiplier], 0.5));
                }
                let window = Window {
                    kernel: vec![3, 3],
                    padding: Padding::SameUpper,
                    ..Window::default()
                };
                (
                    self.node(Op::Conv { window, groups: c }, &inputs),
                    vec![c * multiplier, h, w],
                )
            }
            3 => {
                let window = Window {
                    kernel: vec![2, 2],
                    strides: vec![1 + self.c.pick(2); 2],
                    dilations: vec![],
                    padding: Padding::SameUpper,
                };
                let s = window.strides[0];
                let op = if self.c.flip() {
                    Op::MaxPool {
                        window,
                        ceil: false,
                        column_major_indices: false,
                    }
                } else {
                    Op::AveragePool {
                        window,
                        ceil: false,
                        count_include_pad: self.c.flip(),
                    }
                };
                (self.node(op, &[x]), vec![c, h.div_ceil(s), w.div_ceil(s)])
            }
            4 => {
                let y = self.pointwise(x);
                same(y)
            }
            5 => {
                let y = self.residual(x, dims);
                same(y)
            }
            6 if self.c.flip() => {
                let parameters: Vec<ValueId> = (0..3).map(|_| self.constant(&[c], 0.8)).collect();
                let variance = self.c.floats(c, 0.4).iter().map(|v| v + 1.0).collect();
                let variance = self.tensor(Tensor::new(&[c], variance).unwrap());
                let inputs = [x, parameters[0], parameters[1], parameters[2], variance];
                let y = self.node(Op::BatchNorm { epsilon: 1e-5 }, &inputs);
                same(y)
            }
            _ => {
                let y = self.gc(x, dims);
                same(y)
            }
        }
    }

    /// Which tokens of `[T, C]` live, by what is in them.
    fn dead_tokens(&mut self, x: ValueId, dims: &[usize]) -> ValueId {
        let mean = self.reduce(Reduction::Mean, x, &[2]);
        let logit = self.gemm(mean, dims[0], dims[0]);
        let name = self.output(logit);
        self.logits.push(name);
        let zero = self.tensor(Tensor::scalar(0.0f32));
        let keep = self.node(Op::Binary(Binary::Greater), &[logit, zero]);
        let mask = self.node(Op::Cast { to: DType::F32 }, &[keep]);
        let mask = match self.live {
            Some(before) => self.node(Op::Binary(Binary::Mul), &[before, mask]),
            None => mask,
        };
        self.live = Some(mask);
        self.node(Op::Mask { axis: 1 }, &[x, mask])
    }

    /// `[T, C]` against itself, of one product or of three; tokens and heads may be dead.
    fn attention(&mut self, x: ValueId, dims: &[usize]) -> ValueId {
        let (t, d) = (dims[0] as i64, dims[1]);
        let heads = [4, 2, 1][self.c.pick(3)];
        let width = 1 + self.c.pick(9);
        let all = heads * width;
        let project = |b: &mut Self, n: usize| {
            let w = b.constant(&[d, n], 1.0 / (d as f32).sqrt());
            let y = b.node(Op::MatMul, &[x, w]);
            let bias = b.constant(&[n], 0.5);
            b.node(Op::Binary(Binary::Add), &[y, bias])
        };
        let packed = self.c.flip();
        let qkv = if packed {
            let y = project(self, 3 * all);
            let to = self.axes(&[0, t, 3, heads as i64, width as i64]);
            let y = self.node(Op::Reshape { allow_zero: false }, &[y, to]);
            let perm = Some(vec![2, 0, 3, 1, 4]);
            let y = self.node(Op::Transpose { perm }, &[y]);
            [0, 1, 2].map(|part: i64| {
                let index = self.tensor(Tensor::scalar(part));
                self.node(Op::Gather { axis: 0 }, &[y, index])
            })
        } else {
            [(); 3].map(|()| project(self, all))
        };
        let op = Op::Attention(Attention {
            heads: (!packed).then_some((heads, heads)),
            ..Attention::default()
        });
        let mut y = self.node(op, &qkv);
        let live = self.live.filter(|_| self.c.pick(4) != 3);
        let node = self.graph.nodes.last_mut().expect("the attention");
        node.inputs.extend([None, None, live]);
        let head_axis = if packed { 1 } else { 2 };
        if self.c.flip() {
            let bits = self.c.floats(heads, 1.0);
            let bits = bits
                .iter()
                .map(|&v| f32::from(u8::from(v > -0.3)))
                .collect();
            let mask = self.tensor(Tensor::new(&[1, heads], bits).unwrap());
            if !packed {
                let to = self.axes(&[0, t, heads as i64, width as i64]);
                y = self.node(Op::Reshape { allow_zero: false }, &[y, to]);
            }
            y = self.node(Op::Mask { axis: head_axis }, &[y, mask]);
        }
        if packed {
            let perm = Some(vec![0, 2, 1, 3]);
            y = self.node(Op::Transpose { perm }, &[y]);
        }
        let to = self.axes(&[0, t, all as i64]);
        y = self.node(Op::Reshape { allow_zero: false }, &[y, to]);
        let w = self.constant(&[all, d], 1.0 / (all as f32).sqrt());
        let y = self.node(Op::MatMul, &[y, w]);
        match live.filter(|_| self.c.flip()) {
            Some(mask) => self.node(Op::Mask { axis: 1 }, &[y, mask]),
            None => y,
        }
    }

    fn token_layer(&mut self, x: ValueId, dims: &[usize]) -> (ValueId, Vec<usize>) {
        let (t, d) = (dims[0], dims[1]);
        match self.c.pick(9) {
            6 => (self.attention(x, dims), dims.to_vec()),
            7 => (self.dead_tokens(x, dims), dims.to_vec()),
            8 => {
                let (scale, shift) = (self.constant(&[d], 1.0), self.constant(&[d], 0.5));
                let op = Op::LayerNorm {
                    axis: -1,
                    epsilon: 1e-3,
                };
                (self.node(op, &[x, scale, shift]), dims.to_vec())
            }
            0 | 1 => {
                let n = if self.c.flip() {
                    d
                } else {
                    1 + self.c.pick(40)
                };
                let w = self.constant(&[d, n], 1.0 / (d as f32).sqrt());
                let y = self.node(Op::MatMul, &[x, w]);
                let b = self.constant(&[n], 0.5);
                (self.node(Op::Binary(Binary::Add), &[y, b]), vec![t, n])
            }
            2 => (self.pointwise(x), dims.to_vec()),
            3 => (self.residual(x, dims), dims.to_vec()),
            4 => {
                let scale = self.constant(&[d], 1.0);
                (
                    self.node(
                        Op::RmsNorm {
                            axis: -1,
                            epsilon: 1e-3,
                        },
                        &[x, scale],
                    ),
                    dims.to_vec(),
                )
            }
            _ => (self.gc(x, dims), dims.to_vec()),
        }
    }
}

/// The graph of a list of choices.
pub(crate) fn build(c: &mut Choices<'_>) -> Case {
    let tokens = c.pick(3) == 2;
    let channels = [1, 2, 3, 8, 16, 17, 33, 70][c.pick(8)];
    let sample = if tokens {
        vec![1 + c.pick(9), channels]
    } else {
        vec![channels, 1 + c.pick(9), 1 + c.pick(20)]
    };
    let mut graph = Graph::default();
    let dims = std::iter::once(Dim::Symbol("N".into()))
        .chain(sample.iter().map(|&d| Dim::Fixed(d)))
        .collect();
    let input = graph.add(Value {
        name: "input".into(),
        dtype: Some(DType::F32),
        dims: Some(dims),
        constant: None,
    });
    graph.inputs.push(input);
    let layers = 1 + c.pick(8);
    let mut b = Builder {
        c,
        graph,
        logits: Vec::new(),
        gates: 0,
        live: None,
        values: vec![(input, sample.clone())],
    };
    let (mut x, mut dims) = (input, sample.clone());
    for _ in 0..layers {
        (x, dims) = if tokens {
            b.token_layer(x, &dims)
        } else {
            b.map_layer(x, &dims)
        };
        b.values.push((x, dims.clone()));
    }
    let last = match b.c.pick(3) {
        0 => x,
        1 => {
            let flat = b.node(Op::Flatten { axis: 1 }, &[x]);
            let n: usize = dims.iter().product();
            b.gemm(flat, n, 5)
        }
        _ if tokens => {
            let mean = b.reduce(Reduction::Mean, x, &[1]);
            b.gemm(mean, dims[1], 5)
        }
        _ => {
            let pooled = b.node(Op::GlobalAveragePool, &[x]);
            let flat = b.node(Op::Flatten { axis: 1 }, &[pooled]);
            b.gemm(flat, dims[0], 5)
        }
    };
    if last == input {
        x = b.node(Op::Unary(Unary::Relu), &[last]);
        b.output(x);
    } else {
        b.output(last);
    }
    Case {
        graph: b.graph,
        sample,
        logits: b.logits,
    }
}
