// SPDX-License-Identifier: Apache-2.0
//! The files of the repository.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The repository's folder.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Path and text of each file in or below the folders whose name ends in one of `endings`. Paths
/// are relative to the repository; build output and hidden folders are left out.
pub fn texts(folders: &[&str], endings: &[&str]) -> Vec<(String, String)> {
    let mut open: Vec<PathBuf> = folders.iter().map(|folder| root().join(folder)).collect();
    let mut found = Vec::new();
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let shown = path.strip_prefix(root()).unwrap().display().to_string();
            let hidden = shown.starts_with('.') || shown.starts_with("target");
            if path.is_dir() && !hidden {
                open.push(path);
            } else if endings.iter().any(|ending| shown.ends_with(ending)) {
                found.push((shown, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}
