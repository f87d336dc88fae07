// SPDX-License-Identifier: Apache-2.0
//! What the agent says of itself.

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

/// A pod may be without an interface for this long before it is told of: its address may be known before its interface is.
pub const GRACE: Duration = Duration::from_secs(10);

/// A pod of this node that has an address and is not enforced on (rule A8).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unenforced {
    /// Since when.
    pub since: Instant,
    /// Why, as a sentence without its end.
    pub why: String,
    /// For longer than [`GRACE`], and it was told of.
    pub overdue: bool,
}

/// The agent after its last turn.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// Packets are dropped whose checksum a device is to write over what was judged.
    pub checks_checksums: bool,
    /// The programs can ask connection tracking who opened a connection that they do not know (rule
    /// C4).
    pub asks_tracking: bool,
    /// A complete revision was enforced, without a write that failed.
    pub ready: bool,
    /// The last revision.
    pub revision: u64,
    /// Pod of each endpoint, by the endpoint's number.
    pub endpoints: BTreeMap<u32, ObjectKey>,
    /// The same pods by the index of their interface.
    pub interfaces: BTreeMap<u32, ObjectKey>,
    /// What the agent holds of the pods of its node.
    pub held: Held,
    /// Local pods whose interface is not known yet.
    pub endpoints_waiting: usize,
    /// Local pods that are not enforced on, and why.
    pub unenforced: BTreeMap<ObjectKey, Unenforced>,
    /// No node and no pod of the cluster has this node's name.
    pub misnamed: bool,
    /// Endpoints that keep an old policy or are closed, because the new one could not be written.
    pub endpoints_held_back: usize,
    /// Pods, or interfaces where no pod is known, to which programs do not attach, and why: nothing is enforced there.
    pub unattached: BTreeMap<String, String>,
    /// Interfaces that are closed to all but the node until their pod is known (rule B2).
    pub closed: BTreeSet<String>,
    /// How long interfaces were closed until their pod was known.
    pub closed_for: Delays,
    /// Policy numbers with entries.
    pub policies: usize,
    /// Entries of map `identities`.
    pub identities: usize,
    /// What is over a budget (rule L2): diagnostics whose code ends so.
    pub over_budget: Set<Diagnostic>,
    /// Diagnostics by code.
    pub diagnostics: BTreeMap<&'static str, u64>,
    /// Writes made since the start.
    pub writes: u64,
    /// Writes that failed since the start.
    pub write_failures: u64,
    /// Times that the maps were found other than written.
    pub drifts: u64,
    /// Interfaces whose programs were found other than attached.
    pub repairs: u64,
    /// Flows of connections that were open before a pod's programs were there.
    pub seeded: Seeded,
    /// Flows past their lifetime.
    pub expired: Expired,
    /// How long the last turn took.
    pub last_duration: Duration,
    /// From the first event of a revision to its last write.
    pub delays: Delays,
}

/// Upper bounds of the delays that are counted together, in seconds: targets are about a few milliseconds.
const DELAYS: [f64; 14] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// How long changes took from the event to the kernel. Clones count together.
#[derive(Debug, Clone)]
pub struct Delays(pub(super) Histogram);

impl Delays {
    /// Counts one.
    pub fn observe(&self, delay: Duration) {
        self.0.observe(delay.as_secs_f64());
    }
}

impl Default for Delays {
    fn default() -> Self {
        Self(Histogram::new(DELAYS))
    }
}
