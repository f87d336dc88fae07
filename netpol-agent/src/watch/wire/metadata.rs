// SPDX-License-Identifier: Apache-2.0
//! `metadata`, cut to what is read of it.

use std::{collections::BTreeMap, fmt};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};

use super::{
    node, or_default, pod,
    text::{self, Borrowed},
};
use crate::model::{FORWARDS, Labels, Text};

/// What is read of `metadata`. The rest (managed fields, owners, nearly all annotations) is dropped
/// unread.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// Its name; empty if absent.
    #[serde(default, deserialize_with = "text::own")]
    pub name: Text,
    /// Its namespace; empty if absent.
    #[serde(default, deserialize_with = "or_default")]
    pub namespace: Text,
    /// What tells it from others of that name; empty if absent.
    #[serde(default, deserialize_with = "or_default")]
    pub uid: String,
    /// Its version.
    pub resource_version: Option<String>,
    /// Its labels.
    #[serde(default, deserialize_with = "or_default")]
    pub labels: Labels,
    /// When its deletion was asked for.
    pub deletion_timestamp: Option<Time>,
    /// The annotations that are read.
    #[serde(default, deserialize_with = "or_default")]
    pub annotations: Annotations,
}

/// Annotations that are read: what a kubelet writes on the mirror of a static pod, flanneld on a
/// Node, and who edits a Namespace.
const READ: [&str; 4] = [pod::MIRROR, pod::CONFIG_HASH, node::BACKEND, FORWARDS];

/// The annotations that are read. Others are passed over, and not copied.
#[derive(Debug, Clone, Default)]
pub struct Annotations(BTreeMap<String, String>);

impl Annotations {
    /// The value of an annotation.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Takes over an annotation, if it is one that is read. Of two the last one counts.
    pub(super) fn insert(&mut self, name: &[u8], value: impl FnOnce() -> String) {
        if let Some(name) = READ.into_iter().find(|read| read.as_bytes() == name) {
            self.0.insert(name.to_owned(), value());
        }
    }
}

impl<'de> Deserialize<'de> for Annotations {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Self::default())
    }
}

impl<'de> Visitor<'de> for Annotations {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of annotations")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Self, A::Error> {
        while let Some((Borrowed(name), value)) = map.next_entry::<_, Option<Borrowed<'de>>>()? {
            if !READ.contains(&&*name) {
                continue;
            }
            // Of two the last one counts.
            match value {
                Some(Borrowed(value)) => self.0.insert(name.into_owned(), value.into_owned()),
                None => self.0.remove(&*name),
            };
        }
        Ok(self)
    }
}
