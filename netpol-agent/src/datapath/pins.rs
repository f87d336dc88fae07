// SPDX-License-Identifier: Apache-2.0
//! Where maps and links are pinned, and the removal of what is pinned.

use std::path::{Path, PathBuf};

use netpol_common::abi::{ABI_VERSION, OBSERVED_VERSION};

use super::{
    DatapathError,
    attach::{self, AttachError},
    bpffs,
    rivals::remove_marks,
};

/// Pinned maps by the name that they have in the object; [`pin`] says where.
pub const PINNED_MAPS: [&str; 20] = [
    "endpoints",
    "bindings",
    "local_pods",
    "senders",
    "restricted",
    "forwards",
    "addresses",
    "identities",
    "frontends",
    "ports",
    "policies",
    "flows",
    "flow_shares",
    "flow_rings",
    "inherited",
    "fragments",
    "events",
    "event_budget",
    "counters",
    "config",
];

/// The maps of these by which the programs report. They have a version of their own: no verdict
/// depends on them.
pub const OBSERVED_MAPS: [&str; 3] = ["events", "event_budget", "counters"];

/// Name of the folder of pinned links, within the versioned folder.
pub(super) const LINKS: &str = "links";

/// Returns the versioned folder of pins.
pub fn pin_folder(pin_path: &Path) -> PathBuf {
    pin_path.join(format!("v{ABI_VERSION}"))
}

/// The pin of a map.
pub fn pin(pin_path: &Path, map: &str) -> PathBuf {
    let folder = if OBSERVED_MAPS.contains(&map) {
        observed_folder(pin_path)
    } else {
        pin_folder(pin_path)
    };
    folder.join(map)
}

/// Name of the folder of [`OBSERVED_MAPS`] up to its version, in the versioned one.
const OBSERVED: &str = "observed-";

/// The folder of [`OBSERVED_MAPS`].
fn observed_folder(pin_path: &Path) -> PathBuf {
    pin_folder(pin_path).join(format!("{OBSERVED}{OBSERVED_VERSION:08x}"))
}

/// Makes the folders of maps.
pub(super) fn make_folders(pin_path: &Path) -> Result<(), bpffs::BpffsError> {
    bpffs::make_folder(&pin_folder(pin_path))?;
    bpffs::make_folder(&observed_folder(pin_path))
}

/// The folder of pinned links.
pub fn links_folder(pin_path: &Path) -> PathBuf {
    pin_folder(pin_path).join(LINKS)
}

/// Locks what is pinned below `pin_path`. Makes that folder if it is missing.
///
/// # Errors
/// There is no bpffs, or another agent works there.
pub fn lock(pin_path: &Path) -> Result<bpffs::Lock, DatapathError> {
    bpffs::make_folder(pin_path)?;
    Ok(bpffs::lock(pin_path)?)
}

/// Removes all programs, links and maps that agents of any version put below `pin_path`, and
/// nothing else. Returns the number of interfaces that had programs.
///
/// # Errors
/// An agent works there, or the first thing that cannot be removed.
pub fn cleanup(pin_path: &Path) -> Result<usize, DatapathError> {
    let _lock = bpffs::lock(pin_path)?;
    let mut interfaces = 0;
    for folder in version_folders(pin_path)? {
        interfaces += remove_version(&folder, attach::cleanup)?;
    }
    remove_marks(pin_path)?;
    bpffs::remove(pin_path)?;
    Ok(interfaces)
}

/// Removes what agents of other ABI versions left, once this one enforces.
///
/// # Errors
/// The first thing that cannot be removed.
pub(super) fn remove_other_versions(pin_path: &Path) -> Result<(), DatapathError> {
    let own = pin_folder(pin_path);
    for folder in version_folders(pin_path)? {
        if folder != own {
            let interfaces =
                remove_version(&folder, |links| attach::take_over(links, &links_folder(pin_path)))?;
            tracing::info!(path = %folder.display(), interfaces, "removed what another version of netpol left");
        }
    }
    for folder in bpffs::list(&own)? {
        let name = folder.file_name().and_then(|name| name.to_str());
        let is_observed = name.is_some_and(|name| name.starts_with(OBSERVED));
        if is_observed && folder != observed_folder(pin_path) {
            bpffs::remove_all(&folder)?;
            tracing::info!(path = %folder.display(), "counters and events of another version are removed");
        }
    }
    Ok(())
}

fn remove_version(
    folder: &Path,
    remove_links: impl FnOnce(&Path) -> Result<usize, AttachError>,
) -> Result<usize, DatapathError> {
    let links = folder.join(LINKS);
    let interfaces = if links.exists() { remove_links(&links)? } else { 0 };
    bpffs::remove_all(folder)?;
    Ok(interfaces)
}

/// Returns the folders of pins, named `v` and a number.
pub(super) fn version_folders(pin_path: &Path) -> Result<Vec<PathBuf>, DatapathError> {
    let is_version = |path: &PathBuf| {
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.strip_prefix('v'));
        name.is_some_and(|number| number.parse::<u32>().is_ok())
    };
    Ok(bpffs::list(pin_path)?.into_iter().filter(is_version).collect())
}
