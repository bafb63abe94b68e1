//! Which channels live: owned bitmaps with the algebra of sets, and one per sample for a batch.

use std::fmt;

use sluicegate_kernels::Channels;

use crate::{Error, Result, View};

/// A set of live channels over `0..len`: one bit a channel, 1 = live.
///
/// ```
/// use sluicegate::ChannelMask;
/// let a = ChannelMask::from_indices(8, [1, 2, 3, 6])?;
/// let b = ChannelMask::from_bools(&[true, true, true, false, false, false, false, false]);
/// assert_eq!(a.and(&b)?.live().collect::<Vec<_>>(), [1, 2]);
/// assert_eq!(a.runs().collect::<Vec<_>>(), [1..4, 6..7]);
/// assert_eq!(a.not().count(), 4);
/// # Ok::<(), sluicegate::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ChannelMask {
    words: Vec<u64>,
    len: usize,
}

impl ChannelMask {
    /// Every channel live.
    pub fn full(len: usize) -> Self {
        Self::from_fn(len, |_| true)
    }

    /// Every channel dead.
    pub fn empty(len: usize) -> Self {
        Self::from_fn(len, |_| false)
    }

    /// Channel `c` is live where `live(c)`.
    pub fn from_fn(len: usize, live: impl FnMut(usize) -> bool) -> Self {
        let mut words = vec![0; len.div_ceil(64)];
        fill(&mut words, len, live);
        Self { words, len }
    }

    /// One truth value a channel.
    pub fn from_bools(live: &[bool]) -> Self {
        Self::from_fn(live.len(), |c| live[c])
    }

    /// The channels named are live, in any order and however often.
    ///
    /// # Errors
    /// [`Error::Model`] when an index is not below `len`.
    pub fn from_indices(len: usize, live: impl IntoIterator<Item = usize>) -> Result<Self> {
        let mut mask = Self::empty(len);
        for c in live {
            if c >= len {
                return Err(Error::Model(format!(
                    "channel {c} of a mask over {len} channels"
                )));
            }
            mask.words[c / 64] |= 1 << (c % 64);
        }
        Ok(mask)
    }

    /// Channels whose score is greater than `threshold`; NaN is dead.
    pub fn from_threshold(scores: &[f32], threshold: f32) -> Self {
        Self::from_fn(scores.len(), |c| scores[c] > threshold)
    }

    /// Channels of an f32 tensor that hold anything but zero, `axis` being the channels. Every other axis is searched.
    ///
    /// # Errors
    /// [`Error::Type`] when the tensor is not f32, [`Error::Shape`] when it has no such axis.
    pub fn from_nonzero(tensor: View<'_>, axis: usize) -> Result<Self> {
        let shape = tensor.shape();
        let Some(&len) = shape.get(axis) else {
            return Err(Error::Shape {
                dims: shape.to_vec(),
                why: "has no such channel axis",
            });
        };
        let inner: usize = shape[axis + 1..].iter().product();
        let mut mask = Self::empty(len);
        if inner > 0 {
            for (plane, values) in tensor.as_slice::<f32>()?.chunks_exact(inner).enumerate() {
                if values.iter().any(|&v| v != 0.0) {
                    let c = plane % len;
                    mask.words[c / 64] |= 1 << (c % 64);
                }
            }
        }
        Ok(mask)
    }

    /// Number of channels, dead ones included.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no channel is live.
    pub fn is_empty(&self) -> bool {
        self.as_channels().is_empty()
    }

    /// Whether every channel is live.
    pub fn is_full(&self) -> bool {
        self.as_channels().is_full()
    }

    /// Number of live channels.
    pub fn count(&self) -> usize {
        self.as_channels().count()
    }

    /// Whether channel `c` is live; channels past the end are dead.
    pub fn contains(&self, c: usize) -> bool {
        self.as_channels().contains(c)
    }

    /// The live channels, ascending.
    pub fn live(&self) -> impl Iterator<Item = usize> + '_ {
        self.as_channels().live()
    }

    /// The maximal runs of live channels, ascending.
    pub fn runs(&self) -> impl Iterator<Item = std::ops::Range<usize>> + '_ {
        self.as_channels().runs()
    }

    /// Live in both.
    ///
    /// # Errors
    /// [`Error::Model`] when the lengths differ.
    pub fn and(&self, other: &Self) -> Result<Self> {
        self.zip(other, |a, b| a & b)
    }

    /// Live in either.
    ///
    /// # Errors
    /// [`Error::Model`] when the lengths differ.
    pub fn or(&self, other: &Self) -> Result<Self> {
        self.zip(other, |a, b| a | b)
    }

    /// Live where this one is dead.
    #[must_use]
    pub fn not(&self) -> Self {
        Self::from_fn(self.len, |c| !self.contains(c))
    }

    /// Each channel repeated `times` times in place: the mask of `[C, H, W]` flattened, `times` = H x W.
    #[must_use]
    pub fn stretch(&self, times: usize) -> Self {
        Self::from_fn(self.len * times, |c| self.contains(c / times))
    }

    /// The view that kernels take.
    pub fn as_channels(&self) -> Channels<'_> {
        Channels::new(&self.words, self.len).expect("the mask keeps the invariant of `Channels`")
    }

    fn zip(&self, other: &Self, op: impl Fn(u64, u64) -> u64) -> Result<Self> {
        if self.len != other.len {
            return Err(Error::Model(format!(
                "masks over {} and {} channels",
                self.len, other.len
            )));
        }
        let words = self
            .words
            .iter()
            .zip(&other.words)
            .map(|(&a, &b)| op(a, b))
            .collect();
        Ok(Self {
            words,
            len: self.len,
        })
    }
}

impl fmt::Debug for ChannelMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChannelMask({} of {} live:", self.count(), self.len)?;
        for run in self.runs() {
            write!(f, " {run:?}")?;
        }
        f.write_str(")")
    }
}

/// A mask per sample of a batch, all over the same channels, in one allocation.
#[derive(Debug, Clone, Default)]
pub struct BatchMask {
    words: Vec<u64>,
    len: usize,
}

impl BatchMask {
    /// `samples` empty masks over `len` channels.
    pub fn new(samples: usize, len: usize) -> Self {
        Self {
            words: vec![0; samples * len.div_ceil(64)],
            len,
        }
    }

    /// The mask of a sample. Panics when there is none.
    pub fn sample(&self, i: usize) -> Channels<'_> {
        let w = self.len.div_ceil(64);
        Channels::new(&self.words[i * w..(i + 1) * w], self.len)
            .expect("the mask keeps the invariant of `Channels`")
    }

    /// Makes channel `c` of sample `i` live where `live(c)`. Does not allocate.
    pub fn set(&mut self, i: usize, live: impl FnMut(usize) -> bool) {
        let w = self.len.div_ceil(64);
        fill(&mut self.words[i * w..(i + 1) * w], self.len, live);
    }

    /// Number of channels, dead ones included.
    pub fn channels(&self) -> usize {
        self.len
    }
}

fn fill(words: &mut [u64], len: usize, mut live: impl FnMut(usize) -> bool) {
    for (w, word) in words.iter_mut().enumerate() {
        *word = 0;
        for bit in 0..(len - w * 64).min(64) {
            *word |= u64::from(live(w * 64 + bit)) << bit;
        }
    }
}
