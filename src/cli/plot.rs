//! The picture of a stream: waveform, gate scores, keyword probability, exits and detections over time, as SVG.

use std::fmt::{self, Write};

use super::listen::{Detection, Probe, Summary, Window, Words, seconds};
use super::report::percent;

/// Sizes in pixels of the picture at its natural size.
const WIDTH: f64 = 1200.0;
const LEFT: f64 = 112.0;
const RIGHT: f64 = 24.0;
const PLOT: f64 = WIDTH - LEFT - RIGHT;
const TOP: f64 = 92.0;
const WAVE: f64 = 104.0;
const SCORE: f64 = 54.0;
const STRIP: f64 = 24.0;
const GAP: f64 = 16.0;
const AXIS: f64 = 74.0;

const INK: &str = "#1f2933";
const FAINT: &str = "#7b8794";
const GRID: &str = "#e4e7eb";
const WAVEFORM: &str = "#52606d";
/// Windows that ran to the end: the expensive ones.
const END: &str = "#e8590c";
const DETECTION: &str = "#087f5b";
const THRESHOLD: &str = "#c92a2a";
const PASSED: &str = "#cbd2d9";

/// Everything that is drawn.
pub(crate) struct Picture<'a> {
    pub(crate) model: String,
    pub(crate) stream: String,
    pub(crate) samples: &'a [f32],
    /// Seconds between windows.
    pub(crate) hop: f64,
    pub(crate) windows: &'a [Window],
    pub(crate) probe: &'a Probe,
    pub(crate) words: &'a Words,
    pub(crate) detections: &'a [Detection],
    /// Of the keyword's probability.
    pub(crate) threshold: f32,
    pub(crate) summary: &'a Summary,
}

