// SPDX-License-Identifier: Apache-2.0
//! The answer, as `-o json` prints it and as the agent sends it over its socket.

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
    /// Revision of the objects behind the answer.
    pub revision: u64,
    /// True if there is a verdict and all verdicts allow.
    pub allowed: bool,
    /// Sum of the verdicts.
    pub outcome: Outcome,
    /// A verdict for each pair of addresses; for a Service, for each of its backends.
    pub verdicts: Vec<Verdict>,
    /// Remarks on the answer.
    pub notes: Vec<String>,
    /// Problems of the policies and pods involved.
    pub diagnostics: Vec<Finding>,
}

/// Sum of several verdicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// There is a verdict, and all allow.
    Allowed,
    /// None allows.
    Denied,
    /// Some allow: the Service's backends differ, so that some connections succeed, or the address
    /// families differ.
    Partly,
    /// At least one is unknown.
    CannotTell,
}

/// A verdict, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Told {
    /// The packet arrives.
    Allowed,
    /// The packet does not arrive.
    Denied,
    /// The known facts do not decide.
    CannotTell,
}

impl Told {
    /// Combines both sides: one that denies is enough (rule I5).
    pub(super) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Denied, _) | (_, Self::Denied) => Self::Denied,
            (Self::CannotTell, _) | (_, Self::CannotTell) => Self::CannotTell,
            _ => Self::Allowed,
        }
    }

    /// Returns it as words.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::CannotTell => "cannot tell",
        }
    }
}

impl Outcome {
    /// Sums up verdicts.
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

    /// Returns the exit code of `netpol explain`.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Allowed => 0,
            Self::Denied | Self::Partly => 1,
            Self::CannotTell => 3,
        }
    }

    /// Returns true if there is a verdict and all allow.
    pub fn is_allowed(self) -> bool {
        self == Self::Allowed
    }
}

/// The verdict for one pair of addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// `IPv4` or `IPv6`.
    pub family: String,
    /// Source of the packet.
    pub source: EndShown,
    /// The address that the packet is sent to, if it is a Service's, or a node's with a host port.
    pub frontend: Option<IpAddr>,
    /// Where the packet goes; for a Service, the backend.
    pub destination: EndShown,
    /// The port at the destination; for a Service, the backend's.
    pub port: String,
    /// True if both directions allow it (rule I5), as far as is known.
    pub allowed: bool,
    /// Both directions combined.
    pub verdict: Told,
    /// Verdict of the source's policies.
    pub egress: SideShown,
    /// Verdict of the destination's policies.
    pub ingress: SideShown,
}

/// One end of a packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndShown {
    /// `namespace/name` of the pod that has the address, if any.
    pub name: Option<String>,
    /// The address.
    pub address: IpAddr,
}

/// The verdict of one end's policies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SideShown {
    /// True if this side allows the packet, as far as is known.
    pub allowed: bool,
    /// Verdict of this side.
    pub verdict: Told,
    /// Tells if the policies' verdict is really applied to packets here.
    pub enforced: Enforcement,
    /// `not-enforced`, `same-pod`, `node`, `not-isolated`, `allowed-by-rule`, `no-rule-matches`,
    /// `over-budget`, `closed-until-known`, `spoofed` or `not-own-address`. For an unknown verdict
    /// `address-on-arrival`, `address-claimed-twice`, `link-local`, `pod-not-known` or `held-back`.
    /// `not-enforced-here` for either.
    pub reason: String,
    /// The reason as a sentence.
    pub text: String,
    /// The policy that allows the packet, if one does.
    pub policy: Option<String>,
    /// Path of the rule in that policy.
    pub field: Option<String>,
    /// True if policies isolate the pod for this direction.
    pub isolated: bool,
    /// The policies that isolate the pod, if no rule allows the packet.
    pub isolating: Vec<PolicyShown>,
}

/// A policy without a matching rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyShown {
    /// `namespace/name`.
    pub policy: String,
    /// Its rules for the direction. A policy without rules allows nothing.
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

/// One thing that a rule lacks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingShown {
    /// Path below the rule, e.g. `from[0].namespaceSelector.matchLabels`.
    pub field: String,
    /// What is missing.
    pub message: String,
}

/// A [`Diagnostic`] that can be deserialized.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Stable code.
    pub code: String,
    /// Kind and key of the object.
    pub object: String,
    /// Path of the field.
    pub field: String,
    /// What is wrong, and what that means for enforcement.
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
