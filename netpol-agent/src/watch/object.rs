// SPDX-License-Identifier: Apache-2.0
//! The objects that a source holds now, by kind and key, with what is wrong with each.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use crate::model::{Diagnostic, ObjectKey, Snapshot, findings::bounded};

pub use super::kinds::{Kind, Object};
use super::shared::Shared;

/// Kind and key of an object. Displayed as in [`Diagnostic::object`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id {
    /// Its kind.
    pub kind: Kind,
    /// Namespace (empty for kinds that are in none) and name.
    pub key: ObjectKey,
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            kind if kind.is_cluster_wide() => write!(f, "{} {}", kind.name(), self.key.name),
            kind => write!(f, "{} {}", kind.name(), self.key),
        }
    }
}

impl Object {
    /// Its kind and key.
    pub fn id(&self) -> Id {
        Id {
            kind: self.kind(),
            key: self.key(),
        }
    }
}

/// An object with what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The object, as far as it can be represented.
    pub object: Object,
    /// What could not be, or what Kubernetes would refuse.
    pub diagnostics: Vec<Diagnostic>,
}

/// The objects of a source.
#[derive(Debug, Clone, Default)]
pub struct Objects {
    /// All of them, with what is wrong with them.
    now: Snapshot,
    /// What is wrong with each object, for those with which something is.
    faults: BTreeMap<Id, Vec<Diagnostic>>,
    shared: Shared,
}

impl PartialEq for Objects {
    fn eq(&self, other: &Self) -> bool {
        (&self.now, &self.faults) == (&other.now, &other.faults)
    }
}

impl Objects {
    /// Puts an object in the place of an earlier one. False if nothing changed.
    pub fn put(&mut self, mut entry: Entry) -> bool {
        let id = entry.object.id();
        self.shared.object(&mut entry.object);
        let changed = entry.object.put_into(&mut self.now);
        self.tell(id, entry.diagnostics) || changed
    }

    /// The object of that identity.
    pub fn entry(&self, id: &Id) -> Option<Entry> {
        Some(Entry {
            object: Object::find(&self.now, id.kind, &id.key)?,
            diagnostics: self.faults.get(id).cloned().unwrap_or_default(),
        })
    }

    /// Removes an object. False if it was not there.
    pub fn remove(&mut self, id: &Id) -> bool {
        let removed = id.kind.remove(&mut self.now, &id.key);
        self.tell(id.clone(), Vec::new()) || removed
    }

    /// The keys of the objects of a kind.
    pub fn keys(&self, kind: Kind) -> BTreeSet<ObjectKey> {
        kind.keys(&self.now).into_iter().collect()
    }

    /// Removes objects of a kind. False if there were none.
    pub fn remove_all(&mut self, kind: Kind, keys: BTreeSet<ObjectKey>) -> bool {
        keys.into_iter()
            .fold(false, |changed, key| self.remove(&Id { kind, key }) | changed)
    }

    /// Everything at this moment, with the diagnostics of all objects and `more`.
    pub fn snapshot(&self, revision: u64, more: &[Diagnostic]) -> Snapshot {
        let mut snapshot = self.now.clone();
        snapshot.revision = revision;
        snapshot
            .diagnostics
            .extend(more.iter().cloned().map(|diagnostic| (diagnostic, ())));
        snapshot
    }

    /// Remembers what is wrong with an object. False if nothing else was before.
    fn tell(&mut self, id: Id, faults: Vec<Diagnostic>) -> bool {
        let faults = bounded(faults);
        if self.faults.get(&id).map_or(&[][..], Vec::as_slice) == faults {
            return false;
        }
        // An object's diagnostics carry its name: no other object has the same.
        for diagnostic in self.faults.remove(&id).into_iter().flatten() {
            self.now.diagnostics.remove(&diagnostic);
        }
        self.now
            .diagnostics
            .extend(faults.iter().cloned().map(|diagnostic| (diagnostic, ())));
        if !faults.is_empty() {
            self.faults.insert(id, faults);
        }
        true
    }
}
