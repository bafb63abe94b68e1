//! Layers, nets and masks that benchmarks and examples share.
#![allow(dead_code, reason = "each benchmark uses a part")]

pub(crate) mod attention;
pub(crate) mod layers;
#[path = "../../tests/common/net.rs"]
pub(crate) mod net;
pub(crate) mod nets;

use sluicegate::ChannelMask;

/// Shares of live channels.
pub(crate) const DENSITIES: [f64; 5] = [1.0, 0.5, 0.25, 0.1, 0.03];

/// How the live channels of a mask lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pattern {
    /// Anywhere.
    Random,
    /// In runs of 16, as of a net whose channels were pruned in groups.
    Blocked,
}

impl Pattern {
    pub(crate) const ALL: [Self; 2] = [Self::Random, Self::Blocked];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::Blocked => "blocked",
        }
    }

    /// Floats in a run.
    fn run(self) -> usize {
        match self {
            Self::Random => 1,
            Self::Blocked => 16,
        }
    }
}

/// A choice of live channels, always the same, at least one run; `None` at full density.
pub(crate) fn mask(channels: usize, density: f64, pattern: Pattern) -> Option<ChannelMask> {
    mask_of(7, channels, density, pattern)
}

/// As [`mask`], another choice for each `seed`.
pub(crate) fn mask_of(
    seed: u64,
    channels: usize,
    density: f64,
    pattern: Pattern,
) -> Option<ChannelMask> {
    if density >= 1.0 {
        return None;
    }
    let run = pattern.run();
    let runs = channels.div_ceil(run);
    let live = ((runs as f64 * density).round() as usize).max(1);
    let keys = net::floats(runs, seed);
    let mut order: Vec<usize> = (0..runs).collect();
    order.sort_by(|&a, &b| keys[a].total_cmp(&keys[b]));
    let chosen = order[..live].iter();
    let chosen = chosen.flat_map(|&r| r * run..channels.min((r + 1) * run));
    Some(ChannelMask::from_indices(channels, chosen).expect("indices below the number of channels"))
}
