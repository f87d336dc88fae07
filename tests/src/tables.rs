// SPDX-License-Identifier: Apache-2.0
//! Runs the programs in userspace: the parser and the decision of the kernel, over the contents of
//! the maps. Lookups are slow and simple. Time stands still, so no flow expires here. Kernel and
//! mirror are compared before one expires there.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap},
    rc::Rc,
};

use ipnet::IpNet;
use netpol_agent::{
    datapath::attach::Hook,
    model::ProtocolMatch,
    sync::{EntryKey, State},
};
use netpol_common::{
    abi::{
        Address, Counter, Counters, Direction, DropReason, Endpoint, Flow, FlowKey, Fragment, FragmentKey,
        Identity, Lifetimes, POLICY_DENY, POLICY_UNRESTRICTED, PolicyMatch, PolicyValue,
    },
    checksum::{self, PartialChecksum},
    decide::{Buffer, Drop, FlowEntry, Flows, Lookups, Opener, Place, Verdict, decide},
    parse::{Packet, parse},
};

use crate::{frames::Bytes, progrun::Met};

mod leaving;

/// The current time, which stands still. It is long after the end of a flow that was ended.
const NOW: u64 = 1 << 60;

/// Mirrors what the programs decide and write.
#[derive(Debug)]
pub struct Mirror {
    state: State,
    /// Identities by prefix, longest first.
    prefixes: Vec<(u32, Address, Identity)>,
    flows: RefCell<HashMap<FlowKey, Entry>>,
    fragments: RefCell<HashMap<FragmentKey, Fragment>>,
    flow_met: Cell<bool>,
    length: Cell<u32>,
    tag: Cell<u16>,
    made: RefCell<Counter>,
    counters: [Counters; 2],
}

/// An entry of the flow table.
#[derive(Debug, Clone)]
pub struct Entry(Rc<RefCell<Flow>>);

impl FlowEntry for Entry {
    fn with<R>(&self, change: impl FnOnce(&mut Flow) -> R) -> R {
        change(&mut self.0.borrow_mut())
    }
}

impl Mirror {
    /// Mirrors maps with these contents, without flows and counts.
    pub fn new(state: State) -> Self {
        let mut prefixes: Vec<_> = state
            .identities
            .iter()
            .map(|(prefix, identity)| {
                let (bits, network) = bits(*prefix);
                (bits, network, *identity)
            })
            .collect();
        prefixes.sort_by_key(|(bits, ..)| std::cmp::Reverse(*bits));
        Self {
            state,
            prefixes,
            flows: RefCell::default(),
            fragments: RefCell::default(),
            flow_met: Cell::new(false),
            length: Cell::new(0),
            tag: Cell::new(0),
            made: RefCell::default(),
            counters: Default::default(),
        }
    }

    /// Returns true if an address has an entry of its own.
    pub fn has_address(&self, address: &Address) -> bool {
        let mut whole = self.prefixes.iter().filter(|(bits, ..)| *bits == 128);
        whole.any(|(_, held, _)| held == address)
    }

    /// Returns true if a policy has an entry for exactly this port.
    pub fn has_port(&self, key: &PolicyMatch) -> bool {
        let entry = EntryKey {
            identity: key.identity,
            protocol: Some(ProtocolMatch {
                protocol: key.protocol,
                port: u16::from_be_bytes(key.port),
                prefix_len: 16,
            }),
        };
        let policy = self.state.policies.get(&key.policy);
        policy.is_some_and(|entries| entries.contains_key(&entry))
    }

    /// Forgets flows, fragments and counts.
    pub fn reset(&mut self) {
        self.flows.borrow_mut().clear();
        self.fragments.borrow_mut().clear();
        self.counters = Default::default();
    }

    /// Returns the flows without their clocks.
    pub fn flows(&self) -> BTreeMap<String, Flow> {
        let flows = self.flows.borrow();
        flows
            .iter()
            .map(|(key, flow)| plain(*key, *flow.0.borrow()))
            .collect()
    }

    /// Returns the counters of a direction.
    pub fn counters(&self, direction: Direction) -> Counters {
        self.counters[direction as usize]
    }

