//! After the first run for a shape, a run allocates nothing. Its own binary, for the allocator is the whole program's.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use common::{models, npy};
use sluicegate::{Mode, Model, Options, Outcome, Session, View};

thread_local! {
    /// Allocations of this thread.
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, counted.
struct Counting;

fn count() {
    // A thread that ends may allocate after its locals are gone.
    let _ = COUNT.try_with(|n| n.set(n.get() + 1));
}

// SAFETY: every call is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `realloc`.
        unsafe { System.realloc(at, layout, size) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Runs and reads everything that a run gives back; says how many samples left.
fn run(session: &mut Session, dims: &[usize], x: &[f32]) -> usize {
    let inputs = [("input", View::new(dims, x).unwrap())];
    let run = session.run(&inputs).unwrap();
    let mut left = 0;
    for i in 0..run.samples() {
        match run.outcome(i) {
            Outcome::Exited { score, .. } => left += usize::from(score < 1.0),
            Outcome::Completed(outputs) => {
                let logits = outputs.get("logits").unwrap();
                assert!(logits.as_slice::<f32>().unwrap()[0].is_finite());
            }
        }
        assert!(run.outputs(i).iter().flat_map(|(_, view)| view).count() > 0);
        assert!(
            run.masks(i)
                .flatten()
                .all(|mask| mask.count() <= mask.len())
        );
    }
    if let Some(trace) = run.trace() {
        let macs: u64 = trace.nodes().map(|(_, node)| node.macs).sum();
        assert_eq!(macs, run.macs().done);
    }
    left
}

#[test]
fn a_run_allocates_nothing_after_the_first() {
    for (name, features) in [
        ("kws_dynamic", "mfcc"),
        ("kws_static", "mfcc"),
        ("kws_gates", "mfcc"),
        ("kwt_static", "logmel"),
        ("kwt_dynamic", "logmel"),
    ] {
        let model = Model::load(models(&format!("{name}.onnx"))).unwrap();
        let (shape, x) = npy::<f32>(models(&format!("expected/{features}.npy")));
        let each: usize = shape[1..].iter().product();
        for mode in [Mode::Skip, Mode::Dense] {
            for batch in [1, 5] {
                for trace in [false, true] {
                    let what = format!("{name} {mode:?} batch {batch} trace {trace}");
                    let options = Options {
                        mode,
                        trace,
                        ..Options::default()
                    };
                    let mut session = model.session(options).unwrap();
                    let mut dims = shape.clone();
                    dims[0] = batch;
                    run(&mut session, &dims, &x[..batch * each]);
                    let mut left = 0;
                    let before = COUNT.get();
                    for clips in x.chunks_exact(batch * each) {
                        left += run(&mut session, &dims, clips);
                    }
                    assert_eq!(COUNT.get() - before, 0, "{what}");
                    // The clips end in different ways, so that every way was seen.
                    assert_eq!(left > 0, mode == Mode::Skip, "{what}");
                    // Prepared, the first run does not allocate either.
                    let mut session = model
                        .session(Options {
                            mode,
                            trace,
                            ..Options::default()
                        })
                        .unwrap();
                    session
                        .prepare(&[("input", View::new(&dims, &x[..batch * each]).unwrap())])
                        .unwrap();
                    let before = COUNT.get();
                    run(&mut session, &dims, &x[..batch * each]);
                    assert_eq!(COUNT.get() - before, 0, "{what}, prepared");
                }
            }
        }
    }
}
