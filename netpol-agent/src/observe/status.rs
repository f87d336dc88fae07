// SPDX-License-Identifier: Apache-2.0
//! What the agent says of itself.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    datapath::{Expired, Seeded},
    model::ObjectKey,
};

/// The agent after its last turn.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// A complete revision was enforced, without a write that failed.
    pub ready: bool,
    /// The last revision.
    pub revision: u64,
    /// Pod of each endpoint, by the endpoint's number.
    pub endpoints: BTreeMap<u32, ObjectKey>,
    /// Local pods whose interface is not known yet.
    pub endpoints_waiting: usize,
    /// Endpoints that keep an old policy or are closed, because the new one could not be written.
    pub endpoints_held_back: usize,
    /// Policy numbers with entries.
    pub policies: usize,
    /// Entries of map `identities`.
    pub identities: usize,
    /// Diagnostics by code.
    pub diagnostics: BTreeMap<&'static str, u64>,
    /// Writes made since the start.
    pub writes: u64,
    /// Writes that failed since the start.
    pub write_failures: u64,
    /// Times that the maps were found other than written.
    pub drifts: u64,
    /// Flows of connections that were open before a pod's programs were there.
    pub seeded: Seeded,
    /// Flows past their lifetime.
    pub expired: Expired,
    /// How long the last turn took.
    pub last_duration: Duration,
}
