// SPDX-License-Identifier: Apache-2.0
//! Map `counters`.

use std::path::Path;

use aya::maps::{MapData, PerCpuArray};
use netpol_common::abi::{Counter, Counters, Direction};

use super::{MapError, Named as _};

/// The map of counters, opened by its pin.
pub struct CounterMap(PerCpuArray<MapData, Counters>);

impl CounterMap {
    /// Opens a pinned map.
    pub fn open(path: &Path) -> Result<Self, MapError> {
        let data = MapData::from_pin(path).on("counters", "opening")?;
        Ok(Self(
            PerCpuArray::try_from(aya::maps::Map::PerCpuArray(data)).on("counters", "opening")?,
        ))
    }

    /// The sums over CPUs of one direction.
    pub fn read(&self, direction: Direction) -> Result<Counters, MapError> {
        let values = self.0.get(&(direction as u32), 0).on("counters", "reading")?;
        Ok(values
            .iter()
            .fold(Counters::default(), |sum, value| add(&sum, value)))
    }
}

fn add(a: &Counters, b: &Counters) -> Counters {
    let sum = |a: Counter, b: Counter| Counter {
        packets: a.packets + b.packets,
        bytes: a.bytes + b.bytes,
    };
    Counters {
        forwarded: sum(a.forwarded, b.forwarded),
        policy: sum(a.policy, b.policy),
        malformed: sum(a.malformed, b.malformed),
        ether_type: sum(a.ether_type, b.ether_type),
        vlan: sum(a.vlan, b.vlan),
        fragment: sum(a.fragment, b.fragment),
        extension_headers: sum(a.extension_headers, b.extension_headers),
        no_endpoint: sum(a.no_endpoint, b.no_endpoint),
        egress_backend: sum(a.egress_backend, b.egress_backend),
        unknown_sender: sum(a.unknown_sender, b.unknown_sender),
        spoofed: sum(a.spoofed, b.spoofed),
        not_own_address: sum(a.not_own_address, b.not_own_address),
        flows_created: sum(a.flows_created, b.flows_created),
        flow_insert_failures: a.flow_insert_failures + b.flow_insert_failures,
    }
}
