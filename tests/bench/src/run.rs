// SPDX-License-Identifier: Apache-2.0
//! A run: measures the groups one by one, and prints and saves their figures.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, ensure};

use super::{
    Figure, GROUPS, compare,
    json::{Machine, Report},
    page, plot, table,
};

/// The workspace.
pub const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// Number of repetitions of a run, and of a quick one.
const REPETITIONS: (usize, usize) = (7, 3);

/// What to measure, and where to store it.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// `GROUP` or `GROUP/NAME`: only figures of this group whose name begins so; everything if
    /// absent.
    pub only: Option<String>,
    /// Fewer repetitions and sizes, for a first look.
    pub quick: bool,
    /// Folder for `bench.json` and the pictures; made if missing.
    pub out: PathBuf,
    /// A saved run to compare this one with.
    pub compare: Option<PathBuf>,
    /// Replace `BENCHMARKS.md`. With `only`, by the run in `out` with these figures replaced.
    pub write: bool,
}

/// A run in progress.
#[derive(Debug)]
pub struct Run {
    only: Option<(String, String)>,
    quick: bool,
    figures: Vec<Figure>,
}

impl Run {
    /// Starts a run with these options.
    ///
    /// # Errors
    /// `--only` names no group.
    pub fn new(options: &Options) -> Result<Self> {
        let only = options.only.as_deref().map(|only| {
            let (group, name) = only.split_once('/').unwrap_or((only, ""));
            (group.to_owned(), name.to_owned())
        });
        if let Some((group, _)) = &only {
            let names: Vec<&str> = GROUPS.iter().map(|group| group.name).collect();
            ensure!(
                names.contains(&group.as_str()),
                "there is no group {group}, but {}",
                names.join(", ")
            );
        }
        Ok(Self {
            only,
            quick: options.quick,
            figures: Vec::new(),
        })
    }

    /// Returns true if figures of this name are to be measured. Those of one name are measured
    /// together, or not at all.
    pub fn wants(&self, group: &str, name: &str) -> bool {
        self.only
            .as_ref()
            .is_none_or(|(of, prefix)| of == group && name.starts_with(prefix.as_str()))
    }

    /// Returns true if fewer sizes and repetitions are enough.
    pub fn is_quick(&self) -> bool {
        self.quick
    }

    /// Returns the number of repetitions.
    pub fn repetitions(&self) -> usize {
        if self.quick { REPETITIONS.1 } else { REPETITIONS.0 }
    }

    /// Adds a figure, and prints its row.
    pub fn add(&mut self, figure: Figure) {
        let spread = figure.related();
        let median = spread.map_or("-".to_owned(), |spread| table::number(spread.median));
        println!("  {}: {median}", figure.title());
        self.figures.push(figure);
    }

    /// Returns the figures measured so far.
    pub fn figures(&self) -> &[Figure] {
        &self.figures
    }
}

/// Measures, prints and saves.
///
/// # Errors
/// A group failed: the others' figures are printed and saved first. Or nothing was measured, or a
/// file cannot be written.
pub fn run(options: &Options) -> Result<()> {
    let before = options.compare.as_deref().map(Report::read).transpose()?;
    fs::create_dir_all(&options.out).with_context(|| format!("creating {}", options.out.display()))?;
    let machine = Machine::this(&command(options))?;
    let mut run = Run::new(options)?;
    let mut failed = None;
    for group in GROUPS {
        if run.only.as_ref().is_some_and(|(only, _)| only != group.name) {
            continue;
        }
        println!("{}: {}", group.name, group.title);
        if let Err(error) = (group.measure)(&mut run) {
            println!("  failed: {error:#}");
            failed = failed.or(Some(error.context(format!("group {}", group.name))));
        }
    }

    for group in GROUPS {
        let figures: Vec<Figure> = run
            .figures
            .iter()
            .filter(|figure| figure.group == group.name)
            .cloned()
            .collect();
        if !figures.is_empty() {
            println!("\n{}: {}\n{}", group.name, group.title, table::text(&figures));
        }
    }
    let saved = options.out.join("bench.json");
    let wanted = |figure: &Figure| run.wants(&figure.group, &figure.name);
    let mut report = Report::new(machine, run.figures.clone());
    if options.write && options.only.is_some() {
        report = Report::read(&saved)?.renewed_by(report, wanted);
    }
    if let Some(before) = &before {
        println!("{}", compare::text(&report.figures, before));
    }
    report.write(&saved)?;
    println!("saved {}", saved.display());
    for picture in plot::draw_all(&report.figures, &options.out)? {
        println!("drew {}", picture.display());
    }
    if let Some(error) = failed {
        return Err(error);
    }
    ensure!(!report.figures.is_empty(), "nothing was measured");
    if options.write {
        let written = [
            ("BENCHMARKS.md", page::page(&report, GROUPS)),
            (page::FIGURES, page::figures(&report)?),
        ];
        for (name, text) in written {
            let path = PathBuf::from(ROOT).join(name);
            fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
            println!("wrote {name}");
        }
    }
    Ok(())
}

/// Returns the command that makes such a run.
fn command(options: &Options) -> String {
    let mut command = "cargo xtask bench".to_owned();
    if let Some(only) = &options.only {
        command.push_str(&format!(" --only {only}"));
    }
    if options.quick {
        command.push_str(" --quick");
    }
    if options.write {
        command.push_str(" --write");
    }
    command
}
