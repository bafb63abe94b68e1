//! Which channels are dead where: masks as sets that are made of each other, and what they do to each item of a net.

mod blocks;
mod needs;
mod rules;
mod walk;

use std::collections::{BTreeSet, HashMap};

use self::needs::Needs;
use self::walk::Walk;
use super::net::Net;
use super::rewrite::Work;
use crate::ChannelMask;
use crate::graph::{Binary, Op, ValueId};

/// An index into [`MaskTable`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct MaskId(pub(crate) usize);

/// Where a mask comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum MaskDef {
    /// A constant of the model.
    Static(ChannelMask),
    /// Channel `c` is live where element `c` of the value is not zero; one mask per sample.
    Value(ValueId),
    /// Live in both.
    And(MaskId, MaskId),
    /// Live in either.
    Or(MaskId, MaskId),
    /// Each channel repeated.
    Stretch(MaskId, usize),
    /// The whole repeated.
    Tile(MaskId, usize),
}

/// Definitions that are looked at for one mask. Real chains are as long as a model has gates; a hostile file's are as long as the file.
const LOOKS: u32 = 64;

/// Walks that find one conflict each; after them, all conflicts of a walk are taken.
const ROUNDS: u32 = 16;

/// All masks of a plan, each defined once.
#[derive(Debug, Clone, Default)]
pub(crate) struct MaskTable {
    pub(crate) defs: Vec<MaskDef>,
    /// Channels of each.
    pub(crate) channels: Vec<usize>,
    known: HashMap<MaskDef, MaskId>,
}

impl MaskTable {
    fn intern(&mut self, def: MaskDef, channels: usize) -> MaskId {
        if let Some(&id) = self.known.get(&def) {
            return id;
        }
        let id = MaskId(self.defs.len());
        self.known.insert(def.clone(), id);
        self.defs.push(def);
        self.channels.push(channels);
        id
    }

    pub(crate) fn as_static(&self, id: MaskId) -> Option<&ChannelMask> {
        match &self.defs[id.0] {
            MaskDef::Static(mask) => Some(mask),
            _ => None,
        }
    }

    /// Whether every channel live in `a` is live in `b` for certain, as far as a few definitions tell.
    fn implies(&self, a: MaskId, b: MaskId) -> bool {
        self.implies_within(a, b, &mut { LOOKS })
    }

    fn implies_within(&self, a: MaskId, b: MaskId, looks: &mut u32) -> bool {
        if a == b {
            return true;
        }
        let Some(left) = looks.checked_sub(1) else {
            return false;
        };
        *looks = left;
        match (&self.defs[a.0], &self.defs[b.0]) {
            (MaskDef::Static(x), MaskDef::Static(y)) => x.and(y).is_ok_and(|both| both == *x),
            (MaskDef::And(x, y), _) => {
                self.implies_within(*x, b, looks) || self.implies_within(*y, b, looks)
            }
            (_, MaskDef::Or(x, y)) => {
                self.implies_within(a, *x, looks) || self.implies_within(a, *y, looks)
            }
            _ => false,
        }
    }

    fn and(&mut self, a: MaskId, b: MaskId) -> MaskId {
        if self.implies(a, b) {
            return a;
        }
        if self.implies(b, a) {
            return b;
        }
        let channels = self.channels[a.0];
        let both = self
            .as_static(a)
            .zip(self.as_static(b))
            .and_then(|(x, y)| x.and(y).ok());
        self.intern(both.map_or(MaskDef::And(a, b), MaskDef::Static), channels)
    }

    fn or(&mut self, a: MaskId, b: MaskId) -> MaskId {
        if self.implies(a, b) {
            return b;
        }
        if self.implies(b, a) {
            return a;
        }
        let channels = self.channels[a.0];
        let both = self
            .as_static(a)
            .zip(self.as_static(b))
            .and_then(|(x, y)| x.or(y).ok());
        self.intern(both.map_or(MaskDef::Or(a, b), MaskDef::Static), channels)
    }

    fn stretch(&mut self, a: MaskId, times: usize) -> MaskId {
        if times == 1 {
            return a;
        }
        let channels = self.channels[a.0] * times;
        let mask = self.as_static(a).map(|m| m.stretch(times));
        self.intern(
            mask.map_or(MaskDef::Stretch(a, times), MaskDef::Static),
            channels,
        )
    }

    /// The mask that a value of zeros and ones stands for. A product of two is live where both are.
    pub(super) fn of_value(&mut self, net: &Net, makers: &[Option<usize>], id: ValueId) -> MaskId {
        self.of_product(net, makers, id, &mut { LOOKS })
    }

    fn of_product(
        &mut self,
        net: &Net,
        makers: &[Option<usize>],
        id: ValueId,
        looks: &mut u32,
    ) -> MaskId {
        *looks = looks.saturating_sub(1);
        let value = net.value(id);
        let channels = value.shape.last().copied().unwrap_or(1);
        if let Some(values) = value.floats() {
            return self.intern(
                MaskDef::Static(ChannelMask::from_fn(channels, |c| values[c] != 0.0)),
                channels,
            );
        }
        if *looks > 0
            && let Some(item) = makers[id.index()].map(|i| &net.items[i])
            && let (Work::Op(Op::Binary(Binary::Mul)), Some(a), Some(b)) =
                (&item.work, item.input(0), item.input(1))
            && [a, b].iter().all(|&v| net.shape(v) == value.shape)
        {
            let a = self.of_product(net, makers, a, looks);
            let b = self.of_product(net, makers, b, looks);
            return self.and(a, b);
        }
        self.intern(MaskDef::Value(id), channels)
    }
}