impl Picture<'_> {
    /// The file.
    pub(crate) fn svg(&self) -> String {
        let mut svg = String::new();
        // Writing to a string does not fail.
        let _ = self.draw(&mut svg);
        svg
    }

    fn draw(&self, svg: &mut String) -> fmt::Result {
        let panels = self.probe.gates.len() as f64 + 1.0;
        let bottom = TOP + WAVE + panels * (GAP + SCORE) + GAP + STRIP;
        let height = bottom + AXIS;
        writeln!(
            svg,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
             font-family=\"Inter, 'Segoe UI', 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif\" font-size=\"12\" fill=\"{INK}\">"
        )?;
        writeln!(
            svg,
            "<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>"
        )?;
        let title = format!("{} listens to {}", self.model, self.stream);
        text(
            svg,
            24.0,
            32.0,
            "font-size=\"18\" font-weight=\"600\"",
            &title,
        )?;
        let headline = self.summary.headline();
        text(
            svg,
            24.0,
            53.0,
            &format!("font-size=\"13\" fill=\"{FAINT}\""),
            &headline,
        )?;
        let note = "each window is drawn at its centre";
        let style = format!("text-anchor=\"end\" fill=\"{FAINT}\" font-style=\"italic\"");
        text(svg, LEFT + PLOT, 32.0, &style, note)?;

        self.grid(svg, bottom)?;
        self.detection_bands(svg, bottom)?;
        self.waveform(svg)?;
        let mut y = TOP + WAVE + GAP;
        for gate in 0..self.probe.gates.len() {
            self.gate(svg, gate, y)?;
            y += SCORE + GAP;
        }
        self.keyword(svg, y)?;
        y += SCORE + GAP;
        self.exits(svg, y)?;
        self.detection_tags(svg)?;
        self.legend(svg, bottom + 52.0)?;
        svg.push_str("</svg>\n");
        Ok(())
    }

    fn x(&self, time: f64) -> f64 {
        LEFT + PLOT * time / seconds(self.samples.len())
    }

    /// Left edge and width of what is drawn for a window: a step wide, around its centre.
    fn cell(&self, window: usize) -> (f64, f64) {
        let centre = window as f64 * self.hop + 0.5;
        let (from, to) = (centre - self.hop / 2.0, centre + self.hop / 2.0);
        let from = self.x(from.max(0.0));
        (from, self.x(to).min(LEFT + PLOT) - from)
    }

    fn colour(&self, exit: Option<usize>) -> String {
        exit.map_or(END.to_owned(), |gate| {
            gate_colour(gate, self.probe.gates.len())
        })
    }

    fn grid(&self, svg: &mut String, bottom: f64) -> fmt::Result {
        let length = seconds(self.samples.len());
        let step = tick(length);
        let mut i = 0;
        while f64::from(i) * step <= length {
            let time = f64::from(i) * step;
            let x = self.x(time);
            writeln!(
                svg,
                "<path d=\"M{x:.1} {TOP}V{:.1}\" stroke=\"{GRID}\"/>",
                bottom + 5.0
            )?;
            let y = bottom + 20.0;
            text(
                svg,
                x,
                y,
                &format!("text-anchor=\"middle\" fill=\"{FAINT}\""),
                &clock(time, step, length),
            )?;
            i += 1;
        }
        Ok(())
    }

    fn waveform(&self, svg: &mut String) -> fmt::Result {
        label(svg, TOP + WAVE / 2.0, "waveform", "square root")?;
        let peak = self.samples.iter().fold(1e-9f32, |m, x| m.max(x.abs()));
        // Words are far below the peaks of a recording that goes on for a while: the root brings them up.
        let y = |x: f32| {
            let root = f64::from(x.abs() / peak).sqrt().copysign(f64::from(x));
            TOP + WAVE / 2.0 * (1.0 - root)
        };
        let columns = (PLOT * 2.0) as usize;
        let (mut upper, mut lower) = (String::new(), Vec::new());
        for column in 0..columns {
            let at = |c: usize| c * self.samples.len() / columns;
            let part = &self.samples[at(column)..at(column + 1).max(at(column) + 1)];
            let (low, high) = part
                .iter()
                .fold((f32::MAX, f32::MIN), |(l, h), &x| (l.min(x), h.max(x)));
            let x = LEFT + column as f64 / 2.0;
            write!(upper, "{x:.1} {:.1} ", y(high) - 0.25)?;
            lower.push((x, y(low) + 0.25));
        }
        write!(svg, "<path fill=\"{WAVEFORM}\" d=\"M{upper}")?;
        for (x, y) in lower.into_iter().rev() {
            write!(svg, "{x:.1} {y:.1} ")?;
        }
        svg.push_str("Z\"/>\n");
        Ok(())
    }

    /// Bars of one colour each, all on the same base line, as one path a colour.
    fn bars(
        &self,
        svg: &mut String,
        base: f64,
        bars: impl Iterator<Item = (usize, f64, String)>,
    ) -> fmt::Result {
        let mut paths: Vec<(String, String)> = Vec::new();
        for (window, height, colour) in bars {
            let (x, width) = self.cell(window);
            let bar = format!("M{x:.2} {base:.1}v-{height:.1}h{width:.2}v{height:.1}z");
            match paths.iter_mut().find(|p| p.0 == colour) {
                Some((_, path)) => path.push_str(&bar),
                None => paths.push((colour, bar)),
            }
        }
        for (colour, path) in paths {
            writeln!(
                svg,
                "<path shape-rendering=\"crispEdges\" fill=\"{colour}\" d=\"{path}\"/>"
            )?;
        }
        Ok(())
    }

    fn panel(&self, svg: &mut String, y: f64, threshold: f64) -> fmt::Result {
        let (base, right) = (y + SCORE, LEFT + PLOT);
        writeln!(
            svg,
            "<path d=\"M{LEFT} {base}H{right}\" stroke=\"{FAINT}\" stroke-width=\"0.8\"/>"
        )?;
        let line = base - SCORE * threshold.clamp(0.0, 1.0);
        writeln!(
            svg,
            "<path d=\"M{LEFT} {line:.1}H{right}\" stroke=\"{THRESHOLD}\" stroke-width=\"1\" stroke-dasharray=\"5 4\"/>"
        )
    }

    /// The scores of a gate, for the windows that reached it.
    fn gate(&self, svg: &mut String, gate: usize, y: f64) -> fmt::Result {
        let threshold = self.probe.gates[gate].threshold;
        label(
            svg,
            y + SCORE / 2.0,
            &format!("gate {gate}"),
            &format!("leaves < {threshold:.2}"),
        )?;
        let bars = self.windows.iter().enumerate().filter_map(|(i, window)| {
            let score = f64::from(window.seen.scores[gate]?.clamp(0.0, 1.0));
            let left = window.seen.exit == Some(gate);
            let colour = if left {
                self.colour(Some(gate))
            } else {
                PASSED.to_owned()
            };
            // A score of zero still shows that the gate was asked.
            Some((i, (SCORE * score).max(1.0), colour))
        });
        self.bars(svg, y + SCORE, bars)?;
        self.panel(svg, y, f64::from(threshold))
    }

    fn keyword(&self, svg: &mut String, y: f64) -> fmt::Result {
        label(
            svg,
            y + SCORE / 2.0,
            "keyword",
            &format!("counts > {:.2}", self.threshold),
        )?;
        let bars = self.windows.iter().enumerate().filter_map(|(i, window)| {
            let (_, p) = window.keyword?;
            Some((i, (SCORE * f64::from(p)).max(1.0), END.to_owned()))
        });
        self.bars(svg, y + SCORE, bars)?;
        self.panel(svg, y, f64::from(self.threshold))
    }

    fn exits(&self, svg: &mut String, y: f64) -> fmt::Result {
        label(svg, y + STRIP / 2.0, "left at", "")?;
        let bars = self.windows.iter().enumerate();
        let bars = bars.map(|(i, window)| (i, STRIP, self.colour(window.seen.exit)));
        self.bars(svg, y + STRIP, bars)
    }

    fn detection_bands(&self, svg: &mut String, bottom: f64) -> fmt::Result {
        for detection in self.detections {
            let (from, to) = (self.x(detection.time - 1.0), self.x(detection.time));
            writeln!(
                svg,
                "<rect x=\"{from:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{DETECTION}\" opacity=\"0.13\"/>",
                to - from,
                bottom - TOP,
            )?;
        }
        Ok(())
    }

    /// The words, above the waveform; a tag that would cover its neighbour moves up a row.
    fn detection_tags(&self, svg: &mut String) -> fmt::Result {
        let mut row_ends = [f64::NEG_INFINITY; 2];
        for detection in self.detections {
            let word = self.words.label(detection.class);
            let width = 14.0 + 7.2 * word.chars().count() as f64;
            let centre = self.x(detection.time - 0.5);
            let x = (centre - width / 2.0).clamp(0.0, WIDTH - width);
            let row = usize::from(x < row_ends[0]);
            row_ends[row] = x + width + 2.0;
            let y = TOP - 21.0 - 20.0 * row as f64;
            writeln!(
                svg,
                "<path d=\"M{centre:.1} {:.1}V{TOP}\" stroke=\"{DETECTION}\"/>\
                 <rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"18\" rx=\"4\" fill=\"{DETECTION}\"/>",
                y + 18.0,
            )?;
            let style = "text-anchor=\"middle\" fill=\"#ffffff\" font-weight=\"600\"";
            text(svg, x + width / 2.0, y + 13.0, style, word)?;
        }
        Ok(())
    }

    fn legend(&self, svg: &mut String, y: f64) -> fmt::Result {
        let gates = self.probe.gates.len();
        let mut x = LEFT;
        let exits = (0..gates).map(Some).chain([None]);
        for (exit, share) in exits.zip(self.summary.exit_shares()) {
            let name = exit.map_or("ran to the end".to_owned(), |g| format!("left at gate {g}"));
            let entry = format!("{name} ({})", percent(share));
            x = swatch(svg, x, y, &self.colour(exit), &entry)?;
        }
        if gates > 0 {
            x = swatch(svg, x, y, PASSED, "score passed")?;
        }
        writeln!(
            svg,
            "<path d=\"M{x:.1} {:.1}h14\" stroke=\"{THRESHOLD}\" stroke-dasharray=\"5 4\"/>",
            y - 4.5
        )?;
        text(svg, x + 19.0, y, "", "threshold")?;
        swatch(svg, x + 92.0, y, DETECTION, "keyword heard")?;
        Ok(())
    }
}

