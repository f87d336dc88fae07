// SPDX-License-Identifier: Apache-2.0
//! What a build of the eBPF programs needs beyond stable Rust, in a folder of its own:
//! `TARGET/ebpf-toolchain`.
//!
//! - `bin/bpf-linker`, and `bin/rustc` if the active toolchain lacks the library's source: what
//!   `netpol-agent/build` uses;
//! - `stamp`, what all of it was made for: written last, so that a build script that finds it
//!   current can rely on the rest.
//!
//! Outside of the target folder, the active toolchain may get the component `rust-src`.

mod linker;
mod rustc;
mod source;
mod sysroot;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use rustc::Rustc;

use crate::workspace::{Workspace, replace};

/// A toolchain that is ready.
pub struct Toolchain {
    /// The compiler to use for the eBPF target, unless it is the active one.
    pub rustc: Option<PathBuf>,
    /// The sysroot with the library's source that this compiler prints.
    pub sysroot: PathBuf,
}

/// Gets what is missing and returns the toolchain: instant if nothing is.
///
/// # Errors
/// If the Rust source or the linker can be had in none of the known ways; the message names them.
pub fn prepare(workspace: &Workspace) -> Result<Toolchain> {
    let folder = workspace.toolchain();
    let bin = folder.join("bin");
    fs::create_dir_all(&bin).with_context(|| format!("cannot make {}", bin.display()))?;
    // Removed when the process ends, whatever way: another xtask waits for it.
    let lock = fs::File::create(folder.join("lock")).context("cannot make the toolchain's lock file")?;
    lock.lock().context("cannot lock the toolchain's folder")?;

    let rustc = Rustc::active()?;
    let wrapper = bin.join("rustc");
    let stamp = stamp(&folder, &rustc);
    let is_ready = fs::read_to_string(folder.join("stamp")).is_ok_and(|found| found == stamp)
        && bin.join("bpf-linker").is_file()
        && if wrapper.is_file() {
            sysroot::is_complete(&folder)
        } else {
            sysroot::holds_library(&rustc.sysroot)
        };
    if !is_ready {
        get_library(workspace, &folder, &rustc)?;
        linker::install(workspace, &folder, &rustc)?;
        replace(&folder.join("stamp"), &stamp)?;
    }
    println!(
        "toolchain: ready in {} for rustc {}",
        workspace.show(&folder),
        rustc.release
    );
    Ok(if wrapper.is_file() {
        Toolchain {
            rustc: Some(wrapper),
            sysroot: sysroot::shadow(&folder),
        }
    } else {
        Toolchain {
            rustc: None,
            sysroot: rustc.sysroot,
        }
    })
}

/// Gets the library's source: the active toolchain has it, or rustup adds it, or it is Debian's, in
/// a sysroot of its own.
fn get_library(workspace: &Workspace, folder: &Path, rustc: &Rustc) -> Result<()> {
    if sysroot::holds_library(&rustc.sysroot) {
        println!("toolchain: Rust source of {}", rustc.sysroot.display());
        return sysroot::remove(folder);
    }
    let by_rustup = match source::add_component(rustc) {
        Ok(()) => return sysroot::remove(folder),
        Err(error) => error,
    };
    println!("toolchain: rustup does not help: {by_rustup:#}");
    match source::from_debian(workspace, folder, rustc) {
        Ok(library) => sysroot::make(folder, rustc, &library),
        Err(by_debian) => Err(source::missing(rustc, &by_rustup, &by_debian)),
    }
}

/// The folder is in it because the files in the folder hold absolute paths (a copied target folder
/// is made ready anew), the sysroot because two toolchains of one version may differ in their
/// components.
fn stamp(folder: &Path, rustc: &Rustc) -> String {
    format!(
        "{}\n{}\n{}",
        folder.display(),
        rustc.sysroot.display(),
        rustc.verbose_version
    )
}