    /// Returns true if the table had a flow for the packet of the last frame.
    pub fn flow_met(&self) -> bool {
        self.flow_met.get()
    }

    /// Returns the tag of the last frame after its run.
    pub fn tag(&self) -> u16 {
        self.tag.get()
    }

    /// Decides on a frame at a hook. Returns why it is dropped and by whose policy, or `None` if it
    /// passes.
    pub fn run(&mut self, met: Met, frame: &[u8]) -> Option<Drop> {
        let place = met.place();
        let length = frame.len() as u32;
        self.flow_met.set(false);
        *self.made.borrow_mut() = Counter::default();
        self.length.set(length);
        self.tag.set(met.tag);
        let drop = match met.hook {
            Hook::ToNetwork => self.leave(place, frame),
            Hook::FromPod | Hook::ToPod => self.decide(place, frame),
        };
        let counters = &mut self.counters[place.direction as usize];
        let made = *self.made.borrow();
        counters.flows_created.packets += made.packets;
        counters.flows_created.bytes += made.packets * u64::from(length);
        let counter = match drop {
            Some(drop) => counters.dropped(drop.reason),
            // Packets that leave were counted where they left the pod.
            None if met.hook == Hook::ToNetwork => return None,
            None => &mut counters.forwarded,
        };
        counter.packets += 1;
        counter.bytes += u64::from(length);
        drop
    }

    fn decide(&self, place: Place, frame: &[u8]) -> Option<Drop> {
        let (mut packet, mut quoted) = (Packet::default(), Packet::default());
        let parsed = parse(&Bytes(frame), &mut packet, &mut quoted);
        let parsed = checksum::check(parsed, &mut packet, PartialChecksum::NONE);
        let mut endpoint = Endpoint::CLOSED;
        let known = self.endpoint(place.ifindex, &mut endpoint);
        match decide(self, &endpoint, place, parsed, &mut packet, &quoted) {
            Verdict::Forward => None,
            Verdict::Drop(drop) if !known => Some(Drop {
                reason: DropReason::NoEndpoint,
                ..drop
            }),
            Verdict::Drop(drop) => Some(drop),
        }
    }
}

/// A flow in the form for comparison: without its clock, under a key that sorts.
pub fn plain(key: FlowKey, flow: Flow) -> (String, Flow) {
    (format!("{key:?}"), Flow { last_seen: 0, ..flow })
}

/// Returns the number of a prefix's bits in a key, and its first address there.
fn bits(prefix: IpNet) -> (u32, Address) {
    let bits = match prefix {
        IpNet::V4(prefix) => 96 + u32::from(prefix.prefix_len()),
        IpNet::V6(prefix) => u32::from(prefix.prefix_len()),
    };
    (bits, mapped(prefix.network()))
}

fn mapped(address: std::net::IpAddr) -> Address {
    match address {
        std::net::IpAddr::V4(address) => Address::from_ipv4(address.octets()),
        std::net::IpAddr::V6(address) => Address::from_ipv6(address.octets()),
    }
}

fn begins(bits: u32, one: &Address, other: &Address) -> bool {
    let difference = u128::from_be_bytes(one.octets) ^ u128::from_be_bytes(other.octets);
    difference.leading_zeros() >= bits
}

impl Lookups for Mirror {
    fn endpoint(&self, ifindex: u32, into: &mut Endpoint) -> bool {
        let found = self.state.endpoints.get(&ifindex).copied();
        *into = found.unwrap_or(Endpoint::CLOSED);
        found.is_some()
    }

    fn is_endpoint(&self, ifindex: u32) -> bool {
        self.state.endpoints.contains_key(&ifindex)
    }

    fn egress_policy(&self, ifindex: u32) -> u32 {
        let gone = if ifindex == 0 {
            POLICY_UNRESTRICTED
        } else {
            POLICY_DENY
        };
        let endpoint = self.state.endpoints.get(&ifindex);
        endpoint.map_or(gone, |endpoint| endpoint.egress_policy)
    }

