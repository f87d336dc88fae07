// SPDX-License-Identifier: Apache-2.0
//! The active Rust toolchain.

use std::{env, path::PathBuf, process::Command};

use anyhow::{Context as _, Result};

use crate::workspace::output;

/// What `rustc -vV` says of itself.
pub struct Rustc {
    /// The compiler itself, not rustup's proxy.
    pub path: PathBuf,
    /// The folder that it takes its libraries from.
    pub sysroot: PathBuf,
    /// Its version, like `1.95.0`.
    pub release: String,
    /// The major version of its LLVM, like `22`.
    pub llvm_major: String,
    /// All that `rustc -vV` prints.
    pub verbose_version: String,
}

impl Rustc {
    /// Asks the compiler that cargo uses here.
    ///
    /// # Errors
    /// If it does not run, or its answer lacks a field.
    pub fn active() -> Result<Self> {
        let program = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let verbose_version = output(Command::new(&program).arg("-vV"))?;
        let sysroot = PathBuf::from(output(Command::new(&program).args(["--print", "sysroot"]))?.trim_end());
        let llvm = field(&verbose_version, "LLVM version")?;
        Ok(Self {
            path: sysroot.join("bin/rustc"),
            sysroot,
            release: field(&verbose_version, "release")?.to_owned(),
            llvm_major: llvm.split('.').next().unwrap_or(llvm).to_owned(),
            verbose_version,
        })
    }
}

fn field<'a>(verbose_version: &'a str, name: &str) -> Result<&'a str> {
    verbose_version
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
        .with_context(|| format!("`rustc -vV` prints no `{name}`"))
}

#[cfg(test)]
mod tests {
    use super::field;

    const ANSWER: &str = "rustc 1.95.0 (59807616e 2026-04-14)\nrelease: 1.95.0\nLLVM version: 22.1.2\n";

    #[test]
    fn a_field_is_read_by_its_whole_name() {
        assert_eq!(field(ANSWER, "release").unwrap(), "1.95.0");
        assert_eq!(field(ANSWER, "LLVM version").unwrap(), "22.1.2");
        assert!(field(ANSWER, "LLVM").is_err());
    }
}
