// SPDX-License-Identifier: Apache-2.0
//! Third step: asks the policies. It writes nothing, so a judgement can be made without being
//! enforced.

use super::{
    Drop, Lookups, Place, Verdict, Whose, connection::Connection, may_open, own_address, remote_address,
    sender,
};
use crate::{
    abi::{
        ACTION_ACCEPT, ACTION_DEFER, ACTION_DENY, Address, Direction, DropReason, Endpoint, IDENTITY_NODE,
        IDENTITY_NONE, IDENTITY_REMOTE_NODE, NO_POLICY, POLICY_UNRESTRICTED, PolicyMatch, SENDER_AMBIGUOUS,
    },
    parse::{Packet, Role},
};

/// The policies' answer on a packet, with the reason, and what to remember if it passes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Judgement {
    /// Why the packet is denied; `None` if it passes.
    pub(super) denied: Option<DropReason>,
    /// The policy that decided; [`NO_POLICY`] if none was asked.
    pub(super) policy: u32,
    /// The identity that the policy was asked about, or [`IDENTITY_NONE`].
    pub(super) identity: u32,
    /// The pod whose policy it is.
    pub(super) whose: Whose,
    /// New value of [`Flow::sender`](crate::abi::Flow::sender).
    pub(super) sender: u32,
    /// New value of [`Flow::tag`](crate::abi::Flow::tag).
    pub(super) tag: u16,
    /// The packet is for the pod's own node, or answers it. That way is always open, and no flow is
    /// kept (rule A2).
    pub(super) to_node: bool,
    /// The packet is a reply that is judged again where it leaves: the node may only have forwarded
    /// what it answers (rule A3).
    pub(super) deferred: bool,
}

impl Judgement {
    /// The packet passes without asking a policy.
    #[inline(always)]
    pub(super) const fn passes(whose: Whose) -> Self {
        Self {
            denied: None,
            policy: NO_POLICY,
            identity: IDENTITY_NONE,
            whose,
            sender: 0,
            tag: 0,
            to_node: false,
            deferred: false,
        }
    }

    /// The packet is denied without asking a policy.
    #[inline(always)]
    pub(super) const fn denied(whose: Whose, reason: DropReason) -> Self {
        Self {
            denied: Some(reason),
            ..Self::passes(whose)
        }
    }

    /// Returns the verdict. `commit` remembers a packet that passes; nothing is remembered of one
    /// that does not. This is the only place of the decision
    /// where a judgement is enforced.
    #[inline(always)]
    pub(super) fn enforce(self, commit: impl FnOnce(&Self)) -> Verdict {
        if let Some(reason) = self.denied {
            return Verdict::Drop(Drop {
                reason,
                policy: self.policy,
                identity: self.identity,
                whose: self.whose,
            });
        }
        commit(&self);
        Verdict::Forward
    }
}

/// Judges a packet whose headers do not tell what policies ask about. It passes only if no policy
/// could deny it: neither the endpoint's nor that of the sender, if that is a pod of this node.
#[inline(always)]
pub(super) fn unreadable(
    tables: &impl Lookups,
    endpoint: &Endpoint,
    place: &Place,
    packet: &Packet,
    reason: DropReason,
) -> Judgement {
    let at_hook = Whose::at_hook(place);
    if endpoint.policy(place.direction) != POLICY_UNRESTRICTED {
        return Judgement::denied(at_hook, reason);
    }
    if matches!(place.direction, Direction::Ingress) {
        let sender = sender::sender(tables, place, packet);
        if sender == SENDER_AMBIGUOUS || tables.egress_policy(sender) != POLICY_UNRESTRICTED {
            return Judgement::denied(Whose::sender(sender), reason);
        }
    }
    Judgement::passes(at_hook)
}

/// Judges a packet of a connection by the direction that opened it; replies too (rules C1, C2). A
/// flow that is no longer allowed stays in the table and is denied at each packet. Without it, a
/// reply would open a connection in the other direction.
#[inline(always)]
pub(super) fn connection<E>(
    tables: &impl Lookups,
    endpoint: &Endpoint,
    place: &Place,
    packet: &Packet,
    quoted: &Packet,
    connection: &Connection<E>,
) -> Judgement {
    let direction = place.direction;
    let sends = matches!(direction, Direction::Egress);
    let own_policy = Whose {
        subject: place.ifindex,
        direction: connection.initiator,
        reply: connection.initiator as u8 != direction as u8,
    };
    let mut judgement = Judgement {
        policy: endpoint.policy(connection.initiator),
        sender: connection.sender,
        tag: connection.tag,
        to_node: connection.with_node && sends,
        ..Judgement::passes(own_policy)
    };
    if connection.current {
        return judgement;
    }
    // An ICMP error is judged like the packet that it quotes.
    let view = if connection.is_error { quoted } else { packet };
    let asked = Asked {
        remote: if connection.is_error {
            &connection.key.remote
        } else {
            remote_address(packet, direction)
        },
        own: own_address(packet, direction),
        protocol: view.protocol,
        port: if connection.reply {
            view.source_port
        } else {
            view.destination_port
        },
    };
    if matches!(connection.initiator, Direction::Egress) {
        opened_by_pod(tables, endpoint, packet, connection, &asked, &mut judgement);
    } else {
        if connection.is_from_opener() {
            judgement.sender = sender::sender(tables, place, packet);
        }
        opened_by_other(tables, endpoint, place, connection, &asked, &mut judgement);
    }
    judgement
}

