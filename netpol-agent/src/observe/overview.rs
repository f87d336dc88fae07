// SPDX-License-Identifier: Apache-2.0
//! What `netpol status` shows of a running agent. The fields of its JSON are stable: a version may
//! add some, and renames or removes none.

mod gather;
mod text;

use serde::{Deserialize, Serialize};

use super::conditions::Condition;

pub use gather::{gather, inspect};

/// An agent and what it enforces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Overview {
    /// Version of the agent.
    pub version: String,
    /// The programs in it.
    pub programs: String,
    /// Release of the kernel.
    pub kernel: String,
    /// True if the kernel tells where a packet's checksum is still to be written.
    pub checksums_checked: bool,
    /// True if the programs can ask the kernel's connection tracking.
    pub tracking_asked: bool,
    /// Name of the node.
    pub node: String,
    /// Seconds since the agent started.
    pub up_seconds: u64,
    /// `kube`, or the folder of manifests.
    pub source: String,
    /// What cannot be read of the source now.
    pub unread: Vec<UnreadShown>,
    /// True once a complete revision was enforced.
    pub ready: bool,
    /// The revision that is enforced; 0 if none.
    pub revision: u64,
    /// The newest revision that is known; 0 if none.
    pub revision_known: u64,
    /// The hooks.
    pub hooks: Hooks,
    /// What differs from what was written or attached.
    pub drift: Drift,
    /// All conditions of a healthy agent.
    pub conditions: Vec<Condition>,
    /// The pods of the node that have an address and a network of their own.
    pub pods: Vec<PodShown>,
    /// How full the maps are.
    pub maps: Vec<MapShown>,
    /// Faulty objects, by code.
    pub diagnostics: std::collections::BTreeMap<String, u64>,
}

/// Something of the source that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UnreadShown {
    /// The kind of object.
    pub resource: String,
    /// For how long.
    pub seconds: u64,
    /// Why.
    pub reason: String,
}

/// Where programs are attached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hooks {
    /// `tcx` or `clsact`; single interfaces may have the other.
    pub mechanism: String,
    /// Interfaces with the programs of a pod.
    pub interfaces: Vec<String>,
    /// The bridge that most pods' interfaces are on; absent if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<String>,
    /// Devices with the program for packets that leave the node.
    pub devices: Vec<String>,
    /// Interfaces that are closed to all but the node until their pod is known.
    pub closed: Vec<String>,
}

/// What differs from what was written or attached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Drift {
    /// What is wrong now. It is repaired at once.
    pub found: Vec<String>,
    /// Why this could not be looked at; absent if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_looked_at: Option<String>,
    /// Times since the start that maps differed.
    pub maps: u64,
    /// Times since the start that an interface's programs differed.
    pub programs: u64,
    /// Seconds since something last differed; absent if nothing did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seconds: Option<u64>,
    /// What differed then.
    pub last: Vec<String>,
}

/// Whether a pod is enforced on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PodState {
    /// Its interface has its policies.
    Enforced,
    /// Its interface has an older policy, or is closed.
    HeldBack,
    /// Nothing is enforced on it.
    Open,
    /// No interface is known to be its own.
    Unknown,
}

/// A pod of the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodShown {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// Its interfaces on the node.
    pub interfaces: Vec<String>,
    /// Numbers of its endpoints in the kernel.
    pub endpoints: Vec<u32>,
    /// Whether it is enforced on.
    pub state: PodState,
    /// Why it is not; absent if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What it receives.
    pub ingress: DirectionShown,
    /// What it sends.
    pub egress: DirectionShown,
}

/// The policies of a pod in a direction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DirectionShown {
    /// The policies that isolate the pod, all of its namespace; none if it is open.
    pub policies: Vec<String>,
    /// True if the pod is closed because they are over a budget.
    pub over_budget: bool,
}

/// How full a map is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MapShown {
    /// Its name.
    pub name: String,
    /// Entries that it has; absent if they could not be counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entries: Option<u32>,
    /// Most entries that it can have.
    pub capacity: u32,
    /// Why they could not be counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Overview {
    /// Returns true if no condition failed.
    pub fn is_healthy(&self) -> bool {
        self.conditions.iter().all(Condition::is_met)
    }
}
