// SPDX-License-Identifier: Apache-2.0
//! `BENCHMARKS.md`: the tables of a run, what they were measured on, and what did not reach its target.

use std::fmt::Write;

use super::{Group, json::Report, table};

/// The page of a run.
pub fn page(report: &Report, groups: &[Group]) -> String {
    let machine = &report.machine;
    let mut page = String::from("# Benchmarks\n\n");
    page.push_str(
        "Written by `cargo xtask bench --write`, not by hand. Each figure is the least, the middle and the greatest of several\n\
         repetitions. What it is held against was measured in the same repetitions, in turn with it, so that it holds on a busy machine\n\
         too; the result is formed repetition by repetition, and its middle counts for the target. `+`: more than the baseline, `x`: times\n\
         the baseline.\n\n",
    );
    let lines = [
        ("Command", format!("`{}`", machine.command)),
        ("Date", machine.date.clone()),
        (
            "Commit",
            machine.commit.clone().unwrap_or_else(|| "unknown".to_owned()),
        ),
        ("Kernel", machine.kernel.clone()),
        ("CPU", format!("{} x {}", machine.cpus, machine.cpu)),
        ("Memory", format!("{} MiB", machine.memory)),
    ];
    page.push_str("| | |\n|---|---|\n");
    for (name, value) in lines {
        let _ = writeln!(page, "| {name} | {value} |");
    }
    for part in &report.again {
        let commit = part.commit.as_deref().unwrap_or("unknown");
        let _ = writeln!(
            page,
            "| Measured again | `{}`, {}, commit {commit}, kernel {} |",
            part.command, part.date, part.kernel
        );
    }
    let missed: Vec<String> = report
        .figures
        .iter()
        .filter(|figure| figure.is_reached() == Some(false))
        .map(|figure| format!("- {}\n", figure.title()))
        .collect();
    let judged = report
        .figures
        .iter()
        .filter(|figure| figure.is_reached().is_some())
        .count();
    let _ = writeln!(
        page,
        "\n{} of {judged} targets are reached.",
        judged - missed.len()
    );
    if !missed.is_empty() {
        page.push_str("Not reached:\n\n");
        missed.iter().for_each(|line| page.push_str(line));
        page.push_str("\nWhere the time goes, by figures of the same run:\n\n");
        let has_missed = |group: &&Group| {
            let mut figures = report.figures.iter().filter(|figure| figure.group == group.name);
            figures.any(|figure| figure.is_reached() == Some(false))
        };
        for group in groups.iter().filter(has_missed) {
            let _ = writeln!(page, "- {}: {}", group.name, group.profile);
        }
    }
    for group in groups {
        let figures: Vec<_> = report
            .figures
            .iter()
            .filter(|figure| figure.group == group.name)
            .cloned()
            .collect();
        if !figures.is_empty() {
            let _ = write!(
                page,
                "\n## {}: {}\n\n{}",
                group.name,
                group.title,
                table::markdown(&figures)
            );
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use super::{Group, Report};
    use crate::bench::{Figure, Target, json::Machine};

    #[test]
    fn a_page_says_which_targets_are_missed() {
        let figure = |name: &str, sample| {
            Figure::new("packet", name, "ns", vec![sample]).reaches(Target::AtMost(10.0))
        };
        let figures = vec![
            figure("fast", 9.0),
            figure("slow", 11.0).at("peers", 10),
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
        assert!(page.contains("1 of 2 targets are reached."), "{page}");
        assert!(
            page.contains(
                "Not reached:\n\n- packet/slow peers=10\n\nWhere the time goes, by figures of the same run:\n\n- packet: `free` says.\n\n## packet: cost \
                 per packet\n"
            ),
            "{page}"
        );
        assert!(page.contains("| <= 10 **MISSED** |"), "{page}");
        assert!(
            page.contains(&format!("| Kernel | {} |", report.machine.kernel)),
            "{page}"
        );

        let later = report.renewed_by(run(vec![figure("slow", 8.0)]), |figure| figure.name == "slow");
        let page = super::page(&later, &[group]);
        assert!(page.contains("2 of 2 targets are reached."), "{page}");
        assert!(
            page.contains("| Measured again | `cargo xtask bench`, "),
            "{page}"
        );
    }
}
