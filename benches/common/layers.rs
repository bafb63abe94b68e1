//! Products and convolutions of real nets, ready to be run.

use sluicegate::kernels::epilogue::Activation;
use sluicegate::kernels::ops::conv::{Conv, NchwcConv};
use sluicegate::kernels::ops::depthwise::Depthwise;
use sluicegate::kernels::ops::matmul::{MatMul, MatMulSpec, Rows, RowsMut};
use sluicegate::kernels::ops::nchwc::{self, Live};
use sluicegate::kernels::ops::{Algorithm, ConvShape, ConvSpec};
use sluicegate::kernels::pool::Pool;
use sluicegate::kernels::{Channels, Isa, reference};

use super::net::floats;

/// What a layer computes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Work {
    MatMul {
        m: usize,
        k: usize,
        n: usize,
    },
    Conv {
        shape: ConvShape,
        map: (usize, usize),
    },
}

/// A layer with the group of benchmarks that it belongs to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layer {
    pub(crate) group: &'static str,
    /// `M_K_N` of a product; `IN_OUT_MAP` of a convolution, behind its window where the group does not say it.
    pub(crate) name: &'static str,
    pub(crate) work: Work,
}

const fn product(name: &'static str, m: usize, k: usize, n: usize) -> Layer {
    Layer {
        group: "matmul",
        name,
        work: Work::MatMul { m, k, n },
    }
}

/// `k` x `k` with steps of `stride`, padded so that a step of 1 keeps the map.
const fn conv(
    group: &'static str,
    name: &'static str,
    (c_in, c_out, groups): (usize, usize, usize),
    [kernel, stride, dilation]: [usize; 3],
    map: usize,
) -> Layer {
    let pad = (kernel - 1) * dilation / 2;
    let shape = ConvShape {
        c_in,
        c_out,
        groups,
        kernel: [kernel; 2],
        stride: [stride; 2],
        dilation: [dilation; 2],
        pads: [pad; 4],
    };
    let map = (map, map);
    let work = Work::Conv { shape, map };
    Layer { group, name, work }
}

/// The same on a map that is no square, with a window that is none.
const fn oblong(layer: Layer, kernel: [usize; 2], pads: [usize; 2], map: (usize, usize)) -> Layer {
    let Work::Conv { mut shape, .. } = layer.work else {
        panic!("a convolution");
    };
    shape.kernel = kernel;
    shape.pads = [pads[0], pads[1], pads[0], pads[1]];
    let work = Work::Conv { shape, map };
    Layer { work, ..layer }
}

