//! Weights of the live channels alone.
#![forbid(unsafe_code)]

use super::{Live, Packed, Winograd};
use crate::isa::{F32s, Task};
use crate::pack::gather::{self, saved};
use crate::panel::{Below, LINE, lines, take};
use crate::pool::{Pool, Tile};

/// Elements of gathered weights at most, 4 MiB: more are read from L3 or memory, where rows of dead ones take as long as those of live ones.
const MOST: usize = 1 << 20;

/// Elements of scratch for gathered weights and their bias; without any where nothing is gathered.
pub(super) fn scratch_len(packed: &Winograd) -> usize {
    let len = packed.form.points() * (packed.plane() + LINE);
    if len <= MOST {
        lines(len) + lines(packed.c_out.len())
    } else {
        0
    }
}

/// Weights of the live rows and steps alone, and what is live of them, where there is room and `vectors` of tiles that use them.
pub(super) fn live_only<'a>(
    packed: &'a Winograd,
    live: Live<'a>,
    vectors: usize,
    pool: &dyn Pool,
    rest: &mut &'a mut [f32],
) -> Option<(Packed<'a>, Live<'a>)> {
    let (rows, high, depth) = (live.from.len(), packed.height, live.channels.len());
    let panel = |&row: &u32| row as usize / high;
    let touched = live.from.chunk_by(|a, b| panel(a) == panel(b)).count();
    let saves = saved(high * vectors, (rows, touched), high, packed.panels.len()) > 0;
    if !saves || depth == 0 || scratch_len(packed) == 0 {
        return None;
    }
    let plane = rows.next_multiple_of(high) * depth + LINE;
    let panels = take(rest, packed.form.points() * plane);
    let bias = live.bias.map(|all| {
        let bias = take(rest, rows);
        gather::pick(all, live.from.iter().map(|&c| c as usize), bias);
        &*bias
    });
    Tile::new(panels, packed.form.points(), plane, plane).split(
        pool,
        (1, plane),
        |point, _, to| {
            packed.isa.run(Gather {
                packed,
                live,
                point,
                to,
            });
        },
    );
    let gathered = Packed {
        panels,
        depth,
        plane,
        form: packed.form,
    };
    let live = Live {
        offsets: Below::all(&packed.offsets[..depth]),
        from: &packed.in_order[..rows],
        bias,
        ..live
    };
    Some((gathered, live))
}

/// The panels of a point.
struct Gather<'a, 't> {
    packed: &'a Winograd,
    live: Live<'a>,
    point: usize,
    to: Tile<'t>,
}

impl Task for Gather<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: F32s>(mut self, s: S) {
        let (packed, live) = (self.packed, self.live);
        let high = packed.height;
        let all = &packed.panels[self.point * packed.plane()..];
        let panel_len = packed.c_in.len() * high;
        let panels = gather::Panels {
            of: |x| &all[x * panel_len..],
            width: high,
            terms: live.offsets,
            len: packed.panels.len(),
            columns: None,
        };
        let to = self.to.row(0);
        let panel_len = high * live.channels.len();
        for (i, from) in live.from.chunks(high).enumerate() {
            let to = &mut to[i * panel_len..];
            // A tile computes rows of no output, too: in time if they are no subnormal numbers.
            if from.len() < high {
                to[..panel_len].fill(0.0);
            }
            panels.gather(s, from, high, to);
        }
    }
}
