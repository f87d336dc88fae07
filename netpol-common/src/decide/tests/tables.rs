// SPDX-License-Identifier: Apache-2.0
//! Tables in memory. Longest-prefix matches are done bit by bit.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    vec::Vec,
};

use zerocopy::{Immutable, IntoBytes};

use super::*;

/// An entry of a policy: the number of bits that count, the key, and the value.
pub type Entry = (u32, PolicyMatch, PolicyValue);

/// Address, protocol and port.
type Frontend = (Address, u8, u16);

#[derive(Default)]
pub struct Memory {
    now: Cell<u64>,
    epoch: Cell<u32>,
    pub identities: RefCell<Vec<(u32, Address, Identity)>>,
    pub policies: RefCell<Vec<Entry>>,
    flows: RefCell<HashMap<FlowKey, Rc<RefCell<Flow>>>>,
    /// Frontends by address, protocol and port.
    pub frontends: RefCell<HashMap<Frontend, u32>>,
    /// Local pods by address, and their egress policies, by interface.
    pub pods: RefCell<HashMap<Address, (u32, u32)>>,
    /// Endpoints of the pods whose packets leave the node, by interface.
    pub endpoints: RefCell<HashMap<u32, Endpoint>>,
    /// Senders by bridge and number.
    pub senders: RefCell<HashMap<(u32, u16), u32>>,
    /// Backends that not every pod may reach.
    pub restricted: RefCell<Vec<Frontend>>,
    /// Addresses that pods send and receive for besides their own, by interface.
    pub forwards: RefCell<Vec<(u32, Address)>>,
    /// Answers of the kernel's connection tracking.
    pub openers: RefCell<HashMap<FlowKey, Opener>>,
    /// First fragments.
    fragments: RefCell<HashMap<FragmentKey, Fragment>>,
    /// The last tag that a packet got.
    pub tag: Cell<u16>,
    /// True if packets belong to sockets.
    pub socket: Cell<bool>,
}

/// An entry of a policy for a protocol, a port and its number of leading bits. `None` stands for
/// every protocol.
pub fn entry(policy: u32, identity: u32, part: Option<(u8, u16, u32)>, action: u32) -> Entry {
    let (protocol, port, bits) = match part {
        None => (0, 0, PolicyMatch::ALL_PROTOCOLS),
        Some((protocol, port, bits)) => (protocol, port, PolicyMatch::ALL_PORTS + bits),
    };
    let key = PolicyMatch {
        policy,
        identity,
        protocol,
        port: port.to_be_bytes(),
        pad: 0,
    };
    (bits, key, PolicyValue { action, rule: 0 })
}

impl Memory {
    pub fn put_identity(&self, address: [u8; 4], identity: u32, flags: u32) {
        let mut identities = self.identities.borrow_mut();
        let address = Address::from_ipv4(address);
        identities.retain(|(_, other, _)| *other != address);
        identities.push((128, address, Identity { identity, flags }));
    }

    pub fn put_address(&self, address: Address, identity: u32) {
        let identity = Identity { identity, flags: 0 };
        self.identities.borrow_mut().push((128, address, identity));
    }

    pub fn put_policy(&self, policy: u32, identity: u32, part: Option<(u8, u16, u32)>, action: u32) {
        self.policies
            .borrow_mut()
            .push(entry(policy, identity, part, action));
    }

    pub fn raise_epoch(&self) {
        self.epoch.set(self.epoch.get() + 1);
    }

    /// Advances the clock, in nanoseconds.
    pub fn wait(&self, time: u64) {
        self.now.set(self.now.get() + time);
    }

    pub fn forget_flows(&self) {
        self.flows.borrow_mut().clear();
    }

    pub fn flow_count(&self) -> usize {
        self.flows.borrow().len()
    }

    pub fn only_flow(&self) -> Flow {
        let flows = self.flows.borrow();
        assert_eq!(flows.len(), 1);
        *flows.values().next().unwrap().borrow()
    }
}

/// Returns true if the leading bits of both are equal.
fn begins<T: IntoBytes + Immutable>(bits: u32, one: &T, other: &T) -> bool {
    let bit = |of: &T, index: u32| of.as_bytes()[index as usize / 8] >> (7 - index % 8) & 1;
    (0..bits).all(|index| bit(one, index) == bit(other, index))
}

