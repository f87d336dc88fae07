// SPDX-License-Identifier: Apache-2.0
//! The answer, as `-o json` writes it and as the agent sends it over its socket.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::held::Enforcement;
use crate::model::Diagnostic;

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The source, as asked for.
    pub source: String,
    /// The destination, as asked for.
    pub destination: String,
    /// The port, as asked for, e.g. `5432/TCP`.
    pub port: String,
    /// Revision of the objects that it was answered from.
    pub revision: u64,
    /// Whether all verdicts allow it, and there is one.
    pub allowed: bool,
    /// What the verdicts come to.
    pub outcome: Outcome,
    /// A verdict for each pair of addresses, and for a Service for each of its backends.
    pub verdicts: Vec<Verdict>,
    /// What to know about the answer.
    pub notes: Vec<String>,
    /// What is wrong with the policies and pods involved.
    pub diagnostics: Vec<Finding>,
}

/// What verdicts come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// All are allowed, and there is one.
    Allowed,
    /// None is allowed.
    Denied,
    /// Some are allowed: of a Service's backends, so that some connections are made and others not, or of the address families.
    Partly,
    /// Of one at least it is not known.
    CannotTell,
}

/// A verdict, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Told {
    /// It arrives.
    Allowed,
    /// It does not.
    Denied,
    /// What is known does not say.
    CannotTell,
}

impl Told {
    /// Of both sides: one that denies is enough (rule I5).
    pub(super) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Denied, _) | (_, Self::Denied) => Self::Denied,
            (Self::CannotTell, _) | (_, Self::CannotTell) => Self::CannotTell,
            _ => Self::Allowed,
        }
    }

    /// In words.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::CannotTell => "cannot tell",
        }
    }
}

impl Outcome {
    /// Of these verdicts.
    pub fn of(verdicts: &[Verdict]) -> Self {
        let of = |told| {
            verdicts
                .iter()
                .filter(move |verdict| verdict.verdict == told)
                .count()
        };
        if of(Told::CannotTell) > 0 {
            return Self::CannotTell;
        }
        match of(Told::Allowed) {
            0 => Self::Denied,
            all if all == verdicts.len() => Self::Allowed,
            _ => Self::Partly,
        }
    }

    /// Exit code of `netpol explain`.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Allowed => 0,
            Self::Denied | Self::Partly => 1,
            Self::CannotTell => 3,
        }
    }

    /// Whether nothing is denied.
    pub fn is_allowed(self) -> bool {
        self == Self::Allowed
    }
}

/// The verdict for one pair of addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// `IPv4` or `IPv6`.
    pub family: String,
    /// Where the packet comes from.
    pub source: EndShown,
    /// The address that it is sent to, where that is a Service's, or a node's with a host port.
    pub frontend: Option<IpAddr>,
    /// Where it goes; for a Service, the backend.
    pub destination: EndShown,
    /// The port at the destination; for a Service, the backend's.
    pub port: String,
    /// Whether both directions allow it (rule I5), as far as is known.
    pub allowed: bool,
    /// What both directions come to.
    pub verdict: Told,
    /// What the source's policies say.
    pub egress: SideShown,
    /// What the destination's policies say.
    pub ingress: SideShown,
}

/// One end of a packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndShown {
    /// `namespace/name` of the pod that has the address, if one has.
    pub name: Option<String>,
    /// The address.
    pub address: IpAddr,
}

/// What one end's policies say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SideShown {
    /// Whether this side allows the packet, as far as is known.
    pub allowed: bool,
    /// What this side says.
    pub verdict: Told,
    /// Whether what policies say here is what its packets meet.
    pub enforced: Enforcement,
    /// `not-enforced`, `same-pod`, `node`, `not-isolated`, `allowed-by-rule`, `no-rule-matches`,
    /// `over-budget`, `closed-until-known`, `spoofed`, `not-own-address`; of what is not certain
    /// `address-on-arrival`, `address-claimed-twice`, `link-local`, `pod-not-known`, `held-back`;
    /// `not-enforced-here`, whatever is certain of it.
    pub reason: String,
    /// The reason in words.
    pub text: String,
    /// The policy that allows it, if one does.
    pub policy: Option<String>,
    /// Path of the rule in that policy.
    pub field: Option<String>,
    /// Whether policies isolate the pod for this direction.
    pub isolated: bool,
    /// The policies that isolate the pod, if no rule allows the packet.
    pub isolating: Vec<PolicyShown>,
}

/// A policy of which no rule matches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyShown {
    /// `namespace/name`.
    pub policy: String,
    /// Its rules for the direction. Without one it allows nothing.
    pub rules: Vec<RuleShown>,
}

/// A rule that does not match.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleShown {
    /// Its path, e.g. `spec.ingress[0]`.
    pub field: String,
    /// What is missing for a match.
    pub missing: Vec<MissingShown>,
}

/// One thing that is missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingShown {
    /// Path below the rule, e.g. `from[0].namespaceSelector.matchLabels`.
    pub field: String,
    /// What is missing.
    pub message: String,
}

/// A [`Diagnostic`] that can be read back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Stable code.
    pub code: String,
    /// Kind and key of the object.
    pub object: String,
    /// Path of the field.
    pub field: String,
    /// What is wrong, and what enforcement makes of it.
    pub message: String,
}

impl From<Diagnostic> for Finding {
    fn from(diagnostic: Diagnostic) -> Self {
        let Diagnostic {
            code,
            object,
            field,
            message,
        } = diagnostic;
        Self {
            code: code.to_owned(),
            object,
            field,
            message,
        }
    }
}
