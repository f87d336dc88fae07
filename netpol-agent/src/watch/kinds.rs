// SPDX-License-Identifier: Apache-2.0
//! The kinds of objects that are read, each in one row of [`kinds!`]. A new kind is a row, its
//! type in [`wire`], its conversion in [`convert`](super::convert), and a map in [`Snapshot`].

use std::sync::Arc;

use k8s_openapi::{ClusterResourceScope, NamespaceResourceScope};

use super::wire::{self, Wire};
use crate::model::{self, Map, ObjectKey, Snapshot, syntax};

/// What is known of a kind.
#[derive(Debug)]
pub(super) struct Facts {
    /// API group and version, as in `apiVersion`.
    api_version: &'static str,
    /// Its name in URLs and in RBAC rules.
    resource: &'static str,
    /// Enforcement goes on without it on a server that does not have it.
    pub may_be_missing: bool,
    /// Which names Kubernetes takes for its objects.
    pub is_name: fn(&str) -> bool,
    /// Its labels are matched by selectors: those that Kubernetes would refuse are reported.
    pub is_selected: bool,
    /// It says who may reach whom: a manifest with an unknown field in `spec` is refused, since a
    /// misspelled one could widen access.
    pub is_policy: bool,
    /// Fields of its objects beside `apiVersion`, `kind` and `metadata`.
    pub fields: &'static [&'static str],
}

/// What most kinds have in common.
const COMMON: Facts = Facts {
    api_version: "v1",
    resource: "",
    may_be_missing: false,
    is_name: syntax::is_dns_subdomain,
    is_selected: false,
    is_policy: false,
    fields: &["spec", "status"],
};

macro_rules! kinds {
    ($($kind:ident: $scope:ident in $map:ident, $facts:expr;)*) => {
        /// The kinds that are read.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind {
            $(#[doc = stringify!($kind)] $kind,)*
        }

        /// An object of the model.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum Object {
            $(#[doc = stringify!($kind)] $kind(Arc<model::$kind>),)*
        }

        impl Kind {
            /// All of them.
            pub const ALL: [Self; [$(Self::$kind),*].len()] = [$(Self::$kind),*];

            /// Its name, as in `kind`.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$kind => stringify!($kind),)*
                }
            }

            pub(super) const fn facts(self) -> &'static Facts {
                match self {
                    $(Self::$kind => const { &$facts },)*
                }
            }

            /// Whether its objects are in no namespace.
            pub const fn is_cluster_wide(self) -> bool {
                match self {
                    $(Self::$kind => scope!($scope is cluster wide),)*
                }
            }

            /// Does something with its type in [`wire`].
            pub(super) fn with<V: ByKind>(self, visitor: V) -> V::Output {
                match self {
                    $(Self::$kind => visitor.visit::<wire::$kind>(),)*
                }
            }

            /// The keys of its objects.
            pub(super) fn keys(self, snapshot: &Snapshot) -> Vec<ObjectKey> {
                match self {
                    $(Self::$kind => snapshot.$map.keys().map(MapKey::full).collect(),)*
                }
            }

            /// Removes an object. False if it was not there.
            pub(super) fn remove(self, snapshot: &mut Snapshot, key: &ObjectKey) -> bool {
                match self {
                    $(Self::$kind => take(&mut snapshot.$map, key),)*
                }
            }
        }

        impl Object {
            /// Its kind.
            pub const fn kind(&self) -> Kind {
                match self {
                    $(Self::$kind(_) => Kind::$kind,)*
                }
            }

            /// Its namespace, empty for kinds that are in none, and name.
            pub fn key(&self) -> ObjectKey {
                match self {
                    $(Self::$kind(object) => scope!($scope key of object),)*
                }
            }

            /// Puts it in the place of an earlier one. False if nothing changed.
            pub(super) fn put_into(self, snapshot: &mut Snapshot) -> bool {
                let key = self.key();
                match self {
                    $(Self::$kind(object) => replace(&mut snapshot.$map, &key, object),)*
                }
            }

            /// The object of a kind and key.
            pub(super) fn find(snapshot: &Snapshot, kind: Kind, key: &ObjectKey) -> Option<Self> {
                match kind {
                    $(Kind::$kind => get(&snapshot.$map, key).map(Self::$kind),)*
                }
            }
        }

        $(impl OfKind for wire::$kind {
            const KIND: Kind = Kind::$kind;
            type Scope = scope!($scope);

            fn metadata_mut(&mut self) -> &mut wire::Metadata {
                &mut self.metadata
            }
        })*
    };
}

