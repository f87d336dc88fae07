// SPDX-License-Identifier: Apache-2.0
//! What inotify says of the folder: that something changed, and which files are being written.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, ModifyKind},
};
use tokio::{sync::mpsc::UnboundedSender, time::Instant};

use crate::watch::WatchError;

/// A file that is kept open without writing is read after this long.
const WRITTEN: Duration = Duration::from_secs(1);

type Sender = UnboundedSender<notify::Result<Event>>;

/// Device and inode of the folder: a folder that was replaced by another has a new one.
type Identity = (u64, u64);

/// The watch on the folder.
pub struct Notices {
    dir: PathBuf,
    sender: Sender,
    watched: Option<(RecommendedWatcher, Identity)>,
    writing: BTreeMap<PathBuf, Instant>,
    gone: bool,
}

fn identity(dir: &Path) -> std::io::Result<Identity> {
    fs::metadata(dir).map(|meta| (meta.dev(), meta.ino()))
}

fn watch(dir: &Path, sender: &Sender) -> notify::Result<RecommendedWatcher> {
    let sender = sender.clone();
    // The receiver is gone only when the source has stopped.
    let mut watcher = notify::recommended_watcher(move |event| drop(sender.send(event)))?;
    watcher.watch(dir, RecursiveMode::Recursive)?;
    Ok(watcher)
}

impl Notices {
    /// Starts to watch `dir`; events go to `sender`.
    pub fn start(dir: &Path, sender: Sender) -> Result<Self, WatchError> {
        let path = dir.to_path_buf();
        let identity = identity(dir).map_err(|error| WatchError::Folder {
            path: path.clone(),
            error,
        })?;
        let watcher = watch(dir, &sender).map_err(|error| WatchError::Notify {
            path: path.clone(),
            error,
        })?;
        Ok(Self {
            dir: path,
            sender,
            watched: Some((watcher, identity)),
            writing: BTreeMap::new(),
            gone: false,
        })
    }

    /// Takes note of an event; true if the folder is to be read again.
    pub fn note(&mut self, event: notify::Result<Event>) -> bool {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                tracing::warn!(directory = %self.dir.display(), %error, "watching the manifest folder failed; reading it again");
                self.watched = None;
                return true;
            }
        };
        if event.need_rescan() {
            self.writing.clear();
            return true;
        }
        match event.kind {
            EventKind::Modify(ModifyKind::Data(_)) => {
                let now = Instant::now();
                self.writing
                    .extend(event.paths.into_iter().map(|path| (path, now)));
                false
            }
            EventKind::Access(AccessKind::Close(AccessMode::Write)) | EventKind::Modify(_) => {
                for path in &event.paths {
                    self.writing.remove(path);
                }
                true
            }
            EventKind::Create(_) => true,
            EventKind::Remove(_) => {
                for path in &event.paths {
                    self.writing.remove(path);
                }
                true
            }
            EventKind::Any | EventKind::Access(_) | EventKind::Other => false,
        }
    }

    /// Files that someone is writing to.
    pub fn being_written(&self) -> BTreeSet<PathBuf> {
        self.writing.keys().cloned().collect()
    }

    /// Looks whether the folder is still the one that is watched; true if it is to be read again.
    pub fn look(&mut self) -> bool {
        let before = self.writing.len();
        self.writing.retain(|_, since| since.elapsed() < WRITTEN);
        let written = self.writing.len() != before;

        let found = match identity(&self.dir) {
            Ok(found) => found,
            Err(error) => {
                if !self.gone {
                    tracing::warn!(directory = %self.dir.display(), %error,
                        "the manifest folder is gone; what was read from it stays in force until it is back");
                }
                self.gone = true;
                self.watched = None;
                return false;
            }
        };
        if self
            .watched
            .as_ref()
            .is_some_and(|(_, identity)| *identity == found)
        {
            return written;
        }
        match watch(&self.dir, &self.sender) {
            Ok(watcher) => {
                tracing::info!(directory = %self.dir.display(), "watching the manifest folder again");
                self.watched = Some((watcher, found));
                self.gone = false;
                self.writing.clear();
                true
            }
            Err(error) => {
                tracing::debug!(directory = %self.dir.display(), %error, "cannot watch the manifest folder yet");
                false
            }
        }
    }
}
