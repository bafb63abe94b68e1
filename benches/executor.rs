//! Whole models, and what the executor itself costs: `cargo bench --bench executor`.

mod common;

use std::hint::black_box;
use std::path::Path;

use common::floats;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use sluicegate::graph::{Binary, Dim, Graph, Node, Op, Value};
use sluicegate::{DType, Mode, Model, Options, View};

/// A chain of nodes that do next to nothing.
fn chain(nodes: usize) -> Model {
    let mut graph = Graph::default();
    let mut value = |name: String| {
        graph.add(Value {
            name,
            dtype: Some(DType::F32),
            dims: Some(vec![Dim::Fixed(1)]),
            constant: None,
        })
    };
    let ids: Vec<_> = (0..=nodes).map(|i| value(format!("v{i}"))).collect();
    graph.inputs = vec![ids[0]];
    graph.outputs = vec![ids[nodes]];
    for (i, pair) in ids.windows(2).enumerate() {
        graph.nodes.push(Node {
            name: format!("n{i}"),
            op: Op::Binary(Binary::Add),
            inputs: vec![Some(pair[0]), Some(ids[0])],
            outputs: vec![Some(pair[1])],
        });
    }
    Model::from_graph(graph)
}

fn overhead(c: &mut Criterion) {
    let mut group = c.benchmark_group("executor");
    let nodes = 64;
    let mut session = chain(nodes).session(Options::default()).expect("a session");
    group.throughput(Throughput::Elements(nodes as u64));
    let x = [1.0f32];
    group.bench_function("one_element_adds", |b| {
        let inputs = [("v0", View::new(&[1], &x).expect("one element"))];
        b.iter(|| session.run(black_box(&inputs)).expect("runs").samples());
    });
    group.finish();
}

/// The bundled keyword models on a random feature map: full runs, as no gate is asked for in dense mode.
fn models(c: &mut Criterion) {
    let mut group = c.benchmark_group("model");
    for (name, features) in [
        ("kws_static", [49, 10]),
        ("kws_dynamic", [49, 10]),
        ("kws_gates", [49, 10]),
        ("kwt_static", [49, 40]),
    ] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("models")
            .join(name)
            .with_extension("onnx");
        let model = Model::load(path).expect("a bundled model");
        let x = floats(features[0] * features[1]);
        for (label, mode) in [("skip", Mode::Skip), ("dense", Mode::Dense)] {
            let mut session = model
                .session(Options {
                    mode,
                    ..Options::default()
                })
                .expect("a session");
            group.bench_function(BenchmarkId::new(name, label), |b| {
                let inputs = [(
                    "input",
                    View::new(&[1, 1, features[0], features[1]], &x).expect("a feature map"),
                )];
                b.iter(|| session.run(black_box(&inputs)).expect("runs").macs());
            });
        }
    }
    group.finish();
}

criterion_group!(benches, overhead, models);
criterion_main!(benches);
