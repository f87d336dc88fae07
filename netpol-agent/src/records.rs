// SPDX-License-Identifier: Apache-2.0
//! Reads for which pod an interface was made: libcni's cache of results. A runtime writes it when
//! CNI ADD succeeds, before any container of the pod starts. No pod can write there (rule A8). A
//! runtime that reports pods itself would become one more source of [`Records`], with precedence.
//!
//! The folder is read at the start and watched. Its content is not trusted: a file that is no
//! record, too large, or one too many is left out and reported once.

mod parse;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    io::Read as _,
    net::IpAddr,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode},
};
use tokio::{
    sync::{mpsc, watch},
    time::MissedTickBehavior,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::{
    datapath::interfaces::Mac,
    model::ObjectKey,
    progress::{Part, Progress},
};

use parse::ParseError;

/// Folder where libcni keeps results.
pub const FOLDER: &str = "/var/lib/cni/results";
/// Size of the largest file that is read, bytes; a record has a few thousand.
const MAX_BYTES: u64 = 256 << 10;
/// Maximum number of records, the newest first: several for each pod that a node can have.
const MAX_RECORDS: usize = 4096;
/// Interval at which the folder itself is checked: it can appear later, or be replaced.
const LOOK: Duration = Duration::from_secs(1);

/// A pod's attachment to a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Namespace and name of the pod.
    pub pod: ObjectKey,
    /// UID of the pod as the kubelet knows it; empty if the runtime did not write it.
    pub uid: String,
    /// Name of the network.
    pub network: String,
    /// Name of the interface inside the pod.
    pub interface: String,
    /// The interfaces on the node's side, bridges included: name and MAC address.
    pub on_node: Vec<(String, Mac)>,
    /// MAC address of the interface inside the pod.
    pub mac: Option<Mac>,
    /// Addresses of the pod on this network.
    pub addresses: BTreeSet<IpAddr>,
    /// When the record was written.
    pub written: SystemTime,
}

impl Record {
    /// Returns true if the record names this interface of the node. The name alone is not enough: a
    /// record can outlive its pod.
    pub fn names(&self, name: &str, mac: Mac) -> bool {
        self.on_node.iter().any(|end| end.0 == name && end.1 == mac)
    }
}

/// All records, by file name.
pub type Records = BTreeMap<String, Arc<Record>>;

/// Publishes the records of `folder` whenever they change, until `stop`. Waits for a missing
/// folder, which has no records. Reports each change to `progress`.
pub async fn run(
    folder: PathBuf,
    tx: watch::Sender<Option<Arc<Records>>>,
    progress: Progress,
    stop: CancellationToken,
) -> io::Result<()> {
    let (sender, mut events) = mpsc::unbounded_channel();
    let mut cache = Cache::new(folder);
    let mut watched = None;
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let changed = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            Some(event) = events.recv() => {
                let mut changed = concerns(event);
                while let Ok(event) = events.try_recv() {
                    changed |= concerns(event);
                }
                changed
            }
            _ = look.tick() => cache.watch(&mut watched, &sender) || cache.unread,
        };
        if changed || tx.borrow().is_none() {
            // Files are small, but a disk can be slow.
            let received = Instant::now();
            let records = tokio::task::block_in_place(|| cache.read());
            tx.send_if_modified(|current| {
                let changed = current.as_deref() != Some(&records);
                if changed {
                    progress.came(Part::Records, received);
                }
                *current = Some(Arc::new(records));
                changed
            });
        }
    }
}

/// Returns true if an event can change what is read. A created file is read when it is closed.
fn concerns(event: notify::Result<Event>) -> bool {
    match event {
        Ok(event) if event.need_rescan() => true,
        Ok(event) => matches!(
            event.kind,
            EventKind::Access(AccessKind::Close(AccessMode::Write))
                | EventKind::Remove(_)
                | EventKind::Modify(_)
        ),
        Err(error) => {
            warn!(%error, "watching libcni's results failed; reading them again");
            true
        }
    }
}

/// Device and inode of a folder.
type Identity = (u64, u64);
type Events = mpsc::UnboundedSender<notify::Result<Event>>;

/// Identifies a file's content: modification time, length and inode.
type Version = (SystemTime, u64, u64);

/// The folder and what was read from it.
struct Cache {
    folder: PathBuf,
    files: BTreeMap<String, (Version, Option<Arc<Record>>)>,
    missing: bool,
    full: bool,
    /// True if something could not be read, perhaps for lack of descriptors. No event will say when
    /// it can be.
    unread: bool,
}

