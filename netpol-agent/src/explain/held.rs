// SPDX-License-Identifier: Apache-2.0
//! What a running agent holds, beside the objects: an answer is what the kernel does only as far as
//! someone knows what is in it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use serde::{Deserialize, Serialize};

use crate::model::{Direction, Frontend, Node, ObjectKey, Pod, Set, Snapshot};

/// What an answer is made from.
#[derive(Debug, Clone, Copy)]
pub struct World<'a> {
    /// The cluster's objects.
    pub snapshot: &'a Snapshot,
    /// The nodes whose addresses are known: see [`super::known_nodes`].
    pub nodes: &'a [Node],
    /// What the agent that answers holds; `None` where only objects are known.
    pub held: Option<&'a Held>,
}

/// The state of an agent that answers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Held {
    /// Its node.
    pub node: String,
    /// Every pod of its node that has an address and a network of its own.
    pub pods: BTreeMap<ObjectKey, Standing>,
    /// Its pods of which policies come to too many entries, and the directions that are closed for
    /// it (rule L2).
    pub over_budget: BTreeMap<ObjectKey, BTreeSet<Direction>>,
    /// Frontends that are closed to whom they would be open in part (rule L2).
    pub closed: Set<Frontend>,
    /// Addresses behind interfaces of pods: of some no pod is known, or not yet (rule B2).
    pub behind: BTreeMap<IpAddr, Behind>,
    /// The link-local addresses of its pods, as bound (rule A9).
    pub link_locals: BTreeMap<ObjectKey, BTreeSet<Ipv6Addr>>,
}

/// An interface that has an address behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Behind {
    /// Its name.
    pub interface: String,
    /// It is closed to all but the node until its pod is known.
    pub closed: bool,
}

/// Whether a pod of the node is enforced on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Its interface has its policies.
    Enforced,
    /// Its interface has an older policy, or is closed: why.
    HeldBack(String),
    /// No interface is taken for its own: why. Its traffic passes, as far as the agent knows.
    Open(String),
    /// No interface is taken for its own, and the agent does not know what becomes of its traffic:
    /// why.
    Unknown(String),
}

/// Whether what policies say of an end is what its packets meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Enforcement {
    /// The agent that answers enforces it.
    Here,
    /// It should, and does not.
    NotHere,
    /// It is another node's, or no agent was asked.
    CannotTell,
    /// No pod with a network of its own is there.
    NoPod,
}

impl World<'_> {
    /// Whether a pod is of the node of the agent that answers.
    pub(super) fn is_local(&self, pod: &Pod) -> bool {
        self.held
            .is_some_and(|held| pod.node.as_deref() == Some(held.node.as_str()))
    }

    /// How a pod of this node stands; `None` where it is another's, or no agent answers.
    pub(super) fn standing(&self, pod: &Pod) -> Option<Standing> {
        let held = self.held.filter(|_| self.is_local(pod))?;
        let unknown = || Standing::Unknown("the agent has not looked at it yet".to_owned());
        Some(held.pods.get(&pod.key).cloned().unwrap_or_else(unknown))
    }

    /// Whether a pod of this node is closed in a direction, as what its policies come to is over
    /// budget.
    pub(super) fn is_over_budget(&self, pod: &Pod, direction: Direction) -> bool {
        let held = self.held.filter(|_| self.is_local(pod));
        held.and_then(|held| held.over_budget.get(&pod.key))
            .is_some_and(|closed| closed.contains(&direction))
    }

    /// Whether a frontend is closed to a pod of this node that may not reach all that is behind it.
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

    /// The interface of this node behind which an address is.
    pub(super) fn behind(&self, address: IpAddr) -> Option<&Behind> {
        self.held?.behind.get(&address)
    }

    /// Whether an address is one of the node whose agent answers.
    pub(super) fn is_here(&self, address: IpAddr) -> bool {
        let own = |node: &&Node| self.held.is_some_and(|held| held.node == node.name);
        let mut nodes = self.nodes.iter().filter(own);
        nodes.any(|node| node.addresses.contains(&address))
    }

    /// Whether an address is of a link, and nobody here knows whose: a pod of this node has one
    /// that is bound with its interface.
    pub(super) fn is_unknown_link_local(&self, address: IpAddr) -> bool {
        let IpAddr::V6(own) = address else { return false };
        let mut nodes = self.nodes.iter();
        own.is_unicast_link_local()
            && !nodes.any(|node| {
                let mut bound = node.link_locals.values();
                node.addresses.contains(&address) || bound.any(|of_pod| of_pod.contains(&own))
            })
    }

    /// Whether a pod has a link-local address.
    pub(super) fn is_link_local_of(&self, pod: &Pod, address: IpAddr) -> bool {
        let IpAddr::V6(own) = address else { return false };
        let bound = self
            .nodes
            .iter()
            .filter_map(|node| node.link_locals.get(&pod.key));
        bound.flatten().any(|found| *found == own)
    }
}
