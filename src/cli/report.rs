//! Numbers and tables for people.

use std::fmt::Write as _;

/// An error with its causes, on one line. What a cause and its effect both say is said once.
pub(crate) fn one_line(error: &anyhow::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    for cause in error.chain() {
        let text = cause.to_string();
        match parts.last_mut() {
            Some(effect) if effect.ends_with(&text) => {}
            Some(effect) if text.starts_with(effect.as_str()) => *effect = text,
            _ => parts.push(text),
        }
    }
    parts.join(": ").replace(['\n', '\r'], " ")
}

/// `1.23 M`: three digits and a unit's prefix.
pub(crate) fn si(x: f64) -> String {
    let (scaled, prefix) = match x.abs() {
        a if a >= 1e12 => (x / 1e12, " T"),
        a if a >= 1e9 => (x / 1e9, " G"),
        a if a >= 1e6 => (x / 1e6, " M"),
        a if a >= 1e3 => (x / 1e3, " k"),
        _ => (x, ""),
    };
    match scaled.abs() {
        a if prefix.is_empty() && x.fract() == 0.0 || a >= 99.95 => format!("{scaled:.0}{prefix}"),
        a if a >= 9.995 => format!("{scaled:.1}{prefix}"),
        _ => format!("{scaled:.2}{prefix}"),
    }
}

/// A count of bytes.
pub(crate) fn bytes(n: usize) -> String {
    const KIB: f64 = 1024.0;
    match n as f64 {
        x if x < KIB => format!("{n} B"),
        x if x < KIB * KIB => format!("{:.1} KiB", x / KIB),
        x if x < KIB * KIB * KIB => format!("{:.1} MiB", x / KIB / KIB),
        x => format!("{:.1} GiB", x / KIB / KIB / KIB),
    }
}

/// A duration in nanoseconds.
pub(crate) fn time(ns: f64) -> String {
    match ns {
        x if x < 1e3 => format!("{x:.0} ns"),
        x if x < 1e5 => format!("{:.1} us", x / 1e3),
        x if x < 1e6 => format!("{:.0} us", x / 1e3),
        x if x < 1e9 => format!("{:.2} ms", x / 1e6),
        x => format!("{:.2} s", x / 1e9),
    }
}

/// A share of one.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// `a / b`, zero for nothing out of nothing.
pub(crate) fn share(a: f64, b: f64) -> f64 {
    if b == 0.0 { 0.0 } else { a / b }
}

/// Which side of a column its cells stand on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// Rows of cells under a header, columns as wide as they need to be.
pub(crate) struct Table {
    align: Vec<Align>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns.
    pub(crate) fn new(columns: &[(&str, Align)]) -> Self {
        Self {
            align: columns.iter().map(|c| c.1).collect(),
            rows: vec![columns.iter().map(|c| c.0.to_owned()).collect()],
        }
    }

    /// Adds a row.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }

    /// The text, a line for each row, each beginning with `indent`.
    pub(crate) fn render(&self, indent: &str) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|c| c.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.align.len()).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = indent.to_owned();
            for ((cell, &width), align) in row.iter().zip(&widths).zip(&self.align) {
                // Writing to a string does not fail.
                let _ = match align {
                    Align::Left => write!(line, "{cell:width$}  "),
                    Align::Right => write!(line, "{cell:>width$}  "),
                };
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        let numbers = [0.0, 7.0, 999.0, 1234.0, 45_600.0, 1.996e6, 3e9].map(si);
        assert_eq!(
            numbers,
            ["0", "7", "999", "1.23 k", "45.6 k", "2.00 M", "3.00 G"]
        );
        assert_eq!(
            [512, 1536, 3 << 20].map(bytes),
            ["512 B", "1.5 KiB", "3.0 MiB"]
        );
        let times = [740.0, 12_340.0, 123_400.0, 2.5e6, 3e9].map(time);
        assert_eq!(times, ["740 ns", "12.3 us", "123 us", "2.50 ms", "3.00 s"]);
    }

    #[test]
    fn causes_are_not_repeated() {
        let io = std::io::Error::other("no such file");
        let error = anyhow::Error::from(io)
            .context("kws.onnx: no such file")
            .context("kws.onnx")
            .context("cannot load\nthe model");
        assert_eq!(
            one_line(&error),
            "cannot load the model: kws.onnx: no such file"
        );
    }

    #[test]
    fn tables() {
        let mut table = Table::new(&[("name", Align::Left), ("n", Align::Right)]);
        table.row(["a".into(), "10".into()]);
        assert_eq!(table.render(" "), " name   n\n a     10\n");
    }
}
