// SPDX-License-Identifier: Apache-2.0
//! Agents with other pins on the same node. The programs of both would judge each packet, and one
//! that only one of them allows would be dropped.
//!
//! An agent makes a folder `network-INODE` beside its pins, named after the inode of the network
//! namespace that it works in. The lock of the pins tells whether it runs. Not found are agents of
//! versions without these folders, and pins on another mount of bpffs or deep below it.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use nix::unistd::geteuid;

use super::{
    DatapathError,
    bpffs::{self, BpffsError},
    pins::version_folders,
};

const MARK: &str = "network-";

/// The folder of this process's network namespace (namespaces(7)).
const NAMESPACE: &str = "/proc/thread-self/ns/net";

/// How deep below the mount others' pins are looked for.
const DEPTH: usize = 4;

/// Marks locked pins as those of an agent of this node, and looks for others. One that runs is an
/// error; the folders of those that left programs are returned.
///
/// # Errors
/// Another agent runs on this node, or bpffs cannot be read or written.
pub fn alone(pin_path: &Path) -> Result<Vec<PathBuf>, DatapathError> {
    let mark = mark()?;
    remove_marks(pin_path)?;
    // Before the look: of two agents that start at a time, at least one sees the other.
    bpffs::make_folder(&pin_path.join(&mark))?;
    let own = fs::canonicalize(pin_path).unwrap_or_else(|_| pin_path.to_owned());
    let mut others = Vec::new();
    find(&bpffs::root(&own), &mark, DEPTH, &mut others);
    others.retain(|folder| *folder != own);
    for other in &others {
        // With any other error, the folder is gone or cannot be opened.
        if let Err(BpffsError::InUse { path }) = bpffs::lock(other) {
            // If nothing was pinned here before, the folder goes again. If that fails, the reason
            // for leaving matters more.
            if version_folders(pin_path).is_ok_and(|versions| versions.is_empty()) {
                let _ = remove_marks(pin_path).and_then(|()| bpffs::remove(pin_path));
            }
            return Err(DatapathError::Rival(path));
        }
    }
    others.retain(|folder| version_folders(folder).is_ok_and(|versions| !versions.is_empty()));
    Ok(others)
}

/// Removes the marks of earlier agents.
pub(super) fn remove_marks(pin_path: &Path) -> Result<(), BpffsError> {
    let is_mark = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        let inode = name.and_then(|name| name.strip_prefix(MARK));
        inode.is_some_and(|inode| inode.parse::<u64>().is_ok()) && is_ours(path)
    };
    let marks = bpffs::list(pin_path)?.into_iter().filter(is_mark);
    for mark in marks {
        bpffs::remove(&mark)?;
    }
    Ok(())
}

/// The mark of this network namespace.
fn mark() -> Result<String, BpffsError> {
    let namespace = fs::metadata(NAMESPACE).map_err(|error| BpffsError::Io {
        what: "reading",
        path: NAMESPACE.into(),
        error,
    })?;
    Ok(format!("{MARK}{}", namespace.ino()))
}

/// Adds the folders that have a mark. A folder that cannot be read has none.
fn find(folder: &Path, mark: &str, depth: usize, found: &mut Vec<PathBuf>) {
    if is_ours(&folder.join(mark)) {
        found.push(folder.to_owned());
    }
    if depth == 0 {
        return;
    }
    for within in bpffs::list(folder).unwrap_or_default() {
        if is_ours(&within) {
            find(&within, mark, depth - 1, found);
        }
    }
}

/// A folder, and no link to one, that no other user made: where all may write, a mark is anyone's.
fn is_ours(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_dir() && found.uid() == geteuid().as_raw())
}
