// SPDX-License-Identifier: Apache-2.0
//! What a running agent holds beside the objects. An answer describes the kernel's behaviour only
//! as far as the agent's state is known.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use serde::{Deserialize, Serialize};

use crate::model::{Direction, Frontend, Node, ObjectKey, Pod, Set, Snapshot};

/// The sources of an answer.
#[derive(Debug, Clone, Copy)]
pub struct World<'a> {
    /// The cluster's objects.
    pub snapshot: &'a Snapshot,
    /// The nodes with known addresses, see [`super::known_nodes`].
    pub nodes: &'a [Node],
    /// State of the agent that answers; `None` if only objects are known.
    pub held: Option<&'a Held>,
}

/// State of the agent that answers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Held {
    /// Name of its node.
    pub node: String,
    /// Every pod of its node that has an address and a network of its own.
    pub pods: BTreeMap<ObjectKey, Standing>,
    /// Its pods whose policies need too many entries, with the directions closed for that reason
    /// (rule L2).
    pub over_budget: BTreeMap<ObjectKey, BTreeSet<Direction>>,
    /// Frontends that are closed to pods which may reach only some of their backends (rule L2).
    pub closed: Set<Frontend>,
    /// Addresses behind pod interfaces. Some interfaces have no known pod, or none yet (rule B2).
    pub behind: BTreeMap<IpAddr, Behind>,
    /// The link-local addresses of its pods, as bound (rule A9).
    pub link_locals: BTreeMap<ObjectKey, BTreeSet<Ipv6Addr>>,
}

/// The interface that an address is behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Behind {
    /// Its name.
    pub interface: String,
    /// True if it is closed to everything but the node until its pod is known.
    pub closed: bool,
}

/// Whether a pod of the node is enforced on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Its interface has its policies.
    Enforced,
    /// Its interface has an older policy or is closed, for this reason.
    HeldBack(String),
    /// No interface is known to be its own, for this reason. Its traffic passes, as far as the
    /// agent knows.
    Open(String),
    /// No interface is known to be its own, for this reason. The agent does not know what happens
    /// to its traffic.
    Unknown(String),
}

/// Whether the policies' verdict about an end is applied to its packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Enforcement {
    /// The agent that answers enforces it.
    Here,
    /// The agent that answers should enforce it, and does not.
    NotHere,
    /// The pod is on another node, or no agent was asked.
    CannotTell,
    /// No pod with a network of its own is there.
    NoPod,
}

impl World<'_> {
    /// Returns true if a pod runs on the node of the agent that answers.
    pub(super) fn is_local(&self, pod: &Pod) -> bool {
        self.held
            .is_some_and(|held| pod.node.as_deref() == Some(held.node.as_str()))
    }

    /// Looks up the state of a pod of this node; `None` if it runs elsewhere, or no agent answers.
    pub(super) fn standing(&self, pod: &Pod) -> Option<Standing> {
        let held = self.held.filter(|_| self.is_local(pod))?;
        let unknown = || Standing::Unknown("the agent has not looked at it yet".to_owned());
        Some(held.pods.get(&pod.key).cloned().unwrap_or_else(unknown))
    }

    /// Returns true if a pod of this node is closed in a direction because its policies are over
    /// budget.
    pub(super) fn is_over_budget(&self, pod: &Pod, direction: Direction) -> bool {
        let held = self.held.filter(|_| self.is_local(pod));
        held.and_then(|held| held.over_budget.get(&pod.key))
            .is_some_and(|closed| closed.contains(&direction))
    }

    /// Returns true if a frontend is closed to pods of this node that may reach only some of its
    /// backends.
    pub(super) fn is_closed(&self, pod: &Pod, frontend: Frontend) -> bool {
        let Some(held) = self.held.filter(|_| self.is_local(pod)) else {
            return false;
        };
        let at_nodes = Frontend {
            address: match frontend.address {
                IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            },
            ..frontend
        };
        let is_nodes = || {
            let mut nodes = self.nodes.iter();
            nodes.any(|node| node.addresses.contains(&frontend.address))
        };
        held.closed.contains_key(&frontend) || held.closed.contains_key(&at_nodes) && is_nodes()
    }

    /// Looks up the interface of this node that an address is behind.
    pub(super) fn behind(&self, address: IpAddr) -> Option<&Behind> {
        self.held?.behind.get(&address)
    }

    /// Returns true if an address belongs to the node of the agent that answers.
    pub(super) fn is_here(&self, address: IpAddr) -> bool {
        let own = |node: &&Node| self.held.is_some_and(|held| held.node == node.name);
        let mut nodes = self.nodes.iter().filter(own);
        nodes.any(|node| node.addresses.contains(&address))
    }

    /// Returns true if an address is link-local and its owner is unknown. The link-local address of
    /// a local pod is known: it is bound with the pod's interface.
    pub(super) fn is_unknown_link_local(&self, address: IpAddr) -> bool {
        let IpAddr::V6(own) = address else { return false };
        let mut nodes = self.nodes.iter();
        own.is_unicast_link_local()
            && !nodes.any(|node| {
                let mut bound = node.link_locals.values();
                node.addresses.contains(&address) || bound.any(|of_pod| of_pod.contains(&own))
            })
    }

    /// Returns true if a pod has this link-local address.
    pub(super) fn is_link_local_of(&self, pod: &Pod, address: IpAddr) -> bool {
        let IpAddr::V6(own) = address else { return false };
        let bound = self
            .nodes
            .iter()
            .filter_map(|node| node.link_locals.get(&pod.key));
        bound.flatten().any(|found| *found == own)
    }
}
