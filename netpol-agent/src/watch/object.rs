// SPDX-License-Identifier: Apache-2.0
//! The objects that a source holds now, by kind and key, with what is wrong with each.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use crate::model::{
    Diagnostic, EndpointSlice, Map, Namespace, NetworkPolicy, Node, ObjectKey, Pod, Service, Snapshot,
    findings::bounded,
};

use super::shared::Shared;

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

/// Evaluates an expression with the map of a kind.
macro_rules! of_kind {
    ($snapshot:expr, $kind:expr, $map:ident => $cluster_wide:expr, $namespaced:expr) => {
        match $kind {
            Kind::Node => {
                let $map = &mut $snapshot.nodes;
                $cluster_wide
            }
            Kind::Namespace => {
                let $map = &mut $snapshot.namespaces;
                $cluster_wide
            }
            Kind::Pod => {
                let $map = &mut $snapshot.pods;
                $namespaced
            }
            Kind::NetworkPolicy => {
                let $map = &mut $snapshot.policies;
                $namespaced
            }
            Kind::Service => {
                let $map = &mut $snapshot.services;
                $namespaced
            }
            Kind::EndpointSlice => {
                let $map = &mut $snapshot.endpoint_slices;
                $namespaced
            }
        }
    };
}

impl Objects {
    /// Puts an object in the place of an earlier one. False if nothing changed.
    pub fn put(&mut self, entry: Entry) -> bool {
        let now = &mut self.now;
        let id = entry.object.id();
        let changed = match entry.object {
            Object::Node(o) => replace(&mut now.nodes, id.key.name.to_string(), o),
            Object::Namespace(o) => replace(&mut now.namespaces, id.key.name.to_string(), o),
            Object::Pod(mut o) => {
                if let Some(pod) = Arc::get_mut(&mut o) {
                    self.shared.pod(pod);
                }
                replace(&mut now.pods, o.key.clone(), o)
            }
            Object::NetworkPolicy(mut o) => {
                if let Some(policy) = Arc::get_mut(&mut o) {
                    self.shared.policy(policy);
                }
                replace(&mut now.policies, id.key.clone(), o)
            }
            Object::Service(o) => replace(&mut now.services, id.key.clone(), o),
            Object::EndpointSlice(o) => replace(&mut now.endpoint_slices, id.key.clone(), o),
        };
        self.tell(id, entry.diagnostics) || changed
    }

    /// The object of that identity.
    pub fn entry(&self, id: &Id) -> Option<Entry> {
        let (now, key) = (&self.now, &id.key);
        let object = match id.kind {
            Kind::Node => now.nodes.get(key.name.as_str()).cloned().map(Object::Node),
            Kind::Namespace => now
                .namespaces
                .get(key.name.as_str())
                .cloned()
                .map(Object::Namespace),
            Kind::Pod => now.pods.get(key).cloned().map(Object::Pod),
            Kind::NetworkPolicy => now.policies.get(key).cloned().map(Object::NetworkPolicy),
            Kind::Service => now.services.get(key).cloned().map(Object::Service),
            Kind::EndpointSlice => now.endpoint_slices.get(key).cloned().map(Object::EndpointSlice),
        };
        Some(Entry {
            object: object?,
            diagnostics: self.faults.get(id).cloned().unwrap_or_default(),
        })
    }

    /// Removes an object. False if it was not there.
    pub fn remove(&mut self, id: &Id) -> bool {
        let key = &id.key;
        let removed = of_kind!(self.now, id.kind, map => map.remove(key.name.as_str()).is_some(), map.remove(key).is_some());
        self.tell(id.clone(), Vec::new()) || removed
    }

    /// Removes the objects of a kind that are not in `kept`. False if there were none.
    pub fn keep(&mut self, kind: Kind, kept: &BTreeSet<Id>) -> bool {
        let id = |key| Id { kind, key };
        let ids: Vec<Id> = of_kind!(
            self.now,
            kind,
            map => map.keys().map(|name| id(ObjectKey::new("", name))).collect(),
            map.keys().cloned().map(id).collect()
        );
        let gone: Vec<Id> = ids.into_iter().filter(|id| !kept.contains(id)).collect();
        for id in &gone {
            self.remove(id);
        }
        !gone.is_empty()
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

/// False if the object was there as it is.
fn replace<K: Ord + Clone, O: PartialEq>(map: &mut Map<K, Arc<O>>, key: K, object: Arc<O>) -> bool {
    if map.get(&key).is_some_and(|known| **known == *object) {
        return false;
    }
    map.insert(key, object);
    true
}