/// Layers of ResNet-50, MobileNet, a transformer, the keyword spotter DS-CNN and temporal networks, and some with odd extents.
pub(crate) const LAYERS: &[Layer] = &[
    product("3136_64_64", 3136, 64, 64),
    product("196_256_256", 196, 256, 256),
    product("49_512_512", 49, 512, 512),
    product("197_768_768", 197, 768, 768),
    product("16_1024_1024", 16, 1024, 1024),
    product("4_1024_1024", 4, 1024, 1024),
    product("1_1024_1024", 1, 1024, 1024),
    product("1_64_12", 1, 64, 12),
    product("99_40_96", 99, 40, 96),
    conv("conv_3x3", "64_64_56", (64, 64, 1), [3, 1, 1], 56),
    conv("conv_3x3", "128_128_28", (128, 128, 1), [3, 1, 1], 28),
    conv("conv_3x3", "256_256_14", (256, 256, 1), [3, 1, 1], 14),
    conv("conv_3x3", "512_512_7", (512, 512, 1), [3, 1, 1], 7),
    conv("conv_3x3", "24_40_31", (24, 40, 1), [3, 1, 1], 31),
    conv("conv_3x3", "s2_64_128_56", (64, 128, 1), [3, 2, 1], 56),
    conv("conv_3x3", "d2_64_64_28", (64, 64, 1), [3, 1, 2], 28),
    conv("conv_pointwise", "64_256_56", (64, 256, 1), [1, 1, 1], 56),
    conv("conv_pointwise", "256_64_56", (256, 64, 1), [1, 1, 1], 56),
    conv("conv_pointwise", "512_2048_7", (512, 2048, 1), [1, 1, 1], 7),
    conv("conv_pointwise", "96_24_28", (96, 24, 1), [1, 1, 1], 28),
    oblong(
        conv("conv_pointwise", "64_64_25x5", (64, 64, 1), [1, 1, 1], 0),
        [1, 1],
        [0, 0],
        (25, 5),
    ),
    oblong(
        conv("conv_dense", "10x4s2_1_64_49x10", (1, 64, 1), [1, 2, 1], 0),
        [10, 4],
        [5, 1],
        (49, 10),
    ),
    conv("conv_dense", "5x5_48_48_28", (48, 48, 1), [5, 1, 1], 28),
    conv("conv_dense", "7x7s2_3_64_112", (3, 64, 1), [7, 2, 1], 112),
    conv("conv_dense", "3x3g4_96_96_28", (96, 96, 4), [3, 1, 1], 28),
    conv("depthwise", "3x3_128_56", (128, 128, 128), [3, 1, 1], 56),
    conv("depthwise", "3x3s2_128_56", (128, 128, 128), [3, 2, 1], 56),
    conv("depthwise", "3x3_512_14", (512, 512, 512), [3, 1, 1], 14),
    conv("depthwise", "5x5_240_28", (240, 240, 240), [5, 1, 1], 28),
    conv("depthwise", "7x7_192_28", (192, 192, 192), [7, 1, 1], 28),
    oblong(
        conv("depthwise", "3x3_64_25x5", (64, 64, 64), [3, 1, 1], 0),
        [3, 3],
        [1, 1],
        (25, 5),
    ),
    oblong(
        conv("conv_1d", "9_64_64_98", (64, 64, 1), [1, 1, 1], 0),
        [1, 9],
        [0, 4],
        (1, 98),
    ),
    oblong(
        conv("conv_1d", "3_256_256_400", (256, 256, 1), [1, 1, 1], 0),
        [1, 3],
        [0, 1],
        (1, 400),
    ),
];

/// A packed kernel with its operands.
enum Kernel {
    MatMul(MatMul),
    Conv(Box<Conv>),
    /// Maps in blocks, as they lie in nets where no filtering is faster.
    Blocks(Box<NchwcConv>),
    Depthwise(Depthwise),
}

pub(crate) struct Prepared {
    layer: Layer,
    kernel: Kernel,
    x: Vec<f32>,
    weights: Vec<f32>,
    bias: Vec<f32>,
    y: Vec<f32>,
    scratch: Vec<f32>,
}

impl Layer {
    /// Input channels, and output channels.
    pub(crate) fn channels(&self) -> (usize, usize) {
        match self.work {
            Work::MatMul { k, n, .. } => (k, n),
            Work::Conv { shape, .. } => (shape.c_in, shape.c_out),
        }
    }

    pub(crate) fn is_depthwise(&self) -> bool {
        self.group == "depthwise"
    }

    /// Multiplications and additions with shares of the inputs and of the outputs live.
    pub(crate) fn operations(&self, live_in: usize, live_out: usize) -> u64 {
        let pairs = match self.work {
            Work::MatMul { m, .. } => m * live_in * live_out,
            Work::Conv { shape, map } => {
                let (h, w) = shape.output(map).expect("the window fits the map");
                let pairs = if self.is_depthwise() {
                    live_in.min(live_out)
                } else {
                    live_in * live_out / shape.groups
                };
                h * w * shape.kernel[0] * shape.kernel[1] * pairs
            }
        };
        2 * pairs as u64
    }

    /// Bytes of inputs, weights and outputs.
    pub(crate) fn bytes(&self) -> u64 {
        let floats = match self.work {
            Work::MatMul { m, k, n } => m * k + k * n + m * n,
            Work::Conv { shape, map } => {
                let (h, w) = shape.output(map).expect("the window fits the map");
                let weights = shape.weights_len().expect("small");
                shape.c_in * map.0 * map.1 + weights + shape.c_out * h * w
            }
        };
        4 * floats as u64
    }

