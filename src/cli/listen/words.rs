//! From logits to words that were heard.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

/// The classes of the bundled models.
const BUNDLED: [&str; 12] = [
    "yes",
    "no",
    "up",
    "down",
    "left",
    "right",
    "on",
    "off",
    "stop",
    "go",
    "_unknown_",
    "_background_",
];

/// The classes of a model, in order. Those that begin with `_` are no keywords.
pub(crate) struct Words {
    labels: Vec<String>,
}

impl Default for Words {
    fn default() -> Self {
        Self {
            labels: BUNDLED.map(str::to_owned).into(),
        }
    }
}

impl Words {
    /// Reads a JSON list of strings, or one label a line.
    pub(crate) fn read(file: &Path) -> Result<Self> {
        let name = || file.display().to_string();
        let text = std::fs::read_to_string(file).with_context(name)?;
        let labels: Vec<String> = if text.trim_start().starts_with('[') {
            serde_json::from_str(&text)
                .context("is not a JSON list of strings")
                .with_context(name)?
        } else {
            let lines = text.lines().map(str::trim).filter(|l| !l.is_empty());
            lines.map(str::to_owned).collect()
        };
        let keyword = labels.iter().any(|l| !l.starts_with('_'));
        ensure!(keyword, "{}: holds no keyword", file.display());
        Ok(Self { labels })
    }

    /// The label of a class.
    pub(crate) fn label(&self, class: usize) -> &str {
        &self.labels[class]
    }

    /// The likeliest keyword and its probability, softmax over all classes.
    pub(crate) fn likeliest(&self, logits: &[f32]) -> Result<(usize, f32)> {
        ensure!(
            logits.len() == self.labels.len(),
            "the model has {} classes and there are {} labels; give its own with --labels",
            logits.len(),
            self.labels.len(),
        );
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f32 = logits.iter().map(|x| (x - max).exp()).sum();
        let keywords = logits.iter().zip(&self.labels).enumerate();
        let (class, logit) = keywords
            .filter(|(_, (_, label))| !label.starts_with('_'))
            .map(|(class, (logit, _))| (class, *logit))
            .max_by(|a, b| a.1.total_cmp(&b.1))
            .context("there is no keyword among the labels")?;
        Ok((class, (logit - max).exp() / sum))
    }
}

/// A keyword that was heard.
pub(crate) struct Detection {
    /// Seconds from the beginning to the end of the window that decided.
    pub(crate) time: f64,
    /// The class.
    pub(crate) class: usize,
    /// Greatest probability among the windows that decided.
    pub(crate) probability: f32,
}

/// A [`Detection`] in the summary.
#[derive(Serialize)]
pub(crate) struct Record {
    time: f64,
    keyword: String,
    probability: f32,
}

impl Detection {
    pub(crate) fn line(&self, words: &Words) -> String {
        format!(
            "{:8.1} s  {:10} {:.2}",
            self.time,
            words.label(self.class),
            self.probability
        )
    }

    pub(crate) fn record(&self, words: &Words) -> Record {
        Record {
            time: self.time,
            keyword: words.label(self.class).to_owned(),
            probability: self.probability,
        }
    }
}

/// Windows that are looked back on, and how many of them must agree.
const SPAN: usize = 3;
const AGREE: usize = 2;

/// Makes one detection out of the windows that contain a word: it fires when two of the last three windows say the same keyword, and
/// not again before three windows in a row did not.
pub(crate) struct Listener {
    threshold: f32,
    last: [Option<(usize, f32)>; SPAN],
    active: Option<usize>,
}

impl Listener {
    /// Windows count when the probability is above `threshold`.
    pub(crate) fn new(threshold: f32) -> Self {
        Self {
            threshold,
            last: [None; SPAN],
            active: None,
        }
    }

    /// Takes the next window, which ends at `time`.
    pub(crate) fn hear(&mut self, keyword: Option<(usize, f32)>, time: f64) -> Option<Detection> {
        self.last.rotate_left(1);
        self.last[SPAN - 1] = keyword.filter(|&(_, p)| p > self.threshold);
        let said = |class| self.last.iter().flatten().filter(move |w| w.0 == class);
        if self.active.is_some_and(|class| said(class).count() == 0) {
            self.active = None;
        }
        let (class, _) = self.last[SPAN - 1]?;
        if said(class).count() < AGREE || self.active == Some(class) {
            return None;
        }
        let probability = said(class).map(|w| w.1).fold(0.0, f32::max);
        self.active = Some(class);
        Some(Detection {
            time,
            class,
            probability,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(windows: &[Option<(usize, f32)>]) -> Vec<(usize, usize)> {
        let mut listener = Listener::new(0.7);
        let hear = |(i, &w)| listener.hear(w, i as f64).map(|d| (i, d.class));
        windows.iter().enumerate().filter_map(hear).collect()
    }

    #[test]
    fn two_of_three_windows_make_one_detection() {
        let (a, b, weak) = (Some((1, 0.9)), Some((2, 0.8)), Some((1, 0.6)));
        assert_eq!(heard(&[a, None, None, a, None]), []);
        assert_eq!(heard(&[a, weak, a]), [(2, 1)]);
        assert_eq!(heard(&[a, a, a, None, a, a, None, None, a]), [(1, 1)]);
        assert_eq!(heard(&[a, a, None, None, None, a, a]), [(1, 1), (6, 1)]);
        assert_eq!(heard(&[a, a, b, b, b]), [(1, 1), (3, 2)]);
    }

    #[test]
    fn probabilities() {
        let words = Words::default();
        let mut logits = [0.0; 12];
        logits[11] = 2.0;
        logits[3] = 1.0;
        let (class, p) = words.likeliest(&logits).unwrap();
        assert_eq!(words.label(class), "down");
        let e = std::f32::consts::E;
        assert!((p - e / (10.0 + e + e * e)).abs() < 1e-6);
        assert!(words.likeliest(&[0.0; 3]).is_err());
    }
}