fn longest<T: IntoBytes + Immutable, V: Copy>(entries: &[(u32, T, V)], key: &T) -> Option<V> {
    let covering = entries
        .iter()
        .filter(|(bits, prefix, _)| begins(*bits, prefix, key));
    covering.max_by_key(|(bits, ..)| *bits).map(|(.., value)| *value)
}

impl Lookups for Memory {
    fn endpoint(&self, ifindex: u32, into: &mut Endpoint) -> bool {
        let found = self.endpoints.borrow().get(&ifindex).copied();
        *into = found.unwrap_or(Endpoint::CLOSED);
        found.is_some()
    }

    fn is_endpoint(&self, ifindex: u32) -> bool {
        let pods = self.pods.borrow();
        pods.values().any(|(index, _)| *index == ifindex)
    }

    fn egress_policy(&self, ifindex: u32) -> u32 {
        if ifindex == 0 {
            return POLICY_UNRESTRICTED;
        }
        let pods = self.pods.borrow();
        pods.values()
            .find(|(index, _)| *index == ifindex)
            .map_or(POLICY_DENY, |(_, policy)| *policy)
    }

    fn policy(&self, key: &PolicyMatch) -> Option<PolicyValue> {
        longest(&self.policies.borrow(), key)
    }

    fn identity(&self, address: &Address) -> Identity {
        longest(&self.identities.borrow(), address).unwrap_or_default()
    }

    fn frontend(&self, address: &Address, protocol: u8, port: [u8; 2]) -> u32 {
        let key = (*address, protocol, u16::from_be_bytes(port));
        self.frontends.borrow().get(&key).copied().unwrap_or_default()
    }

    fn node_port(&self, address: &Address, protocol: u8, port: [u8; 2]) -> u32 {
        self.frontend(&address.any(), protocol, port)
    }

    fn is_restricted(&self, backend: &Address, protocol: u8, port: [u8; 2]) -> bool {
        let key = (*backend, protocol, u16::from_be_bytes(port));
        self.restricted.borrow().contains(&key)
    }

    fn sender(&self, bridge: u32, number: u16) -> u32 {
        let senders = self.senders.borrow();
        senders.get(&(bridge, number)).copied().unwrap_or_default()
    }

    fn local_pod(&self, address: &Address) -> u32 {
        self.pods.borrow().get(address).map_or(0, |(ifindex, _)| *ifindex)
    }

    fn forwards(&self, ifindex: u32, address: &Address) -> bool {
        self.forwards.borrow().contains(&(ifindex, *address))
    }
}

impl Flows for Memory {
    type Entry = Rc<RefCell<Flow>>;

    fn now(&self) -> u64 {
        self.now.get()
    }

    fn epoch(&self) -> u32 {
        self.epoch.get()
    }

    fn flow(&self, key: &FlowKey) -> Option<Self::Entry> {
        self.flows.borrow().get(key).cloned()
    }

    fn insert_flow(&self, key: &FlowKey, flow: &Flow) {
        self.flows.borrow_mut().insert(*key, Rc::new(RefCell::new(*flow)));
    }

    fn opener(&self, key: &FlowKey, _own: &Address) -> Opener {
        self.openers.borrow().get(key).copied().unwrap_or_default()
    }

    fn fragment(&self, key: &FragmentKey) -> Option<Fragment> {
        self.fragments.borrow().get(key).copied()
    }

    fn insert_fragment(&self, key: &FragmentKey, fragment: &Fragment) {
        self.fragments.borrow_mut().insert(*key, *fragment);
    }
}

impl Buffer for Memory {
    fn length(&self) -> u32 {
        60
    }

    fn has_socket(&self) -> bool {
        self.socket.get()
    }

    fn put_tag(&self, tag: u16) {
        self.tag.set(tag);
    }
}

impl FlowEntry for Rc<RefCell<Flow>> {
    fn with<R>(&self, change: impl FnOnce(&mut Flow) -> R) -> R {
        change(&mut self.borrow_mut())
    }
}
