// SPDX-License-Identifier: Apache-2.0
//! Rules as plain data, whichever kind of object they stand in.

use std::fmt;

use super::peer_set::PeerSet;
use crate::model::{Direction, ObjectKey, PortKey, ProtocolMatch};

/// What becomes of a packet that a rule matches, or that no rule of a policy matches.
///
/// An audit mode would add an action for what passes and is reported as denied; a kind of policy
/// that can leave a decision to the next tier would add `Pass`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// It passes.
    Accept,
    /// It is dropped.
    Deny,
}

/// The kind of object that a rule stands in. A kind has a tier: rules of an earlier tier decide
/// first. NetworkPolicy is one tier, whose rules all accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PolicyKind {
    /// `networking.k8s.io/v1` NetworkPolicy.
    NetworkPolicy,
}

impl fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NetworkPolicy => "NetworkPolicy",
        })
    }
}

/// Where a rule stands. Displayed as `NetworkPolicy shop/web spec.ingress[0]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleRef {
    /// Kind of the object.
    pub kind: PolicyKind,
    /// Namespace and name of the object; a cluster-wide object would have an empty namespace.
    pub policy: ObjectKey,
    /// The list of rules: `spec.ingress` or `spec.egress`.
    pub direction: Direction,
    /// Place in that list, from 0 on.
    pub index: usize,
}

impl RuleRef {
    /// Path of the rule in its object, e.g. `spec.ingress[0]`.
    pub fn field(&self) -> String {
        format!("spec.{}[{}]", self.direction, self.index)
    }
}

impl fmt::Display for RuleRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.kind, self.policy, self.field())
    }
}

/// A rule of an active policy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// Where it stands.
    pub reference: RuleRef,
    /// The number that policy entries carry: never 0.
    pub number: u32,
    /// What becomes of a packet that it matches.
    pub action: Action,
    /// Its peers; `None` is everyone (rule P1).
    pub peers: Option<PeerSet>,
    /// Those of its peers that select pods: only pods have named ports (rule T4).
    pub selectors: PeerSet,
    /// Its ports.
    pub ports: Ports,
}

/// The ports that a rule matches.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ports {
    /// Every port of every protocol (rule T1).
    All,
    /// Only what is listed. An empty list, left when no entry was valid, matches nothing.
    Listed {
        /// Protocols and numbers, as disjoint aligned blocks, ascending.
        blocks: Vec<ProtocolMatch>,
        /// Names, with the index of their entry in the object.
        named: Vec<(usize, PortKey)>,
    },
}

impl Ports {
    /// The most entries of a policy that they need for one class.
    pub fn count(&self) -> usize {
        match self {
            Self::All => 1,
            Self::Listed { blocks, named } => blocks.len() + named.len(),
        }
    }

    /// The named ports, with the index of their entry in the object.
    pub fn named(&self) -> &[(usize, PortKey)] {
        match self {
            Self::All => &[],
            Self::Listed { named, .. } => named,
        }
    }
}