impl Cache {
    fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            files: BTreeMap::new(),
            missing: false,
            full: false,
            unread: false,
        }
    }

    /// Watches the folder if it is new or replaced. Returns true if the folder must be read.
    fn watch(&mut self, watched: &mut Option<(RecommendedWatcher, Identity)>, events: &Events) -> bool {
        let identity = match fs::metadata(&self.folder) {
            Ok(found) => (found.dev(), found.ino()),
            Err(error) => {
                if !std::mem::replace(&mut self.missing, true) {
                    info!(folder = %self.folder.display(), %error,
                        "no results of libcni: interfaces are bound by the addresses that they had when they were first seen");
                }
                return watched.take().is_some();
            }
        };
        if watched.as_ref().is_some_and(|(_, known)| *known == identity) {
            return false;
        }
        let events = events.clone();
        let started =
            notify::recommended_watcher(move |event| drop(events.send(event))).and_then(|mut watcher| {
                watcher.watch(&self.folder, RecursiveMode::NonRecursive)?;
                Ok(watcher)
            });
        match started {
            Ok(watcher) => {
                info!(folder = %self.folder.display(), "watching the results of libcni");
                self.missing = false;
                *watched = Some((watcher, identity));
                true
            }
            Err(error) => {
                warn!(folder = %self.folder.display(), %error, "the results of libcni cannot be watched yet");
                // Read at each interval until it can be watched.
                true
            }
        }
    }

    /// Returns the current records. Does not read unchanged files again.
    fn read(&mut self) -> Records {
        let was_unread = std::mem::replace(&mut self.unread, false);
        let mut found = match list(&self.folder) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                if !was_unread {
                    error!(folder = %self.folder.display(), %error,
                        "the results of libcni cannot be listed, and are tried again; those that were read stay");
                }
                self.unread = true;
                return self.records();
            }
        };
        found.sort_by(|one, other| other.1.cmp(&one.1).then_with(|| one.0.cmp(&other.0)));
        let full = found.len() > MAX_RECORDS;
        if full && !self.full {
            warn!(folder = %self.folder.display(), files = found.len(), kept = MAX_RECORDS,
                "too many results of libcni; the oldest are not read");
        }
        self.full = full;
        found.truncate(MAX_RECORDS);
        let mut before = std::mem::take(&mut self.files);
        for (name, version) in found {
            let known = before.remove(&name).filter(|(read, _)| *read == version);
            let record = match known {
                Some((_, record)) => record,
                None => match self.record(&name, version) {
                    Ok(record) => record,
                    Err(error) => {
                        if !was_unread {
                            error!(file = %self.folder.join(&name).display(), %error,
                                "a result of libcni cannot be read, and is tried again");
                        }
                        self.unread = true;
                        continue;
                    }
                },
            };
            self.files.insert(name, (version, record));
        }
        self.records()
    }

    fn records(&self) -> Records {
        let records = self.files.iter();
        records
            .filter_map(|(name, (_, record))| Some((name.clone(), record.clone()?)))
            .collect()
    }

    /// Reads a file; `None` if it is no record or is gone.
    ///
    /// # Errors
    /// The system lacks a descriptor or memory to read it.
    fn record(&self, name: &str, version: Version) -> io::Result<Option<Arc<Record>>> {
        let path = self.folder.join(name);
        let bytes = match read(&path) {
            Err(error) if is_for_now(&error) => return Err(error),
            read => read.map_err(ParseError::from),
        };
        Ok(match bytes.and_then(|bytes| parse::record(&bytes, version.0)) {
            Ok(record) => record.map(Arc::new),
            // The file may still be being written. An event follows when it is complete.
            Err(error) if error.is_cut_short() => {
                debug!(file = %path.display(), %error, "a result of libcni that is not complete");
                None
            }
            Err(error) => {
                warn!(file = %path.display(), %error, "a result of libcni that cannot be read is ignored");
                None
            }
        })
    }
}

/// Returns true if the system lacks a resource, rather than the file being wrong.
fn is_for_now(error: &io::Error) -> bool {
    let lacks = [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::EINTR];
    error.raw_os_error().is_some_and(|number| lacks.contains(&number))
}