/// What follows from the scope of a kind.
macro_rules! scope {
    (Cluster) => {
        ClusterResourceScope
    };
    (Namespace) => {
        NamespaceResourceScope
    };
    (Cluster is cluster wide) => {
        true
    };
    (Namespace is cluster wide) => {
        false
    };
    (Cluster key of $object:ident) => {
        ObjectKey::new("", &$object.name)
    };
    (Namespace key of $object:ident) => {
        $object.key.clone()
    };
}

kinds! {
    Node: Cluster in nodes, Facts {
        resource: "nodes",
        may_be_missing: true,
        ..COMMON
    };
    Namespace: Cluster in namespaces, Facts {
        resource: "namespaces",
        is_name: syntax::is_dns_label,
        is_selected: true,
        ..COMMON
    };
    Pod: Namespace in pods, Facts {
        resource: "pods",
        is_selected: true,
        ..COMMON
    };
    NetworkPolicy: Namespace in policies, Facts {
        api_version: "networking.k8s.io/v1",
        resource: "networkpolicies",
        is_policy: true,
        ..COMMON
    };
    Service: Namespace in services, Facts {
        resource: "services",
        is_name: syntax::is_dns_label,
        ..COMMON
    };
    EndpointSlice: Namespace in endpoint_slices, Facts {
        api_version: "discovery.k8s.io/v1",
        resource: "endpointslices",
        may_be_missing: true,
        fields: &["addressType", "endpoints", "ports"],
        ..COMMON
    };
}

impl Kind {
    /// The `apiVersion` that is read.
    pub const fn api_version(self) -> &'static str {
        self.facts().api_version
    }

    /// Its name in URLs and in RBAC rules.
    pub const fn resource(self) -> &'static str {
        self.facts().resource
    }

    /// The group is empty for core kinds.
    pub(super) fn group_and_version(self) -> (&'static str, &'static str) {
        let api_version = self.api_version();
        api_version.split_once('/').unwrap_or(("", api_version))
    }
}

/// A type of [`wire`] that is of a kind.
pub(crate) trait OfKind {
    /// Which one.
    const KIND: Kind;
    /// Whether its objects are in namespaces, as the client library says it.
    type Scope: 'static;

    /// Its metadata.
    fn metadata_mut(&mut self) -> &mut wire::Metadata;
}

/// What is done for each kind with its type in [`wire`].
pub(super) trait ByKind {
    /// The result.
    type Output;

    /// Does it.
    fn visit<T: Wire>(self) -> Self::Output;
}

/// The key of a kind's map in the model.
trait MapKey: Ord + Clone {
    fn of(key: &ObjectKey) -> Self;
    fn full(&self) -> ObjectKey;
}

impl MapKey for ObjectKey {
    fn of(key: &ObjectKey) -> Self {
        key.clone()
    }

    fn full(&self) -> ObjectKey {
        self.clone()
    }
}

impl MapKey for String {
    fn of(key: &ObjectKey) -> Self {
        key.name.to_string()
    }

    fn full(&self) -> ObjectKey {
        ObjectKey::new("", self)
    }
}

fn get<K: MapKey, O: Clone>(map: &Map<K, O>, key: &ObjectKey) -> Option<O> {
    map.get(&K::of(key)).cloned()
}

/// False if there was none.
fn take<K: MapKey, O: Clone>(map: &mut Map<K, O>, key: &ObjectKey) -> bool {
    map.remove(&K::of(key)).is_some()
}

/// False if the object was there as it is.
fn replace<K: MapKey, O: PartialEq>(map: &mut Map<K, Arc<O>>, key: &ObjectKey, object: Arc<O>) -> bool {
    let key = K::of(key);
    if map.get(&key).is_some_and(|known| **known == *object) {
        return false;
    }
    map.insert(key, object);
    true
}
