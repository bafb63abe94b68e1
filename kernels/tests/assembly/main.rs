//! What the kernels were compiled to: a tile that spills or is no longer vectorised, or an instruction of SSE among those of AVX, fails here, without a clock.
//!
//! Reads its own machine code, so it needs an optimised build, symbols with generic arguments, and `objdump`:
//!
//! ```text
//! RUSTFLAGS='-C symbol-mangling-version=v0' cargo test --release -p sluicegate-kernels --test assembly -- --ignored
//! ```
#![cfg(target_arch = "x86_64")]

mod listing;

use listing::{Listing, Loop};
use sluicegate_kernels::ops::attention::Attention;
use sluicegate_kernels::ops::conv::{Conv, NchwcConv};
use sluicegate_kernels::ops::depthwise::{Depthwise, NchwcDepthwise};
use sluicegate_kernels::ops::matmul::MatMul;
use sluicegate_kernels::ops::{binary, nchwc, norm, pointwise, pool, reduce};

const AVX2: &str = "avx2";
const AVX512: &str = "avx512";

/// Micro-kernels: loops over depth, which broadcast, multiply and write nothing.
struct Family {
    /// Part of the path of their functions.
    path: &'static str,
    /// Instructions a loop may have beside its FMAs and, for each step, one broadcast a row, one load a vector and one prefetch: addresses, the loop.
    slack: usize,
    /// Whether FMAs of tiles of one vector broadcast what one register addresses.
    one_register: bool,
    /// Rows and vectors of the tiles that must be there.
    tiles: fn(isa: &str) -> Vec<(usize, usize)>,
}

const FAMILIES: [Family; 11] = [
    Family {
        path: "ops::matmul::pass",
        slack: 17,
        one_register: false,
        tiles: |isa| match isa {
            AVX2 => heights(6, &[1, 2]),
            _ => [heights(8, &[1, 2]), heights(6, &[4])].concat(),
        },
    },
    Family {
        path: "ops::matmul::few",
        slack: 27,
        one_register: false,
        tiles: |isa| match isa {
            AVX2 => vec![(1, 8), (2, 4), (4, 2), (5, 2)],
            _ => vec![(1, 8), (2, 4), (3, 4), (4, 4), (5, 4)],
        },
    },
    Family {
        path: "ops::matmul::tall",
        // Where the vector of some steps ahead is takes three in each.
        slack: 21,
        one_register: true,
        tiles: |isa| match isa {
            AVX2 => Vec::new(),
            _ => (14..=24).map(|rows| (rows, 1)).collect(),
        },
    },
    Family {
        path: "ops::conv::nchwc",
        slack: 17,
        one_register: false,
        tiles: |isa| match isa {
            AVX2 => heights(6, &[1, 2]),
            _ => [heights(12, &[1, 2]), heights(7, &[3]), heights(6, &[4])].concat(),
        },
    },
    Family {
        // Rows of pixels, with all of them and without one at either end.
        path: "ops::conv::nchwc::cut",
        slack: 17,
        one_register: true,
        tiles: |isa| match isa {
            AVX2 => Vec::new(),
            _ => (12..=28).step_by(2).map(|rows| (rows, 1)).collect(),
        },
    },
    Family {
        path: "ops::conv::block",
        slack: 12,
        one_register: false,
        tiles: |isa| match isa {
            AVX2 => heights(6, &[1, 2]),
            _ => heights(6, &[1, 2, 3, 4]),
        },
    },
    Family {
        path: "ops::conv::lanes",
        slack: 9,
        one_register: false,
        tiles: |isa| match isa {
            AVX2 => heights(6, &[2]),
            _ => [heights(12, &[2]), heights(8, &[3]), heights(6, &[4])].concat(),
        },
    },
    Family {
        path: "ops::conv::winograd",
        // The offsets of the step after are loaded in each, beside those of the next panel.
        slack: 23,
        one_register: true,
        tiles: |isa| match isa {
            AVX2 => vec![(12, 1), (6, 2)],
            _ => vec![(16, 1), (8, 2)],
        },
    },
    Family {
        path: "ops::attention::block::Block>::scores",
        slack: 13,
        one_register: false,
        tiles: queries,
    },
    Family {
        path: "ops::attention::block::Block>::values",
        slack: 11,
        one_register: false,
        tiles: queries,
    },
    Family {
        // Its values; the elements that a vector leaves of a head are loaded with masks.
        path: "ops::attention::block::Block>::few",
        slack: 31,
        one_register: false,
        tiles: |isa| match isa {
            AVX2 => vec![(1, 4), (2, 4), (3, 4)],
            _ => (1..=6).map(|queries| (queries, 4)).collect(),
        },
    },
];

