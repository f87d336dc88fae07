// SPDX-License-Identifier: Apache-2.0
//! What policies say of a connection, and who sent a packet.

use super::{Origin, Place, Tables};
use crate::{
    abi::{
        ACTION_ACCEPT, ACTION_DEFER, Address, Direction, IDENTITY_NODE, IDENTITY_NONE, IDENTITY_REMOTE_NODE,
        NO_INTERFACE, POLICY_NONE, PolicyMatch, SENDER_UNTOLD,
    },
    parse::Packet,
    tag,
};

/// An action that drops.
const DENY: u32 = 0;

/// The sender of a packet whose backend not every pod may reach, and of which nothing tells which pod sent it.
pub const UNKNOWN: u32 = SENDER_UNTOLD;

/// What a policy says of a connection that a pod opens.
pub(super) struct Egress {
    /// As in map `policies`.
    pub(super) action: u32,
    /// Identity that it was said of.
    pub(super) identity: u32,
    /// To an address of the node that the pod runs on, which no Service claims: nothing is
    /// translated on the way.
    pub(super) to_node: bool,
}

/// Judges a connection by where the pod sends it. A Service can only add a way (rule A9): kube-proxy leads to its backends, and where it has
/// no rules for the frontend, which nobody can tell here, the packet goes to what has the address. So it passes if either is allowed, and
/// is judged again where it ends.
#[inline(always)]
pub(super) fn egress(
    tables: &impl Tables,
    policy: u32,
    remote: &Address,
    protocol: u8,
    port: [u8; 2],
    opens: bool,
) -> Egress {
    let frontend = tables.frontend(remote, protocol, port);
    if frontend == IDENTITY_NONE {
        return by_address(tables, policy, remote, protocol, port, opens);
    }
    let said = action(tables, policy, frontend, protocol, port);
    if said != DENY {
        return Egress {
            action: said,
            identity: frontend,
            to_node: false,
        };
    }
    let address = by_address(tables, policy, remote, protocol, port, opens);
    Egress {
        action: match address.action {
            ACTION_ACCEPT | ACTION_DEFER => ACTION_DEFER,
            _ => DENY,
        },
        identity: match address.action {
            DENY => frontend,
            _ => address.identity,
        },
        to_node: false,
    }
}

/// Judges a connection by what its address is. A NodePort leads to its backends on every address of every node (rule A5). Else the pod's own
/// node is always open (rule A2). A packet that does not open a connection (`opens`) is no NodePort's there: it may be a reply to the node
/// itself.
#[inline(always)]
pub(super) fn by_address(
    tables: &impl Tables,
    policy: u32,
    remote: &Address,
    protocol: u8,
    port: [u8; 2],
    opens: bool,
) -> Egress {
    let class = tables.identity(remote);
    let at_node = class.flags & IDENTITY_NODE != 0;
    let elsewhere = class.flags & IDENTITY_REMOTE_NODE != 0;
    let mut identity = IDENTITY_NONE;
    if at_node && opens || elsewhere {
        identity = tables.node_port(remote, protocol, port);
    }
    if identity == IDENTITY_NONE {
        identity = class.identity;
        if at_node {
            return Egress {
                action: ACTION_ACCEPT,
                identity,
                to_node: true,
            };
        }
    }
    let mut action = action(tables, policy, identity, protocol, port);
    // Another node chooses the backend, where nobody knows whose the packet is.
    if elsewhere && action == ACTION_DEFER {
        action = DENY;
    }
    Egress {
        action,
        identity,
        to_node: false,
    }
}

/// Whether a policy lets an identity pass, without a second look elsewhere. From the node is told by where a packet was made, never by
/// an identity (rule A3).
#[inline(always)]
pub(super) fn accepts(tables: &impl Tables, policy: u32, identity: u32, protocol: u8, port: [u8; 2]) -> bool {
    action(tables, policy, identity, protocol, port) == ACTION_ACCEPT
}

/// Whether policy keeps, or may keep, the pod of this node that sent a packet, its [`sender`], from something: what cannot be judged is not let
/// to others then.
#[inline(always)]
pub(super) fn is_kept(tables: &impl Tables, sender: u32) -> bool {
    sender == UNKNOWN || tables.egress_policy(sender) != POLICY_NONE
}

/// Whether a packet has the tag of a pod, and came neither from a pod's interface nor by a bridge
/// of pods: an end of a tunnel on this node, say, took it out of a packet of that pod. What leaves
/// the node has no pod's tag any more, see [`tag::LEFT`].
#[inline(always)]
pub(super) fn is_unpacked(tables: &impl Tables, place: &Place) -> bool {
    let (came_by, number) = (place.ingress_ifindex, tag::number(place.tag));
    number != 0
        && !tables.is_endpoint(came_by)
        && tables.sender(came_by, number) == 0
        && tables.sender(came_by, 0) == 0
}

/// How a packet came.
#[inline(always)]
pub fn origin(tables: &impl Tables, place: &Place, packet: &Packet) -> Origin {
    if matches!(place.direction, Direction::Egress) || !is_unpacked(tables, place) {
        Origin::Plain
    } else if is_own(tables, place, tables.local_pod(&packet.source)) {
        Origin::Unpacked
    } else {
        Origin::Forged
    }
}

/// Whether a packet is from the address of the pod whose tag it has: what was
/// [unpacked](is_unpacked) has the addresses that the pod wrote inside (rule A6).
#[inline(always)]
fn is_own(tables: &impl Tables, place: &Place, by_address: u32) -> bool {
    by_address != 0 && by_address == tables.sender(NO_INTERFACE, tag::number(place.tag))
}

/// Interface index of the local pod that sent a packet which another, or the same, receives, or that leaves the node; 0 for everyone
/// else. It is told by the interface that the packet came by, or by its tag, neither of which masquerade changes; where someone overwrote
/// the tag by its source address, else it is [`UNKNOWN`] if that matters.
#[inline(always)]
pub(super) fn sender(tables: &impl Tables, place: &Place, packet: &Packet) -> u32 {
    let came_by = place.ingress_ifindex;
    if tables.is_endpoint(came_by) {
        return came_by;
    }
    let number = tag::number(place.tag);
    let sender = tables.sender(came_by, number);
    if sender != SENDER_UNTOLD && (sender != 0 || number == 0) {
        return sender;
    }
    let by_address = tables.local_pod(&packet.source);
    // By a tunnel of the node's own it comes with the addresses that the pod wrote inside. A pod's
    // packet that is yet to be judged may also come by a device that is no bridge of pods (a VLAN
    // of one, a VRF), or be of a pod that is gone.
    let untrusted = number != 0 && (tag::is_deferred(place.tag) || tables.sender(came_by, 0) == 0);
    if untrusted && !is_own(tables, place, by_address) {
        return UNKNOWN;
    }
    if by_address != 0 {
        return by_address;
    }
    let masqueraded = tables.identity(&packet.source).flags & IDENTITY_NODE != 0;
    if masqueraded && tables.guarded(&packet.destination, packet.protocol, packet.destination_port) {
        UNKNOWN
    } else {
        0
    }
}

#[inline(always)]
fn action(tables: &impl Tables, policy: u32, identity: u32, protocol: u8, port: [u8; 2]) -> u32 {
    if policy == POLICY_NONE {
        return ACTION_ACCEPT;
    }
    let key = PolicyMatch {
        policy,
        identity,
        protocol,
        port,
        pad: 0,
    };
    match tables.policy(&key) {
        Some(value) => value.action,
        None => DENY,
    }
}
