// SPDX-License-Identifier: Apache-2.0
//! Writes `BENCHMARKS.md`: one row for each name of a run, or for many names of one kind, and the
//! missed targets.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use serde::Serialize;

use super::{
    Figure, Group, Target,
    figure::{Relation, SMALLEST, Spread},
    json::{Machine, Report},
    table::{self, number},
};

/// File with all figures of the page.
pub const FIGURES: &str = "docs/benchmarks.json";

/// Returns the page of a run: one row for all figures of the same name.
pub fn page(report: &Report, groups: &[Group]) -> String {
    let mut page = format!(
        "# Benchmarks\n\nWritten by `cargo xtask bench --write`. A row is all sizes, families and hooks that a figure was\n\
         measured at, from the least to the greatest median; [{FIGURES}]({FIGURES}) has each of them, with notes.\n\
         What a figure is held against was measured in the same repetitions, in turn with it: `+` is more than\n\
         that, `x` times that. Times of changes are 99th percentiles.\n\n"
    );
    page.push_str(&measured_on(report));
    let judged = report.figures.iter().filter_map(Figure::is_reached);
    let (all, reached) = judged.fold((0, 0), |(all, reached), is| (all + 1, reached + usize::from(is)));
    let _ = writeln!(page, "\n{reached} of {all} targets are reached.");
    for group in groups {
        let rows = rows(report, group);
        if rows.is_empty() {
            continue;
        }
        let _ = write!(
            page,
            "\n## {}: {}\n\n{}\n\n| figure | median | against | result | target | reached |\n|---|--:|---|--:|---|---|\n",
            group.name, group.title, group.profile
        );
        rows.iter().for_each(|row| page.push_str(row));
    }
    page
}

fn measured_on(report: &Report) -> String {
    let machine = &report.machine;
    let mut text = format!(
        "{} x {}, {} MiB, {}. {}",
        machine.cpus,
        machine.cpu,
        machine.memory,
        machine.kernel,
        run(machine)
    );
    for part in &report.again {
        let _ = write!(text, " Measured again: {}", run(part));
        if (&part.cpu, part.cpus, &part.kernel) != (&machine.cpu, machine.cpus, &machine.kernel) {
            let _ = write!(
                text,
                " That was on {} x {}, {}.",
                part.cpus, part.cpu, part.kernel
            );
        }
    }
    text + "\n"
}

fn run(machine: &Machine) -> String {
    let commit = machine.commit.as_deref().unwrap_or("unknown");
    format!("`{}`, {}, commit {commit}.", machine.command, machine.date)
}

/// Names that begin with the same word share a row if there are so many of them.
const FOLDED: usize = 5;

/// Returns the rows of a group: of figures with a target or an outside baseline.
fn rows(report: &Report, group: &Group) -> Vec<String> {
    let mut names: Vec<(String, Option<String>)> = Vec::new();
    let of_group = || report.figures.iter().filter(|figure| figure.group == group.name);
    let beside = |figure: &Figure| {
        figure
            .baseline
            .as_ref()
            .is_some_and(|beside| beside.name != SMALLEST)
    };
    let shown = || of_group().filter(|figure| figure.target.is_some() || beside(figure));
    let mut words: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for figure in shown() {
        words.entry(first_word(figure)).or_default().insert(&figure.name);
    }
    let kind = |figure: &Figure| {
        let with = figure.parameters.get("with").cloned();
        let word = first_word(figure);
        match words.get(word).map_or(0, BTreeSet::len) {
            // A figure that is all of them together has a row of its own.
            FOLDED.. if word != figure.name => (format!("{word}_..."), with),
            _ => (figure.name.clone(), with),
        }
    };
    for figure in shown() {
        if !names.contains(&kind(figure)) {
            names.push(kind(figure));
        }
    }
    let rows = names.into_iter().map(|name| {
        let figures: Vec<&Figure> = of_group().filter(|figure| kind(figure) == name).collect();
        row(&name.0, name.1.as_deref(), &figures)
    });
    rows.collect()
}

fn first_word(figure: &Figure) -> &str {
    figure.name.split('_').next().unwrap_or_default()
}

fn row(name: &str, with: Option<&str>, figures: &[&Figure]) -> String {
    let with = with.map_or(String::new(), |with| format!(" with {with}"));
    let medians = range(figures.iter().filter_map(|figure| figure.spread()));
    let unit = &figures[0].unit;
    let baseline = figures.iter().find_map(|figure| figure.baseline.as_ref());
    let against = baseline.map_or("", |baseline| &baseline.name);
    let held = figures.iter().filter(|figure| figure.baseline.is_some());
    let related = held.filter_map(|figure| figure.related());
    let result = match baseline.map(|baseline| baseline.relation) {
        Some(Relation::Difference) => {
            let range = range(related);
            let sign = if range.starts_with('-') { "" } else { "+" };
            format!("{sign}{range}")
        }
        Some(Relation::Ratio) => {
            let (least, most) = ends(related.map(|spread| spread.median));
            format!("{least:.2} to {most:.2} x")
        }
        None => String::new(),
    };
    let mut targets: Vec<String> = Vec::new();
    for target in figures.iter().filter_map(|figure| figure.target.as_ref()) {
        let text = Target::to_string(target);
        if !targets.contains(&text) {
            targets.push(text);
        }
    }
    let judged: Vec<bool> = figures.iter().filter_map(|figure| figure.is_reached()).collect();
    let reached = judged.iter().filter(|is| **is).count();
    let verdict = match judged.len() {
        0 => String::new(),
        all if reached == all => format!("{reached} of {all}"),
        all => format!("{reached} of {all} **{}**", table::MISSED),
    };
    format!(
        "| {name}{with} | {medians} {unit} | {against} | {result} | {} | {verdict} |\n",
        targets.join(", ")
    )
}

