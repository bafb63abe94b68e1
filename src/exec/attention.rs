//! Attention for one sample of a run, which may be a batch of its own.

use sluicegate_kernels::Channels;
use sluicegate_kernels::ops::attention::{
    Bias, Heads, HeadsMut, Layout, Live, Operands as Of, Scores,
};
use sluicegate_kernels::pool::Pool;

use super::step::Operands;
use crate::Result;
use crate::plan::step::AttentionCall;
use crate::plan::views::HeadsAt;

pub(super) fn run(
    call: &AttentionCall,
    pool: &dyn Pool,
    operands: Operands<'_>,
    [keys, outputs, queries]: [Option<Channels<'_>>; 3],
    y: &mut [f32],
    scratch: &mut [f32],
) -> Result<()> {
    let at = &call.at;
    let spec = &at.spec;
    let find = |i: usize| operands.find(i);
    let floats = |i: usize| find(i).map_or(&[][..], bytemuck::cast_slice::<u8, f32>);
    let lengths = find(4).map(bytemuck::cast_slice::<u8, i64>);
    let past = find(6).map(|past| bytemuck::cast_slice::<u8, i64>(past)[0]);
    let row = spec.q_heads * spec.v_width;
    let layout = if at.by_token {
        Layout::Tokens(row)
    } else {
        Layout::Heads
    };
    for (n, y) in y.chunks_exact_mut((spec.queries * row).max(1)).enumerate() {
        let heads = |i: usize, at: &HeadsAt| Heads {
            data: &floats(i)[at.offset + n * at.batch..],
            head: at.head,
            token: at.token,
        };
        let (mut valid, mut offset) = (spec.keys, 0);
        if let Some(lengths) = lengths {
            let length = lengths[n.min(lengths.len() - 1)];
            valid = usize::try_from(length).unwrap_or(0).min(valid);
            offset = (length as isize).saturating_sub_unsigned(spec.queries);
        }
        if let Some(past) = past {
            offset = past as isize;
        }
        let mut bias = None;
        if let (Some(mask), Some(bytes)) = (&at.bias, find(3)) {
            let from = n * mask.batch;
            valid = valid.min(mask.keys);
            let scores = if call.truth {
                Scores::Keep(&bytes[from..])
            } else {
                Scores::Add(&bytemuck::cast_slice(bytes)[from..])
            };
            bias = Some(Bias {
                scores,
                head: mask.head,
                query: mask.query,
            });
        }
        let live = call.keys_as_bias.then(|| Scores::Live(floats(5)));
        let of = Of {
            q: heads(0, &at.q),
            k: heads(1, &at.k),
            v: heads(2, &at.v),
            bias: bias.or(live.map(|scores| Bias {
                scores,
                head: 0,
                query: 0,
            })),
            valid,
            offset,
        };
        let live = Live {
            outputs,
            queries,
            keys,
        };
        let to = HeadsMut { data: y, layout };
        call.attention.run(pool, of, live, to, scratch)?;
    }
    Ok(())
}
