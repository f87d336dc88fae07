// SPDX-License-Identifier: Apache-2.0
//! What a guest tells on a serial port of its own: lines of its first process, which begin with
//! `netpol: `, and those of the suites.

use std::collections::BTreeMap;

/// What was found out in a guest.
#[derive(Debug, Default)]
pub struct Outcome {
    runs: Vec<Suite>,
    facts: BTreeMap<String, String>,
    /// Lines of an agent that ends at its start.
    refusal: Vec<String>,
    done: bool,
    log: Vec<String>,
}

/// One run of a suite.
#[derive(Debug, Default)]
struct Suite {
    /// Its name, and how programs are attached if it says so.
    name: String,
    passed: usize,
    failed: Vec<String>,
    ended_well: bool,
}

impl Outcome {
    /// Takes the next line.
    pub fn read(&mut self, line: &str) {
        self.log.push(line.to_owned());
        if let Some(told) = line.strip_prefix("netpol: ") {
            self.told(told);
        } else if let Some(fact) = line.strip_prefix("kernel: ") {
            if let Some((name, value)) = fact.split_once(": ") {
                self.facts.insert(name.to_owned(), value.to_owned());
            }
        } else if let Some(test) = line.strip_prefix("test ")
            && let Some((name, result)) = test.rsplit_once(" ... ")
            && let Some(run) = self.runs.last_mut()
        {
            match result {
                "ok" => run.passed += 1,
                "FAILED" => run.failed.push(name.to_owned()),
                _ => {}
            }
        }
    }

    fn told(&mut self, told: &str) {
        if let Some(name) = told.strip_prefix("suite ") {
            let name = name.to_owned();
            self.runs.push(Suite {
                name,
                ..Suite::default()
            });
        } else if let Some(status) = told.strip_prefix("exit ") {
            if let Some(run) = self.runs.last_mut() {
                run.ended_well = status == "0";
            }
        } else if let Some(said) = told.strip_prefix("refused ") {
            self.refusal.push(said.to_owned());
        } else if told == "done" {
            self.done = true;
        }
    }

    /// Returns true if the guest came to its end, every suite ran tests, and none failed.
    pub fn passed(&self) -> bool {
        self.done
            && !self.runs.is_empty()
            && self
                .runs
                .iter()
                .all(|run| run.ended_well && run.passed > 0 && run.failed.is_empty())
    }

    /// How many tests of the runs of a suite passed, by how programs are attached.
    pub fn counts(&self, suite: &str) -> Vec<(&str, usize)> {
        let runs = self.runs.iter().filter_map(|run| {
            let (name, mode) = run.name.split_once(' ').unwrap_or((&run.name, ""));
            (name == suite).then_some((mode, run.passed))
        });
        runs.collect()
    }

    /// What a suite told of the kernel.
    pub fn fact(&self, name: &str) -> Option<&str> {
        self.facts.get(name).map(String::as_str)
    }

    /// Returns true if it passed; on a kernel that the programs do not run on, if the agent says
    /// why in one line.
    pub fn is_as_expected(&self, refuses: Option<&str>) -> bool {
        match refuses {
            None => self.passed(),
            Some(text) => self.done && self.refusal().is_some_and(|said| said.contains(text)),
        }
    }

    /// What the agent says on a kernel that it does not run on, if that is one line.
    pub fn refusal(&self) -> Option<&str> {
        match &self.refusal[..] {
            [line] => line.strip_prefix("Error: opening the datapath: "),
            _ => None,
        }
    }

    /// One line about all of it.
    pub fn summary(&self, refuses: Option<&str>) -> String {
        if refuses.is_some() && self.is_as_expected(refuses) {
            return "refused, as expected,".to_owned();
        }
        let passed: usize = self.runs.iter().map(|run| run.passed).sum();
        let failed: Vec<&str> = self
            .runs
            .iter()
            .flat_map(|run| run.failed.iter().map(String::as_str))
            .collect();
        if self.passed() {
            return format!("{passed} tests passed");
        }
        let mut text = format!("{passed} tests passed, {} failed", failed.len());
        if !failed.is_empty() {
            text.push_str(&format!(" ({})", failed.join(", ")));
        }
        if !self.done {
            text.push_str(", and the guest did not come to its end");
        }
        text
    }

    /// All lines.
    pub fn log(&self) -> String {
        self.log.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::Outcome;

    fn outcome(lines: &[&str]) -> Outcome {
        let mut outcome = Outcome::default();
        for line in lines {
            outcome.read(line);
        }
        outcome
    }

    const WELL: [&str; 7] = [
        "netpol: suite kernels",
        "kernel: attached by: tcx",
        "test a ... ok",
        "netpol: exit 0",
        "netpol: suite namespaces tcx",
        "test verdicts::b ... ok",
        "netpol: exit 0",
    ];

    #[test]
    fn a_guest_that_comes_to_its_end_passes() {
        let whole = outcome(&[&WELL[..], &["netpol: done"]].concat());
        assert!(whole.passed());
        assert_eq!(whole.summary(None), "2 tests passed");
        assert_eq!(whole.fact("attached by"), Some("tcx"));
        assert_eq!(whole.counts("namespaces"), [("tcx", 1)]);
    }

    #[test]
    fn a_kernel_that_refuses_is_told_of_in_one_line() {
        let refusal = "netpol: refused Error: opening the datapath: it lacks a, which Linux 5.12 has";
        let one = outcome(&[refusal, "netpol: done"]);
        assert!(one.is_as_expected(Some("which Linux 5.12 has")));
        assert!(!one.is_as_expected(Some("which Linux 5.13 has")));
        assert!(!one.is_as_expected(None));
        let two = outcome(&[refusal, "netpol: refused 0: (bf) r6 = r1", "netpol: done"]);
        assert!(!two.is_as_expected(Some("which Linux 5.12 has")));
        assert!(!outcome(&[refusal]).is_as_expected(Some("which Linux 5.12 has")));
    }

    #[test]
    fn anything_less_does_not() {
        assert!(!outcome(&[]).passed());
        assert!(!outcome(&["netpol: done"]).passed());
        assert!(!outcome(&WELL).passed(), "no end: a panic, or no time left");
        for (at, instead) in [
            (2, "test a ... FAILED"),
            (2, "not run"),
            (3, "netpol: exit 101"),
            (3, ""),
        ] {
            let mut lines = WELL.to_vec();
            lines[at] = instead;
            lines.push("netpol: done");
            assert!(!outcome(&lines).passed(), "{instead}");
        }
    }
}