/// Light for the first gate (cheapest), dark for the last.
fn gate_colour(gate: usize, gates: usize) -> String {
    const FIRST: [f64; 3] = [165.0, 216.0, 255.0];
    const LAST: [f64; 3] = [24.0, 100.0, 171.0];
    let t = gate as f64 / (gates.max(2) - 1) as f64;
    let mix = |i: usize| (FIRST[i] + (LAST[i] - FIRST[i]) * t).round() as u8;
    format!("#{:02x}{:02x}{:02x}", mix(0), mix(1), mix(2))
}

/// Seconds between ticks: about a dozen of them.
fn tick(length: f64) -> f64 {
    const STEPS: [f64; 16] = [
        0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0,
        3600.0,
    ];
    let fits = |step: &&f64| length / **step <= 16.0;
    let coarsest = (length / 16.0 / 3600.0).ceil() * 3600.0;
    STEPS.iter().find(fits).copied().unwrap_or(coarsest)
}

/// A tick's label, in the form that the whole axis can have.
fn clock(time: f64, step: f64, length: f64) -> String {
    let parts = |unit: f64| ((time / unit).floor(), time % unit);
    match length {
        _ if step < 1.0 => format!("{time:.1} s"),
        l if l < 60.0 => format!("{time:.0} s"),
        l if l < 3600.0 => format!("{:.0}:{:02.0}", parts(60.0).0, parts(60.0).1),
        _ => format!(
            "{:.0} h {:02.0}",
            parts(3600.0).0,
            (parts(3600.0).1 / 60.0).floor()
        ),
    }
}

