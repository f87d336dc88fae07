// SPDX-License-Identifier: Apache-2.0
//! bpf-linker, built for the LLVM of the active toolchain: no LLVM to install.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail};

use super::rustc::Rustc;
use crate::workspace::{Workspace, run};

const VERSION: &str = "0.10.4";
/// The major versions of LLVM that this bpf-linker can load out of a Rust toolchain.
const LLVM: [&str; 2] = ["21", "22"];

/// Puts the linker at `bin/bpf-linker`, building it if no earlier run did.
///
/// # Errors
/// If the toolchain's LLVM is not known to bpf-linker, or the build fails.
pub fn install(workspace: &Workspace, folder: &Path, rustc: &Rustc) -> Result<()> {
    let llvm = &rustc.llvm_major;
    if !LLVM.contains(&llvm.as_str()) {
        bail!(
            "rustc {} uses LLVM {llvm}, which bpf-linker {VERSION} does not know: use a Rust with LLVM {}",
            rustc.release,
            LLVM.join(" or ")
        );
    }
    let root = folder.join(format!("bpf-linker-{VERSION}-llvm{llvm}"));
    let built = root.join("bin/bpf-linker");
    if !built.is_file() {
        println!("toolchain: building bpf-linker {VERSION} for LLVM {llvm}, once, about a minute");
        let scratch = folder.join("bpf-linker-build");
        run(workspace
            .cargo()
            .args([
                "install",
                "--quiet",
                "bpf-linker",
                "--version",
                VERSION,
                "--locked",
            ])
            .args([
                "--no-default-features",
                "--features",
                &format!("rust-llvm-{llvm}"),
            ])
            .arg("--root")
            .arg(&root)
            .arg("--target-dir")
            .arg(&scratch))
        .context("cannot build bpf-linker")?;
        fs::remove_dir_all(&scratch).with_context(|| format!("cannot remove {}", scratch.display()))?;
    }
    let place = folder.join("bin/bpf-linker");
    fs::copy(&built, &place).with_context(|| format!("cannot copy bpf-linker to {}", place.display()))?;
    Ok(())
}
