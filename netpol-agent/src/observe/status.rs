// SPDX-License-Identifier: Apache-2.0
//! The agent's status.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use prometheus_client::metrics::histogram::Histogram;

use crate::{
    datapath::{Expired, Seeded},
    explain::Held,
    model::{Diagnostic, ObjectKey, Set},
};

/// How long a pod may lack an interface before this is reported: its address can be known before
/// its interface.
pub const GRACE: Duration = Duration::from_secs(10);

/// A pod of this node that has an address but is not enforced on (rule A8).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unenforced {
    /// Since when.
    pub since: Instant,
    /// Why, as a sentence without its full stop.
    pub why: String,
    /// True if this lasts longer than [`GRACE`] and was reported.
    pub overdue: bool,
}

/// The agent's status after its last turn.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// True if the programs drop packets whose checksum a device is to write into judged bytes.
    pub checks_checksums: bool,
    /// True if the programs can ask connection tracking who opened a connection that they do not
    /// know (rule C4).
    pub asks_tracking: bool,
    /// True once a complete revision was enforced without a failed write.
    pub ready: bool,
    /// The last revision.
    pub revision: u64,
    /// Pod of each endpoint, by the endpoint's number.
    pub endpoints: BTreeMap<u32, ObjectKey>,
    /// The same pods by the index of their interface.
    pub interfaces: BTreeMap<u32, ObjectKey>,
    /// What the agent holds about the pods of its node.
    pub held: Held,
    /// Number of local pods whose interface is not known yet.
    pub endpoints_waiting: usize,
    /// Local pods that are not enforced on, with the reason.
    pub unenforced: BTreeMap<ObjectKey, Unenforced>,
    /// True if no node and no pod of the cluster has this node's name.
    pub misnamed: bool,
    /// Number of endpoints that keep an old policy or are closed, because the new one could not be
    /// written.
    pub endpoints_held_back: usize,
    /// Pods, or interfaces without a known pod, where attaching the programs failed, with the
    /// reason: nothing is enforced there.
    pub unattached: BTreeMap<String, String>,
    /// Interfaces that are closed to everything but the node until their pod is known (rule B2).
    pub closed: BTreeSet<String>,
    /// Time that interfaces were closed until their pod was known.
    pub closed_for: Delays,
    /// Policy numbers with entries.
    pub policies: usize,
    /// Entries of map `identities`.
    pub identities: usize,
    /// Diagnostics about objects over a budget (rule L2).
    pub over_budget: Set<Diagnostic>,
    /// Number of diagnostics by code.
    pub diagnostics: BTreeMap<&'static str, u64>,
    /// Why the scratch pods of a self-test are not held, if one runs.
    pub scratch_refused: Option<String>,
    /// How programs are attached.
    pub mechanism: String,
    /// Interfaces with the programs of a pod.
    pub attached: BTreeSet<u32>,
    /// Devices with the program for packets that leave the node.
    pub attached_devices: BTreeSet<u32>,
    /// When the kernel's state last differed from what was written or attached, and how.
    pub last_drift: Option<(Instant, Vec<String>)>,
    /// Writes made since the start.
    pub writes: u64,
    /// Writes that failed since the start.
    pub write_failures: u64,
    /// Times that the maps differed from what was written.
    pub drifts: u64,
    /// Interfaces whose programs were no longer attached as they should be.
    pub repairs: u64,
    /// Flows that were seeded for connections older than the pod's programs.
    pub seeded: Seeded,
    /// Flows that were removed after their lifetime.
    pub expired: Expired,
    /// Duration of the last turn.
    pub last_duration: Duration,
    /// Delay from the first event of a revision until all pods are enforced by it.
    pub delays: Delays,
}

/// Histogram bounds, seconds. The targets are a few milliseconds.
const DELAYS: [f64; 14] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// Histogram of delays. Clones share their counts.
#[derive(Debug, Clone)]
pub struct Delays(pub(super) Histogram);

impl Delays {
    /// Adds a delay.
    pub fn observe(&self, delay: Duration) {
        self.0.observe(delay.as_secs_f64());
    }
}

impl Default for Delays {
    fn default() -> Self {
        Self(Histogram::new(DELAYS))
    }
}
