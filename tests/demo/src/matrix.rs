// SPDX-License-Identifier: Apache-2.0
//! Who reaches whom: the probes, their results, and the printed table.

use std::{collections::BTreeMap, fmt::Write, path::Path};

use anyhow::{Context, Result};
use netpol_agent::{
    evaluate::{Packet, evaluate},
    model::Node,
    watch::directory,
};

use netpol_tests::{
    node::Site,
    probe::{Outcome, PATIENCE, Probe, Prober, Service},
};

/// Row and column.
type Pair = (usize, usize);
/// For one service, the families (`4`, `6`) that passed and those that were asked.
type Families = (String, String);

/// The probes, in a fixed order.
#[derive(Debug)]
pub struct Matrix {
    /// Rows and columns.
    pub sites: Vec<Site>,
    /// The probes of each cell; also the letters of the legend, in this order.
    pub services: Vec<Service>,
    pub(super) probes: Vec<Probe>,
    cells: Vec<(usize, usize, usize)>,
}

/// The results, in the order of the probes.
#[derive(Debug, Clone)]
pub struct Answers {
    /// Result of each probe.
    pub outcomes: Vec<Outcome>,
    /// Verdict of the reference evaluator on each.
    pub expected: Vec<bool>,
}

impl Answers {
    /// Returns true if a result is not what the policies say.
    pub fn differs(&self, probe: usize) -> bool {
        self.outcomes[probe].allowed() != Some(self.expected[probe])
    }
}

impl Matrix {
    /// Makes all pairs of sites, in both families. Sites in the same namespace are not asked about
    /// each other.
    pub fn new(sites: Vec<Site>, services: Vec<Service>) -> Self {
        let mut probes = Vec::new();
        let mut cells = Vec::new();
        for (row, from) in sites.iter().enumerate() {
            for (column, to) in sites.iter().enumerate() {
                if from.netns.name() == to.netns.name() {
                    continue;
                }
                for (letter, &service) in services.iter().enumerate() {
                    for probe in Probe::all(from, to, service) {
                        probes.push(probe);
                        cells.push((row, column, letter));
                    }
                }
            }
        }
        Self {
            sites,
            services,
            probes,
            cells,
        }
    }

    /// Number of probes.
    pub fn len(&self) -> usize {
        self.probes.len()
    }

    /// Runs all probes, and asks the evaluator the same about the manifests in `folder`. Repeats a
    /// probe that should pass and met silence.
    ///
    /// # Errors
    /// If the folder cannot be read or sockets cannot be made.
    pub fn ask(&self, prober: &Prober, folder: &Path, nodes: &[Node]) -> Result<Answers> {
        let expected = self.expected(folder, nodes)?;
        let mut outcomes = prober.probe_once(&self.probes, PATIENCE)?;
        prober.ask_again(&self.probes, &mut outcomes, |probe, outcome| {
            expected[probe] && outcome.allowed() != Some(true)
        })?;
        Ok(Answers { outcomes, expected })
    }

    fn expected(&self, folder: &Path, nodes: &[Node]) -> Result<Vec<bool>> {
        let snapshot = directory::load(folder).with_context(|| format!("loading {}", folder.display()))?;
        let verdict = |probe: &Probe| {
            let packet = Packet {
                source: probe.source,
                destination: probe.destination,
                protocol: probe.service.protocol(probe.source.is_ipv4()),
                port: probe.service.port(),
            };
            evaluate(&snapshot, nodes, &packet).allowed()
        };
        Ok(self.probes.iter().map(verdict).collect())
    }

    /// Returns the letter of a service, from `a`.
    pub fn letter(index: usize) -> char {
        char::from(b'a' + u8::try_from(index % 26).unwrap_or(0))
    }

    /// Describes, for each (row, column, service), the probes whose results are not what the
    /// policies say.
    pub fn differences(&self, answers: &Answers) -> Vec<String> {
        let wrong = (0..self.probes.len()).filter(|&probe| answers.differs(probe));
        let words = |probe: usize| {
            let policies = if answers.expected[probe] { "allow" } else { "deny" };
            format!(
                "{}: the policies {policies} it, the connection was {:?}",
                self.probes[probe], answers.outcomes[probe]
            )
        };
        wrong.map(words).collect()
    }

