//! Bad input: damaged files, graphs that make no sense, extents that overflow, operands that do not fit, NaN. Each is answered, or refused
//! with an error that names the node or the input; nothing panics, aborts or takes more than a gibibyte.
//!
//! `SLUICEGATE_MUTANTS` sets how many damaged copies are made of every bundled model: a number, or a range such as `500..600`.

#[path = "../common/mod.rs"]
mod common;
#[allow(dead_code, reason = "the importer's tests use all of it")]
#[path = "../import/writer.rs"]
mod writer;

mod extents;
mod files;
mod masks;
mod operands;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use common::attempt::Limits;
use common::net::Net;
use sluicegate::graph::Graph;
use sluicegate::{Model, Options, Result, Tensor, View};
use writer::node;

/// The system's allocator, up to a gibibyte.
struct Bounded;

static HELD: AtomicUsize = AtomicUsize::new(0);
const MOST: usize = 1 << 30;

fn take(size: usize) -> bool {
    let held = HELD.fetch_add(size, Ordering::Relaxed);
    let fits = held.checked_add(size).is_some_and(|n| n <= MOST);
    if !fits {
        HELD.fetch_sub(size, Ordering::Relaxed);
    }
    fits
}

// SAFETY: calls are passed on to the system's allocator as they are, or answered by null, which stands for no memory.
unsafe impl GlobalAlloc for Bounded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !take(layout.size()) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if !take(layout.size()) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller keeps the contract of `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Bounded = Bounded;

/// What hostile models get; runs that take more are not worth the time.
pub(crate) const LIMITS: Limits = Limits {
    memory: 64 << 20,
    macs: 20_000_000,
    elements: 1 << 20,
};

pub(crate) fn options() -> Options {
    LIMITS.options()
}

/// Inputs of the shapes that a model declares, open extents being 1, filled with `fill` where they are floats.
pub(crate) fn inputs(graph: &Graph, fill: f32) -> Option<Vec<(String, Tensor)>> {
    LIMITS.inputs(graph, 1, fill)
}

/// Plans the model for the shapes that it declares, open extents being 1, and runs it on zeros and on NaN when that is cheap.
pub(crate) fn attempt(model: &Model) -> Result<()> {
    LIMITS.attempt(model, &[(1, 0.0), (1, f32::NAN)])
}

/// The error of a model written with the writer, read, planned and run.
pub(crate) fn refused(model: &writer::Model) -> String {
    match Model::from_bytes(&model.bytes()).and_then(|model| attempt(&model)) {
        Ok(()) => panic!("nothing was wrong with it"),
        Err(e) => e.to_string(),
    }
}

/// The error says each of these words.
pub(crate) fn says(error: &str, words: &[&str]) {
    for word in words {
        assert!(error.contains(word), "`{word}` is not in: {error}");
    }
}

pub(crate) fn named(op: &str, inputs: &[&str], outputs: &[&str]) -> writer::Message {
    node(op, inputs, outputs).named("culprit")
}

pub(crate) fn plan(net: Net, fill: f32) -> Result<()> {
    let model = Model::from_graph(net.graph);
    let tensors = inputs(model.graph(), fill).expect("small inputs");
    let given: Vec<(&str, View<'_>)> = tensors
        .iter()
        .map(|(name, t)| (name.as_str(), t.view()))
        .collect();
    model.session(options())?.run(&given).map(|_| ())
}

pub(crate) fn error(net: Net) -> String {
    plan(net, 0.5).expect_err("it makes no sense").to_string()
}
