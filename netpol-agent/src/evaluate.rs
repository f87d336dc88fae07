// SPDX-License-Identifier: Apache-2.0
//! The reference evaluator: answers one question from the objects by the text of the NetworkPolicy
//! API, slowly and obviously. It shares only the object types with [`crate::compile`], so that each
//! can be checked against the other.
//!
//! It judges the packet that opens a connection, not replies (rule C1). [`evaluate_service`] judges
//! each backend of a Service.
//!
//! Two live pods can claim the same address for a moment, when an address is reused. The objects
//! then do not say whose packet it is. The answer opens nothing by mistake: as a peer, the address
//! matches only what *all* claimants match; as a subject, it is allowed only what *each* claimant's
//! policies allow.

use std::net::IpAddr;

use crate::model::{Direction, NetworkPolicy, Node, ObjectKey, Pod, Rule, Snapshot};

mod budget;
mod forwards;
mod peer;
mod port;
mod reasons;
mod selector;
mod service;

pub use forwards::forwards;
pub use reasons::{Missing, Unmatched, UnmatchedRule, unmatched, unmatched_by_service};
pub use service::evaluate_service;

#[cfg(test)]
mod tests;

/// A packet as the pod's hook sees it. The source port never matters (rule T5), so it is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Packet {
    /// Source address.
    pub source: IpAddr,
    /// Destination address, after any Service translation.
    pub destination: IpAddr,
    /// IANA protocol number.
    pub protocol: u8,
    /// Destination port; `None` for protocols without ports.
    pub port: Option<u16>,
}

/// The verdicts of both ends' policies on a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evaluation {
    /// The source pod's egress.
    pub egress: Side,
    /// The destination pod's ingress.
    pub ingress: Side,
}

impl Evaluation {
    /// Returns true if the packet arrives: both sides must allow it (rule I5).
    pub fn allowed(&self) -> bool {
        self.egress.allowed && self.ingress.allowed
    }
}

/// The verdict of one end's policies on a packet, and the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Side {
    /// True if this side lets the packet pass.
    pub allowed: bool,
    /// The reason.
    pub why: Why,
}

/// The reason for one side's verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// Allowed: no live pod with a network of its own has this end's address (rules I6, I7).
    NotEnforced,
    /// Allowed: the pod reaches itself (rule A1).
    SamePod,
    /// Allowed: the other end is the node that the pod runs on (rule A2).
    Node,
    /// Allowed: no policy isolates the pod for this direction (rule I1).
    NotIsolated,
    /// Allowed by a rule of a policy; the first, if several allow it.
    AllowedBy {
        /// The policy.
        policy: ObjectKey,
        /// Index in its `spec.ingress` or `spec.egress`.
        rule: usize,
    },
    /// Denied: these policies isolate the pod, and none of their rules matches.
    DeniedBy {
        /// The policies that isolate it, in order of their keys.
        policies: Vec<ObjectKey>,
    },
}

/// Judges a packet by the policies of the pods at both ends. `nodes` are the cluster's nodes with
/// their addresses. Only traffic between a pod and its own node is special (rule A2); every other
/// node is outside (rule A4).
pub fn evaluate(snapshot: &Snapshot, nodes: &[Node], packet: &Packet) -> Evaluation {
    judge(snapshot, nodes, packet, false)
}

/// Judges a packet whose addresses were translated on its way, as by a Service: a pod can be its
/// own peer (rule A1).
pub fn evaluate_translated(snapshot: &Snapshot, nodes: &[Node], packet: &Packet) -> Evaluation {
    judge(snapshot, nodes, packet, true)
}

/// Judges a packet. `through_service`: a Service translated it, so a pod can be its own peer (rule
/// A1).
fn judge(snapshot: &Snapshot, nodes: &[Node], packet: &Packet, through_service: bool) -> Evaluation {
    let sources = pods_at(snapshot, nodes, packet.source);
    let destinations = pods_at(snapshot, nodes, packet.destination);
    let same_pod = !through_service
        && sources
            .iter()
            .any(|source| destinations.iter().any(|other| source.key == other.key));

    let side = |direction: Direction| {
        let (subjects, remotes, remote_address) = match direction {
            Direction::Egress => (&sources, &destinations, packet.destination),
            Direction::Ingress => (&destinations, &sources, packet.source),
        };
        if subjects.is_empty() {
            return allowed(Why::NotEnforced);
        }
        if same_pod {
            return allowed(Why::SamePod);
        }
        let judged: Vec<Side> = subjects
            .iter()
            .map(|subject| {
                if is_own_node(nodes, subject, remote_address) {
                    return allowed(Why::Node);
                }
                let question = Question {
                    snapshot,
                    packet,
                    direction,
                    subject,
                    remotes,
                    remote_address,
                    blocks_hold: peer::blocks_hold(snapshot, nodes, remotes, remote_address),
                };
                question.answer()
            })
            .collect();
        match judged.iter().find(|side| !side.allowed) {
            Some(denied) => denied.clone(),
            None => judged[0].clone(),
        }
    };
    Evaluation {
        egress: side(Direction::Egress),
        ingress: side(Direction::Ingress),
    }
}

fn allowed(why: Why) -> Side {
    Side { allowed: true, why }
}