/// Tiles of attention whose lanes are queries.
fn queries(isa: &str) -> Vec<(usize, usize)> {
    match isa {
        AVX2 => heights(6, &[1, 2]),
        _ => [heights(8, &[1, 2]), heights(6, &[4])].concat(),
    }
}

/// Tiles of every height, with each number of vectors.
fn heights(tallest: usize, vectors: &[usize]) -> Vec<(usize, usize)> {
    let all = vectors
        .iter()
        .flat_map(|&v| (1..=tallest).map(move |rows| (rows, v)));
    all.collect()
}

/// Loops that spill, and why they may: path, FMAs a step, vectors written to the stack. All others may not.
const SPILLS: [(&str, usize, usize); 3] = [
    // Three rows by four vectors of sixteen registers.
    ("ops::matmul::few::few<Avx2>", 12, 2),
    // Four queries by four keys, or by four vectors, of sixteen registers: K and V pass once, not twice.
    ("ops::attention::block::Block>::few<Avx2>", 16, 16),
    // Transforms of six rows at once.
    ("ops::conv::winograd::block", 40, 21),
];

fn isa(function: &str) -> &'static str {
    if function.contains("::avx512::") {
        AVX512
    } else {
        AVX2
    }
}

impl Loop {
    /// Whether it is the loop of a micro-kernel.
    fn over_depth(&self) -> bool {
        self.stores == 0 && self.broadcasts > 0 && self.fmas.is_multiple_of(self.broadcasts)
    }
    /// Vectors that a loop over pixels may write to the stack: in passing, its weights where they need more registers than there are, or a sum
    /// for two FMAs.
    fn pixels_may_spill(&self) -> usize {
        3 + self.broadcasts + self.unfolded + self.fmas / 2
    }
    fn may_spill(&self, path: &str) -> usize {
        let known = SPILLS
            .iter()
            .find(|(of, fmas, _)| path.starts_with(of) && *fmas == self.fmas);
        known.map_or(0, |&(.., spills)| spills)
    }
}

/// Everything that is wrong with the micro-kernels of a family.
fn defects(family: &Family, loops: &[Loop], isa: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut clean = Vec::new();
    for l in loops.iter().filter(|l| l.over_depth()) {
        let allowed = l.may_spill(&l.path());
        let vectors = l.fmas / l.broadcasts;
        // The steps that pairs or fours leave over are three at most, together or one by one: what they consist of is no matter, unless they
        // spill.
        let quarters = |fmas: usize| (1..=3).map(move |n| n * fmas);
        let left_over = isa == AVX512
            && loops.iter().any(|group| {
                group.function == l.function && quarters(group.fmas).any(|n| n == 4 * l.fmas)
            });
        // As many as make one of the tiles of what is broadcast.
        let tiles = (family.tiles)(isa);
        let make = |by: &&usize| {
            l.broadcasts.is_multiple_of(**by) && tiles.contains(&(l.broadcasts / **by, vectors))
        };
        let steps = [4, 2].iter().find(make).filter(|_| isa == AVX512);
        let steps = steps.copied().unwrap_or(1);
        let most = l.broadcasts + steps * (vectors + 1) + family.slack + allowed * 8;
        let wrong = if l.spills > allowed || l.reloads > allowed {
            found.push(format!("spills: {l}"));
            continue;
        } else if l.narrow + l.unfolded > 0 {
            Some(format!("not vectors, or broadcasts of registers: {l}"))
        } else if l.others > most {
            let others = l.others;
            Some(format!(
                "{others} instructions beside FMAs, not {most}: {l}"
            ))
        } else {
            None
        };
        match wrong {
            Some(wrong) if !left_over => found.push(wrong),
            None if l.spills == 0 && !(family.one_register && vectors == 1 && l.indexed > 0) => {
                clean.push((l.broadcasts, l.fmas));
            }
            _ => {}
        }
    }
    for (rows, vectors) in (family.tiles)(isa) {
        let unrolled = |by: usize| (rows * by, rows * vectors * by);
        if ![1, 2, 4, 8].iter().any(|&by| clean.contains(&unrolled(by))) {
            found.push(format!(
                "no loop of {rows} rows by {vectors} vectors, all FMAs on full vectors"
            ));
        }
    }
    found
}