    /// Returns, for each (row, column) and service, the families (`4`, `6`) that passed and those
    /// that were asked.
    pub fn passed(&self, answers: &Answers) -> BTreeMap<Pair, Vec<Families>> {
        let mut cells = BTreeMap::new();
        for (probe, &(row, column, service)) in self.cells.iter().enumerate() {
            let families = cells
                .entry((row, column))
                .or_insert_with(|| vec![(String::new(), String::new()); self.services.len()]);
            let family = if self.probes[probe].source.is_ipv4() {
                '4'
            } else {
                '6'
            };
            families[service].1.push(family);
            if answers.outcomes[probe].allowed() == Some(true) {
                families[service].0.push(family);
            }
        }
        cells
    }

    /// Returns the legend of the letters.
    pub fn legend(&self) -> String {
        let letters = self.services.iter().enumerate();
        let letters: Vec<_> = letters
            .map(|(index, service)| format!("{} {service}", Self::letter(index)))
            .collect();
        format!(
            "Rows connect to columns. Ports:  {}\n\
             all = every port passes, . = none does, else the letters of those that do (a4: over IPv4 only, a6: IPv6 only);\n\
             ! = not what the policies say; blank = not asked.",
            letters.join(",  ")
        )
    }

    /// Returns the whole table.
    pub fn table(&self, answers: &Answers) -> String {
        let passed = self.passed(answers);
        let mut wrong = BTreeMap::new();
        for (probe, &(row, column, _)) in self.cells.iter().enumerate() {
            *wrong.entry((row, column)).or_insert(false) |= answers.differs(probe);
        }
        let text = |row: usize, column: usize| {
            let Some(services) = passed.get(&(row, column)) else {
                return String::new();
            };
            let mark = if wrong[&(row, column)] { "!" } else { "" };
            format!("{}{mark}", cell(services))
        };
        let widths: Vec<usize> = (0..self.sites.len())
            .map(|column| {
                (0..self.sites.len())
                    .map(|row| text(row, column).len())
                    .max()
                    .unwrap_or(0)
                    .max(3)
            })
            .collect();
        let longest = self.sites.iter().map(|site| site.name.len()).max().unwrap_or(0);
        let mut out = format!("{:>width$}  ", "from \\ to", width = longest + 3);
        for (column, width) in widths.iter().enumerate() {
            let _ = write!(out, " {:>width$}", column + 1);
        }
        for (row, site) in self.sites.iter().enumerate() {
            let _ = write!(out, "\n{:>2} {:<longest$}  ", row + 1, site.name);
            for (column, width) in widths.iter().enumerate() {
                let _ = write!(out, " {:>width$}", text(row, column));
            }
            out.truncate(out.trim_end().len());
        }
        out
    }
}

/// Formats the services of a cell.
fn cell(services: &[Families]) -> String {
    if services.iter().all(|(passed, asked)| passed == asked) {
        return "all".to_owned();
    }
    let mut text = String::new();
    for (index, (passed, asked)) in services.iter().enumerate() {
        if !passed.is_empty() {
            text.push(Matrix::letter(index));
            if passed != asked {
                text.push_str(passed);
            }
        }
    }
    if text.is_empty() { ".".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_shows_what_passes() {
        let services = |parts: &[(&str, &str)]| -> Vec<_> {
            parts
                .iter()
                .map(|(passed, asked)| ((*passed).to_owned(), (*asked).to_owned()))
                .collect()
        };
        assert_eq!(cell(&services(&[("46", "46"), ("46", "46")])), "all");
        assert_eq!(cell(&services(&[("4", "4"), ("4", "4")])), "all");
        assert_eq!(cell(&services(&[("", "46"), ("", "46")])), ".");
        assert_eq!(cell(&services(&[("46", "46"), ("6", "46"), ("", "46")])), "ab6");
    }
}
