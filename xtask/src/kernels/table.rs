// SPDX-License-Identifier: Apache-2.0
//! The table of kernels in `docs/kernels.md`.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Context as _, Result};

use super::{Kernel, console::Outcome};
use crate::architecture::Architecture;
use crate::workspace::replace;

const PAGE: &str = "docs/kernels.md";
const BEGIN: &str = "<!-- written by `cargo xtask test --kernels --write` -->\n";
const END: &str = "<!-- end -->\n";

const HEADER: &str = "\
| Linux | Debian | attached by | asks connection tracking | sees checksums to be written | verified instructions | \
tests on single frames | tests with real packets |
|---|---|---|---|---|---|---|---|
";

/// One kernel.
pub struct Row(String);

impl Row {
    /// What is said of a kernel.
    pub fn new(kernel: &Kernel, release: &str, outcome: &Outcome) -> Self {
        let debian = kernel.debian;
        let mut version = release.split(['-', '+']).next().unwrap_or(release).to_owned();
        if kernel.architecture != Architecture::Amd64 {
            let _ = write!(version, " ({})", kernel.architecture.oci());
        }
        if let Some(refusal) = outcome.refusal() {
            return Self(format!("| {version} | {debian} | refused: {refusal} | | | | | |"));
        }
        let fact = |name| outcome.fact(name).unwrap_or("?");
        let result = |suite: &str| {
            let counts = outcome.counts(suite);
            let mut text = String::new();
            for (mode, count) in &counts {
                let before = if text.is_empty() { "" } else { ", " };
                let mode = if mode.is_empty() {
                    String::new()
                } else {
                    format!(" {mode}")
                };
                let _ = write!(text, "{before}{count}{mode}");
            }
            if outcome.passed() {
                text
            } else {
                format!("**failed** ({text} passed)")
            }
        };
        Self(format!(
            "| {version} | {debian} | {} | {} | {} | {} | {} | {} |",
            fact("attached by"),
            fact("asks connection tracking"),
            fact("sees checksums"),
            fact("verified"),
            result("progrun"),
            result("namespaces"),
        ))
    }
}

/// The table, in lines.
pub fn of(rows: &[Row]) -> String {
    let mut text = HEADER.to_owned();
    for row in rows {
        text.push_str(&row.0);
        text.push('\n');
    }
    text
}

/// Puts the table into the page.
///
/// # Errors
/// If the page cannot be read or written, or has no place for it.
pub fn write(root: &Path, table: &str) -> Result<()> {
    let path = root.join(PAGE);
    let page = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let (before, _, after) = parts(&page).with_context(|| format!("{PAGE} has no place for the table"))?;
    replace(&path, &format!("{before}{BEGIN}{table}{END}{after}"))
}

/// What is before the table, the table, and what is behind it.
fn parts(page: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (table, after) = rest.split_once(END)?;
    Some((before, table, after))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::KERNELS;

    /// The page has the table as this program writes it, and no kernel in it failed.
    #[test]
    fn the_page_has_the_table() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(PAGE);
        let page = fs::read_to_string(path).unwrap();
        let (_, table, _) = parts(&page).expect("a place for the table");
        let rows: Vec<&str> = table.strip_prefix(HEADER).expect("the header").lines().collect();
        assert!(!rows.is_empty());
        for row in rows {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            assert_eq!(cells.len(), 10, "{row}");
            assert!(KERNELS.iter().any(|kernel| kernel.debian == cells[2]), "{row}");
            assert!(!row.contains("failed"), "{row}");
        }
    }
}
