// SPDX-License-Identifier: Apache-2.0
//! Commands and their outputs as documents show them, in part: `[...]` on a line of its own stands
//! for any lines, at the end of a line for the rest of it.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};

const LEFT_OUT: &str = "[...]";

/// A block of output in a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// The command behind `# `; empty if the block shows none.
    pub command: String,
    /// The lines below it.
    pub output: Vec<String>,
}

impl Shown {
    /// All of a document, which is named relative to the repository.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn all(document: &str) -> Result<Vec<Self>> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(document);
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        // Blocks of code are every second part.
        Ok(text
            .split("```")
            .skip(1)
            .step_by(2)
            .flat_map(Self::in_block)
            .collect())
    }

    fn in_block(block: &str) -> Vec<Self> {
        let mut found = Vec::new();
        for line in block.trim_matches('\n').lines() {
            match line.strip_prefix("# ") {
                Some(command) => found.push(Self {
                    command: command.to_owned(),
                    output: Vec::new(),
                }),
                None if found.is_empty() => found.push(Self {
                    command: String::new(),
                    output: vec![line.to_owned()],
                }),
                None => found
                    .last_mut()
                    .into_iter()
                    .for_each(|shown| shown.output.push(line.to_owned())),
            }
        }
        found
    }

    /// Whether a real output is what is shown.
    ///
    /// # Errors
    /// If it is not: names the first line that does not come.
    pub fn check(&self, real: &str) -> Result<()> {
        let mut rest = real.trim_end().lines();
        let mut skip = false;
        for wanted in &self.output {
            if wanted == LEFT_OUT {
                skip = true;
                continue;
            }
            let fits = |line: &str| match wanted.strip_suffix(LEFT_OUT) {
                Some(begin) => line.starts_with(begin),
                None => line == wanted,
            };
            let found = if skip {
                rest.any(fits)
            } else {
                rest.next().is_some_and(fits)
            };
            ensure!(
                found,
                "`{}`: the document shows\n{wanted}\nwhich is not there in\n{real}",
                self.command
            );
            skip = false;
        }
        ensure!(
            skip || rest.next().is_none(),
            "`{}`: the document ends before\n{real}",
            self.command
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_not_compared_and_all_else_is() {
        let shown = Shown::in_block("\n# ask\none\n[...]\nthree [...]\nfour\n");
        assert_eq!((shown.len(), shown[0].command.as_str()), (1, "ask"));
        let check = |real: &str| shown[0].check(real).is_ok();
        assert!(check("one\ntwo\ntwo again\nthree is more\nfour\n"));
        assert!(check("one\nthree \nfour"));
        assert!(!check("one\ntwo\nthree \n"));
        assert!(!check("none\nthree \nfour"));
        assert!(!check("one\nthree \nfour\nfive"));
    }
}
