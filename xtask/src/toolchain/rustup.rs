// SPDX-License-Identifier: Apache-2.0
//! The Rust source out of rustup's component `rust-src`, fetched into a rustup home of its own: the user's toolchains stay as they are.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, bail};

use super::{Rustc, source::in_whole, sysroot::is_library};
use crate::workspace::{Workspace, run};

/// Fetches `library/` of this compiler's release into `unpacked`, with rustup and its server.
///
/// # Errors
/// If there is no rustup, or its server cannot be reached, or does not have this compiler's release.
pub fn unpack(workspace: &Workspace, folder: &Path, rustc: &Rustc, unpacked: &Path) -> Result<()> {
    if !Command::new("rustup")
        .arg("--version")
        .output()
        .is_ok_and(|output| output.status.success())
    {
        bail!("there is no rustup");
    }
    println!(
        "toolchain: fetching the component rust-src of Rust {} with rustup to {}",
        rustc.release,
        workspace.show(unpacked)
    );
    let home = folder.join("rustup");
    let fetched = in_whole(unpacked, |part| {
        run(Command::new("rustup")
            .args([
                "toolchain",
                "install",
                &rustc.release,
                "--profile",
                "minimal",
                "--component",
                "rust-src",
            ])
            .args(["--no-self-update"])
            .env("RUSTUP_HOME", &home)
            .env("RUSTUP_MAX_RETRIES", "1")
            .env_remove("RUSTUP_TOOLCHAIN"))?;
        let library = fs::read_dir(home.join("toolchains"))?
            .filter_map(|toolchain| Some(toolchain.ok()?.path().join("lib/rustlib/src/rust/library")))
            .find(|library| is_library(library))
            .context("rustup installed no library/")?;
        fs::rename(library, part.join("library")).context("cannot move library/")
    });
    if home.exists() {
        fs::remove_dir_all(&home).with_context(|| format!("cannot remove {}", home.display()))?;
    }
    fetched
}
