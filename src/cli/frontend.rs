//! The audio front end that the bundled models were trained on: one second of 16 kHz audio to log-mel energies or MFCC.
//!
//! `training/features.py` is the definition; the numbers below are its.

use std::f64::consts::PI;
use std::fmt;
use std::sync::Arc;

use anyhow::{Result, ensure};
use realfft::num_complex::Complex;
use realfft::{RealFftPlanner, RealToComplex};

use super::wav::SAMPLE_RATE;

/// Samples of a window: one second.
pub(crate) const WINDOW: usize = SAMPLE_RATE;
/// Frames of a window.
pub(crate) const FRAMES: usize = 49;
/// Samples of a frame (30 ms) and between frames (20 ms); bins of the transform.
const FRAME: usize = 480;
const HOP: usize = 320;
const FFT: usize = 512;
/// Mel bands, and the frequencies that they span.
const BANDS: usize = 40;
const LOWEST: f64 = 60.0;
const HIGHEST: f64 = 7600.0;
/// Cepstral coefficients that are kept.
const CEPSTRA: usize = 10;
/// Keeps the logarithm of silence finite.
const FLOOR: f64 = 1e-6;

/// What the model is fed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Features {
    /// Ten cepstral coefficients a frame.
    Mfcc,
    /// Forty log energies a frame.
    LogMel,
}

impl Features {
    /// Values of a frame.
    pub(crate) fn width(self) -> usize {
        match self {
            Features::Mfcc => CEPSTRA,
            Features::LogMel => BANDS,
        }
    }
}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Features::Mfcc => "MFCC",
            Features::LogMel => "log-mel",
        })
    }
}

/// Turns windows of audio into features. Allocates nothing after it is made.
///
/// The transform is in double precision: next to a loud band, single precision leaves errors of 3e-4 in the logarithms of quiet ones,
/// and here it is not the transform that costs time.
pub(crate) struct FrontEnd {
    features: Features,
    fft: Arc<dyn RealToComplex<f64>>,
    hann: Vec<f64>,
    bands: Vec<Band>,
    /// `[CEPSTRA, BANDS]`
    dct: Vec<f64>,
    frame: Vec<f64>,
    spectrum: Vec<Complex<f64>>,
    scratch: Vec<Complex<f64>>,
    power: Vec<f64>,
    energies: Vec<f64>,
    /// `[FRAMES, width]`
    out: Vec<f32>,
    /// Whether `out` holds the features of an earlier window.
    warm: bool,
}

/// A triangle of the mel filter bank: the weights of the bins from `first` on.
struct Band {
    first: usize,
    weights: Vec<f64>,
}

impl FrontEnd {
    /// A front end for these features.
    pub(crate) fn new(features: Features) -> Self {
        let fft = RealFftPlanner::<f64>::new().plan_fft_forward(FFT);
        let hann = |n| 0.5 - 0.5 * (2.0 * PI * n as f64 / FRAME as f64).cos();
        Self {
            features,
            hann: (0..FRAME).map(hann).collect(),
            bands: mel_bands(),
            dct: dct(),
            frame: fft.make_input_vec(),
            spectrum: fft.make_output_vec(),
            scratch: fft.make_scratch_vec(),
            power: vec![0.0; FFT / 2 + 1],
            energies: vec![0.0; BANDS],
            out: vec![0.0; FRAMES * features.width()],
            warm: false,
            fft,
        }
    }

    /// The features `[FRAMES, width]` of a window of [`WINDOW`] samples that begins `advance` samples after the previous one.
    ///
    /// Frames that both windows share are not computed again: they are the same samples, so the values are the same to the bit.
    pub(crate) fn slide(&mut self, window: &[f32], advance: usize) -> Result<&[f32]> {
        ensure!(
            window.len() == WINDOW,
            "a window is {WINDOW} samples, not {}",
            window.len()
        );
        let known = match advance / HOP {
            frames if self.warm && advance.is_multiple_of(HOP) => FRAMES.saturating_sub(frames),
            _ => 0,
        };
        let width = self.features.width();
        self.out.copy_within((FRAMES - known) * width.., 0);
        self.warm = true;
        for i in known..FRAMES {
            self.log_energies(&window[i * HOP..i * HOP + FRAME])?;
            let to = &mut self.out[i * width..(i + 1) * width];
            match self.features {
                Features::LogMel => {
                    for (c, e) in to.iter_mut().zip(&self.energies) {
                        *c = *e as f32;
                    }
                }
                Features::Mfcc => {
                    for (c, row) in to.iter_mut().zip(self.dct.chunks_exact(BANDS)) {
                        let sum: f64 = row.iter().zip(&self.energies).map(|(d, e)| d * e).sum();
                        *c = sum as f32;
                    }
                }
            }
        }
        Ok(&self.out)
    }

