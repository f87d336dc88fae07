// SPDX-License-Identifier: Apache-2.0
//! The source of Rust's `library/`, for a toolchain without the component `rust-src`.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, anyhow, bail};

use super::{Rustc, debian, rustup, sysroot::is_library};
use crate::workspace::{Workspace, run};

const VARIABLE: &str = "NETPOL_RUST_SRC";

/// Returns a folder that is the `library/` of this compiler's version: unpacked by an earlier run, given by the user,
/// rustup's, or Debian's, in this order.
///
/// # Errors
/// If there is none; the message says why each way failed and what to do.
pub fn find(workspace: &Workspace, folder: &Path, rustc: &Rustc) -> Result<PathBuf> {
    let unpacked = folder.join(format!("rust-src-{}", rustc.release));
    let library = unpacked.join("library");
    if is_library(&library) {
        println!(
            "toolchain: Rust source of an earlier run, {}",
            workspace.show(&library)
        );
        return Ok(library);
    }
    if let Some(given) = env::var_os(VARIABLE).filter(|given| !given.is_empty()) {
        return from_variable(workspace, &workspace.root.join(given), &unpacked);
    }
    let whole = || {
        if is_library(&library) {
            Ok(())
        } else {
            Err(anyhow!("there is no library/ in it"))
        }
    };
    let by_rustup = match rustup::unpack(workspace, folder, rustc, &unpacked).and_then(|()| whole()) {
        Ok(()) => return Ok(library),
        Err(error) => error,
    };
    println!("toolchain: rustup does not help: {by_rustup:#}");
    match debian::unpack(workspace, folder, rustc, &unpacked).and_then(|()| whole()) {
        Ok(()) => Ok(library),
        Err(by_debian) => Err(anyhow!(
            "the eBPF programs need the source of Rust's library, which this toolchain lacks.\n\
             rustup does not help: {by_rustup:#}\n\
             Debian's package does not help: {by_debian:#}\n\
             Ways out, any one of them:\n  \
             1. rustup component add rust-src\n  \
             2. on Debian, a mirror that has the package rust-src {0}* in trixie-backports, trixie or sid\n  \
             3. {VARIABLE}=PATH, with PATH the library/ folder of Rust {0}, the folder above it, or a tar.xz of it",
            rustc.release
        )),
    }
}

fn from_variable(workspace: &Workspace, given: &Path, unpacked: &Path) -> Result<PathBuf> {
    for library in [given.to_path_buf(), given.join("library")] {
        if is_library(&library) {
            println!("toolchain: Rust source from {VARIABLE}, {}", library.display());
            return Ok(library);
        }
    }
    if !given.is_file() {
        bail!(
            "{VARIABLE}={}: neither Rust's library/ folder (core/src/lib.rs and Cargo.lock in it), nor the folder above, nor a tar.xz of it",
            given.display()
        );
    }
    println!(
        "toolchain: unpacking the Rust source of {VARIABLE}, {}, to {}",
        given.display(),
        workspace.show(unpacked)
    );
    in_whole(unpacked, |part| {
        run(Command::new("tar").arg("-xJf").arg(given).arg("-C").arg(part))
    })?;
    let library = unpacked.join("library");
    if !is_library(&library) {
        fs::remove_dir_all(unpacked).with_context(|| format!("cannot remove {}", unpacked.display()))?;
        bail!(
            "{VARIABLE}={}: no library/ with core/src/lib.rs and Cargo.lock in it",
            given.display()
        );
    }
    Ok(library)
}

/// Fills a folder under another name and renames it, so that one that is there is whole.
pub fn in_whole(folder: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let part = folder.with_added_extension("part");
    for old in [&part, folder] {
        if old.exists() {
            fs::remove_dir_all(old).with_context(|| format!("cannot remove {}", old.display()))?;
        }
    }
    fs::create_dir_all(&part).with_context(|| format!("cannot make {}", part.display()))?;
    fill(&part)?;
    fs::rename(&part, folder).with_context(|| format!("cannot make {}", folder.display()))
}