    /// Packed for `isa` and runs of up to `threads` threads.
    pub(crate) fn prepare(self, isa: Isa, threads: usize) -> Prepared {
        let bias = floats(self.channels().1, 3);
        match self.work {
            Work::MatMul { m, k, n } => {
                let weights = floats(k * n, 2);
                let spec = MatMulSpec {
                    bias: Some(&bias),
                    masked_rows: Some(m),
                    masked_columns: true,
                    ..MatMulSpec::new(k, n, &weights)
                };
                let kernel = MatMul::pack(isa, &spec).expect("a product");
                Prepared {
                    layer: self,
                    scratch: vec![0.0; kernel.scratch_len(m, threads)],
                    kernel: Kernel::MatMul(kernel),
                    x: floats(m * k, 1),
                    y: vec![0.0; m * n],
                    weights,
                    bias,
                }
            }
            Work::Conv { shape, map } => {
                let weights = floats(shape.weights_len().expect("small"), 2);
                let spec = ConvSpec {
                    shape,
                    weights: &weights,
                    bias: Some(&bias),
                    activation: Activation::Relu,
                    live_in: None,
                    live_out: None,
                    masked_outputs: true,
                    algorithm: Algorithm::Fastest,
                };
                let (oh, ow) = shape.output(map).expect("the window fits the map");
                let (kernel, scratch) = if self.is_depthwise() {
                    let kernel = Depthwise::pack(isa, &spec).expect("a depthwise layer");
                    let scratch = vec![0.0; kernel.scratch_len(map, threads)];
                    (Kernel::Depthwise(kernel), scratch)
                } else {
                    let kernel = Conv::pack(isa, &spec, map).expect("a layer");
                    let filters = kernel.row_name().contains("winograd");
                    if !filters && shape.groups == 1 && NchwcConv::serves(isa, &shape, map) {
                        let kernel = NchwcConv::pack_blocks(isa, &spec, map).expect("a layer");
                        let scratch = vec![0.0; kernel.scratch_len(threads, true)];
                        (Kernel::Blocks(Box::new(kernel)), scratch)
                    } else {
                        let scratch = vec![0.0; kernel.scratch_len(threads)];
                        (Kernel::Conv(Box::new(kernel)), scratch)
                    }
                };
                let elements = |channels: usize, pixels: usize| {
                    nchwc::elements(isa, channels, pixels).expect("small")
                };
                Prepared {
                    layer: self,
                    kernel,
                    x: floats(elements(shape.c_in, map.0 * map.1), 1),
                    y: vec![0.0; elements(shape.c_out, oh * ow)],
                    scratch,
                    weights,
                    bias,
                }
            }
        }
    }
}

impl Prepared {
    pub(crate) fn run(
        &mut self,
        pool: &dyn Pool,
        live_in: Option<Channels<'_>>,
        live_out: Option<Channels<'_>>,
    ) {
        let (x, y, scratch) = (&self.x[..], &mut self.y[..], &mut self.scratch[..]);
        let done = match (&self.kernel, self.layer.work) {
            (Kernel::MatMul(kernel), Work::MatMul { m, k, n }) => {
                let (a, c) = (Rows::new(x, m, k), RowsMut::new(y, m, n));
                kernel.run(pool, a, live_in, live_out, c, scratch)
            }
            (Kernel::Conv(kernel), _) => kernel.run(pool, x, live_in, live_out, y, scratch),
            (Kernel::Blocks(kernel), _) => {
                kernel.run(pool, x, live_in.map(Live::Compact), live_out, y, scratch)
            }
            (Kernel::Depthwise(kernel), Work::Conv { map, .. }) => {
                kernel.run(pool, x, map, live_in, live_out, y, scratch)
            }
            _ => unreachable!("a kernel of its layer"),
        };
        done.expect("operands that fit");
    }

    /// The same by plain loops in f64; the sum of the outputs.
    pub(crate) fn reference(&self) -> f64 {
        let (x, w, bias) = (&self.x, &self.weights, Some(&self.bias[..]));
        let sums = match self.layer.work {
            Work::MatMul { m, k, n } => reference::matmul::matmul(
                (m, k, n),
                |i, t| x[i * k + t],
                |t, j| w[t * n + j],
                bias,
                None,
            ),
            Work::Conv { shape, map } => {
                reference::conv::conv(&shape, map, x, w, bias, None).expect("operands that fit")
            }
        };
        sums.iter().map(|sum| sum.value).sum()
    }
}
