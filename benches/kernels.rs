//! Bitmaps, products, convolutions and attention by density: `cargo bench --bench kernels [-- FILTER]`.
//!
//! The id is `name/shape/density`, the density that of the input channels, of heads or of tokens: 1 is the dense call, `reference` the plain loops that define the
//! operation, on small layers only. Throughput counts useful operations, those of live channels; the ids of `NAME_dense_equivalent` time the
//! same against the operations of the dense layer.

mod common;

use std::hint::black_box;

use common::attention::{Masked, SHAPES};
use common::layers::{LAYERS, Layer, Work};
use common::net::floats;
use common::{DENSITIES, Pattern, mask};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use sluicegate::kernels::epilogue::Activation;
use sluicegate::kernels::ops::attention::Live;
use sluicegate::kernels::ops::depthwise::NchwcDepthwise;
use sluicegate::kernels::ops::{Algorithm, ConvSpec, nchwc};
use sluicegate::kernels::pool::Serial;
use sluicegate::{ChannelMask, default_isa};

fn bitmaps(c: &mut Criterion) {
    let mut group = c.benchmark_group("bitmap");
    for channels in [64, 1024] {
        group.throughput(Throughput::Elements(channels as u64));
        let scores = floats(channels, 1);
        let other = mask(channels, 0.5, Pattern::Blocked).expect("not full");
        for density in [0.5, 0.03] {
            let set = mask(channels, density, Pattern::Random).expect("not full");
            let bools: Vec<bool> = (0..channels).map(|c| set.contains(c)).collect();
            let id = |what: &str| BenchmarkId::new(format!("{what}_{channels}"), density);
            group.bench_function(id("live"), |b| {
                b.iter(|| black_box(&set).live().sum::<usize>());
            });
            group.bench_function(id("live_reference"), |b| {
                let live = |bools: &[bool]| {
                    let set = bools.iter().enumerate().filter(|&(_, &live)| live);
                    set.map(|(c, _)| c).sum::<usize>()
                };
                b.iter(|| live(black_box(&bools)));
            });
            group.bench_function(id("runs"), |b| {
                b.iter(|| black_box(&set).runs().map(|r| r.len()).sum::<usize>());
            });
            group.bench_function(id("count"), |b| b.iter(|| black_box(&set).count()));
            group.bench_function(id("and"), |b| b.iter(|| black_box(&set).and(&other)));
            group.bench_function(id("or"), |b| b.iter(|| black_box(&set).or(&other)));
        }
        let id = BenchmarkId::new(format!("from_threshold_{channels}"), 0.5);
        group.bench_function(id, |b| {
            b.iter(|| ChannelMask::from_threshold(black_box(&scores), 0.0));
        });
    }
    group.finish();
}

/// The reference takes a nanosecond a multiplication, or two.
const REFERENCE_OPERATIONS: u64 = 5_000_000;

fn layers(c: &mut Criterion, name: &str) {
    let isa = default_isa().expect("an instruction set of this machine");
    for dense_equivalent in [false, true] {
        let suffix = if dense_equivalent {
            "_dense_equivalent"
        } else {
            ""
        };
        let mut group = c.benchmark_group(format!("{name}{suffix}"));
        for layer in LAYERS.iter().filter(|layer| layer.group == name) {
            layer_at_densities(&mut group, *layer, isa, dense_equivalent);
        }
        group.finish();
    }
}

fn layer_at_densities(
    group: &mut criterion::BenchmarkGroup<'_, criterion::measurement::WallTime>,
    layer: Layer,
    isa: sluicegate::Isa,
    dense_equivalent: bool,
) {
    let (inputs, outputs) = layer.channels();
    let dense = layer.operations(inputs, outputs);
    let mut prepared = layer.prepare(isa, 1);
    for density in DENSITIES {
        let set = mask(inputs, density, Pattern::Random);
        let live = set.as_ref().map_or(inputs, ChannelMask::count);
        let operations = if dense_equivalent {
            dense
        } else {
            layer.operations(live, outputs)
        };
        group.throughput(Throughput::Elements(operations));
        let set = set.as_ref().map(ChannelMask::as_channels);
        // A channel that comes in dead leaves dead.
        let out = set.filter(|_| layer.is_depthwise());
        group.bench_function(BenchmarkId::new(layer.name, density), |b| {
            b.iter(|| black_box(&mut prepared).run(&Serial, set, out));
        });
    }
    if !dense_equivalent && dense <= REFERENCE_OPERATIONS {
        group.throughput(Throughput::Elements(dense));
        group.bench_function(BenchmarkId::new(layer.name, "reference"), |b| {
            b.iter(|| black_box(&prepared).reference());
        });
    }
}