    /// energies[b] = ln(Σ mel[b][k] · |X[k]|² + FLOOR), X = FFT(hann · samples, padded with zeros)
    fn log_energies(&mut self, samples: &[f32]) -> Result<()> {
        for ((to, x), w) in self.frame.iter_mut().zip(samples).zip(&self.hann) {
            *to = f64::from(*x) * w;
        }
        self.frame[FRAME..].fill(0.0); // the transform uses its input as scratch
        self.fft
            .process_with_scratch(&mut self.frame, &mut self.spectrum, &mut self.scratch)?;
        for (p, x) in self.power.iter_mut().zip(&self.spectrum) {
            *p = x.norm_sqr();
        }
        for (e, band) in self.energies.iter_mut().zip(&self.bands) {
            let bins = &self.power[band.first..];
            let energy: f64 = band.weights.iter().zip(bins).map(|(w, p)| w * p).sum();
            *e = (energy + FLOOR).ln();
        }
        Ok(())
    }
}

/// Triangles of height 1 between edges that are equidistant in mel = 2595 log10(1 + f / 700), taken at the bins' centres.
fn mel_bands() -> Vec<Band> {
    let mel = |f: f64| 2595.0 * (1.0 + f / 700.0).log10();
    let step = (mel(HIGHEST) - mel(LOWEST)) / (BANDS + 1) as f64;
    let edge = |i: usize| 700.0 * (10f64.powf((mel(LOWEST) + step * i as f64) / 2595.0) - 1.0);
    (0..BANDS)
        .map(|b| {
            let (low, centre, high) = (edge(b), edge(b + 1), edge(b + 2));
            let weight = |bin: usize| {
                let f = (bin * SAMPLE_RATE) as f64 / FFT as f64;
                ((f - low) / (centre - low)).min((high - f) / (high - centre))
            };
            let bins = (0..=FFT / 2).filter(|&bin| weight(bin) > 0.0);
            Band {
                first: bins.clone().next().unwrap_or(0),
                weights: bins.map(weight).collect(),
            }
        })
        .collect()
}

/// The first rows of the orthonormal DCT-II.
fn dct() -> Vec<f64> {
    let scale = |k: usize| {
        let twos = if k == 0 { 1.0 } else { 2.0 };
        (twos / BANDS as f64).sqrt()
    };
    (0..CEPSTRA)
        .flat_map(|k| (0..BANDS).map(move |n| (k, n)))
        .map(|(k, n)| (PI * (n as f64 + 0.5) * k as f64 / BANDS as f64).cos() * scale(k))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::{npy, wav};
    use super::*;
    use std::path::{Path, PathBuf};

    /// Features of every window of a recording; `advance` as in [`FrontEnd::slide`].
    fn windows(samples: &[f32], features: Features, hop: usize, advance: usize) -> Vec<f32> {
        let mut front_end = FrontEnd::new(features);
        let mut all = Vec::new();
        for start in (0..=samples.len() - WINDOW).step_by(hop) {
            let window = &samples[start..start + WINDOW];
            all.extend_from_slice(front_end.slide(window, advance).unwrap());
        }
        all
    }

    fn max_difference(file: &Path, ours: &[f32]) -> f32 {
        let expected = npy::read(file).unwrap();
        let expected = expected.as_slice::<f32>().unwrap();
        assert_eq!(expected.len(), ours.len(), "{}", file.display());
        let pairs = expected.iter().zip(ours);
        pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    }

    /// The features that the models were trained on, of 48 clips (NumPy; the transform there is in double precision as well).
    #[test]
    fn equals_the_training_recipe() {
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
        let clips = std::fs::read_dir(models.join("clips")).unwrap();
        let mut clips: Vec<PathBuf> = clips.map(|entry| entry.unwrap().path()).collect();
        clips.retain(|path| path.extension().is_some_and(|e| e == "wav"));
        clips.sort();
        for (features, file) in [(Features::Mfcc, "mfcc"), (Features::LogMel, "logmel")] {
            let mut ours = Vec::new();
            for clip in &clips {
                let audio = wav::read(clip).unwrap();
                ours.extend(windows(&audio.samples, features, WINDOW, WINDOW));
            }
            let expected = models.join(format!("expected/{file}.npy"));
            let difference = max_difference(&expected, &ours);
            assert!(difference <= 1e-6, "{features}: {difference}");
        }
    }

    #[test]
    fn sliding_changes_nothing() {
        let noise = |i: usize| ((i * i * 31 + i * 7) % 1013) as f32 / 1013.0 - 0.5;
        let samples: Vec<f32> = (0..3 * WINDOW).map(noise).collect();
        for features in [Features::Mfcc, Features::LogMel] {
            for hop in [HOP, 3200, 3201, 16_000, 17_600] {
                let fresh = windows(&samples, features, hop, WINDOW);
                assert_eq!(windows(&samples, features, hop, hop), fresh, "hop {hop}");
            }
        }
    }

    #[test]
    fn silence_is_finite_and_a_short_window_is_refused() {
        let silence = windows(&[0.0; WINDOW], Features::LogMel, 1, 1);
        assert!(
            silence
                .iter()
                .all(|x| (f64::from(*x) - FLOOR.ln()).abs() < 1e-5)
        );
        assert!(FrontEnd::new(Features::Mfcc).slide(&[0.0; 99], 0).is_err());
    }
}
