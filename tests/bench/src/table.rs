// SPDX-License-Identifier: Apache-2.0
//! Formats figures as a table for a terminal.

use super::{
    Figure,
    figure::{Relation, Spread},
};

/// Marks a figure that misses its target.
pub const MISSED: &str = "MISSED";

/// Column names, and those for single times.
const HEADER: [&str; 7] = ["figure", "min", "median", "max", "against", "result", "target"];
const TIMES: [&str; 7] = ["figure", "p50", "p99", "max", "against", "result", "target"];

/// Splits figures by header: repetitions, then single times.
fn parts(figures: &[Figure]) -> Vec<([&'static str; 7], Vec<&Figure>)> {
    let (times, others): (Vec<_>, Vec<_>) = figures.iter().partition(|figure| figure.times);
    let parts = [(HEADER, others), (TIMES, times)];
    parts.into_iter().filter(|(_, part)| !part.is_empty()).collect()
}

/// Returns the cells of a figure's row.
fn row(figure: &Figure) -> [String; 7] {
    let title = figure.title();
    let (_, within) = title.split_once('/').unwrap_or(("", &title));
    let spread = figure.spread();
    let cell = |pick: fn(&Spread) -> f64| {
        spread
            .as_ref()
            .map_or("-".to_owned(), |spread| number(pick(spread)))
    };
    let unit = if spread.is_some() { &*figure.unit } else { "" };
    let mark = match figure.is_reached() {
        Some(true) => " reached",
        Some(false) => &format!(" {MISSED}"),
        None => "",
    };
    [
        within.to_owned(),
        cell(|spread| spread.min),
        format!("{} {unit}", cell(|spread| spread.median))
            .trim_end()
            .to_owned(),
        cell(|spread| spread.max),
        figure.baseline.as_ref().map_or(String::new(), |baseline| {
            figure.baseline_spread().map_or(baseline.name.clone(), |spread| {
                format!("{}: {}", baseline.name, number(spread.median))
            })
        }),
        related(figure),
        figure
            .target
            .map_or(String::new(), |target| format!("{target}{mark}")),
    ]
}

/// Formats the relation to its baseline: the median with its range; for single times, the 99th
/// percentile with the median.
fn related(figure: &Figure) -> String {
    let (Some(relation), Some(spread)) = (figure.relation(), figure.related()) else {
        return String::new();
    };
    let cell = |value: f64| match relation {
        Relation::Difference if value < 0.0 => format!("-{}", number(-value)),
        Relation::Difference => format!("+{}", number(value)),
        Relation::Ratio => format!("{value:.3}"),
    };
    let unit = if relation == Relation::Ratio { "x" } else { "" };
    let (least, middle, greatest) = (cell(spread.min), cell(spread.median), cell(spread.max));
    if figure.times {
        format!("{middle}{unit} (p50 {least})")
    } else {
        format!("{middle}{unit} ({least} to {greatest})")
    }
}

/// Formats a number with about three significant digits.
pub fn number(value: f64) -> String {
    let digits = match value.abs() {
        magnitude if magnitude == 0.0 || magnitude >= 100.0 => 0,
        magnitude if magnitude >= 10.0 => 1,
        magnitude if magnitude >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}

/// Formats the rows of some figures, with their notes below, for a terminal.
pub fn text(figures: &[Figure]) -> String {
    let mut text = String::new();
    for (header, part) in parts(figures) {
        text.push_str(&text_part(header, &part));
    }
    for note in notes(figures) {
        text.push_str(&format!("  {note}\n"));
    }
    text
}

fn text_part(header: [&str; 7], figures: &[&Figure]) -> String {
    let mut rows = vec![header.map(str::to_owned)];
    rows.extend(figures.iter().map(|figure| row(figure)));
    let widths: Vec<usize> = (0..header.len())
        .map(|column| {
            rows.iter()
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or_default()
        })
        .collect();
    let mut text = String::new();
    for row in &rows {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(column, (cell, width))| match column {
                1..=3 => format!("{cell:>width$}"),
                _ => format!("{cell:<width$}"),
            })
            .collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Returns each remark once, with the names of its figures.
fn notes(figures: &[Figure]) -> Vec<String> {
    let mut notes: Vec<(&str, Vec<&str>)> = Vec::new();
    for figure in figures {
        let Some(note) = figure.note.as_deref() else {
            continue;
        };
        match notes.iter_mut().find(|(text, _)| *text == note) {
            Some((_, names)) if names.contains(&&*figure.name) => {}
            Some((_, names)) => names.push(&figure.name),
            None => notes.push((note, vec![&figure.name])),
        }
    }
    let line = |(note, names): (&str, Vec<&str>)| format!("{}: {note}", names.join(", "));
    notes.into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::{Figure, MISSED, number, text};
    use crate::Target;

    #[test]
    fn what_a_target_is_missed_by_is_marked() {
        let figure = |samples: [f64; 3], limit| {
            Figure::new("packet", "established", "ns", samples.to_vec())
                .at("peers", 10)
                .above("empty program", vec![10.0; 3])
                .reaches(Target::MoreByAtMost(limit))
        };
        let missed = text(&[figure([70.0, 80.0, 90.0], 60.0)]);
        let row = missed.lines().nth(1).unwrap();
        let cells: Vec<&str> = row
            .split("  ")
            .filter(|cell| !cell.is_empty())
            .map(str::trim)
            .collect();
        assert_eq!(
            cells,
            [
                "established peers=10",
                "70.0",
                "80.0 ns",
                "90.0",
                "empty program: 10.0",
                "+70.0 (+60.0 to +80.0)",
                "<= +60 MISSED"
            ]
        );
        let reached = text(&[figure([70.0, 80.0, 90.0], 70.0)]);
        assert!(reached.contains("<= +70 reached"), "{reached}");
        assert!(!reached.contains(MISSED), "{reached}");
    }

    #[test]
    fn single_times_have_a_table_of_their_own() {
        let times: Vec<f64> = (1..=100).map(f64::from).collect();
        let figures = [
            Figure::of_times("agent", "change", "ms", times)
                .above("watch", vec![1.0])
                .reaches(Target::AtMost(99.0)),
            Figure::new("agent", "memory", "MB", vec![20.0]),
        ];
        let shown = text(&figures);
        let cells =
            |line: usize| -> Vec<&str> { shown.lines().nth(line).unwrap().split_whitespace().collect() };
        assert_eq!(cells(1), ["memory", "20.0", "20.0", "MB", "20.0"]);
        assert_eq!(cells(2)[..4], ["figure", "p50", "p99", "max"]);
        assert_eq!(
            cells(3),
            [
                "change", "50.0", "99.0", "ms", "100", "watch:", "1.00", "+98.0", "(p50", "+49.0)", "<=",
                "99", "reached"
            ]
        );
    }

    #[test]
    fn what_was_not_measured_says_why() {
        let shown = text(&[Figure::missing(
            "wire",
            "ipset",
            "Gbit/s",
            "this kernel has no ipset",
        )]);
        let row: Vec<&str> = shown.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(row, ["ipset", "-", "-", "-"]);
        assert!(shown.ends_with("  ipset: this kernel has no ipset\n"), "{shown}");
    }

    #[test]
    fn three_digits_count() {
        let numbers = [0.0, 0.1234, 1.234, 12.34, 123.4, 12345.6];
        assert_eq!(
            numbers.map(number),
            ["0", "0.123", "1.23", "12.3", "123", "12346"]
        );
    }
}
