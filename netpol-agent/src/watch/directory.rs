// SPDX-License-Identifier: Apache-2.0
//! Objects from a folder of manifests, watched for changes.
//!
//! Read are `*.yaml`, `*.yml` and `*.json` in the folder and its subfolders, but nothing whose name
//! starts with a dot (so a mounted ConfigMap is read once, through its links, and its swap is one
//! change). A file may hold several YAML documents, and Lists. Kinds that policy does not need are
//! skipped. Pods carry `spec.nodeName` and `status.podIPs` as in a cluster. A link to a file
//! elsewhere is read, but an edit of that file in place is not noticed.
//!
//! What is already enforced is not given up for a slip:
//! - a file that does not parse, or holds something that is no object, keeps the objects it had;
//! - an object that Kubernetes would refuse because of an unknown field, a wrong type or an unknown
//!   policy type, keeps its last good version. At start, where there is none, both are errors:
//!   starting without a policy could allow what it denies, and the kernel still enforces what the
//!   last run left in it;
//! - a file that is being written is not read before it is closed;
//! - a folder that vanishes, or is vanished and gone a moment later, changes nothing; one that
//!   comes back is read again.
//!
//! What an object says otherwise against the rules (its name, its labels, a second object of the
//! same name) is reported, and the object goes on as written; of two with the same name the first
//! counts, by path, then by place in the file.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::model::{Diagnostic, Snapshot};

use super::{
    WatchError,
    object::Objects,
    publish::{Burst, Publisher},
};

mod decode;
mod folder;
mod manifest;
mod notices;

use folder::{Folder, Scan};
use manifest::Outcome;
use notices::Notices;

/// How often the folder itself is looked for: it may have been replaced, or come back.
const LOOK: Duration = Duration::from_millis(250);
/// A vanished file counts as such after this long: an editor may be about to put a new one.
const VANISHED: Duration = Duration::from_millis(500);
/// What could not be read is tried again after this long: no event tells that there are descriptors
/// again.
const AGAIN: Duration = Duration::from_secs(1);

/// One reading of a folder, for what needs no agent.
///
/// # Errors
/// [`WatchError::Folder`] if there is no such folder, [`WatchError::Unreadable`] if something in it
/// cannot be read.
pub fn load(dir: &Path) -> Result<Snapshot, WatchError> {
    let folder = Folder::open(dir)?;
    Ok(folder.objects().snapshot(1, folder.diagnostics()))
}

/// One file's objects as a snapshot, for what has no folder. `name` is the file's name: its ending
/// tells JSON from YAML.
///
/// # Errors
/// What a folder with this file alone would be refused for at the start.
pub fn decode(name: &str, bytes: &[u8]) -> Result<Snapshot, Diagnostic> {
    let mut objects = Objects::default();
    for item in manifest::read_bytes(name, bytes)? {
        match item.outcome {
            Outcome::Read(entry) => drop(objects.put(*entry)),
            Outcome::Refused(_, fault) => return Err(fault),
        }
    }
    Ok(objects.snapshot(1, &[]))
}

pub(super) async fn run(
    dir: &Path,
    mut publisher: Publisher,
    stop: CancellationToken,
) -> Result<(), WatchError> {
    let (sender, mut events) = mpsc::unbounded_channel();
    // Watched before it is read: no change is missed in between.
    let mut notices = Notices::start(dir, sender)?;
    let opened = Instant::now();
    let mut folder = Folder::open(dir)?;
    tracing::info!(directory = %dir.display(), files = folder.len(), "manifest folder read");
    publisher.publish(folder.objects(), folder.diagnostics(), opened);

    let mut burst = Burst::default();
    let mut vanished: Option<Instant> = None;
    let mut unread: Option<Instant> = None;
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            Some(event) = events.recv() => {
                if notices.note(event) {
                    burst.touch(Instant::now());
                }
            }
            _ = look.tick() => {
                let due = vanished.is_some_and(|since| since.elapsed() >= VANISHED)
                    || unread.is_some_and(|since| since.elapsed() >= AGAIN);
                if notices.look() || due {
                    burst.touch(Instant::now());
                }
            }
            received = burst.over() => {
                let confirmed = vanished.is_some_and(|since| since.elapsed() >= VANISHED);
                let was_unread = unread.take().is_some();
                match folder.scan(&notices.being_written(), confirmed) {
                    Scan::Changed => publisher.publish(folder.objects(), folder.diagnostics(), received),
                    Scan::Vanished => {
                        vanished.get_or_insert_with(Instant::now);
                        continue;
                    }
                    Scan::Same => {}
                    // That it is not there is said where it is looked for.
                    Scan::Gone(error) if error.kind() == std::io::ErrorKind::NotFound => {
                        tracing::debug!(directory = %dir.display(), %error, "manifest folder not read");
                    }
                    Scan::Gone(error) => {
                        if !was_unread {
                            tracing::error!(directory = %dir.display(), %error,
                                "the manifest folder cannot be read, and is tried again; what was read from it stays in force");
                        }
                        unread = Some(Instant::now());
                    }
                }
                if folder.is_in_part() {
                    unread = Some(Instant::now());
                }
                vanished = None;
            }
        }
    }
}

/// Whether the folder source reads a file of that name.
fn is_manifest(path: &Path) -> bool {
    matches!(
        path.extension().and_then(|e| e.to_str()),
        Some("yaml" | "yml" | "json")
    ) && !is_hidden(path)
}

fn is_hidden(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

/// A path as diagnostics show it: below the folder.
fn shown(dir: &Path, path: &Path) -> String {
    let below: PathBuf = path.strip_prefix(dir).unwrap_or(path).to_path_buf();
    below.display().to_string()
}
