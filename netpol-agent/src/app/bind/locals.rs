// SPDX-License-Identifier: Apache-2.0
//! Keeps the pods of this node up to date. Most changes in a cluster concern other nodes.

use std::{collections::BTreeMap, sync::Arc};

use super::LocalPod;
use crate::model::{Map, ObjectKey, Pod};

/// The pods of one node that have an address and a network of their own.
#[derive(Debug, Default)]
pub struct Locals {
    /// All pods at the last update.
    all: Map<ObjectKey, Arc<Pod>>,
    /// The pods of this node.
    pub pods: BTreeMap<ObjectKey, LocalPod>,
}

impl Locals {
    /// Takes the current pods. Returns true if any of this node's changed.
    pub fn update(&mut self, all: &Map<ObjectKey, Arc<Pod>>, node: &str) -> bool {
        let mut changed = false;
        for (key, _, now) in self.all.diff(all) {
            let local = now.filter(|pod| pod.is_endpoint_on(node)).map(|pod| LocalPod {
                uid: pod.uid.clone(),
                static_uid: pod.static_uid.clone(),
                addresses: pod.addresses.clone(),
                terminating: pod.terminating,
            });
            changed |= self.pods.get(key) != local.as_ref();
            match local {
                Some(local) => self.pods.insert(key.clone(), local),
                None => self.pods.remove(key),
            };
        }
        self.all = all.clone();
        changed
    }
}
