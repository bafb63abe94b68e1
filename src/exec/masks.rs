//! The masks of a sample, made when they are first needed.

use super::step::Frame;
use crate::mask::BatchMask;
use crate::plan::masks::{MaskDef, MaskId};

impl Frame<'_> {
    pub(super) fn build_mask(
        &self,
        id: MaskId,
        sample: usize,
        value: Option<&[f32]>,
        masks: &mut [BatchMask],
    ) {
        // Taken out while the masks that it is made of are read; an empty one costs nothing.
        let mut mask = std::mem::take(&mut masks[id.0]);
        match &self.plan.masks.defs[id.0] {
            MaskDef::Static(_) => {}
            MaskDef::Value(_) => {
                let value = value.unwrap_or_default();
                mask.set(sample, |c| value[c] != 0.0);
            }
            MaskDef::And(a, b) => {
                let (a, b) = (masks[a.0].sample(sample), masks[b.0].sample(sample));
                mask.set(sample, |c| a.contains(c) && b.contains(c));
            }
            MaskDef::Or(a, b) => {
                let (a, b) = (masks[a.0].sample(sample), masks[b.0].sample(sample));
                mask.set(sample, |c| a.contains(c) || b.contains(c));
            }
            MaskDef::Stretch(a, times) => {
                let a = masks[a.0].sample(sample);
                mask.set(sample, |c| a.contains(c / times));
            }
            MaskDef::Tile(a, _) => {
                let a = masks[a.0].sample(sample);
                mask.set(sample, |c| a.contains(c % a.len()));
            }
        }
        masks[id.0] = mask;
    }
}