#[test]
#[ignore = "reads an optimised build with symbols of version 0, see above"]
fn micro_kernels_are_as_written() {
    // Else the linker would drop them.
    std::hint::black_box([
        MatMul::run as *const (),
        Conv::run as *const (),
        Depthwise::run as *const (),
        NchwcConv::run as *const (),
        NchwcDepthwise::run as *const (),
        Attention::run as *const (),
        norm::layer_norm as *const (),
        norm::rms_norm as *const (),
        norm::softmax as *const (),
        norm::log_softmax as *const (),
        norm::scale_shift as *const (),
        pointwise::activate as *const (),
        pointwise::activate_in_place as *const (),
        pointwise::settle as *const (),
        binary::binary as *const (),
        binary::binary_in_place as *const (),
        binary::compare as *const (),
        reduce::reduce as *const (),
        pool::pool2d as *const (),
        pool::global_mean as *const (),
        pool::global_max as *const (),
        pool::mean_max as *const (),
        nchwc::from_planes as *const (),
        nchwc::to_planes as *const (),
        nchwc::compact as *const (),
        nchwc::expand as *const (),
        nchwc::scale as *const (),
        nchwc::mean as *const (),
        nchwc::mean_max as *const (),
        nchwc::pool2d as *const (),
    ]);
    let Listing { loops: all, legacy } = listing::listing();
    let mut wrong = legacy;
    for wanted in [AVX2, AVX512] {
        for family in &FAMILIES {
            let of = |l: &&Loop| isa(&l.function) == wanted && l.function.contains(family.path);
            let loops: Vec<Loop> = all.iter().filter(of).cloned().collect();
            let defects = defects(family, &loops, wanted);
            println!("{wanted} {}: {} loops", family.path, loops.len());
            wrong.extend(
                defects
                    .iter()
                    .map(|d| format!("{wanted} {}: {d}", family.path)),
            );
        }
        // Depthwise has its weights in registers or on the stack, one FMA a tap and vector.
        for window in [3, 5, 7] {
            let good = |l: &&Loop| {
                let full = l.narrow == 0 && l.fmas.is_multiple_of(window) && l.fmas >= 2 * window;
                full && l.spills == 0 && l.others <= 3 * l.fmas
            };
            let depthwise =
                |l: &&Loop| isa(&l.function) == wanted && l.function.contains("ops::depthwise");
            if all.iter().filter(depthwise).find(good).is_none() {
                wrong.push(format!(
                    "{wanted} depthwise: no loop of full vectors for windows of {window}"
                ));
            }
        }
    }
    for l in &all {
        let path = l.path();
        let kernel = [
            "ops::matmul",
            "ops::conv",
            "ops::depthwise",
            "ops::attention",
        ]
        .iter()
        .any(|of| path.starts_with(of));
        if kernel && !l.over_depth() {
            let allowed = l.may_spill(&path).max(l.pixels_may_spill());
            if l.narrow > 0 || l.spills > allowed {
                wrong.push(format!("spills or scalars: {l}"));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} defects:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}