fn products(c: &mut Criterion) {
    layers(c, "matmul");
}

fn convolutions(c: &mut Criterion) {
    for name in [
        "conv_dense",
        "conv_pointwise",
        "conv_3x3",
        "depthwise",
        "conv_1d",
    ] {
        layers(c, name);
    }
}

/// The depthwise layers on maps in blocks of channels, as within nets without masks.
fn depthwise_in_blocks(c: &mut Criterion) {
    let isa = default_isa().expect("an instruction set of this machine");
    let mut group = c.benchmark_group("depthwise_nchwc");
    for layer in LAYERS.iter().filter(|layer| layer.is_depthwise()) {
        let Work::Conv { shape, map } = layer.work else {
            continue;
        };
        let spec = ConvSpec {
            shape,
            weights: &floats(shape.weights_len().expect("small"), 2),
            bias: Some(&floats(shape.c_out, 3)),
            activation: Activation::Relu,
            live_in: None,
            live_out: None,
            masked_outputs: false,
            algorithm: Algorithm::Direct,
        };
        let kernel = NchwcDepthwise::pack(isa, &spec, map).expect("a depthwise layer");
        let out = shape.output(map).expect("the window fits the map");
        let [x, y] = [map, out].map(|(h, w)| nchwc::elements(isa, shape.c_in, h * w));
        let (x, mut y) = (floats(x.expect("small"), 1), vec![0.0; y.expect("small")]);
        let mut scratch = vec![0.0; kernel.scratch_len(1, false)];
        let operations = layer.operations(shape.c_in, shape.c_out);
        group.throughput(Throughput::Elements(operations));
        group.bench_function(BenchmarkId::new(layer.name, 1.0), |b| {
            b.iter(|| kernel.run(&Serial, black_box(&x), None, &mut y, &mut scratch));
        });
    }
    group.finish();
}

fn attention(c: &mut Criterion) {
    let isa = default_isa().expect("an instruction set of this machine");
    for dense_equivalent in [false, true] {
        let name = ["attention", "attention_dense_equivalent"][usize::from(dense_equivalent)];
        let mut group = c.benchmark_group(name);
        for shape in SHAPES {
            let mut prepared = shape.prepare(isa, 1);
            let densities = match shape.masked {
                Masked::Nothing => &DENSITIES[..1],
                _ => &DENSITIES[1..],
            };
            for &density in densities {
                let set = shape.live(density);
                let operations = shape.operations(set.as_ref());
                group.throughput(Throughput::Elements(
                    operations[usize::from(dense_equivalent)],
                ));
                let set = set.as_ref().map(ChannelMask::as_channels);
                let live = match shape.masked {
                    Masked::Nothing => Live::default(),
                    Masked::Heads => Live {
                        outputs: set,
                        ..Live::default()
                    },
                    Masked::Tokens => Live {
                        queries: set,
                        keys: set,
                        ..Live::default()
                    },
                };
                group.bench_function(BenchmarkId::new(shape.name, density), |b| {
                    b.iter(|| black_box(&mut prepared).run(&Serial, live));
                });
            }
            let [operations, _] = shape.operations(None);
            if !dense_equivalent && operations <= REFERENCE_OPERATIONS {
                group.throughput(Throughput::Elements(operations));
                group.bench_function(BenchmarkId::new(shape.name, "reference"), |b| {
                    b.iter(|| black_box(&prepared).reference());
                });
            }
        }
        group.finish();
    }
}

criterion_group!(
    benches,
    bitmaps,
    products,
    convolutions,
    depthwise_in_blocks,
    attention
);
criterion_main!(benches);
