//! Convolutional nets with random weights, as they are published.

use std::collections::HashMap;

use sluicegate::graph::{Graph, Op, Padding, Reduction, Unary, ValueId, Window};

use super::net::Net;

/// A net with one input, and masks as inputs where it has them.
pub(crate) struct Built {
    pub(crate) graph: Graph,
    pub(crate) input: Vec<usize>,
    /// Names and channels.
    pub(crate) masks: Vec<(String, usize)>,
}

pub(crate) const NAMES: [&str; 4] = ["dscnn_m", "dscnn_l", "mobilenetv1", "resnet18"];

/// A net by its name. `masked`: a mask behind every activation, an input of the net, as a controller would compute it.
pub(crate) fn build(name: &str, masked: bool) -> Built {
    let mut b = Builder {
        masked,
        ..Builder::default()
    };
    let input = match name {
        "dscnn_m" => b.ds_cnn(172, 4),
        "dscnn_l" => b.ds_cnn(276, 5),
        "mobilenetv1" => b.mobilenet(),
        "resnet18" => b.resnet(),
        _ => panic!("no net {name}"),
    };
    Built {
        graph: b.net.graph,
        input,
        masks: b.masks,
    }
}

#[derive(Default)]
struct Builder {
    net: Net,
    masked: bool,
    masks: Vec<(String, usize)>,
    /// The mask behind a value.
    behind: HashMap<ValueId, ValueId>,
}

impl Builder {
    fn conv(
        &mut self,
        x: ValueId,
        [ci, co]: [usize; 2],
        kernel: [usize; 2],
        stride: [usize; 2],
        groups: usize,
    ) -> ValueId {
        let weights = self.net.weights(&[co, ci / groups, kernel[0], kernel[1]]);
        let bias = self.net.weights(&[co]);
        let window = Window {
            kernel: kernel.to_vec(),
            strides: stride.to_vec(),
            padding: Padding::SameUpper,
            ..Window::default()
        };
        self.net
            .node(Op::Conv { window, groups }, &[x, weights, bias])
    }

    /// Relu, and the mask: `mask`, or one of its own.
    fn relu(&mut self, x: ValueId, channels: usize, mask: Option<ValueId>) -> ValueId {
        let y = self.net.node(Op::Unary(Unary::Relu), &[x]);
        if !self.masked {
            return y;
        }
        let mask = mask.unwrap_or_else(|| {
            let name = format!("mask{}", self.masks.len());
            self.masks.push((name.clone(), channels));
            self.net.input(&name, &[1, channels])
        });
        let y = self.net.node(Op::Mask { axis: 1 }, &[y, mask]);
        self.behind.insert(y, mask);
        y
    }

    /// A depthwise convolution and a pointwise one. Channels that come in dead stay dead in between.
    fn separable(&mut self, x: ValueId, [ci, co]: [usize; 2], stride: usize) -> ValueId {
        let mask = self.behind.get(&x).copied();
        let y = self.conv(x, [ci, ci], [3, 3], [stride; 2], ci);
        let y = self.relu(y, ci, mask);
        let y = self.conv(y, [ci, co], [1, 1], [1, 1], 1);
        self.relu(y, co, None)
    }

    fn classifier(&mut self, x: ValueId, channels: usize, classes: usize) {
        let axes = self.net.constant(&[2], &[2i64, 3]);
        let mean = Op::Reduce {
            kind: Reduction::Mean,
            keep_dims: false,
            noop_with_empty_axes: false,
        };
        let mean = self.net.node(mean, &[x, axes]);
        let (w, b) = (
            self.net.weights(&[classes, channels]),
            self.net.weights(&[classes]),
        );
        let gemm = Op::Gemm {
            alpha: 1.0,
            beta: 1.0,
            trans_a: false,
            trans_b: true,
        };
        let y = self.net.node(gemm, &[mean, w, b]);
        self.net.output(y);
    }

    /// Hello Edge, arXiv 1711.07128, tables 8 and 9.
    fn ds_cnn(&mut self, channels: usize, blocks: usize) -> Vec<usize> {
        let input = vec![1, 1, 49, 10];
        let x = self.net.input("x", &input);
        let x = self.conv(x, [1, channels], [10, 4], [2, 1], 1);
        let mut x = self.relu(x, channels, None);
        for block in 0..blocks {
            let stride = if block == 0 { 2 } else { 1 };
            x = self.separable(x, [channels; 2], stride);
        }
        self.classifier(x, channels, 12);
        input
    }

    /// arXiv 1704.04861, table 1.
    fn mobilenet(&mut self) -> Vec<usize> {
        let input = vec![1, 3, 224, 224];
        let x = self.net.input("x", &input);
        let x = self.conv(x, [3, 32], [3, 3], [2, 2], 1);
        let mut x = self.relu(x, 32, None);
        let mut channels = 32;
        let first = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)];
        for (co, stride) in first
            .into_iter()
            .chain([(512, 1); 5])
            .chain([(1024, 2), (1024, 1)])
        {
            x = self.separable(x, [channels, co], stride);
            channels = co;
        }
        self.classifier(x, 1024, 1000);
        input
    }

    /// arXiv 1512.03385, table 1, BatchNorm folded.
    fn resnet(&mut self) -> Vec<usize> {
        let input = vec![1, 3, 224, 224];
        let x = self.net.input("x", &input);
        let x = self.conv(x, [3, 64], [7, 7], [2, 2], 1);
        let x = self.relu(x, 64, None);
        let window = Window {
            kernel: vec![3; 2],
            strides: vec![2; 2],
            padding: Padding::Explicit(vec![1; 4]),
            ..Window::default()
        };
        let pool = Op::MaxPool {
            window,
            ceil: false,
            column_major_indices: false,
        };
        let mut x = self.net.node(pool, &[x]);
        let mut channels = 64;
        for (stage, co) in [64, 128, 256, 512].into_iter().enumerate() {
            for block in 0..2 {
                let stride = if stage > 0 && block == 0 { 2 } else { 1 };
                let y = self.conv(x, [channels, co], [3, 3], [stride; 2], 1);
                let y = self.relu(y, co, None);
                let y = self.conv(y, [co, co], [3, 3], [1, 1], 1);
                let short = if stride == 1 && channels == co {
                    x
                } else {
                    self.conv(x, [channels, co], [1, 1], [stride; 2], 1)
                };
                let sum = Op::Binary(sluicegate::graph::Binary::Add);
                let sum = self.net.node(sum, &[y, short]);
                x = self.relu(sum, co, None);
                channels = co;
            }
        }
        self.classifier(x, 512, 1000);
        input
    }
}
