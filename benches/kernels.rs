//! Kernels by layer and density: `cargo bench --bench kernels [-- FILTER]`.
//!
//! The id is `layer/density`. Throughput counts useful operations, those of live channels; the group `.../dense_equivalent` has the same times
//! against the operations of the dense layer. The plain reference runs in the same group, at full density and on small layers only.

mod common;

use std::hint::black_box;

use common::{CONVS, ConvLayer, DENSITIES, DEPTHWISE, MATMULS, floats, mask};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use sluicegate::kernels::epilogue::Activation;
use sluicegate::kernels::ops::conv::Conv;
use sluicegate::kernels::ops::depthwise::Depthwise;
use sluicegate::kernels::ops::matmul::{MatMul, MatMulSpec, Rows, RowsMut};
use sluicegate::kernels::ops::{Algorithm, ConvShape, ConvSpec};
use sluicegate::kernels::pool::Serial;
use sluicegate::kernels::reference;
use sluicegate::{ChannelMask, default_isa};

fn bitmaps(c: &mut Criterion) {
    let mut group = c.benchmark_group("bitmap");
    for channels in [64, 1024] {
        let scores = floats(channels);
        for density in [0.5, 0.03] {
            let set = mask(channels, density).expect("not full");
            let id = |what: &str| BenchmarkId::new(format!("{what}_{channels}"), density);
            group.bench_function(id("live"), |b| {
                b.iter(|| black_box(&set).live().sum::<usize>());
            });
            group.bench_function(id("runs"), |b| {
                b.iter(|| black_box(&set).runs().map(|r| r.len()).sum::<usize>());
            });
            group.bench_function(id("count"), |b| b.iter(|| black_box(&set).count()));
        }
        group.bench_function(
            BenchmarkId::new(format!("from_threshold_{channels}"), 0.5),
            |b| b.iter(|| ChannelMask::from_threshold(black_box(&scores), 0.0)),
        );
    }
    group.finish();
}

/// Multiplications and additions of a layer in which `live` of the input channels are left.
fn operations(shape: &ConvShape, map: (usize, usize), live: usize) -> u64 {
    let (h, w) = shape.output(map).expect("the kernel fits the map");
    let taps = shape.kernel[0] * shape.kernel[1];
    let channels = if shape.groups == shape.c_in && shape.groups > 1 {
        live
    } else {
        live / shape.groups * shape.c_out
    };
    2 * (h * w * taps * channels) as u64
}

fn layers(c: &mut Criterion, name: &str, layers: &[ConvLayer], depthwise: bool) {
    let isa = default_isa().expect("an instruction set of this machine");
    for dense_equivalent in [false, true] {
        let suffix = if dense_equivalent {
            "/dense_equivalent"
        } else {
            ""
        };
        let mut group = c.benchmark_group(format!("{name}{suffix}"));
        for layer in layers {
            let ConvLayer { shape, map, .. } = *layer;
            let weights = floats(shape.weights_len().expect("small"));
            let (x, bias) = (floats(shape.c_in * map.0 * map.1), floats(shape.c_out));
            let (oh, ow) = shape.output(map).expect("the kernel fits the map");
            let mut y = vec![0.0; shape.c_out * oh * ow];
            let spec = ConvSpec {
                shape,
                weights: &weights,
                bias: Some(&bias),
                activation: Activation::Relu,
                live_in: None,
                live_out: None,
                algorithm: Algorithm::Direct,
            };
            for density in DENSITIES {
                let set = mask(shape.c_in, density);
                let live = set.as_ref().map_or(shape.c_in, ChannelMask::count);
                let counted = if dense_equivalent { shape.c_in } else { live };
                group.throughput(Throughput::Elements(operations(&shape, map, counted)));
                let set = set.as_ref().map(ChannelMask::as_channels);
                let id = BenchmarkId::new(layer.name, density);
                if depthwise {
                    let kernel = Depthwise::pack(isa, &spec).expect("a depthwise layer");
                    group.bench_function(id, |b| {
                        b.iter(|| {
                            kernel
                                .run(&Serial, black_box(&x), map, set, set, &mut y)
                                .expect("operands fit");
                        });
                    });
                } else {
                    let kernel = Conv::pack(isa, &spec, map).expect("a layer");
                    let mut scratch = vec![0.0; kernel.scratch_len(1)];
                    group.bench_function(id, |b| {
                        b.iter(|| {
                            kernel
                                .run(&Serial, black_box(&x), set, None, &mut y, &mut scratch)
                                .expect("operands fit");
                        });
                    });
                }
            }
            if !dense_equivalent && operations(&shape, map, shape.c_in) < 5_000_000 {
                group.throughput(Throughput::Elements(operations(&shape, map, shape.c_in)));
                group.bench_function(
                    BenchmarkId::new(format!("{}/reference", layer.name), 1.0),
                    |b| {
                        b.iter(|| {
                            reference::conv::conv(
                                &shape,
                                map,
                                black_box(&x),
                                &weights,
                                Some(&bias),
                                None,
                            )
                            .expect("operands fit")
                        });
                    },
                );
            }
        }
        group.finish();
    }
}

fn convolutions(c: &mut Criterion) {
    layers(c, "conv", &CONVS, false);
}

fn depthwise(c: &mut Criterion) {
    layers(c, "depthwise", &DEPTHWISE, true);
}

fn products(c: &mut Criterion) {
    let isa = default_isa().expect("an instruction set of this machine");
    for dense_equivalent in [false, true] {
        let suffix = if dense_equivalent {
            "/dense_equivalent"
        } else {
            ""
        };
        let mut group = c.benchmark_group(format!("matmul{suffix}"));
        for (name, m, k, n) in MATMULS {
            let (a, b, bias) = (floats(m * k), floats(k * n), floats(n));
            let mut y = vec![0.0; m * n];
            let kernel = MatMul::pack(
                isa,
                &MatMulSpec {
                    k,
                    n,
                    b: &b,
                    transposed: false,
                    bias: Some(&bias),
                    activation: Activation::None,
                    live_in: None,
                    live_out: None,
                },
            )
            .expect("a product");
            let mut scratch = vec![0.0; kernel.scratch_len(m, 1)];
            for density in DENSITIES {
                let set = mask(k, density);
                let live = set.as_ref().map_or(k, ChannelMask::count);
                let counted = if dense_equivalent { k } else { live };
                group.throughput(Throughput::Elements(2 * (m * n * counted) as u64));
                let set = set.as_ref().map(ChannelMask::as_channels);
                group.bench_function(BenchmarkId::new(name, density), |bench| {
                    bench.iter(|| {
                        let (a, c) = (Rows::new(black_box(&a), m, k), RowsMut::new(&mut y, m, n));
                        kernel
                            .run(&Serial, a, set, None, c, &mut scratch)
                            .expect("operands fit");
                    });
                });
            }
        }
        group.finish();
    }
}

criterion_group!(benches, bitmaps, products, convolutions, depthwise);
criterion_main!(benches);
