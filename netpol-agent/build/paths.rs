// SPDX-License-Identifier: Apache-2.0
//! Keeps the paths of this machine out of the object's debug information: the same sources give the
//! same object wherever they lie.

use std::{env, fs, path::PathBuf, process::Command};

use crate::{Result, variable};

/// Flags for the compiler of the object. `workspace` is the folder that cargo starts it in.
pub fn remapped(workspace: &str) -> Result<Vec<String>> {
    let mut pairs = vec![
        // Relative, and so still found: LLVM reads the lines of the sources that it puts into BTF,
        // which the verifier shows.
        (fs::canonicalize(workspace)?, ".".to_owned()),
    ];
    let sysroot = Command::new(variable("RUSTC")?)
        .args(["--print", "sysroot"])
        .output()?;
    let sysroot = PathBuf::from(String::from_utf8(sysroot.stdout)?.trim_end());
    pairs.push((sysroot.join("lib/rustlib/src/rust"), "/rust".to_owned()));
    for folder in registries() {
        pairs.push((folder, "/cargo".to_owned()));
    }
    let flag = |(from, to): &(PathBuf, String)| format!("--remap-path-prefix={}={to}", from.display());
    Ok(pairs.iter().map(flag).collect())
}

/// Folders with the unpacked crates of each registry.
fn registries() -> Vec<PathBuf> {
    let home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")));
    let Some(entries) = home.and_then(|home| fs::read_dir(home.join("registry/src")).ok()) else {
        return Vec::new();
    };
    let mut folders: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    folders.sort();
    folders
}