    fn policy(&self, key: &PolicyMatch) -> Option<PolicyValue> {
        let port = u16::from_be_bytes(key.port);
        let entries = self.state.policies.get(&key.policy)?;
        let matching = entries.iter().filter(|(entry, _)| {
            entry.identity == key.identity
                && entry.protocol.is_none_or(|part| {
                    let ignored = 16 - u32::from(part.prefix_len);
                    part.protocol == key.protocol
                        && u32::from(part.port) >> ignored == u32::from(port) >> ignored
                })
        });
        matching
            .max_by_key(|(entry, _)| entry.protocol.map(|part| part.prefix_len))
            .map(|(_, value)| *value)
    }

    fn identity(&self, address: &Address) -> Identity {
        let mut covering = self.prefixes.iter();
        let longest = covering.find(|(bits, prefix, _)| begins(*bits, prefix, address));
        longest.map(|(.., identity)| *identity).unwrap_or_default()
    }

    fn frontend(&self, address: &Address, protocol: u8, port: [u8; 2]) -> u32 {
        let found = self.state.frontends.iter().find(|(frontend, _)| {
            mapped(frontend.address) == *address
                && frontend.protocol == protocol
                && frontend.port == u16::from_be_bytes(port)
        });
        found.map_or(0, |(_, identity)| identity.identity)
    }

    fn node_port(&self, address: &Address, protocol: u8, port: [u8; 2]) -> u32 {
        self.frontend(&address.any(), protocol, port)
    }

    fn is_restricted(&self, backend: &Address, protocol: u8, port: [u8; 2]) -> bool {
        self.state.restricted.keys().any(|restricted| {
            mapped(restricted.address) == *backend
                && restricted.protocol == protocol
                && restricted.port == u16::from_be_bytes(port)
        })
    }

    fn sender(&self, bridge: u32, number: u16) -> u32 {
        let found = self.state.senders.get(&(bridge, number.into()));
        found.copied().unwrap_or_default()
    }

    fn local_pod(&self, address: &Address) -> u32 {
        let pods = &self.state.local_pods;
        let found = pods.iter().find(|(of, _)| mapped(**of) == *address);
        found.map_or(0, |(_, ifindex)| *ifindex)
    }

    fn forwards(&self, ifindex: u32, address: &Address) -> bool {
        let ranges = self.state.forwards.range((ifindex, IpNet::default())..);
        let mut own = ranges.take_while(|(of, _)| *of == ifindex);
        own.any(|(_, range)| {
            let (bits, network) = bits(*range);
            begins(bits, &network, address)
        })
    }
}

impl Flows for Mirror {
    type Entry = Entry;

    fn now(&self) -> u64 {
        NOW
    }

    fn lifetimes(&self) -> &Lifetimes {
        &self.state.config.lifetimes
    }

    fn epoch(&self) -> u32 {
        self.state.config.epoch
    }

    fn flow(&self, key: &FlowKey) -> Option<Self::Entry> {
        let found = self.flows.borrow().get(key).cloned();
        self.flow_met.set(self.flow_met.get() || found.is_some());
        found
    }

    fn insert_flow(&self, key: &FlowKey, flow: &Flow) {
        self.made.borrow_mut().packets += 1;
        self.flows
            .borrow_mut()
            .insert(*key, Entry(Rc::new(RefCell::new(*flow))));
    }

    /// Connection tracking is empty in the network namespace of a run on a single frame.
    fn opener(&self, _key: &FlowKey, _own: &Address) -> Opener {
        Opener::Unknown
    }

    fn fragment(&self, key: &FragmentKey) -> Option<Fragment> {
        self.fragments.borrow().get(key).copied()
    }

    fn insert_fragment(&self, key: &FragmentKey, fragment: &Fragment) {
        self.fragments.borrow_mut().insert(*key, *fragment);
    }
}

impl Buffer for Mirror {
    fn length(&self) -> u32 {
        self.length.get()
    }

    /// The kernel gives the packet a socket in a run on a single frame.
    fn has_socket(&self) -> bool {
        true
    }

    fn put_tag(&self, tag: u16) {
        self.tag.set(tag);
    }
}
