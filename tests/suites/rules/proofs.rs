// SPDX-License-Identifier: Apache-2.0
//! Which tests prove which rule.
//!
//! A case of the corpus names its rules. A test's name begins with them: `c2_a5_…` proves C2 and
//! A5.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use netpol_tests::{cases, scenario::case::scenario};

use crate::{BLESS, contract::Contract, sources::texts};

/// The tests of all rules, by the rule's name.
pub struct Proofs(BTreeMap<String, Proof>);

/// The tests of one rule.
#[derive(Debug, Default)]
pub struct Proof {
    /// Expectations of the corpus: the evaluator, the compiler and the kernel programs play all.
    expectations: usize,
    /// Those of them that sockets can make on one node: real connections play them too.
    by_sockets: usize,
    /// Names of tests by file.
    tests: BTreeMap<String, BTreeSet<String>>,
}

impl Proof {
    /// Whether nothing proves the rule.
    pub fn is_empty(&self) -> bool {
        self.expectations == 0 && self.tests.is_empty()
    }
}

impl Proofs {
    /// Looks through the corpus and the sources.
    pub fn find() -> Self {
        let mut proofs = Self(BTreeMap::new());
        proofs.add_corpus();
        for (path, text) in texts(&["netpol-agent", "netpol-common", "tests"], &[".rs"]) {
            for test in tests(&text) {
                for rule in test.split('_').map_while(rule_of) {
                    let tests = &mut proofs.0.entry(rule).or_default().tests;
                    tests.entry(path.clone()).or_default().insert(test.to_owned());
                }
            }
        }
        proofs
    }

    fn add_corpus(&mut self) {
        for case in cases::load_all().unwrap() {
            let all: usize = case.steps.iter().map(|step| step.expectations.len()).sum();
            let (_, left_out) = scenario(&case).unwrap();
            for rule in &case.rules {
                let proof = self.0.entry(rule.clone()).or_default();
                proof.expectations += all;
                proof.by_sockets += all - left_out.values().sum::<usize>();
            }
        }
    }

    /// The names of all rules that a test or a case names.
    pub fn rules(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The tests of a rule.
    pub fn of(&self, rule: &str) -> &Proof {
        const NONE: &Proof = &Proof {
            expectations: 0,
            by_sockets: 0,
            tests: BTreeMap::new(),
        };
        self.0.get(rule).unwrap_or(NONE)
    }

    /// `docs/rules.md`.
    pub fn document(&self, contract: &Contract) -> String {
        let mut text = format!(
            "# The tests of each rule\n\n\
             The rules are those of [the contract](semantics.md). This page is generated from the corpus\n\
             (`tests/cases`) and from the names of tests: a test named `c2_…` proves rule C2. To make it anew:\n\
             `{BLESS}`.\n\n\
             The evaluator, the compiler and the kernel programs (`BPF_PROG_TEST_RUN`) play every expectation\n\
             of the corpus. Real connections play those that sockets can make on one node.\n"
        );
        for rule in contract.rules() {
            let proof = self.of(&rule.name);
            if proof.is_empty() {
                continue;
            }
            write!(text, "\n## {}\n> {}\n\n", rule.name, rule.summary).unwrap();
            if proof.expectations > 0 {
                let Proof {
                    expectations: all,
                    by_sockets,
                    ..
                } = proof;
                writeln!(
                    text,
                    "- `tests/cases`: {all} expectations, {by_sockets} of them by real connections"
                )
                .unwrap();
            }
            for (file, tests) in &proof.tests {
                writeln!(text, "- `{file}`").unwrap();
                for test in tests {
                    writeln!(text, "  - `{test}`").unwrap();
                }
            }
        }
        text
    }
}

/// The names of the tests in a source file, but for ignored ones.
fn tests(text: &str) -> Vec<&str> {
    let mut tests = Vec::new();
    let mut is_test = false;
    for line in text.lines().map(str::trim) {
        let function = line
            .strip_prefix("fn ")
            .or_else(|| line.strip_prefix("async fn "));
        if let Some(function) = function {
            if is_test {
                tests.push(function.split(['(', '<']).next().unwrap_or_default());
            }
            is_test = false;
        } else if line.starts_with("#[ignore") {
            is_test = false;
        } else if line.starts_with("#[") && line.contains("test]") {
            is_test = true;
        }
    }
    tests
}

/// `c2` as `C2`: what has the form of a rule, be it one or not.
fn rule_of(word: &str) -> Option<String> {
    let (letter, number) = word.split_at_checked(1)?;
    let is_rule = letter.chars().all(|c| c.is_ascii_lowercase())
        && (1..=2).contains(&number.len())
        && number.chars().all(|c| c.is_ascii_digit());
    is_rule.then(|| word.to_uppercase())
}