/// What policies are asked about.
struct Asked<'a> {
    own: &'a Address,
    remote: &'a Address,
    protocol: u8,
    port: [u8; 2],
}

/// Judges a connection that the pod opened, by its egress policy.
#[inline(always)]
fn opened_by_pod<E>(
    tables: &impl Lookups,
    endpoint: &Endpoint,
    packet: &Packet,
    connection: &Connection<E>,
    asked: &Asked<'_>,
    judgement: &mut Judgement,
) {
    let policy = judgement.policy;
    let opens = connection.known || may_open(packet);
    let egress = egress(tables, policy, asked.remote, asked.protocol, asked.port, opens);
    judgement.identity = egress.identity;
    judgement.to_node = egress.to_node;
    // The packet is judged again on its backend, whatever decides here: kube-proxy may know other
    // backends, or connection tracking may remember some. An ICMP error is not: the kernel
    // translates it like the connection that it quotes.
    let translated = !matches!(packet.role, Role::Single | Role::Error) || egress.action == ACTION_DEFER;
    judgement.tag = endpoint.tag(policy != POLICY_UNRESTRICTED && translated);
    if !matches!(egress.action, ACTION_ACCEPT | ACTION_DEFER) {
        judgement.denied = Some(DropReason::Policy);
    }
}

/// Judges a connection that the other side opened: first by the pod's ingress policy, then, if the
/// sender is a pod of this node, by the sender's egress policy.
#[inline(always)]
fn opened_by_other<E>(
    tables: &impl Lookups,
    endpoint: &Endpoint,
    place: &Place,
    connection: &Connection<E>,
    asked: &Asked<'_>,
    judgement: &mut Judgement,
) {
    let sender = judgement.sender;
    if connection.is_from_opener() && sender == SENDER_AMBIGUOUS {
        *judgement = Judgement::denied(Whose::sender(sender), DropReason::UnknownSender);
        return;
    }
    // A pod that reaches itself through a Service is its own peer, whatever address masquerade put
    // on the packet (rule A1).
    let peer = if sender == place.ifindex {
        asked.own
    } else {
        asked.remote
    };
    judgement.identity = tables.identity(peer).identity;
    if !accepts(tables, judgement.policy, judgement.identity, asked) {
        if !connection.with_node {
            judgement.denied = Some(DropReason::Policy);
            return;
        }
        judgement.deferred = endpoint.egress_policy != POLICY_UNRESTRICTED;
    }
    let egress = tables.egress_policy(sender);
    if egress == POLICY_UNRESTRICTED {
        return;
    }
    // The node's own addresses are no backend here: what a pod sends to the node reaches no other
    // pod.
    let backend = tables.identity(asked.own).identity;
    if !accepts(tables, egress, backend, asked) {
        judgement.denied = Some(DropReason::EgressBackend);
        judgement.policy = egress;
        judgement.identity = backend;
        judgement.whose = Whose {
            reply: judgement.whose.reply,
            ..Whose::sender(sender)
        };
    }
}

/// An egress policy's answer on a connection.
pub(super) struct Egress {
    /// The action, as in map `policies`.
    pub(super) action: u32,
    /// The identity that the policy was asked about.
    pub(super) identity: u32,
    /// The connection goes to an address of the pod's own node that no Service claims. Nothing is
    /// translated on the way.
    pub(super) to_node: bool,
}

/// Judges a connection by the destination that the pod sends it to. The entry for a frontend says
/// where its packets may end, with or without kube-proxy's rules (rules A5, A9). A packet that
/// opens no connection may be a reply to the node itself, whose port only looks like a frontend
/// (rule A2).
#[inline(always)]
fn egress(
    tables: &impl Lookups,
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
    let mut action = action(tables, policy, frontend, protocol, port);
    if action == ACTION_DENY && !opens && tables.identity(remote).flags & IDENTITY_NODE != 0 {
        action = ACTION_DEFER;
    }
    Egress {
        action,
        identity: frontend,
        to_node: false,
    }
}

/// Judges a connection by its destination address. A NodePort leads to its backends at every
/// address of every node (rule A5). Otherwise the pod's own node is always open (rule A2). At that
/// node, a packet that opens no connection (`opens` is false) is not for a NodePort: it may be a
/// reply to the node itself.
#[inline(always)]
pub(super) fn by_address(
    tables: &impl Lookups,
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
    // Another node chooses the backend. There, nobody knows which pod sent the packet.
    if elsewhere && action == ACTION_DEFER {
        action = ACTION_DENY;
    }
    Egress {
        action,
        identity,
        to_node: false,
    }
}

/// Returns true if a policy lets an identity pass without a second judgement elsewhere. The flag of
/// the node's own addresses does not count here (rule A3).
#[inline(always)]
fn accepts(tables: &impl Lookups, policy: u32, identity: u32, asked: &Asked<'_>) -> bool {
    action(tables, policy, identity, asked.protocol, asked.port) == ACTION_ACCEPT
}

#[inline(always)]
fn action(tables: &impl Lookups, policy: u32, identity: u32, protocol: u8, port: [u8; 2]) -> u32 {
    if policy == POLICY_UNRESTRICTED {
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
        None => ACTION_DENY,
    }
}
