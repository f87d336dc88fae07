// SPDX-License-Identifier: Apache-2.0
//! What a decision reads and writes, in three parts: lookups of what the agent wrote, flows that
//! the programs remember, and the packet's buffer.

use super::Opener;
use crate::{
    abi::{
        Address, Endpoint, Flow, FlowKey, Fragment, FragmentKey, Identity, Lifetimes, PolicyMatch,
        PolicyValue,
    },
    flow,
};

/// All three parts together.
pub trait Tables: Lookups + Flows + Buffer {}

impl<T: Lookups + Flows + Buffer> Tables for T {}

/// Lookups in what the agent wrote. They change nothing.
pub trait Lookups {
    /// Copies the endpoint of an interface. If there is none, writes a stand-in that denies
    /// everything and returns false.
    fn endpoint(&self, ifindex: u32, into: &mut Endpoint) -> bool;
    /// Returns true if an interface belongs to an endpoint.
    fn is_endpoint(&self, ifindex: u32) -> bool;
    /// Returns the egress policy of an interface's endpoint:
    /// [`POLICY_UNRESTRICTED`](crate::abi::POLICY_UNRESTRICTED) for interface 0,
    /// [`POLICY_DENY`](crate::abi::POLICY_DENY) if the endpoint is gone.
    fn egress_policy(&self, ifindex: u32) -> u32;
    /// Looks up the longest match in a policy.
    fn policy(&self, key: &PolicyMatch) -> Option<PolicyValue>;
    /// Looks up the class of an address by longest prefix;
    /// [`IDENTITY_NONE`](crate::abi::IDENTITY_NONE) if no prefix covers it.
    fn identity(&self, address: &Address) -> Identity;
    /// Looks up the identity of a Service's frontend; [`IDENTITY_NONE`](crate::abi::IDENTITY_NONE)
    /// if there is none.
    fn frontend(&self, address: &Address, protocol: u8, port: [u8; 2]) -> u32;
    /// Looks up the identity of a NodePort. Of a node's address, only the family matters.
    fn node_port(&self, address: &Address, protocol: u8, port: [u8; 2]) -> u32;
    /// Returns true if a backend belongs to a Service and not every pod of this node may reach it.
    fn is_restricted(&self, backend: &Address, protocol: u8, port: [u8; 2]) -> bool;
    /// Looks up the pod that sent a packet by a bridge with a number in its tag: its interface
    /// index, [`SENDER_AMBIGUOUS`](crate::abi::SENDER_AMBIGUOUS), or 0 if no pod of that number is
    /// behind that bridge.
    fn sender(&self, bridge: u32, number: u16) -> u32;
    /// Returns the interface index of the local pod that has an address; 0 if none has.
    fn local_pod(&self, address: &Address) -> u32;
    /// Returns true if the pod behind an interface sends and receives for an address, as its
    /// namespace declares (rule A6).
    fn forwards(&self, ifindex: u32, address: &Address) -> bool;
}

/// Memory of connections and fragmented packets.
pub trait Flows {
    /// An entry of the flow table.
    type Entry: FlowEntry;

    /// Nanoseconds of the monotonic clock.
    fn now(&self) -> u64;
    /// Lifetimes of silent flows.
    fn lifetimes(&self) -> &Lifetimes {
        &flow::DEFAULTS
    }
    /// The epoch of what the agent wrote. A flow judged under an earlier one is judged again.
    fn epoch(&self) -> u32;
    /// The entry of a flow, alive or not.
    fn flow(&self, key: &FlowKey) -> Option<Self::Entry>;
    /// Writes a new flow, if there is room.
    fn insert_flow(&self, key: &FlowKey, flow: &Flow);
    /// Asks the kernel's connection tracking who opened the connection of a flow that the table
    /// does not know. `own` is the pod's address.
    fn opener(&self, key: &FlowKey, own: &Address) -> Opener;
    /// Looks up what the first fragment of a packet told.
    fn fragment(&self, key: &FragmentKey) -> Option<Fragment>;
    /// Remembers what the first fragment of a packet told.
    fn insert_fragment(&self, key: &FragmentKey, fragment: &Fragment);
}

/// The packet as the kernel holds it.
pub trait Buffer {
    /// Length of the frame in bytes.
    fn length(&self) -> u32;
    /// Returns true if the packet belongs to a socket.
    fn has_socket(&self) -> bool;
    /// Gives the packet a [tag](crate::tag).
    fn put_tag(&self, tag: u16);
}

/// An entry of the flow table.
pub trait FlowEntry {
    /// Reads and changes the flow in place.
    fn with<R>(&self, change: impl FnOnce(&mut Flow) -> R) -> R;
}
