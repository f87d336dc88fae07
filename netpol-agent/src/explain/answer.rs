// SPDX-License-Identifier: Apache-2.0
//! The answer, as `-o json` writes it and as the agent sends it over its socket.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

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
    /// Whether all verdicts allow it, and there is one: the exit code.
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
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// All are allowed, and there is one.
    Allowed,
    /// None is allowed.
    Denied,
    /// Some are allowed: of a Service's backends, so that some connections are made and others not, or of the address families.
    Partly,
}

impl Outcome {
    /// Of these verdicts.
    pub fn of(verdicts: &[Verdict]) -> Self {
        let allowed = verdicts.iter().filter(|verdict| verdict.allowed).count();
        match allowed {
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
    /// The address of the Service that it is sent to, if it is one.
    pub frontend: Option<IpAddr>,
    /// Where it goes; for a Service, the backend.
    pub destination: EndShown,
    /// The port at the destination; for a Service, the backend's.
    pub port: String,
    /// Whether both directions allow it (rule I5).
    pub allowed: bool,
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
    /// Whether this side allows the packet.
    pub allowed: bool,
    /// `not-enforced`, `same-pod`, `node`, `not-isolated`, `allowed-by-rule` or `no-rule-matches`.
    pub reason: String,
    /// The reason in words.
    pub text: String,
    /// The policy that allows it, if one does.
    pub policy: Option<String>,
    /// Path of the rule in that policy.
    pub field: Option<String>,
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
