//! What commands print to standard output: lines, JSON, tables. Owns that a reader who has seen enough (a closed pipe) ends
//! the command quietly, and that nothing a client chose reaches a terminal as a control sequence.

use std::io::{self, ErrorKind, Write};
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use serde_json::Value;

use super::{Failure, SYSTEM};

/// One line, at once.
pub(super) fn line(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let written = writeln!(out, "{text}").and_then(|()| out.flush());
    written.map_err(|error| match error.kind() {
        // Whoever read has seen enough: nothing went wrong.
        ErrorKind::BrokenPipe => Failure::told(0),
        _ => Failure::new(SYSTEM, format!("standard output can't be written: {error}")),
    })
}

/// A document, indented for people and readable by programs.
pub(super) fn json(value: &Value) -> Result<(), Failure> {
    line(&format!("{value:#}"))
}

/// Rows below their headings, in columns; with no rows, `none`.
pub(super) fn table(headings: &[&str], rows: &[Vec<String>], none: &str) -> Result<(), Failure> {
    if rows.is_empty() {
        return line(none);
    }
    let cell = |text: &str| plain(if text.is_empty() { "-" } else { text });
    let mut lines: Vec<Vec<String>> = vec![headings.iter().map(|heading| (*heading).to_owned()).collect()];
    lines.extend(rows.iter().map(|row| row.iter().map(|text| cell(text)).collect()));
    let width = |column: usize| lines.iter().filter_map(|row| row.get(column)).map(|text| text.chars().count()).max();
    let widths: Vec<usize> = (0..headings.len()).map(|column| width(column).unwrap_or(0)).collect();
    for row in &lines {
        let cells = row.iter().zip(&widths).map(|(text, width)| format!("{text:width$}"));
        line(cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}

/// How often something long says how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);

/// How far something long is, told on standard error now and then; what is short says nothing.
pub(super) struct Progress {
    done: &'static str,
    told: Instant,
}

impl Progress {
    pub(super) fn new(done: &'static str) -> Self {
        Self { done, told: Instant::now() }
    }

    pub(super) fn at(&mut self, bytes: u64) {
        if self.told.elapsed() >= PROGRESS_EVERY {
            self.told = Instant::now();
            eprintln!("{} {}", ByteSize(bytes), self.done);
        }
    }
}

/// Text without control characters: it may be a client's.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { '\u{fffd}' } else { char }).collect()
}

/// A member as text: a string as it is, `null` as nothing, anything else as JSON.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(self::text).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

/// A span in its two largest units: `3 d 4 h`.
pub(super) fn span(seconds: u64) -> String {
    let units = [(86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")];
    let Some(largest) = units.iter().position(|(size, _)| seconds >= *size) else { return "0 s".to_owned() };
    let (size, unit) = units[largest];
    let first = format!("{} {unit}", seconds / size);
    match units.get(largest + 1).map(|(below, unit)| (seconds % size / below, unit)) {
        Some((rest @ 1.., unit)) => format!("{first} {rest} {unit}"),
        _ => first,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_two_units_at_most() {
        for (seconds, told) in
            [(0, "0 s"), (59, "59 s"), (60, "1 min"), (61, "1 min 1 s"), (3_600, "1 h"), (90_061, "1 d 1 h")]
        {
            assert_eq!(span(seconds), told);
        }
    }

    #[test]
    fn no_control_sequence_reaches_the_terminal() {
        assert_eq!(plain("a\u{1b}[31mb\nc"), "a\u{fffd}[31mb\u{fffd}c");
        assert_eq!(text(&serde_json::json!(["a", 1, null])), "a,1,");
    }
}
