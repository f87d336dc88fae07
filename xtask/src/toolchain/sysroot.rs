// SPDX-License-Identifier: Apache-2.0
//! A sysroot with the library's source for a toolchain that lacks it: links to the real one, and
//! the source beside them.
//!
//! Cargo looks for the source of `-Z build-std` in the sysroot that rustc prints. So the eBPF build
//! gets a `rustc` that is the real one with `--sysroot`; the user's toolchain folder stays as it
//! is.

use std::{
    fs, io,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::rustc::Rustc;
use crate::workspace::replace;

/// Where a sysroot has the source that `-Z build-std` needs.
pub fn library(sysroot: &Path) -> PathBuf {
    sysroot.join("lib/rustlib/src/rust/library")
}

/// Whether a sysroot has that source.
pub fn holds_library(sysroot: &Path) -> bool {
    is_library(&library(sysroot))
}

/// Whether a folder is Rust's `library/`, with the lock file that cargo asks for.
pub fn is_library(folder: &Path) -> bool {
    folder.join("core/src/lib.rs").is_file() && folder.join("Cargo.lock").is_file()
}

/// Whether the sysroot made by [`make`] is there, and what it links to.
pub fn is_complete(folder: &Path) -> bool {
    holds_library(&shadow(folder)) && shadow(folder).join("bin/rustc").is_file()
}

/// Makes the sysroot and the `rustc` that uses it.
///
/// # Errors
/// If a folder cannot be read, or a link or file not made.
pub fn make(folder: &Path, rustc: &Rustc, source: &Path) -> Result<()> {
    remove(folder)?;
    let shadow = shadow(folder);
    link_all_but(&rustc.sysroot, &shadow, "lib")?;
    link_all_but(&rustc.sysroot.join("lib"), &shadow.join("lib"), "rustlib")?;
    link_all_but(
        &rustc.sysroot.join("lib/rustlib"),
        &shadow.join("lib/rustlib"),
        "src",
    )?;
    let place = library(&shadow);
    if let Some(parent) = place.parent() {
        fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    }
    symlink(source, &place).with_context(|| format!("cannot make the link {}", place.display()))?;

    let wrapper = folder.join("bin/rustc");
    let script = format!(
        "#!/bin/sh\nexec {} --sysroot {} \"$@\"\n",
        quoted(&rustc.path),
        quoted(&shadow)
    );
    replace(&wrapper, &script)?;
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("cannot make {} executable", wrapper.display()))
}

/// Removes what [`make`] made, if it is there.
///
/// # Errors
/// If it is there and cannot be removed.
pub fn remove(folder: &Path) -> Result<()> {
    for gone in [
        fs::remove_dir_all(shadow(folder)),
        fs::remove_file(folder.join("bin/rustc")),
    ] {
        match gone {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot clear {}", folder.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Where [`make`] puts the sysroot.
pub fn shadow(folder: &Path) -> PathBuf {
    folder.join("sysroot")
}

fn link_all_but(from: &Path, to: &Path, excluded: &str) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let name = entry
            .with_context(|| format!("cannot read {}", from.display()))?
            .file_name();
        if name != excluded {
            let link = to.join(&name);
            symlink(from.join(&name), &link)
                .with_context(|| format!("cannot make the link {}", link.display()))?;
        }
    }
    Ok(())
}

fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_with_a_quote_is_one_word_of_the_shell() {
        let text = format!("printf %s {}", quoted(Path::new("/a b/it's $HOME")));
        let output = std::process::Command::new("sh")
            .args(["-c", &text])
            .output()
            .unwrap();
        assert_eq!(output.stdout, b"/a b/it's $HOME");
    }
}
