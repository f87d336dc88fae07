// SPDX-License-Identifier: Apache-2.0
//! A run as a file: its figures, and the machine that they were measured on.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::Figure;

/// Version of the file's layout.
const VERSION: u32 = 1;

/// A run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    version: u32,
    /// Where and when.
    pub machine: Machine,
    /// Machines of later runs that measured a part again.
    #[serde(default)]
    pub again: Vec<Machine>,
    /// What was measured, in that order.
    pub figures: Vec<Figure>,
}

/// Where and when figures were measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The command that makes such a run.
    pub command: String,
    /// Commit of the source, marked if it was changed; `None` outside of a clone.
    pub commit: Option<String>,
    /// `uname -srm`.
    pub kernel: String,
    /// Name of the CPU.
    pub cpu: String,
    /// Number of CPUs.
    pub cpus: usize,
    /// Memory, MiB.
    pub memory: u64,
    /// Day of the run (UTC), `2026-01-31`.
    pub date: String,
}

impl Report {
    /// Makes a report of figures.
    pub fn new(machine: Machine, figures: Vec<Figure>) -> Self {
        Self {
            version: VERSION,
            machine,
            again: Vec::new(),
            figures,
        }
    }

    /// Replaces the figures that `is_part` matches by those of a later run.
    #[must_use]
    pub fn renewed_by(mut self, part: Self, is_part: impl Fn(&Figure) -> bool) -> Self {
        self.again
            .retain(|earlier| earlier.command != part.machine.command);
        self.again.push(part.machine);
        self.figures.retain(|figure| !is_part(figure));
        self.figures.extend(part.figures);
        self
    }

    /// Reads a saved run.
    ///
    /// # Errors
    /// It cannot be read, or is of another layout.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let report: Self =
            serde_json::from_str(&text).with_context(|| format!("{} is no saved run", path.display()))?;
        ensure!(
            report.version == VERSION,
            "{} has layout {}, not {VERSION}",
            path.display(),
            report.version
        );
        Ok(report)
    }

    /// Saves the run.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(path, text).with_context(|| format!("writing {}", path.display()))
    }
}

impl Machine {
    /// Describes this machine, now.
    ///
    /// # Errors
    /// `/proc` or `uname` do not tell.
    pub fn this(command: &str) -> Result<Self> {
        let cpus = fs::read_to_string("/proc/cpuinfo").context("reading /proc/cpuinfo")?;
        let memory = fs::read_to_string("/proc/meminfo").context("reading /proc/meminfo")?;
        let memory = field(&memory, "MemTotal").and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
        Ok(Self {
            command: command.to_owned(),
            commit: commit(),
            kernel: said(Command::new("uname").arg("-srm"))?,
            cpu: field(&cpus, "model name").unwrap_or("of unknown name").to_owned(),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            memory: memory.context("no MemTotal in /proc/meminfo")? / 1024,
            date: said(Command::new("date").args(["-u", "+%F"]))?,
        })
    }
}

fn commit() -> Option<String> {
    let git = |arguments: &[&str]| {
        said(
            Command::new("git")
                .arg("-C")
                .arg(super::run::ROOT)
                .args(arguments),
        )
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"]).ok()?;
    let changed = !git(&["status", "--porcelain"]).ok()?.is_empty();
    Some(if changed {
        format!("{commit}, changed")
    } else {
        commit
    })
}

fn said(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("starting {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", output.status);
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// The value of the first line `name : value`.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    lines
        .find(|(key, _)| key.trim() == name)
        .map(|(_, value)| value.trim())
}

#[cfg(test)]
mod tests {
    use super::{Figure, Machine, Report};
    use crate::Target;

    #[test]
    fn a_run_is_read_as_it_was_written() {
        let figure = Figure::new("g", "n", "ns", vec![1.5, 2.0])
            .at("peers", 10)
            .against("empty", vec![1.0, 1.0])
            .reaches(Target::RatioAtMost(1.3))
            .noted("a remark");
        let report = Report::new(Machine::this("cargo xtask bench").unwrap(), vec![figure]);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bench.json");
        report.write(&path).unwrap();
        assert_eq!(Report::read(&path).unwrap(), report);
        let other = std::fs::read_to_string(&path)
            .unwrap()
            .replace("\"version\": 1", "\"version\": 2");
        std::fs::write(&path, other).unwrap();
        let error = Report::read(&path).unwrap_err().to_string();
        assert!(error.contains("layout 2, not 1"), "{error}");
    }
}