fn text(svg: &mut String, x: f64, y: f64, style: &str, content: &str) -> fmt::Result {
    writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" {style}>{}</text>",
        escape(content)
    )
}

/// A panel's name, left of it, and a word of explanation below.
fn label(svg: &mut String, middle: f64, name: &str, note: &str) -> fmt::Result {
    let x = LEFT - 12.0;
    let up = if note.is_empty() { -4.0 } else { 3.0 };
    text(
        svg,
        x,
        middle - up,
        "text-anchor=\"end\" font-weight=\"600\"",
        name,
    )?;
    if note.is_empty() {
        return Ok(());
    }
    let style = format!("text-anchor=\"end\" font-size=\"10.5\" fill=\"{FAINT}\"");
    text(svg, x, middle + 11.0, &style, note)
}

/// A square of the colour and its meaning; returns where the next one goes.
fn swatch(svg: &mut String, x: f64, y: f64, colour: &str, name: &str) -> Result<f64, fmt::Error> {
    writeln!(
        svg,
        "<rect x=\"{x:.1}\" y=\"{:.1}\" width=\"11\" height=\"11\" rx=\"2\" fill=\"{colour}\"/>",
        y - 10.0
    )?;
    text(svg, x + 16.0, y, "", name)?;
    Ok(x + 32.0 + 6.5 * name.chars().count() as f64)
}

/// Text as it may stand in an element. Control characters have no form in XML 1.0.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_few_and_round() {
        for (length, step) in [(1.0, 0.1), (75.0, 5.0), (3600.0, 300.0)] {
            assert_eq!(tick(length), step);
        }
        assert!(1e7 / tick(1e7) <= 17.0);
        assert_eq!(clock(15.0, 5.0, 75.0), "0:15");
        assert_eq!(clock(3900.0, 300.0, 4000.0), "1 h 05");
    }

    #[test]
    fn names_cannot_break_out() {
        assert_eq!(
            escape("<a> & \"b\"\u{1}"),
            "&lt;a&gt; &amp; &quot;b&quot;\u{fffd}"
        );
    }
}
