// SPDX-License-Identifier: Apache-2.0
//! Counts a path's map lookups: the same decision over the same tables, in userspace. The counts do
//! not depend on the machine.

use std::{cell::RefCell, collections::BTreeMap};

use anyhow::{Context, Result, ensure};
use netpol_agent::{datapath::attach::Hook, sync::State};
use netpol_common::{
    abi::{
        Address, Direction, Endpoint, Flow, FlowKey, Fragment, FragmentKey, Identity, Lifetimes, PolicyMatch,
        PolicyValue,
    },
    decide::{
        Buffer, Flows, Lookups, Opener, Place, Verdict, decide,
        fast_path::{may_pass, passes},
    },
    parse::{Packet, parse, simple::simple},
};

use super::path::{Script, Step};
use netpol_tests::{
    frames::Bytes,
    tables::{Entry, Mirror},
};

/// Lookups and writes, by map.
pub type Counts = BTreeMap<&'static str, u32>;

/// Tables that count their lookups.
struct Counting<'a> {
    tables: &'a Mirror,
    counts: RefCell<Counts>,
}

impl Counting<'_> {
    fn count(&self, map: &'static str) {
        *self.counts.borrow_mut().entry(map).or_default() += 1;
    }

    /// A found entry is looked up again to check that it did not change meanwhile.
    fn count_twice(&self, map: &'static str, found: u32) -> u32 {
        self.count(map);
        if found != 0 {
            self.count(map);
        }
        found
    }
}

/// Counts the lookups of a path's packet, without arrays (they are no calls).
///
/// # Errors
/// Its verdict differs from the kernel's.
pub fn count(state: &State, script: &Script) -> Result<Counts> {
    let mirror = Mirror::new(state.clone());
    for step in &script.before {
        let (passed, _) = run(&mirror, state, step)?;
        ensure!(passed, "{step:?} is dropped");
    }
    let (passed, counts) = run(&mirror, state, &script.step)?;
    ensure!(passed == script.passes, "{:?}: passed {passed}", script.step);
    Ok(counts)
}

fn run(mirror: &Mirror, state: &State, step: &Step) -> Result<(bool, Counts)> {
    let endpoint = state.endpoints.get(&step.ifindex).context("no endpoint")?;
    let place = Place {
        direction: match step.hook {
            Hook::ToPod => Direction::Ingress,
            Hook::FromPod | Hook::ToNetwork => Direction::Egress,
        },
        ifindex: step.ifindex,
        ingress_ifindex: step.came_by,
        tag: 0,
    };
    let tables = Counting {
        tables: mirror,
        counts: RefCell::default(),
    };
    // As the programs do: the fast path, then the long one. Each begins with the endpoint.
    if let Some(packet) = simple(&Bytes(&step.frame)).filter(may_pass) {
        tables.count("endpoints");
        if passes(&tables, endpoint, &place, &packet) {
            return Ok((true, tables.counts.into_inner()));
        }
    }
    tables.count("endpoints");
    let (mut packet, mut quoted) = (Packet::default(), Packet::default());
    let parsed = parse(&Bytes(&step.frame), &mut packet, &mut quoted);
    let verdict = decide(&tables, endpoint, place, parsed, &mut packet, &quoted);
    Ok((verdict == Verdict::Forward, tables.counts.into_inner()))
}

impl Lookups for Counting<'_> {
    fn endpoint(&self, ifindex: u32, into: &mut Endpoint) -> bool {
        self.count("endpoints");
        self.tables.endpoint(ifindex, into)
    }

    fn is_endpoint(&self, ifindex: u32) -> bool {
        self.count("endpoints");
        self.tables.is_endpoint(ifindex)
    }

    fn egress_policy(&self, ifindex: u32) -> u32 {
        if ifindex != 0 {
            self.count("endpoints");
        }
        self.tables.egress_policy(ifindex)
    }

    fn policy(&self, key: &PolicyMatch) -> Option<PolicyValue> {
        self.count("ports");
        if !self.tables.has_port(key) {
            self.count("policies");
        }
        self.tables.policy(key)
    }

    fn identity(&self, address: &Address) -> Identity {
        self.count("addresses");
        if !self.tables.has_address(address) {
            self.count("identities");
        }
        self.tables.identity(address)
    }

    fn frontend(&self, address: &Address, protocol: u8, port: [u8; 2]) -> u32 {
        self.count_twice("frontends", self.tables.frontend(address, protocol, port))
    }

    fn node_port(&self, address: &Address, protocol: u8, port: [u8; 2]) -> u32 {
        self.count_twice("frontends", self.tables.node_port(address, protocol, port))
    }

    fn is_restricted(&self, backend: &Address, protocol: u8, port: [u8; 2]) -> bool {
        self.count("restricted");
        self.tables.is_restricted(backend, protocol, port)
    }

    fn sender(&self, bridge: u32, number: u16) -> u32 {
        self.count_twice("senders", self.tables.sender(bridge, number))
    }

    fn local_pod(&self, address: &Address) -> u32 {
        self.count_twice("local_pods", self.tables.local_pod(address))
    }

    fn forwards(&self, ifindex: u32, address: &Address) -> bool {
        self.count("forwards");
        self.tables.forwards(ifindex, address)
    }
}

impl Flows for Counting<'_> {
    type Entry = Entry;

    fn now(&self) -> u64 {
        self.tables.now()
    }

    fn lifetimes(&self) -> &Lifetimes {
        self.tables.lifetimes()
    }

    fn epoch(&self) -> u32 {
        self.tables.epoch()
    }

    fn flow(&self, key: &FlowKey) -> Option<Entry> {
        self.count("flows");
        self.tables.flow(key)
    }

    fn insert_flow(&self, key: &FlowKey, flow: &Flow) {
        self.count("flows (write)");
        self.tables.insert_flow(key, flow);
    }

    fn opener(&self, key: &FlowKey, own: &Address) -> Opener {
        self.tables.opener(key, own)
    }

    fn fragment(&self, key: &FragmentKey) -> Option<Fragment> {
        self.count("fragments");
        self.tables.fragment(key)
    }

    fn insert_fragment(&self, key: &FragmentKey, fragment: &Fragment) {
        self.count("fragments (write)");
        self.tables.insert_fragment(key, fragment);
    }
}

impl Buffer for Counting<'_> {
    fn length(&self) -> u32 {
        self.tables.length()
    }

    fn has_socket(&self) -> bool {
        self.tables.has_socket()
    }

    fn put_tag(&self, tag: u16) {
        self.tables.put_tag(tag);
    }
}