/// Dead channels of a value: along `axis` those outside `mask` are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Masked {
    pub(super) axis: usize,
    pub(super) mask: MaskId,
    /// Their storage holds the zeros; otherwise it holds anything.
    clean: bool,
}

/// What masks do to one item.
#[derive(Debug, Clone, Default)]
pub(super) struct Skip {
    /// Channels of the operand that are not read.
    pub(super) input: Option<MaskId>,
    /// Channels of the result that are neither computed nor written.
    pub(super) output: Option<MaskId>,
    /// Rows of the operand and the result that are neither read nor written.
    pub(super) rows: Option<MaskId>,
    /// Operands whose dead channels are filled with zeros first.
    pub(super) settle: Vec<(ValueId, usize, MaskId)>,
    /// The channel axis of both.
    pub(super) axis: usize,
    /// A [`Op::Mask`] that only names dead channels: the result is the operand's storage.
    pub(super) alias: bool,
    /// What a reader of the plan wants to know.
    pub(super) note: String,
}

/// The masks of a net, item by item, and those of the outputs that must be settled at the end.
#[derive(Debug, Default)]
pub(super) struct Masks {
    pub(super) table: MaskTable,
    pub(super) skips: Vec<Skip>,
    pub(super) settle_outputs: Vec<(ValueId, usize, MaskId)>,
}

/// Carries the masks through the net.
pub(super) fn propagate(net: &Net) -> Masks {
    // A mask is an alias of its operand until someone needs the zeros in storage that others still read in full.
    // One at a time, for what follows a conflict may be no conflict then; a hostile file has so many that in the end all are taken.
    let makers = net.makers();
    let mut table = MaskTable::default();
    let needs = Needs::new(net, &makers, &mut table);
    let mut copied = BTreeSet::new();
    let mut rounds = 0;
    loop {
        let mut walk = Walk::new(net, &makers, &needs, table.clone(), &copied);
        walk.run();
        let Some(&first) = walk.conflicts.first() else {
            walk.masks.forget_unused();
            return walk.masks;
        };
        let conflicts = walk.conflicts;
        if rounds < ROUNDS {
            copied.insert(first);
        } else {
            copied.extend(conflicts);
        }
        rounds += 1;
    }
}

impl Masks {
    /// Drops the masks that no item works with.
    fn forget_unused(&mut self) {
        let table = std::mem::take(&mut self.table);
        let mut used = vec![false; table.defs.len()];
        self.each(|id| used[id.0] = true);
        // A mask is made of earlier ones.
        for i in (0..used.len()).rev() {
            if used[i] {
                let parts = table.defs[i].parts();
                parts
                    .into_iter()
                    .flatten()
                    .for_each(|part| used[part.0] = true);
            }
        }
        let mut new = vec![MaskId(0); used.len()];
        for (i, def) in table.defs.into_iter().enumerate() {
            if used[i] {
                let def = def.with_parts(|part| new[part.0]);
                new[i] = self.table.intern(def, table.channels[i]);
            }
        }
        self.each(|id| *id = new[id.0]);
    }

    /// Calls `f` for each mention of a mask.
    fn each(&mut self, mut f: impl FnMut(&mut MaskId)) {
        for skip in &mut self.skips {
            let parts = [&mut skip.input, &mut skip.output, &mut skip.rows];
            parts.into_iter().flatten().for_each(&mut f);
            skip.settle.iter_mut().for_each(|(_, _, id)| f(id));
        }
        self.settle_outputs.iter_mut().for_each(|(_, _, id)| f(id));
    }
}

impl MaskDef {
    /// What it is made of.
    pub(crate) fn parts(&self) -> [Option<MaskId>; 2] {
        match *self {
            MaskDef::Static(_) | MaskDef::Value(_) => [None, None],
            MaskDef::And(a, b) | MaskDef::Or(a, b) => [Some(a), Some(b)],
            MaskDef::Stretch(a, _) | MaskDef::Tile(a, _) => [Some(a), None],
        }
    }

    fn with_parts(self, new: impl Fn(MaskId) -> MaskId) -> Self {
        match self {
            MaskDef::And(a, b) => MaskDef::And(new(a), new(b)),
            MaskDef::Or(a, b) => MaskDef::Or(new(a), new(b)),
            MaskDef::Stretch(a, times) => MaskDef::Stretch(new(a), times),
            MaskDef::Tile(a, times) => MaskDef::Tile(new(a), times),
            other => other,
        }
    }
}

/// A mask in words, not too many of them.
pub(super) fn describe(net: &Net, table: &MaskTable, id: MaskId) -> String {
    words(net, table, id, 4)
}

fn words(net: &Net, table: &MaskTable, id: MaskId, deep: u32) -> String {
    let Some(deep) = deep.checked_sub(1) else {
        return "...".into();
    };
    let of = |id: &MaskId| words(net, table, *id, deep);
    match &table.defs[id.0] {
        MaskDef::Static(mask) => format!("static, {} of {} live", mask.count(), mask.len()),
        MaskDef::Value(value) => format!("mask `{}`", short(&net.value(*value).name)),
        MaskDef::And(a, b) => format!("{} and {}", of(a), of(b)),
        MaskDef::Or(a, b) => format!("{} or {}", of(a), of(b)),
        MaskDef::Stretch(a, times) => format!("{}, each {times} times", of(a)),
        MaskDef::Tile(a, times) => format!("{}, {times} times", of(a)),
    }
}

/// The beginning of a name: every node that skips by a mask notes it.
fn short(name: &str) -> &str {
    let end = name.char_indices().nth(80).map_or(name.len(), |(i, _)| i);
    &name[..end]
}