/// Lists the regular files with their versions.
fn list(folder: &Path) -> io::Result<Vec<(String, Version)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let Ok(entry) = entry else { continue };
        // Symbolic links are not followed: reading what is no regular file may block.
        let Ok(meta) = entry.metadata() else { continue };
        if let (true, Ok(name)) = (meta.is_file(), entry.file_name().into_string()) {
            let written = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            found.push((name, (written, meta.len(), meta.ino())));
        }
    }
    Ok(found)
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut options = fs::File::options();
    let file = options
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(io::Error::other(format!("larger than {MAX_BYTES} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(pod: &str) -> String {
        parse::tests::bridge(pod, "00000000-0000-4000-8000-000000000001", "veth0")
    }

    #[test]
    fn a8_what_cannot_be_read_for_now_takes_nothing_away_and_is_read_again() {
        let above = tempfile::tempdir().unwrap();
        let [folder, aside] = ["results", "aside"].map(|name| above.path().join(name));
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("one"), text("web")).unwrap();
        let mut cache = Cache::new(folder.clone());
        assert_eq!((cache.read().len(), cache.unread), (1, false));
        // Neither a folder nor an answer that there is none.
        fs::rename(&folder, &aside).unwrap();
        fs::write(&folder, "").unwrap();
        assert_eq!((cache.read().len(), cache.unread), (1, true));
        fs::remove_file(&folder).unwrap();
        fs::rename(&aside, &folder).unwrap();
        assert_eq!((cache.read().len(), cache.unread), (1, false));
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!((cache.read().len(), cache.unread), (0, false));
        for (number, waits) in [(libc::EMFILE, true), (libc::ENFILE, true), (libc::ELOOP, false)] {
            assert_eq!(is_for_now(&io::Error::from_raw_os_error(number)), waits);
        }
    }

    #[test]
    fn a8_what_is_no_record_is_left_out_and_the_others_stay() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        let mut cache = Cache::new(folder.path().to_owned());
        assert!(cache.read().is_empty());
        write("good", &text("web"));
        write("cut", &text("web")[..100]);
        write("empty", "");
        write("list", "[]");
        write("deep", &"[".repeat(100_000));
        write(
            "large",
            &format!("{}{}", text("web"), " ".repeat(MAX_BYTES as usize)),
        );
        fs::create_dir(folder.path().join("folder")).unwrap();
        std::os::unix::fs::symlink("good", folder.path().join("link")).unwrap();
        nix::unistd::mkfifo(&folder.path().join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let names = |records: &Records| records.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&cache.read()), ["good"]);
        write("cut", &text("db"));
        let records = cache.read();
        assert_eq!(names(&records), ["cut", "good"]);
        assert_eq!(&*records["cut"].pod.name, "db");
        fs::remove_file(folder.path().join("good")).unwrap();
        assert_eq!(names(&cache.read()), ["cut"]);
    }

    #[test]
    fn a8_the_newest_records_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        for number in 0..MAX_RECORDS + 2 {
            let path = folder.path().join(format!("{number:05}"));
            fs::write(&path, text("web")).unwrap();
            let written = SystemTime::UNIX_EPOCH + Duration::from_secs(number as u64);
            fs::File::options()
                .write(true)
                .open(&path)
                .unwrap()
                .set_modified(written)
                .unwrap();
        }
        let records = Cache::new(folder.path().to_owned()).read();
        assert_eq!(records.len(), MAX_RECORDS);
        assert!(records.keys().next().is_some_and(|first| first == "00002"));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a8_records_are_followed() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("results");
        let (tx, mut rx) = watch::channel(None);
        let stop = CancellationToken::new();
        let task = tokio::spawn(run(folder.clone(), tx, Progress::default(), stop.clone()));
        let mut until = async |count: usize| {
            let wanted = |read: &Option<Arc<Records>>| read.as_ref().is_some_and(|read| read.len() == count);
            let waited = tokio::time::timeout(Duration::from_secs(20), rx.wait_for(wanted)).await;
            waited.expect("a reading").unwrap().clone().unwrap()
        };
        assert!(until(0).await.is_empty());
        // The folder comes later.
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("one"), text("web")).unwrap();
        until(1).await;
        fs::write(folder.join("two"), text("db")).unwrap();
        until(2).await;
        fs::remove_file(folder.join("one")).unwrap();
        assert_eq!(&*until(1).await["two"].pod.name, "db");
        stop.cancel();
        task.await.unwrap().unwrap();
    }
}