/// Finds the pods that this address can belong to: live ones with a network of their own (rules I6,
/// I7, P6). Leaves out pods that are being deleted if others claim the address (rule A8).
pub fn claimants(snapshot: &Snapshot, address: IpAddr) -> Vec<&Pod> {
    let pods = snapshot.pods.values().map(AsRef::as_ref);
    let mut found: Vec<&Pod> = pods
        .filter(|pod: &&Pod| !pod.host_network && !pod.terminal && pod.addresses.contains(&address))
        .collect();
    if found.iter().any(|pod| !pod.terminating) {
        found.retain(|pod| !pod.terminating);
    }
    found
}

/// Finds the pods as [`claimants`] does, and also by link-local addresses: under one, a pod counts
/// as it does under its own address (rule A9). A link-local address of the pod's node finds none.
pub fn pods_at<'a>(snapshot: &'a Snapshot, nodes: &[Node], address: IpAddr) -> Vec<&'a Pod> {
    let keys = peer::bound(snapshot, nodes, address);
    if keys.is_empty() {
        return claimants(snapshot, address);
    }
    // A pod that gave its own addresses back does not count here either. Whoever else claims one of
    // them does not change that.
    let pod = |key: &ObjectKey| {
        let pod = snapshot.pods.get(key)?;
        let mut found = pod.addresses.iter().flat_map(|own| claimants(snapshot, *own));
        found.find(|other| other.key == *key)
    };
    let pods: Option<Vec<&Pod>> = keys.into_iter().map(pod).collect();
    pods.unwrap_or_default()
}

/// Returns true if the address belongs to the node that the pod runs on (rule A2).
fn is_own_node(nodes: &[Node], pod: &Pod, address: IpAddr) -> bool {
    nodes
        .iter()
        .any(|node| pod.node.as_deref() == Some(node.name.as_str()) && node.addresses.contains(&address))
}

/// Returns true if the policy is of the pod's namespace, selects it and applies to the direction
/// (rules I1 to I3).
pub fn isolates(policy: &NetworkPolicy, pod: &Pod, direction: Direction) -> bool {
    let applies = match (&policy.policy_types, direction) {
        (Some(types), direction) => types.contains(&direction),
        (None, Direction::Ingress) => true,
        (None, Direction::Egress) => !policy.egress.is_empty(),
    };
    applies
        && policy.key.namespace == pod.key.namespace
        && selector::selects(&policy.pod_selector, &pod.labels)
}

/// One pod's side of a packet.
struct Question<'a> {
    snapshot: &'a Snapshot,
    packet: &'a Packet,
    direction: Direction,
    /// The pod whose policies are asked.
    subject: &'a Pod,
    /// The pods that have the other end's address; empty if it is outside the cluster.
    remotes: &'a [&'a Pod],
    /// The other end's address.
    remote_address: IpAddr,
    /// The address to match `ipBlock` peers with; `None` if no block matches.
    blocks_hold: Option<IpAddr>,
}

impl Question<'_> {
    fn answer(&self) -> Side {
        let isolating: Vec<&NetworkPolicy> = self
            .snapshot
            .policies
            .values()
            .map(AsRef::as_ref)
            .filter(|policy| self.isolates(policy))
            .collect();
        if isolating.is_empty() {
            return allowed(Why::NotIsolated);
        }
        let refused = budget::refused_policies(self.snapshot, self.subject);
        // Rule I4: any rule of any policy is enough.
        for policy in isolating.iter().filter(|policy| !refused.contains(&policy.key)) {
            let rules = match self.direction {
                Direction::Ingress => &policy.ingress,
                Direction::Egress => &policy.egress,
            };
            for (index, rule) in rules.iter().enumerate() {
                if self.rule_allows(policy, rule) {
                    return allowed(Why::AllowedBy {
                        policy: policy.key.clone(),
                        rule: index,
                    });
                }
            }
        }
        let policies = isolating.iter().map(|policy| policy.key.clone()).collect();
        Side {
            allowed: false,
            why: Why::DeniedBy { policies },
        }
    }

    /// Returns true if the policy is of the pod's namespace, selects it and applies to the
    /// direction (rules I1 to I3).
    fn isolates(&self, policy: &NetworkPolicy) -> bool {
        isolates(policy, self.subject, self.direction)
    }

    /// Returns true if a rule matches the other end and the port. Peers are tried one by one,
    /// because the meaning of a named port depends on the peer (rule T4).
    fn rule_allows(&self, policy: &NetworkPolicy, rule: &Rule) -> bool {
        if rule.peers.is_empty() {
            return self.ports_match(rule, self.remotes); // P1
        }
        rule.peers.iter().any(|peer| match &peer.ip_block {
            Some(block) => {
                let selects_too = peer.pod_selector.is_some() || peer.namespace_selector.is_some();
                // An API server refuses a peer with both a block and a selector, so it matches
                // nothing.
                let holds = |address| peer::block_holds(block, address);
                !selects_too && self.blocks_hold.is_some_and(holds) && self.ports_match(rule, &[])
            }
            None => {
                !self.remotes.is_empty()
                    && self
                        .remotes
                        .iter()
                        .all(|pod| peer::selects_pod(self.snapshot, &policy.key.namespace, peer, pod))
                    && self.ports_match(rule, self.remotes)
            }
        })
    }

    /// Returns true if a rule's ports match. `remotes` are the pods that the rule's peer matched;
    /// none for an `ipBlock`.
    fn ports_match(&self, rule: &Rule, remotes: &[&Pod]) -> bool {
        if rule.ports.is_empty() {
            return true; // T1
        }
        let subject = [self.subject];
        let destinations = match self.direction {
            Direction::Ingress => &subject,
            Direction::Egress => remotes,
        };
        rule.ports
            .iter()
            .any(|entry| port::matches(entry, self.packet, destinations))
    }
}
