//! WAV files as mono audio at 16 kHz.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use hound::{SampleFormat, WavReader};
use rubato::audioadapter_buffers::direct::InterleavedSlice;
use rubato::{Fft, FixedSync, Resampler};

/// Samples a second that the front end works on.
pub(crate) const SAMPLE_RATE: usize = 16_000;

/// Sample rates that are resampled. The FFT resampler works in blocks as long as the rate in the worst case (a prime one).
const RATES: std::ops::RangeInclusive<u32> = 4_000..=768_000;

/// Frames that the resampler takes at a time, at least.
const CHUNK: usize = 1024;

/// Mono audio at [`SAMPLE_RATE`], in -1..1.
pub(crate) struct Audio {
    /// The samples.
    pub(crate) samples: Vec<f32>,
    /// What was changed to get here, for the user; empty for 16 kHz mono.
    pub(crate) converted: Vec<String>,
}

/// Reads a file: integer samples of 8 to 32 bits or floats, any number of channels (mixed down), any usual rate (resampled).
pub(crate) fn read(path: &Path) -> Result<Audio> {
    decode(path).with_context(|| path.display().to_string())
}

fn decode(path: &Path) -> Result<Audio> {
    let file = std::fs::File::open(path)?;
    ensure!(file.metadata()?.len() > 0, "the file is empty");
    let mut reader =
        WavReader::new(std::io::BufReader::new(file)).context("is not a readable WAV file")?;
    let spec = reader.spec();
    ensure!(
        spec.channels > 0,
        "the WAV header says that there are no channels"
    );
    ensure!(
        RATES.contains(&spec.sample_rate),
        "the WAV header gives a sample rate of {} Hz; rates from {} to {} Hz are supported",
        spec.sample_rate,
        RATES.start(),
        RATES.end(),
    );
    let interleaved: Vec<f32> = match (spec.sample_format, spec.bits_per_sample) {
        (SampleFormat::Float, 32) => reader.samples::<f32>().collect::<Result<_, _>>(),
        (SampleFormat::Int, bits @ 1..=32) => {
            let scale = 1.0 / (1u64 << (bits - 1)) as f64;
            reader
                .samples::<i32>()
                .map(|s| s.map(|s| (f64::from(s) * scale) as f32))
                .collect()
        }
        (format, bits) => bail!("samples of {bits} bits ({format:?}) are not supported"),
    }
    .context("the samples cannot be read")?;
    ensure!(!interleaved.is_empty(), "the WAV file holds no samples");
    if let Some(i) = interleaved.iter().position(|s| !s.is_finite()) {
        bail!(
            "sample {} is {}",
            i / usize::from(spec.channels),
            interleaved[i]
        );
    }

    let mut converted = Vec::new();
    let mut samples = interleaved;
    if spec.channels > 1 {
        let channels = usize::from(spec.channels);
        converted.push(format!("{channels} channels mixed down"));
        samples = samples
            .chunks_exact(channels)
            .map(|frame| frame.iter().sum::<f32>() / channels as f32)
            .collect();
    }
    let rate = spec.sample_rate as usize;
    if rate != SAMPLE_RATE {
        converted.push(format!("resampled from {rate} to {SAMPLE_RATE} Hz"));
        samples = resample(&samples, rate)?;
    }
    Ok(Audio { samples, converted })
}

fn resample(samples: &[f32], rate: usize) -> Result<Vec<f32>> {
    let mut resampler = Fft::<f32>::new(rate, SAMPLE_RATE, CHUNK, 1, FixedSync::Input)?;
    let input = InterleavedSlice::new(samples, 1, samples.len())?;
    Ok(resampler
        .process_all(&input, samples.len(), None)?
        .take_data())
}

#[cfg(test)]
mod tests {
    use super::*;
    use hound::{WavSpec, WavWriter};
    use std::f32::consts::TAU;

    fn spec(channels: u16, sample_rate: u32, bits_per_sample: u16) -> WavSpec {
        WavSpec {
            channels,
            sample_rate,
            bits_per_sample,
            sample_format: if bits_per_sample == 0 {
                SampleFormat::Float
            } else {
                SampleFormat::Int
            },
        }
    }

    /// One second of 440 Hz at half of full scale, in every channel.
    fn tone(mut spec: WavSpec) -> Audio {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tone.wav");
        let float = spec.sample_format == SampleFormat::Float;
        if float {
            spec.bits_per_sample = 32;
        }
        let mut writer = WavWriter::create(&path, spec).unwrap();
        for i in 0..spec.sample_rate {
            let x = 0.5 * (TAU * 440.0 * i as f32 / spec.sample_rate as f32).sin();
            for _ in 0..spec.channels {
                if float {
                    writer.write_sample(x).unwrap();
                } else {
                    let full = (1u64 << (spec.bits_per_sample - 1)) as f64;
                    writer.write_sample((f64::from(x) * full) as i32).unwrap();
                }
            }
        }
        writer.finalize().unwrap();
        read(&path).unwrap()
    }

    #[test]
    fn every_format_gives_the_same_tone() {
        for spec in [
            spec(1, 16_000, 16),
            spec(2, 44_100, 16),
            spec(1, 48_000, 24),
            spec(6, 8_000, 32),
            spec(2, 16_000, 0),
            spec(1, 44_101, 0), // a prime rate
        ] {
            let audio = tone(spec);
            assert_eq!(audio.samples.len(), SAMPLE_RATE, "{spec:?}");
            let unchanged = spec.channels == 1 && spec.sample_rate == 16_000;
            assert_eq!(audio.converted.is_empty(), unchanged, "{spec:?}");
            for (i, x) in audio.samples.iter().enumerate().skip(800).take(14_400) {
                let expected = 0.5 * (TAU * 440.0 * i as f32 / 16_000.0).sin();
                // The resampler is right to half a sample.
                assert!(
                    (x - expected).abs() < 0.044,
                    "{spec:?}: {i}: {x} {expected}"
                );
            }
        }
    }
}
