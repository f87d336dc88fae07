// SPDX-License-Identifier: Apache-2.0
//! Flows of another version whose tables are not kept. The policy and endpoint numbers in them mean
//! nothing here, but who opened which connection is as true as before, also where the kernel does
//! not track it.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv6Addr},
    os::fd::AsFd as _,
    path::Path,
};

use aya::maps::{HashMap, MapData};
use netpol_common::{
    abi::{Address, Endpoint, FlowKey, NO_POLICY},
    flow,
};

use super::{
    addresses,
    seed::{NEVER, Places, Seed},
};
use crate::datapath::{
    expiry,
    maps::{MapError, Named as _},
};

/// The maps of another version.
#[derive(Debug)]
pub(in crate::datapath) struct Earlier {
    endpoints: HashMap<MapData, u32, Endpoint>,
    flows: MapData,
}

impl Earlier {
    /// Opens the maps `endpoints` and `flows` of a folder, whose layouts are this version's.
    pub(in crate::datapath) fn open(folder: &Path) -> Result<Self, MapError> {
        let open = |name| MapData::from_pin(folder.join(name)).on(name, "opening that of another version");
        let endpoints = aya::maps::Map::HashMap(open("endpoints")?);
        Ok(Self {
            endpoints: HashMap::try_from(endpoints).on("endpoints", "opening that of another version")?,
            flows: open("flows")?,
        })
    }

    /// Calls `each` for the flows that live, of pods that are where they were.
    pub(super) fn seeds(&self, places: &Places, now: u64, mut each: impl FnMut(Seed)) -> io::Result<()> {
        let mut pods: BTreeMap<(u32, bool), IpAddr> = BTreeMap::new();
        for (ifindex, endpoint) in self.endpoints.iter().filter_map(Result::ok) {
            let own = addresses(&endpoint).filter(|address| places.pods.get(address) == Some(&Some(ifindex)));
            pods.extend(own.map(|address| ((endpoint.id, address.is_ipv4()), address)));
        }
        expiry::for_each(self.flows.fd().as_fd(), |key, flow| {
            let Some(address) = pods.get(&(key.endpoint, is_ipv4(&key.remote))) else {
                return;
            };
            if !flow::alive(flow, key.protocol, now, &places.lifetimes) {
                return;
            }
            let mut seed = Seed {
                address: *address,
                key: FlowKey { endpoint: 0, ..*key },
                flow: *flow,
            };
            seed.flow.policy = NO_POLICY;
            seed.flow.epoch = NEVER;
            // The first packet sets it.
            seed.flow.tag = 0;
            each(seed);
        })
    }
}

fn is_ipv4(address: &Address) -> bool {
    Ipv6Addr::from(address.octets).to_ipv4_mapped().is_some()
}