fn range(spreads: impl Iterator<Item = Spread>) -> String {
    let (least, most) = ends(spreads.map(|spread| spread.median));
    match (number(least), number(most)) {
        (least, most) if least == most => least,
        (least, most) => format!("{least} to {most}"),
    }
}

fn ends(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), value| {
        (least.min(value), most.max(value))
    })
}

/// A figure without its samples.
#[derive(Serialize)]
struct Summary<'a> {
    figure: String,
    unit: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    min_median_max: Option<[f64; 3]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    against: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<[f64; 3]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reached: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<&'a str>,
}

/// Encodes every figure of a run, one per line.
///
/// # Errors
/// A number that JSON does not have.
pub fn figures(report: &Report) -> serde_json::Result<String> {
    let three = |spread: Spread| {
        [spread.min, spread.median, spread.max].map(|value| (value * 1000.0).round() / 1000.0)
    };
    let lines: Result<Vec<String>, _> = report
        .figures
        .iter()
        .map(|figure| {
            serde_json::to_string(&Summary {
                figure: figure.title(),
                unit: &figure.unit,
                min_median_max: figure.spread().map(three),
                against: figure.baseline.as_ref().map(|baseline| &*baseline.name),
                result: figure.baseline.as_ref().and_then(|_| figure.related()).map(three),
                target: figure.target.as_ref().map(Target::to_string),
                reached: figure.is_reached(),
                note: figure.note.as_deref(),
            })
        })
        .collect();
    Ok(format!("[\n{}\n]\n", lines?.join(",\n")))
}

#[cfg(test)]
mod tests {
    use super::{Group, Report};
    use crate::{Figure, Target, json::Machine};

    #[test]
    fn a_page_says_which_targets_are_missed() {
        let figure = |name: &str, sample| {
            Figure::new("packet", name, "ns", vec![sample]).reaches(Target::AtMost(10.0))
        };
        let against = Figure::new("packet", "traffic", "Gbit/s", vec![4.5]).against("nobody", vec![5.0]);
        let figures = vec![
            figure("fast", 9.0),
            figure("slow", 9.0).at("peers", 1),
            figure("slow", 11.0).at("peers", 10),
            against.at("with", "netpol").noted("a remark"),
            Figure::new("packet", "free", "ns", vec![1.0]),
        ];
        let run = |figures| Report::new(Machine::this("cargo xtask bench").unwrap(), figures);
        let report = run(figures);
        let group = Group {
            name: "packet",
            title: "cost per packet",
            profile: "`free` says.",
            measure: |_| Ok(()),
        };
        let page = super::page(&report, std::slice::from_ref(&group));
        for line in [
            "2 of 3 targets are reached.",
            "## packet: cost per packet",
            "`free` says.",
            "| fast | 9.00 ns |  |  | <= 10 | 1 of 1 |",
            "| slow | 9.00 to 11.0 ns |  |  | <= 10 | 1 of 2 **MISSED** |",
            "| traffic with netpol | 4.50 Gbit/s | nobody | 0.90 to 0.90 x |  |  |",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} in\n{page}");
        }
        assert!(page.contains(&report.machine.kernel), "{page}");
        assert!(!page.contains("| free"), "{page}");

        let all: serde_json::Value = serde_json::from_str(&super::figures(&report).unwrap()).unwrap();
        let all = all.as_array().unwrap();
        assert_eq!(all.len(), 5);
        assert_eq!(all[2]["figure"], "packet/slow peers=10");
        assert_eq!(
            (&all[2]["reached"], &all[3]["note"]),
            (&false.into(), &"a remark".into())
        );
        assert_eq!(all[3]["result"], serde_json::json!([0.9, 0.9, 0.9]));

        let many = ["a", "b", "c", "d", "e"].map(|end| figure(&format!("kind_{end}"), 9.0));
        let page = super::page(
            &run([many.to_vec(), vec![figure("kind", 8.0)]].concat()),
            std::slice::from_ref(&group),
        );
        for row in [
            "| kind_... | 9.00 ns |  |  | <= 10 | 5 of 5 |",
            "| kind | 8.00 ns |  |  | <= 10 | 1 of 1 |",
        ] {
            assert!(page.lines().any(|found| found == row), "{row} in\n{page}");
        }

        let later = report.renewed_by(run(vec![figure("slow", 8.0)]), |figure| figure.name == "slow");
        let page = super::page(&later, &[group]);
        assert!(page.contains("2 of 2 targets are reached."), "{page}");
        assert!(page.contains(" Measured again: `cargo xtask bench`, "), "{page}");
    }
}
