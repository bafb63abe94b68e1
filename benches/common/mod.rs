//! Shapes and operands that the benchmarks share.
#![allow(dead_code, reason = "each benchmark uses a part")]

use sluicegate::ChannelMask;
use sluicegate::kernels::ops::ConvShape;

/// Shares of live channels.
pub(crate) const DENSITIES: [f64; 5] = [1.0, 0.5, 0.25, 0.1, 0.03];

/// A layer of a real network.
pub(crate) struct ConvLayer {
    pub(crate) name: &'static str,
    pub(crate) shape: ConvShape,
    pub(crate) map: (usize, usize),
}

const fn conv(
    name: &'static str,
    (c_in, c_out, groups): (usize, usize, usize),
    kernel: [usize; 2],
    stride: usize,
    pads: [usize; 4],
    map: (usize, usize),
) -> ConvLayer {
    let shape = ConvShape {
        c_in,
        c_out,
        groups,
        kernel,
        stride: [stride; 2],
        dilation: [1, 1],
        pads,
    };
    ConvLayer { name, shape, map }
}

/// Convolutions of ResNet-50 and of the keyword spotter DS-CNN, and a 1-D one of a temporal network.
pub(crate) const CONVS: [ConvLayer; 7] = [
    conv(
        "resnet_3x3_64_64_56",
        (64, 64, 1),
        [3, 3],
        1,
        [1; 4],
        (56, 56),
    ),
    conv(
        "resnet_3x3_256_256_14",
        (256, 256, 1),
        [3, 3],
        1,
        [1; 4],
        (14, 14),
    ),
    conv(
        "resnet_1x1_256_64_56",
        (256, 64, 1),
        [1, 1],
        1,
        [0; 4],
        (56, 56),
    ),
    conv(
        "resnet_1x1_512_2048_7",
        (512, 2048, 1),
        [1, 1],
        1,
        [0; 4],
        (7, 7),
    ),
    conv(
        "kws_10x4s2_1_64",
        (1, 64, 1),
        [10, 4],
        2,
        [5, 1, 5, 1],
        (49, 10),
    ),
    conv(
        "kws_1x1_64_64_25x5",
        (64, 64, 1),
        [1, 1],
        1,
        [0; 4],
        (25, 5),
    ),
    conv(
        "tcn_1x9_64_64_98",
        (64, 64, 1),
        [1, 9],
        1,
        [0, 4, 0, 4],
        (1, 98),
    ),
];

/// Depthwise convolutions of MobileNetV1 and of DS-CNN.
pub(crate) const DEPTHWISE: [ConvLayer; 3] = [
    conv(
        "mobilenet_dw3x3_128_56",
        (128, 128, 128),
        [3, 3],
        1,
        [1; 4],
        (56, 56),
    ),
    conv(
        "mobilenet_dw3x3_512_14",
        (512, 512, 512),
        [3, 3],
        1,
        [1; 4],
        (14, 14),
    ),
    conv(
        "kws_dw3x3_64_25x5",
        (64, 64, 64),
        [3, 3],
        1,
        [1; 4],
        (25, 5),
    ),
];

/// Products (m, k, n): ResNet's last layers as GEMM, a transformer's projections, fully connected layers of one sample.
pub(crate) const MATMULS: [(&str, usize, usize, usize); 6] = [
    ("resnet_196x256x256", 196, 256, 256),
    ("resnet_49x512x512", 49, 512, 512),
    ("vit_197x768x768", 197, 768, 768),
    ("mlp_16x1024x1024", 16, 1024, 1024),
    ("fc_1x1024x1024", 1, 1024, 1024),
    ("kws_fc_1x64x12", 1, 64, 12),
];

/// Numbers in -1..1, always the same.
pub(crate) fn floats(n: usize) -> Vec<f32> {
    let mut state = 0x2545_f491_4f6c_dd1du64;
    (0..n)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

/// An evenly random choice of live channels, at least one; `None` at full density.
pub(crate) fn mask(channels: usize, density: f64) -> Option<ChannelMask> {
    if density >= 1.0 {
        return None;
    }
    let live = ((channels as f64 * density).round() as usize).max(1);
    let keys = floats(channels);
    let mut order: Vec<usize> = (0..channels).collect();
    order.sort_by(|&a, &b| keys[a].total_cmp(&keys[b]));
    let chosen = order.into_iter().take(live);
    Some(ChannelMask::from_indices(channels, chosen).expect("indices below the number of channels"))
}
