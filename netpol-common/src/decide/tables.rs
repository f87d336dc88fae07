// SPDX-License-Identifier: Apache-2.0
//! What a decision reads and writes, in three parts: lookups change nothing, flows are remembered,
//! the buffer is the packet itself.

use super::Opener;
use crate::{
    abi::{
        Address, Endpoint, Flow, FlowKey, Fragment, FragmentKey, Identity, Lifetimes, PolicyMatch,
        PolicyValue,
    },
    flow,
};

/// All three parts.
pub trait Tables: Lookups + Flows + Buffer {}

impl<T: Lookups + Flows + Buffer> Tables for T {}

/// What the agent wrote. Nothing here changes anything.
pub trait Lookups {
    /// Copies the endpoint of an interface. Without one, it is a stand-in that denies everything,
    /// and the answer is false.
    fn endpoint(&self, ifindex: u32, into: &mut Endpoint) -> bool;
    /// True if an interface is an endpoint's.
    fn is_endpoint(&self, ifindex: u32) -> bool;
    /// The egress policy of the endpoint of an interface:
    /// [`POLICY_NONE`](crate::abi::POLICY_NONE) for interface 0,
    /// [`POLICY_DENY`](crate::abi::POLICY_DENY) where the endpoint is gone.
    fn egress_policy(&self, ifindex: u32) -> u32;
    /// The longest match of a policy.
    fn policy(&self, key: &PolicyMatch) -> Option<PolicyValue>;
    /// The class of an address by longest prefix;
    /// [`IDENTITY_NONE`](crate::abi::IDENTITY_NONE) where no prefix covers it.
    fn identity(&self, address: &Address) -> Identity;
    /// The identity of a Service's frontend; [`IDENTITY_NONE`](crate::abi::IDENTITY_NONE) where
    /// there is none.
    fn frontend(&self, address: &Address, protocol: u8, port: [u8; 2]) -> u32;
    /// The identity of a NodePort, by the family of the address of some node.
    fn node_port(&self, address: &Address, protocol: u8, port: [u8; 2]) -> u32;
    /// True if a Service leads to a backend that not every pod of this node may reach.
    fn is_restricted(&self, backend: &Address, protocol: u8, port: [u8; 2]) -> bool;
    /// Interface index of the pod that sent a packet with a number in its tag by a bridge, or
    /// [`SENDER_AMBIGUOUS`](crate::abi::SENDER_AMBIGUOUS); 0 where no pod of that number is behind
    /// that bridge.
    fn sender(&self, bridge: u32, number: u16) -> u32;
    /// Interface index of the local pod that has an address; 0 where none has.
    fn local_pod(&self, address: &Address) -> u32;
    /// True if the pod behind an interface sends and receives for an address, as its namespace says
    /// (rule A6).
    fn forwards(&self, ifindex: u32, address: &Address) -> bool;
}

/// What was seen of connections and fragmented packets.
pub trait Flows {
    /// An entry of the flow table.
    type Entry: FlowEntry;

    /// Nanoseconds of the monotonic clock.
    fn now(&self) -> u64;
    /// How long flows may be silent.
    fn lifetimes(&self) -> &Lifetimes {
        &flow::DEFAULTS
    }
    /// The current epoch.
    fn epoch(&self) -> u32;
    /// The entry of a flow, alive or not.
    fn flow(&self, key: &FlowKey) -> Option<Self::Entry>;
    /// Writes a new flow, if there is room.
    fn insert_flow(&self, key: &FlowKey, flow: &Flow);
    /// Who opened the connection of a flow that the table does not know, as far as the kernel's
    /// connection tracking can tell; `own` is the pod's address.
    fn opener(&self, key: &FlowKey, own: &Address) -> Opener;
    /// What the first fragment of a packet told.
    fn fragment(&self, key: &FragmentKey) -> Option<Fragment>;
    /// Remembers what the first fragment of a packet told.
    fn insert_fragment(&self, key: &FragmentKey, fragment: &Fragment);
}

/// The packet as the kernel holds it.
pub trait Buffer {
    /// Bytes of the frame.
    fn length(&self) -> u32;
    /// True if the packet belongs to a socket.
    fn has_socket(&self) -> bool;
    /// Gives the packet a [tag](crate::tag).
    fn put_tag(&self, tag: u16);
}

/// An entry of the flow table.
pub trait FlowEntry {
    /// Reads and changes the flow in place.
    fn with<R>(&self, change: impl FnOnce(&mut Flow) -> R) -> R;
}
