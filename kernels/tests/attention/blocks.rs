//! Heads of K and V that no cache holds: jobs have blocks of queries side by side.

use sluicegate_kernels::Isa;
use sluicegate_kernels::ops::attention::Live;
use sluicegate_kernels::pool::Serial;
use sluicegate_kernels::reference::attention as reference;

use super::common::{Mask, Threads, bits, floats};
use super::{BiasKind, Case, Inputs, plain};

/// A share of `n`, which ones depends on the seed.
fn some(n: usize, share: f32, seed: u64) -> Mask {
    let live: Vec<bool> = floats(n, seed).iter().map(|&x| x < share).collect();
    Mask::new(&live)
}

fn large() -> Case {
    let mut case = plain(2085, 1100);
    case.spec.width = 120;
    case.spec.v_width = 124;
    case.spec.scale = 0.1;
    case.outputs = Mask::new(&[true; 2 * 124]);
    case.by_token = true;
    case
}

#[test]
fn blocks_side_by_side_equal_the_reference() {
    for (before, after, bias) in [
        (None, None, BiasKind::Row),
        (None, Some(0), BiasKind::None),
        (Some(100), Some(3), BiasKind::None),
    ] {
        let mut case = large();
        case.spec.before = before;
        case.spec.after = after;
        case.bias = bias;
        case.offset = -30;
        case.queries = some(2085, -0.7, 1);
        case.keys = some(1100, 0.2, 2);
        let x = Inputs::new(&case).poisoned(&case);
        let want = reference::attention(&case.spec, &x.operands(&case), &case.live());
        for isa in Isa::available() {
            for layout in case.layouts() {
                let y = case.run(isa, &Serial, &x, case.live(), layout);
                case.check(&y, layout, &want);
            }
        }
    }
}

#[test]
fn blocks_side_by_side_are_the_same_for_all_threads() {
    let mut case = large();
    case.spec.after = Some(400);
    let x = Inputs::new(&case);
    let [layout, _] = case.layouts();
    for isa in Isa::available() {
        let one = case.run(isa, &Serial, &x, Live::default(), layout);
        let three = case.run(isa, &Threads(3), &x, Live::default(), layout);
        assert_eq!(bits(&one), bits(&three), "{isa}");
    }
}
