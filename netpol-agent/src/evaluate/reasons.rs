// SPDX-License-Identifier: Apache-2.0
//! Explains, in words for people, why no rule of the policies that isolate a pod matches a packet.

use super::{Packet, Question, is_own_node, pods_at};
use crate::model::{Direction, NetworkPolicy, Node, ObjectKey, Pod, Rule, Snapshot};

mod peers;
mod ports;
mod selectors;

/// A policy that isolates a pod and has no rule that allows the packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unmatched {
    /// The policy.
    pub policy: ObjectKey,
    /// All its rules for the direction, in order. A policy without rules allows nothing.
    pub rules: Vec<UnmatchedRule>,
}

/// A rule that does not match a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnmatchedRule {
    /// Index in `spec.ingress` or `spec.egress`.
    pub index: usize,
    /// What is missing for a match; never empty.
    pub missing: Vec<Missing>,
}

/// One thing that is missing for a match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Path of the field below the rule, e.g. `from[1].podSelector`.
    pub field: String,
    /// What is missing.
    pub message: String,
}

impl Missing {
    fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            message: message.into(),
        }
    }
}

/// Lists, for a side that [`super::evaluate`] denies, the policies that isolate the pod and what
/// each of their rules lacks. Empty for a side that it allows. If several pods claim the address,
/// these are the policies of the first pod that is denied.
pub fn unmatched(
    snapshot: &Snapshot,
    nodes: &[Node],
    packet: &Packet,
    direction: Direction,
) -> Vec<Unmatched> {
    let sources = pods_at(snapshot, nodes, packet.source);
    let destinations = pods_at(snapshot, nodes, packet.destination);
    let same_pod = sources
        .iter()
        .any(|source| destinations.iter().any(|other| source.key == other.key));
    if same_pod {
        return Vec::new();
    }
    unmatched_by_service(snapshot, nodes, packet, direction)
}

/// Does the same for a packet at a backend that [`super::evaluate_service`] denies: a pod can be
/// its own peer (rule A1).
pub fn unmatched_by_service(
    snapshot: &Snapshot,
    nodes: &[Node],
    packet: &Packet,
    direction: Direction,
) -> Vec<Unmatched> {
    let sources = pods_at(snapshot, nodes, packet.source);
    let destinations = pods_at(snapshot, nodes, packet.destination);
    let (subjects, remotes, remote_address) = match direction {
        Direction::Egress => (&sources, &destinations, packet.destination),
        Direction::Ingress => (&destinations, &sources, packet.source),
    };
    let mut questions = subjects
        .iter()
        .filter(|subject| !is_own_node(nodes, subject, remote_address))
        .map(|subject| Question {
            snapshot,
            packet,
            direction,
            subject,
            remotes,
            remote_address,
            blocks_hold: super::peer::blocks_hold(snapshot, nodes, remotes, remote_address),
        });
    let denied = questions.find(|question| !question.answer().allowed);
    denied.map_or_else(Vec::new, |question| question.unmatched())
}

impl Question<'_> {
    fn unmatched(&self) -> Vec<Unmatched> {
        let policies = self.snapshot.policies.values().map(AsRef::as_ref);
        policies
            .filter(|policy| self.isolates(policy))
            .map(|policy| {
                let rules = match self.direction {
                    Direction::Ingress => &policy.ingress,
                    Direction::Egress => &policy.egress,
                };
                let rules = rules.iter().enumerate().map(|(index, rule)| UnmatchedRule {
                    index,
                    missing: self.missing(policy, rule),
                });
                Unmatched {
                    policy: policy.key.clone(),
                    rules: rules.collect(),
                }
            })
            .collect()
    }

    /// Lists what one rule lacks. If no peer matches, the ports are checked too: both need fixing.
    fn missing(&self, policy: &NetworkPolicy, rule: &Rule) -> Vec<Missing> {
        let list = match self.direction {
            Direction::Ingress => "from",
            Direction::Egress => "to",
        };
        let mut missing = Vec::new();
        let mut matched: Option<&[&Pod]> = rule.peers.is_empty().then_some(self.remotes);
        for (index, peer) in rule.peers.iter().enumerate() {
            let found = self.missing_for_peer(policy, peer, &format!("{list}[{index}]"));
            if found.is_empty() {
                // Prefer a matching peer that has pods: it says more about named ports.
                let pods = if peer.ip_block.is_some() {
                    &[]
                } else {
                    self.remotes
                };
                matched = Some(matched.filter(|before| !before.is_empty()).unwrap_or(pods));
            }
            missing.extend(found);
        }
        if matched.is_some() {
            missing.clear();
        }
        let destinations = matched.unwrap_or(self.remotes);
        if !self.ports_match(rule, destinations) {
            missing.push(self.missing_for_ports(rule, destinations));
        }
        missing
    }
}
