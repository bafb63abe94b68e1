//! What a convolution is told: its shape, weights and masks.
#![forbid(unsafe_code)]

use crate::epilogue::Activation;
use crate::{Channels, Error};

/// The extents of a 2-D convolution, map size excepted. A 1-D one has a kernel of `[1, k]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConvShape {
    /// Input channels.
    pub c_in: usize,
    /// Output channels.
    pub c_out: usize,
    /// Groups; each has `c_in / groups` inputs and `c_out / groups` outputs.
    pub groups: usize,
    /// Height and width of the kernel.
    pub kernel: [usize; 2],
    /// Steps of the kernel over the map.
    pub stride: [usize; 2],
    /// Distances between the taps.
    pub dilation: [usize; 2],
    /// Zeros around the map: top, left, bottom, right.
    pub pads: [usize; 4],
}

impl ConvShape {
    /// Whether the parameters have a meaning.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an extent of zero or groups that do not divide the channels; [`Error::TooLarge`] on overflow.
    pub fn check(&self) -> Result<(), Error> {
        let invalid = |what| Err(Error::Invalid { what });
        if self.c_in == 0 || self.c_out == 0 {
            return invalid("a convolution needs channels");
        }
        if self.groups == 0
            || !self.c_in.is_multiple_of(self.groups)
            || !self.c_out.is_multiple_of(self.groups)
        {
            return invalid("groups must divide the channels of input and output");
        }
        if self.kernel.contains(&0) || self.stride.contains(&0) || self.dilation.contains(&0) {
            return invalid("kernel, stride and dilation must be at least 1");
        }
        self.weights_len().map(|_| ())
    }

    /// Elements of the weights, `[c_out, c_in / groups, kh, kw]`.
    ///
    /// # Errors
    /// [`Error::TooLarge`] on overflow.
    pub fn weights_len(&self) -> Result<usize, Error> {
        (self.c_in / self.groups.max(1))
            .checked_mul(self.c_out)
            .and_then(|n| n.checked_mul(self.kernel[0]))
            .and_then(|n| n.checked_mul(self.kernel[1]))
            .filter(|&n| n <= isize::MAX as usize / 4)
            .ok_or(Error::TooLarge { operand: "weights" })
    }

    /// Height and width of the output for a map of `h` x `w`.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the kernel does not fit into the padded map; [`Error::TooLarge`] on overflow.
    pub fn output(&self, (h, w): (usize, usize)) -> Result<(usize, usize), Error> {
        let along = |i: usize, n: usize| {
            let large = Error::TooLarge { operand: "map" };
            let padded = n
                .checked_add(self.pads[i])
                .and_then(|n| n.checked_add(self.pads[i + 2]))
                .ok_or(large.clone())?;
            let reach = self.kernel[i]
                .checked_sub(1)
                .and_then(|k| k.checked_mul(self.dilation[i]))
                .and_then(|r| r.checked_add(1))
                .ok_or(large)?;
            let steps = padded.checked_sub(reach).ok_or(Error::Invalid {
                what: "the kernel is larger than the padded map",
            })?;
            Ok(steps / self.stride[i].max(1) + 1)
        };
        Ok((along(0, h)?, along(1, w)?))
    }
}

/// How a convolution is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Algorithm {
    /// By its definition: one chain an output.
    #[default]
    Direct,
    /// By Winograd's minimal filtering with tiles of 2 x 2 outputs: 4/9 of the multiplications.
    Winograd2,
    /// By Winograd's minimal filtering with tiles of 4 x 4 outputs: a quarter of the multiplications.
    Winograd4,
    /// The one that is estimated to be fastest. The estimate depends on the shape, the map and the instruction set, not on masks.
    Fastest,
    /// The one that is estimated to be fastest for as many inputs as are live, whichever mask says so: beside the weights of
    /// [`Fastest`](Self::Fastest) those of the direct algorithm are packed where few live inputs are faster so. For calls with masks of inputs whose results need not have the bits of a call with zeros.
    Adaptive,
}

/// A convolution to pack: shape, weights and what is known when the model is loaded.
#[derive(Debug, Clone, Copy)]
pub struct ConvSpec<'a> {
    /// The extents.
    pub shape: ConvShape,
    /// `[c_out, c_in / groups, kh, kw]`
    pub weights: &'a [f32],
    /// `[c_out]`
    pub bias: Option<&'a [f32]>,
    /// Fused into the store.
    pub activation: Activation,
    /// Input channels that can be live at all; the weights of the others are dropped.
    pub live_in: Option<Channels<'a>>,
    /// Output channels that are wanted at all; the others are neither computed nor written.
    pub live_out: Option<Channels<'a>>,
    /// Whether there will be calls with a mask of outputs: [`NchwcConv`](crate::ops::conv::NchwcConv) keeps the weights by outputs, too, in as much memory
    /// again, which makes them faster. All other calls work as well.
    pub masked_outputs: bool,
    /// How it is computed.
    pub algorithm: Algorithm,
}

impl ConvSpec<'_> {
    /// Whether the operands fit the shape.
    ///
    /// # Errors
    /// As [`ConvShape::check`]; [`Error::Mismatch`] when weights, bias or a mask have another size than the shape says.
    pub fn check(&self) -> Result<(), Error> {
        self.shape.check()?;
        let same = |what, expected, found| {
            if expected == found {
                Ok(())
            } else {
                Err(Error::Mismatch {
                    what,
                    expected,
                    found,
                })
            }
        };
        same(
            "number of weights",
            self.shape.weights_len()?,
            self.weights.len(),
        )?;
        if let Some(bias) = self.bias {
            same("length of the bias", self.shape.c_out, bias.len())?;
        }
        if let Some(live) = self.live_in {
            same("channels of the input mask", self.shape.c_in, live.len())?;
        }
        if let Some(live) = self.live_out {
            same("channels of the output mask", self.shape.c_out, live.len())?;
        }
        Ok(())
    }
}
