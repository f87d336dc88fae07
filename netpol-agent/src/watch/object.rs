// SPDX-License-Identifier: Apache-2.0
//! The objects that a source holds now, by kind and key, with what is wrong with each.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use crate::model::{
    Diagnostic, EndpointSlice, Namespace, NetworkPolicy, Node, ObjectKey, Pod, Service, Snapshot,
};

/// The kinds that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `v1` Node.
    Node,
    /// `v1` Namespace.
    Namespace,
    /// `v1` Pod.
    Pod,
    /// `networking.k8s.io/v1` NetworkPolicy.
    NetworkPolicy,
    /// `v1` Service.
    Service,
    /// `discovery.k8s.io/v1` EndpointSlice.
    EndpointSlice,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Node,
        Self::Namespace,
        Self::Pod,
        Self::NetworkPolicy,
        Self::Service,
        Self::EndpointSlice,
    ];

    /// Its name, as in `kind`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Node => "Node",
            Self::Namespace => "Namespace",
            Self::Pod => "Pod",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
        }
    }

    /// The `apiVersion` that is read.
    pub const fn api_version(self) -> &'static str {
        match self {
            Self::Node | Self::Namespace | Self::Pod | Self::Service => "v1",
            Self::NetworkPolicy => "networking.k8s.io/v1",
            Self::EndpointSlice => "discovery.k8s.io/v1",
        }
    }

    /// Its name in URLs and in RBAC rules.
    pub const fn resource(self) -> &'static str {
        match self {
            Self::Node => "nodes",
            Self::Namespace => "namespaces",
            Self::Pod => "pods",
            Self::NetworkPolicy => "networkpolicies",
            Self::Service => "services",
            Self::EndpointSlice => "endpointslices",
        }
    }

    /// Whether its objects are in no namespace.
    pub const fn is_cluster_wide(self) -> bool {
        matches!(self, Self::Node | Self::Namespace)
    }
}

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

/// An object of the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Object {
    /// A Node.
    Node(Arc<Node>),
    /// A Namespace.
    Namespace(Arc<Namespace>),
    /// A Pod.
    Pod(Arc<Pod>),
    /// A NetworkPolicy.
    NetworkPolicy(Arc<NetworkPolicy>),
    /// A Service.
    Service(Arc<Service>),
    /// An EndpointSlice.
    EndpointSlice(Arc<EndpointSlice>),
}

impl Object {
    /// Its kind and key.
    pub fn id(&self) -> Id {
        let (kind, key) = match self {
            Self::Node(o) => (Kind::Node, ObjectKey::new("", &o.name)),
            Self::Namespace(o) => (Kind::Namespace, ObjectKey::new("", &o.name)),
            Self::Pod(o) => (Kind::Pod, o.key.clone()),
            Self::NetworkPolicy(o) => (Kind::NetworkPolicy, o.key.clone()),
            Self::Service(o) => (Kind::Service, o.key.clone()),
            Self::EndpointSlice(o) => (Kind::EndpointSlice, o.key.clone()),
        };
        Id { kind, key }
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
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Objects {
    entries: BTreeMap<Id, Entry>,
}

impl Objects {
    /// Puts an object in the place of an earlier one. False if nothing changed.
    pub fn put(&mut self, entry: Entry) -> bool {
        let id = entry.object.id();
        if self.entries.get(&id) == Some(&entry) {
            return false;
        }
        self.entries.insert(id, entry);
        true
    }

    /// The object of that identity.
    pub fn entry(&self, id: &Id) -> Option<&Entry> {
        self.entries.get(id)
    }

    /// Removes an object. False if it was not there.
    pub fn remove(&mut self, id: &Id) -> bool {
        self.entries.remove(id).is_some()
    }

    /// Removes the objects of a kind that are not in `kept`. False if there were none.
    pub fn keep(&mut self, kind: Kind, kept: &BTreeSet<Id>) -> bool {
        let before = self.entries.len();
        self.entries.retain(|id, _| id.kind != kind || kept.contains(id));
        self.entries.len() != before
    }

    /// Everything at this moment, with the diagnostics of all objects and `more`, sorted.
    pub fn snapshot(&self, revision: u64, more: &[Diagnostic]) -> Snapshot {
        let mut snapshot = Snapshot {
            revision,
            diagnostics: more.to_vec(),
            ..Snapshot::default()
        };
        for entry in self.entries.values() {
            snapshot.diagnostics.extend(entry.diagnostics.iter().cloned());
            match &entry.object {
                Object::Node(o) => drop(snapshot.nodes.insert(o.name.clone(), o.clone())),
                Object::Namespace(o) => drop(snapshot.namespaces.insert(o.name.clone(), o.clone())),
                Object::Pod(o) => drop(snapshot.pods.insert(o.key.clone(), o.clone())),
                Object::NetworkPolicy(o) => drop(snapshot.policies.insert(o.key.clone(), o.clone())),
                Object::Service(o) => drop(snapshot.services.insert(o.key.clone(), o.clone())),
                Object::EndpointSlice(o) => drop(snapshot.endpoint_slices.insert(o.key.clone(), o.clone())),
            }
        }
        snapshot.diagnostics.sort();
        snapshot.diagnostics.dedup();
        snapshot
    }
}
