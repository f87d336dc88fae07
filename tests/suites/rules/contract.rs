// SPDX-License-Identifier: Apache-2.0
//! The rules as `docs/semantics.md` writes them: list items that start with `**C2**`, or with
//! `**[C2]**` where the rule has tests to link to.

use std::{collections::BTreeSet, fs};

use crate::sources::root;

/// The contract's path in the repository.
pub const PATH: &str = "docs/semantics.md";

/// Stands under the heading of a section whose rules have no tests yet.
const NOT_IMPLEMENTED: &str = "Not implemented yet.";

/// What stands above the links, which are the end of the document.
const LINKS: &str = "<!-- The links to the tests are generated: see tests/suites/rules.rs. -->\n";

/// A rule of the contract.
pub struct Rule {
    /// Letter and number, like `C2`.
    pub name: String,
    /// Its first sentence, on one line.
    pub summary: String,
    /// Whether its section is implemented.
    pub implemented: bool,
}

/// The contract.
pub struct Contract {
    text: String,
    rules: Vec<Rule>,
}

impl Contract {
    /// Reads the document.
    pub fn read() -> Self {
        let text = fs::read_to_string(root().join(PATH)).unwrap();
        let mut rules = Vec::new();
        for part in text.split("\n## ") {
            let implemented = !part.contains(NOT_IMPLEMENTED);
            for item in part.split("\n- ").skip(1) {
                let (name, rest) = head(item).unwrap_or_else(|| panic!("{PATH}: not a rule: {item}"));
                rules.push(Rule {
                    name: name.to_owned(),
                    summary: first_sentence(rest),
                    implemented,
                });
            }
        }
        let contract = Self { text, rules };
        let names: BTreeSet<&str> = contract.rules().map(|rule| rule.name.as_str()).collect();
        assert_eq!(names.len(), contract.rules.len(), "{PATH} has a rule twice");
        contract
    }

    /// The rules in the document's order.
    pub fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.rules.iter()
    }

    /// Whether there is such a rule.
    pub fn has(&self, name: &str) -> bool {
        self.rules().any(|rule| rule.name == name)
    }

    /// The document with a link at each rule that `has_tests` is true of.
    pub fn with_links(&self, has_tests: impl Fn(&str) -> bool) -> String {
        let body = self.text.split(LINKS).next().unwrap_or_default();
        let mut text = String::new();
        for line in body.lines() {
            match line.strip_prefix("- ").and_then(head) {
                Some((name, rest)) if has_tests(name) => text += &format!("- **[{name}]**{rest}"),
                Some((name, rest)) => text += &format!("- **{name}**{rest}"),
                None => text += line,
            }
            text.push('\n');
        }
        text += LINKS;
        for rule in self.rules().filter(|rule| has_tests(&rule.name)) {
            text += &format!("[{}]: rules.md#{}\n", rule.name, rule.name.to_lowercase());
        }
        text
    }
}

/// Splits `**C2** text` or `**[C2]** text` behind its second `**`.
fn head(item: &str) -> Option<(&str, &str)> {
    let (name, rest) = item.strip_prefix("**")?.split_once("**")?;
    Some((name.trim_start_matches('[').trim_end_matches(']'), rest))
}

fn first_sentence(text: &str) -> String {
    let text = text.split("\n\n").next().unwrap_or_default();
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.split_once(". ") {
        Some((sentence, _)) => format!("{sentence}."),
        None => line,
    }
}
