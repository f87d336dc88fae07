// SPDX-License-Identifier: Apache-2.0
//! The folder of pins: links by interface index and hook, and marks of interfaces: where we added
//! the qdisc, and where the filters are those of this folder's version. A mark is a folder: bpffs
//! holds no plain files.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
};

use super::{AttachError, Hook, link};

/// What the mark of a qdisc that we added ends with: `<ifindex>-clsact`.
const QDISC: &str = "clsact";
/// What the pin of a link ends with that is to take the place of another: `<ifindex>-<hook>-next`.
const NEXT: &str = "-next";
/// What the mark of filters ends with: `<ifindex>-filters`.
const FILTERS: &str = "filters";

/// Indices of the interfaces that have an entry in the folder.
pub(super) fn indices(folder: &Path) -> Result<BTreeSet<u32>, AttachError> {
    let mut found = BTreeSet::new();
    let failed = |source| AttachError::Folder {
        attempt: "read the folder",
        path: folder.to_owned(),
        source,
    };
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        entries => entries.map_err(failed)?,
    };
    for entry in entries {
        let name = entry.map_err(failed)?.file_name();
        found.extend(name.to_str().and_then(pinned_index));
    }
    Ok(found)
}

/// The interface index in the name of a pin.
fn pinned_index(name: &str) -> Option<u32> {
    let (index, rest) = name.split_once('-')?;
    let link = rest.strip_suffix(NEXT).unwrap_or(rest);
    let ours = [QDISC, FILTERS].contains(&rest) || Hook::ALL.iter().any(|hook| link == hook.name());
    ours.then(|| index.parse().ok()).flatten()
}

/// Path of the pinned link of a hook.
pub(super) fn pin(folder: &Path, index: u32, hook: Hook) -> PathBuf {
    folder.join(format!("{index}-{hook}"))
}

/// Path of a link that is to take the place of the one pinned at `path`.
pub(super) fn next(path: &Path) -> PathBuf {
    let mut next = path.as_os_str().to_owned();
    next.push(NEXT);
    next.into()
}

/// Removes the pinned links of an interface.
pub(super) fn unpin(folder: &Path, index: u32) -> Result<(), AttachError> {
    for hook in Hook::ALL {
        remove_pin(&next(&pin(folder, index, hook)))?;
        remove_pin(&pin(folder, index, hook))?;
    }
    Ok(())
}

/// Ends the link pinned at `path` and removes the pin, which may be gone already.
pub(super) fn remove_pin(path: &Path) -> Result<(), AttachError> {
    let failed = |attempt| {
        move |source| AttachError::Folder {
            attempt,
            path: path.to_owned(),
            source,
        }
    };
    ignore_missing(link::detach(path)).map_err(failed("end the link pinned at"))?;
    ignore_missing(std::fs::remove_file(path)).map_err(failed("remove the pin"))
}

/// What was to be removed is not there: as wanted.
pub(super) fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Path of the mark of a qdisc that we added.
pub(super) fn qdisc_mark(folder: &Path, index: u32) -> PathBuf {
    folder.join(format!("{index}-{QDISC}"))
}

/// Path of the mark of an interface with this version's filters.
pub(super) fn filters_mark(folder: &Path, index: u32) -> PathBuf {
    folder.join(format!("{index}-{FILTERS}"))
}

/// Makes a mark, which may be there already.
pub(super) fn put_mark(mark: &Path) -> Result<(), AttachError> {
    match std::fs::create_dir(mark) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(AttachError::Folder {
            attempt: "make the mark",
            path: mark.to_owned(),
            source: error,
        }),
        _ => Ok(()),
    }
}

/// Removes a mark, which may be gone already.
pub(super) fn remove_mark(mark: &Path) -> Result<(), AttachError> {
    ignore_missing(std::fs::remove_dir(mark)).map_err(|source| AttachError::Folder {
        attempt: "remove the mark",
        path: mark.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_pins_have_an_index() {
        for hook in Hook::ALL {
            let path = pin(Path::new("links"), 17, hook);
            assert_eq!(
                pinned_index(path.file_name().unwrap().to_str().unwrap()),
                Some(17)
            );
            assert_eq!(
                pinned_index(next(&path).file_name().unwrap().to_str().unwrap()),
                Some(17)
            );
        }
        for mark in [qdisc_mark, filters_mark].map(|mark| mark(Path::new(""), 17)) {
            assert_eq!(pinned_index(mark.to_str().unwrap()), Some(17));
        }
        for other in [
            "",
            "17",
            "17-",
            "17-other",
            "x-from_pod",
            "-1-to_pod",
            "17-from_pod-2",
            "17-clsact-next",
        ] {
            assert_eq!(pinned_index(other), None, "{other}");
        }
    }
}
