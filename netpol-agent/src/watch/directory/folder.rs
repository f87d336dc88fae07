// SPDX-License-Identifier: Apache-2.0
//! All files of the folder: which there are, what each last said, and what they say together.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    hash::{DefaultHasher, Hasher},
    io,
    path::{Path, PathBuf},
};

use crate::{
    model::Diagnostic,
    watch::{
        WatchError,
        object::{Id, Objects},
    },
};

use super::{
    is_hidden, is_manifest,
    manifest::{self, Item, Outcome},
    shown,
};

/// Folders within folders, links to folders included.
const MAX_DEPTH: usize = 32;

/// What a new reading showed.
pub enum Scan {
    /// Other objects or diagnostics than before.
    Changed,
    /// The same.
    Same,
    /// A file is gone that was there: not taken before it is confirmed, as editors take files away
    /// before they put new ones.
    Vanished,
    /// The folder cannot be read; everything stays.
    Gone(io::Error),
}

/// A file.
#[derive(Default)]
struct File {
    /// Of the bytes that were read last.
    digest: Option<u64>,
    /// The objects it held when it could last be read.
    items: Vec<Item>,
    /// Why it cannot be read now.
    fault: Option<Diagnostic>,
}

/// The folder as it was last read.
pub struct Folder {
    dir: PathBuf,
    files: BTreeMap<PathBuf, File>,
    objects: Objects,
    diagnostics: Vec<Diagnostic>,
}

impl Folder {
    /// The first reading.
    ///
    /// # Errors
    /// If the folder, or something in it, cannot be read.
    pub fn open(dir: &Path) -> Result<Self, WatchError> {
        let mut folder = Self {
            dir: dir.to_path_buf(),
            files: BTreeMap::new(),
            objects: Objects::default(),
            diagnostics: Vec::new(),
        };
        let path = folder.dir.clone();
        if let Scan::Gone(error) = folder.scan(&BTreeSet::new(), true) {
            return Err(WatchError::Folder { path, error });
        }
        let faults = folder.files.values().filter_map(|file| file.fault.as_ref());
        let refusals = folder
            .files
            .values()
            .flat_map(|file| &file.items)
            .filter_map(|item| match &item.outcome {
                Outcome::Refused(_, fault) => Some(fault),
                Outcome::Read(_) => None,
            });
        let mut diagnostics: Vec<Diagnostic> = faults.chain(refusals).cloned().collect();
        diagnostics.sort();
        if diagnostics.is_empty() {
            Ok(folder)
        } else {
            Err(WatchError::Unreadable { path, diagnostics })
        }
    }

    /// The objects in force.
    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    /// What is wrong, beside the diagnostics of the objects themselves.
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.diagnostics
    }

    /// Number of files.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether a file is there that could not be read.
    pub fn is_in_part(&self) -> bool {
        let mut files = self.files.values();
        files.any(|file| file.digest.is_none() && file.fault.is_some())
    }

    /// Reads the folder again, but not the files in `being_written`. `confirmed` takes a vanished
    /// file for what it is.
    pub fn scan(&mut self, being_written: &BTreeSet<PathBuf>, confirmed: bool) -> Scan {
        let mut paths = BTreeSet::new();
        if let Err(error) = list(&self.dir, 0, &mut paths) {
            return Scan::Gone(error);
        }
        if self.files.keys().any(|path| !paths.contains(path)) && !confirmed {
            return Scan::Vanished;
        }
        self.files.retain(|path, _| paths.contains(path));
        for path in paths {
            if being_written.contains(&path) {
                continue;
            }
            match fs::read(&path) {
                Ok(bytes) => self
                    .files
                    .entry(path.clone())
                    .or_default()
                    .read(&shown(&self.dir, &path), &bytes),
                Err(error) if error.kind() == io::ErrorKind::NotFound => drop(self.files.remove(&path)),
                Err(error) => {
                    let file = self.files.entry(path.clone()).or_default();
                    file.digest = None;
                    file.fault = Some(Diagnostic {
                        code: "manifest-unreadable",
                        object: shown(&self.dir, &path),
                        field: String::new(),
                        message: format!("{error}; the objects that the file had stay in force"),
                    });
                }
            }
        }
        self.merge()
    }

    /// Puts the objects of all files together; the first of a name counts.
    fn merge(&mut self) -> Scan {
        let mut objects = Objects::default();
        let mut diagnostics = Vec::new();
        let mut places: BTreeMap<Id, &str> = BTreeMap::new();
        for file in self.files.values() {
            diagnostics.extend(file.fault.clone());
            for item in &file.items {
                let id = item.id();
                if let Some(first) = places.get(&id) {
                    diagnostics.push(Diagnostic {
                        code: "object-duplicate",
                        object: id.to_string(),
                        field: String::new(),
                        message: format!("in {first} and again in {}; the first counts", item.place),
                    });
                    continue;
                }
                match &item.outcome {
                    Outcome::Read(entry) => drop(objects.put(entry.as_ref().clone())),
                    Outcome::Refused(id, fault) => {
                        diagnostics.push(fault.clone());
                        self.objects.entry(id).map(|last_good| objects.put(last_good));
                    }
                }
                places.insert(id, &item.place);
            }
        }
        if objects == self.objects && diagnostics == self.diagnostics {
            return Scan::Same;
        }
        self.objects = objects;
        self.diagnostics = diagnostics;
        Scan::Changed
    }
}

impl File {
    fn read(&mut self, name: &str, bytes: &[u8]) {
        let mut hasher = DefaultHasher::new();
        hasher.write(bytes);
        let digest = Some(hasher.finish());
        if self.digest == digest {
            return;
        }
        self.digest = digest;
        match manifest::read_bytes(name, bytes) {
            Ok(items) => {
                self.items = items;
                self.fault = None;
            }
            Err(fault) => self.fault = Some(fault),
        }
    }
}

/// Adds the manifests below `dir`. What vanishes on the way is not there.
fn list(dir: &Path, depth: usize, paths: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    if depth > MAX_DEPTH {
        return Err(io::Error::other(format!(
            "{}: more than {MAX_DEPTH} folders deep",
            dir.display()
        )));
    }
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if is_hidden(&path) {
            continue;
        }
        match fs::metadata(&path) {
            Ok(meta) if meta.is_dir() => match list(&path, depth + 1, paths) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                listed => listed?,
            },
            Ok(meta) if meta.is_file() && is_manifest(&path) => drop(paths.insert(path)),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(io::Error::new(
                    error.kind(),
                    format!("{}: {error}", path.display()),
                ));
            }
        }
    }
    Ok(())
}
