// SPDX-License-Identifier: Apache-2.0
//! Where code, cases, manifests and documents cite a rule: `rule A6`, `rules T2 and T4`, `(C2)`.

use std::{collections::BTreeSet, fmt};

use crate::{contract::Contract, sources::texts};

/// The name of a rule at a place.
pub struct Citation {
    /// Letter and number, like `C2`.
    pub rule: String,
    path: String,
    line: usize,
}

impl fmt::Display for Citation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.rule)
    }
}

/// All citations. A word such as `C2` is one if a rule of the contract begins with its letter, or
/// if it comes behind `rule`.
pub fn find(contract: &Contract) -> Vec<Citation> {
    let letters: BTreeSet<&str> = contract.rules().map(|rule| &rule.name[..1]).collect();
    let mut found = Vec::new();
    for (path, text) in texts(&["."], &[".rs", ".md", ".yaml"]) {
        for (index, line) in text.lines().enumerate() {
            let mut before = "";
            for word in line
                .split(|c: char| !c.is_alphanumeric())
                .filter(|word| !word.is_empty())
            {
                if is_rule(word) && (letters.contains(&word[..1]) || matches!(before, "rule" | "rules")) {
                    found.push(Citation {
                        rule: word.to_owned(),
                        path: path.clone(),
                        line: index + 1,
                    });
                }
                before = word;
            }
        }
    }
    found
}

fn is_rule(word: &str) -> bool {
    let mut chars = word.chars();
    chars.next().is_some_and(|c| c.is_ascii_uppercase())
        && (2..=3).contains(&word.len())
        && chars.all(|c| c.is_ascii_digit())
}
