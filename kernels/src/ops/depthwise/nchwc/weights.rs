//! The weights of a call: as they are packed, or those of its live channels put together.
#![forbid(unsafe_code)]

use super::NchwcDepthwise;
use crate::Channels;
use crate::isa::{F32s, Task, WIDEST};
use crate::pack::gather::Panels;
use crate::panel::{Even, take};

/// Of some channels: `[⌈c / L⌉, kh, kw, L]` and `[⌈c / L⌉, L]`.
#[derive(Clone, Copy)]
pub(super) struct Weights<'a> {
    pub(super) taps: &'a [f32],
    pub(super) bias: &'a [f32],
}

impl<'a> Weights<'a> {
    /// Those of the live channels, one behind the other.
    pub(super) fn gather(
        packed: &NchwcDepthwise,
        live: Channels<'_>,
        rest: &mut &'a mut [f32],
    ) -> Self {
        let taps = take(rest, packed.weights.len());
        let bias = take(rest, packed.bias.len());
        packed.isa.run(Gather { packed, live, taps });
        bias.fill(0.0);
        for (to, c) in bias.iter_mut().zip(live.live()) {
            *to = packed.bias[c];
        }
        Self { taps, bias }
    }
}

struct Gather<'a> {
    packed: &'a NchwcDepthwise,
    live: Channels<'a>,
    taps: &'a mut [f32],
}

impl Task for Gather<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: F32s>(self, s: S) {
        let packed = self.packed;
        let each = packed.taps() * S::LANES;
        let blocks = Panels {
            of: |block| &packed.weights[block * each..][..each],
            width: S::LANES,
            terms: Even::new(0, S::LANES, packed.taps()),
            len: packed.weights.len(),
        };
        let mut live = self.live.live();
        let held = self.live.count().div_ceil(S::LANES);
        for to in self.taps.chunks_exact_mut(each).take(held) {
            let (mut from, mut count) = ([0; WIDEST], 0);
            for (at, c) in from[..S::LANES].iter_mut().zip(&mut live) {
                *at = c as u32;
                count += 1;
            }
            blocks.gather(s, &from[..count], S::LANES, to);
        }
    }
}
