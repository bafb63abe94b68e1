//! What the executor itself costs, and whole nets: `cargo bench --bench executor [-- FILTER]`.
//!
//! The ids of nets are `net/name/density`: 1 is the dense run, `reference` the operators by definition, on small nets only. The bundled models
//! make masks of their own: `skip` and `dense`. Throughput counts the operations that were done; the ids of `net_dense_equivalent` time
//! the same against those of the dense run.

mod common;

use std::hint::black_box;
use std::path::Path;

use common::net::{Net, floats};
use common::{Pattern, mask_of, nets};
use criterion::measurement::WallTime;
use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
};
use sluicegate::graph::{Binary, Op};
use sluicegate::{Mode, Model, Options, Session, View, ops};

/// A chain of nodes that do next to nothing, with a gate behind every eighth that lets all pass, or without.
fn chain(nodes: usize, gates: bool) -> Model {
    let mut net = Net::default();
    let x = net.input("x", &[1, 1]);
    let mut y = x;
    for i in 0..nodes {
        y = net.node(Op::Binary(Binary::Add), &[y, x]);
        if gates && i % 8 == 7 {
            net.gate(y, 0.0);
        }
    }
    net.output(y);
    Model::from_graph(net.graph)
}

fn overhead(c: &mut Criterion) {
    let mut group = c.benchmark_group("executor");
    let nodes = 64;
    group.throughput(Throughput::Elements(nodes as u64));
    for (name, gates) in [("add_1", false), ("add_1_gated", true)] {
        let mut session = chain(nodes, gates)
            .session(Options::default())
            .expect("a session");
        group.bench_function(BenchmarkId::new(name, 1), |b| {
            let inputs = [("x", View::new(&[1, 1], &[1.0f32]).expect("one element"))];
            b.iter(|| session.run(black_box(&inputs)).expect("runs").samples());
        });
    }
    group.finish();
}

fn session(model: &Model, mode: Mode) -> Session {
    let options = Options {
        mode,
        ..Options::default()
    };
    model.session(options).expect("a session")
}

fn time(
    group: &mut BenchmarkGroup<'_, WallTime>,
    id: BenchmarkId,
    dense_equivalent: bool,
    session: &mut Session,
    inputs: &[(&str, View<'_>)],
) {
    let macs = session.run(inputs).expect("runs").macs();
    let counted = if dense_equivalent {
        macs.dense
    } else {
        macs.done
    };
    group.throughput(Throughput::Elements(2 * counted));
    group.bench_function(id, |b| {
        b.iter(|| session.run(black_box(inputs)).expect("runs").macs());
    });
}

/// The bundled keyword models on a random feature map.
fn bundled(group: &mut BenchmarkGroup<'_, WallTime>, dense_equivalent: bool) {
    for (name, features) in [
        ("kws_static", [49, 10]),
        ("kws_dynamic", [49, 10]),
        ("kws_gates", [49, 10]),
        ("kwt_static", [49, 40]),
        ("kwt_dynamic", [49, 40]),
    ] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("models")
            .join(name)
            .with_extension("onnx");
        let model = Model::load(path).expect("a bundled model");
        let x = floats(features[0] * features[1], 1);
        let dims = [1, 1, features[0], features[1]];
        let view = View::new(&dims, &x).expect("a feature map");
        let inputs = [("input", view)];
        for (label, mode) in [("skip", Mode::Skip), ("dense", Mode::Dense)] {
            let mut session = session(&model, mode);
            let id = BenchmarkId::new(name, label);
            time(group, id, dense_equivalent, &mut session, &inputs);
        }
        if !dense_equivalent {
            group.bench_function(BenchmarkId::new(name, "reference"), |b| {
                b.iter(|| ops::interpret(model.graph(), black_box(&[view]), 1 << 28));
            });
        }
    }
}

/// Published nets with random weights, a mask behind every activation.
fn published(group: &mut BenchmarkGroup<'_, WallTime>, dense_equivalent: bool) {
    for name in nets::NAMES {
        for density in [1.0, 0.5, 0.25] {
            let built = nets::build(name, density < 1.0);
            let x = floats(built.input.iter().product(), 1);
            let masks: Vec<(Vec<usize>, Vec<f32>)> = built
                .masks
                .iter()
                .zip(7..)
                .map(|(&(_, channels), seed)| {
                    let set = mask_of(seed, channels, density, Pattern::Random).expect("not full");
                    let live = (0..channels).map(|c| f32::from(u8::from(set.contains(c))));
                    (vec![1, channels], live.collect())
                })
                .collect();
            let mut inputs = vec![("x", View::new(&built.input, &x).expect("an image"))];
            for ((name, _), (dims, live)) in built.masks.iter().zip(&masks) {
                inputs.push((name, View::new(dims, live).expect("a mask")));
            }
            let mut session = session(&Model::from_graph(built.graph), Mode::Skip);
            let id = BenchmarkId::new(name, density);
            time(group, id, dense_equivalent, &mut session, &inputs);
        }
    }
}

fn whole_nets(c: &mut Criterion) {
    for (name, dense_equivalent) in [("net", false), ("net_dense_equivalent", true)] {
        let mut group = c.benchmark_group(name);
        bundled(&mut group, dense_equivalent);
        published(&mut group, dense_equivalent);
        group.finish();
    }
}

criterion_group!(benches, overhead, whole_nets);
criterion_main!(benches);
