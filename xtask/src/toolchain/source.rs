// SPDX-License-Identifier: Apache-2.0
//! The source of Rust's `library/`, for a toolchain without the component `rust-src`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, anyhow, bail};

use super::{
    rustc::Rustc,
    sysroot::{holds_library, is_library},
};
use crate::workspace::{Workspace, run};

/// Adds the component to the active toolchain, as `rustup component add rust-src` does.
///
/// # Errors
/// If there is no rustup, the toolchain is not one of its own, or its server does not answer.
pub fn add_component(rustc: &Rustc) -> Result<()> {
    println!(
        "toolchain: adding the component rust-src to {}",
        rustc.sysroot.display()
    );
    run(Command::new("rustup")
        .args(["component", "add", "rust-src"])
        .env("RUSTUP_MAX_RETRIES", "1"))?;
    if !holds_library(&rustc.sysroot) {
        bail!(
            "rustup added it to another toolchain than {}",
            rustc.sysroot.display()
        );
    }
    Ok(())
}

/// Returns the `library/` of this compiler's release out of Debian's package, unpacked into the
/// toolchain's folder: for machines that reach a Debian mirror and no server of rustup.
///
/// # Errors
/// If this is no Debian, or its mirror has no package of exactly this release.
pub fn from_debian(workspace: &Workspace, folder: &Path, rustc: &Rustc) -> Result<PathBuf> {
    let unpacked = folder.join(format!("rust-src-{}", rustc.release));
    let library = unpacked.join("library");
    if is_library(&library) {
        return Ok(library);
    }
    if unpacked.exists() {
        fs::remove_dir_all(&unpacked).with_context(|| format!("cannot remove {}", unpacked.display()))?;
    }
    println!(
        "toolchain: unpacking Debian's package rust-src {} to {}",
        rustc.release,
        workspace.show(&unpacked)
    );
    let script = workspace.root.join("xtask/src/toolchain/debian-rust-src.sh");
    run(Command::new("sh").arg(script).arg(&rustc.release).arg(&unpacked))?;
    if !is_library(&library) {
        bail!("the package holds no library/");
    }
    Ok(library)
}

/// The message when neither way works.
pub fn missing(rustc: &Rustc, by_rustup: &anyhow::Error, by_debian: &anyhow::Error) -> anyhow::Error {
    anyhow!(
        "the eBPF programs need the source of Rust's library, which this toolchain lacks.\n\
         rustup does not help: {by_rustup:#}\n\
         Debian's package does not help: {by_debian:#}\n\
         Put the folder library/ of Rust {} at {}",
        rustc.release,
        super::sysroot::library(&rustc.sysroot).display()
    )
}
