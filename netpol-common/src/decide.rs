// SPDX-License-Identifier: Apache-2.0
//! The verdict on a packet, over a trait of lookups: the kernel's maps there, ordinary maps in tests.

mod addresses;
mod fragments;
pub mod judge;
pub mod known;
mod leaving;
#[cfg(test)]
mod tests;

pub use leaving::{decide_leaving, sender_leaving};

use crate::{
    abi::{
        ACTION_ACCEPT, ACTION_DEFER, Address, Direction, DropReason, Endpoint, Flow, FlowKey, Fragment,
        FragmentKey, IDENTITY_NODE, IDENTITY_NONE, Identity, Lifetimes, POLICY_NONE, PolicyMatch,
        PolicyValue,
    },
    flow::{self, RST, State},
    parse::{Packet, Parsed, Role, protocol},
    tag,
};

/// What a decision looks up and writes.
pub trait Tables {
    /// A place in the flow table.
    type FlowEntry: FlowEntry;

    /// Nanoseconds of the monotonic clock.
    fn now(&self) -> u64;
    /// Bytes of the frame.
    fn length(&self) -> u32;
    /// How long flows may be silent.
    fn lifetimes(&self) -> &Lifetimes {
        &flow::DEFAULTS
    }
    /// The current epoch.
    fn epoch(&self) -> u32;
    /// The class of an address by longest prefix; [`IDENTITY_NONE`] where no prefix covers it.
    fn identity(&self, address: &Address) -> Identity;
    /// The identity of a Service's frontend; [`IDENTITY_NONE`] where there is none.
    fn frontend(&self, address: &Address, protocol: u8, port: [u8; 2]) -> u32;
    /// The same of a NodePort, for the family of an address of some node.
    fn node_port(&self, address: &Address, protocol: u8, port: [u8; 2]) -> u32;
    /// Interface index of the pod that sent a packet with a number in its tag by a bridge, or [`crate::abi::SENDER_UNTOLD`]; 0 where no
    /// pod of that number is behind that device.
    fn sender(&self, bridge: u32, number: u16) -> u32;
    /// Interface index of the local pod that has an address; 0 where none has.
    fn local_pod(&self, address: &Address) -> u32;
    /// Whether the pod behind an interface sends and receives for an address, as its namespace says
    /// (rule A6).
    fn forwards(&self, ifindex: u32, address: &Address) -> bool;
    /// Whether a Service leads to a backend that not every pod of this node may reach.
    fn guarded(&self, backend: &Address, protocol: u8, port: [u8; 2]) -> bool;
    /// Whether an interface is that of an endpoint.
    fn is_endpoint(&self, ifindex: u32) -> bool;
    /// The egress policy of the endpoint of an interface; [`POLICY_NONE`] for 0, [`POLICY_DENY`](crate::abi::POLICY_DENY) where the endpoint
    /// is gone: what it sent is judged for nobody any more.
    fn egress_policy(&self, ifindex: u32) -> u32;
    /// The longest match of a policy.
    fn policy(&self, key: &PolicyMatch) -> Option<PolicyValue>;
    /// The entry of a flow, valid or not.
    fn flow(&self, key: &FlowKey) -> Option<Self::FlowEntry>;
    /// Who opened the connection of a flow that is not known any more, as far as the kernel's own
    /// connection tracking can tell; `own`: the pod's address.
    fn opener(&self, key: &FlowKey, own: &Address) -> Opener;
    /// Writes a new flow, if there is room.
    fn insert_flow(&self, key: &FlowKey, flow: &Flow);
    /// What the first fragment of a packet told.
    fn fragment(&self, key: &FragmentKey) -> Option<Fragment>;
    /// Remembers what the first fragment of a packet told.
    fn insert_fragment(&self, key: &FragmentKey, fragment: &Fragment);
    /// Whether the packet belongs to a socket.
    fn has_socket(&self) -> bool;
    /// Gives the packet a [tag].
    fn put_tag(&self, tag: u16);
}

/// Who opened a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Opener {
    /// Nobody knows, or it is a guess.
    #[default]
    Unknown = 0,
    /// The other side; of UDP only if the pod answered.
    Remote = 1,
    /// The pod.
    Pod = 2,
}

/// How a packet came that has the tag of a pod of this node, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Origin {
    /// By that pod's interface or a bridge of pods; or it has no tag, or the pod sends it here.
    Plain = 0,
    /// By another device, from that pod's own address: out of a tunnel, say.
    Unpacked = 1,
    /// The same from an address that is not the pod's, which wrote it there (rule A6).
    Forged = 2,
}

/// A place in the flow table.
pub trait FlowEntry {
    /// Reads and changes the flow in place.
    fn with<R>(&self, change: impl FnOnce(&mut Flow) -> R) -> R;
}

/// Where a packet is met: one of an endpoint's hooks, or where it leaves the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The direction, seen from the pod.
    pub direction: Direction,
    /// Index of the interface: a pod's host-side veth, or the device by which the packet leaves.
    pub ifindex: u32,
    /// Index of the interface that the packet came by; 0 if the node itself made it (rules A2, A3). Not for what a pod sends.
    pub ingress_ifindex: u32,
    /// The packet's [tag]. Not for what a pod sends.
    pub tag: u16,
}

impl Place {
    /// Where a packet of this origin is met: what was unpacked came by no interface that a flow
    /// could know again, so the next one is looked at as well.
    #[inline(always)]
    const fn of(self, origin: Origin) -> Self {
        let ingress_ifindex = match origin {
            Origin::Unpacked => u32::MAX,
            Origin::Plain | Origin::Forged => self.ingress_ifindex,
        };
        Self {
            ingress_ifindex,
            ..self
        }
    }

    /// Whether the node itself made the packet.
    #[inline(always)]
    const fn is_by_node(self) -> bool {
        matches!(self.direction, Direction::Ingress) && self.ingress_ifindex == 0
    }
}

/// What happens to a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It passes.
    Forward,
    /// It is dropped, and nobody is told (rule A7).
    Drop(Drop),
}

/// Why, for the event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drop {
    /// The reason.
    pub reason: DropReason,
    /// The policy that said so, or [`POLICY_NONE`].
    pub policy: u32,
    /// Identity of the other side, or [`IDENTITY_NONE`].
    pub identity: u32,
    /// Whose policy it is.
    pub whose: Whose,
}

/// Whose policy drops a packet, and which way the packet goes in its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Whose {
    /// Interface index of the subject's host-side veth; 0 where nothing tells which pod it is.
    pub subject: u32,
    /// The direction of the subject's policy: egress if the subject opened the connection, or, of what was not judged as part of one,
    /// sent the packet.
    pub direction: Direction,
    /// The packet goes from who received the connection to who opened it, as far as the flow table knows.
    pub reply: bool,
}

impl Whose {
    /// The pod whose hook the packet is met at, in the direction of the hook.
    #[inline(always)]
    pub const fn at_hook(place: &Place) -> Self {
        Self {
            subject: place.ifindex,
            direction: place.direction,
            reply: false,
        }
    }

    /// The local pod that sent a packet: [`judge::UNKNOWN`] is nobody that is known.
    #[inline(always)]
    pub const fn sender(sender: u32) -> Self {
        Self {
            subject: if sender == judge::UNKNOWN { 0 } else { sender },
            direction: Direction::Egress,
            reply: false,
        }
    }
}

/// The verdict on a frame at one of an endpoint's hooks. `packet` and `quoted` as [`crate::parse::parse`] leaves them; a later fragment gets
/// the ports of the first.
#[inline(always)]
pub fn decide(
    tables: &impl Tables,
    endpoint: &Endpoint,
    place: Place,
    parsed: Parsed,
    packet: &mut Packet,
    quoted: &Packet,
) -> Verdict {
    let origin = judge::origin(tables, &place, packet);
    decide_from(tables, endpoint, (place, origin), parsed, packet, quoted)
}

/// The same of a packet whose origin is known.
#[inline(always)]
pub fn decide_from(
    tables: &impl Tables,
    endpoint: &Endpoint,
    (place, origin): (Place, Origin),
    parsed: Parsed,
    packet: &mut Packet,
    quoted: &Packet,
) -> Verdict {
    let place = place.of(origin);
    let direction = place.direction;
    let sends = matches!(direction, Direction::Egress);
    let parsed = match parsed {
        Parsed::Membership if !addresses::is_to_group(packet) => Parsed::Packet,
        parsed => parsed,
    };
    if sends {
        if addresses::is_spoofed(tables, endpoint, &place, parsed, packet) {
            return denied(
                Whose::at_hook(&place),
                DropReason::Spoofed,
                POLICY_NONE,
                IDENTITY_NONE,
            );
        }
    } else if addresses::is_for_another(tables, endpoint, &place, parsed, packet) {
        return denied(
            Whose::at_hook(&place),
            DropReason::NotOwnAddress,
            POLICY_NONE,
            IDENTITY_NONE,
        );
    }
    if matches!(parsed, Parsed::Neighbour | Parsed::Membership) {
        // The node may forward it all the same, and then it is judged as any packet.
        if sends {
            tables.put_tag(endpoint.tag(true));
        }
        return Verdict::Forward;
    }
    // Whatever connection it continues: the pod that wrote it may know of others' (rule A6).
    if matches!(origin, Origin::Forged) {
        return denied(
            Whose::sender(judge::UNKNOWN),
            DropReason::UnknownSender,
            POLICY_NONE,
            IDENTITY_NONE,
        );
    }
    if place.is_by_node() && !is_forwarded(tables, packet) {
        let key = flow_key(endpoint, direction, packet);
        // A connection of the node's own, on the ports of one that it forwarded before: that flow, denied maybe, is not its reply's (rule A2).
        if packet.protocol == protocol::TCP
            && may_open(packet)
            && let Some(entry) = tables.flow(&key)
        {
            entry.with(|flow| {
                flow.last_seen = 0;
                flow.state = State::Closed as u8;
            });
        }
        return Verdict::Forward;
    }
    let unjudged = match parsed {
        Parsed::Unjudged(reason) => Some(reason),
        _ if !fragments::restore(tables, endpoint, direction, packet) => Some(DropReason::Fragment),
        _ => None,
    };
    if let Some(reason) = unjudged {
        if endpoint.policy(direction) != POLICY_NONE {
            return denied(Whose::at_hook(&place), reason, POLICY_NONE, IDENTITY_NONE);
        }
        if !sends {
            let sender = judge::sender(tables, &place, packet);
            if judge::is_kept(tables, sender) {
                return denied(Whose::sender(sender), reason, POLICY_NONE, IDENTITY_NONE);
            }
        }
        // The pod may have written one of its own, and what hides the packet from us may be gone later (a priority tag, a tunnel).
        if sends {
            tables.put_tag(endpoint.tag(true));
        }
        return Verdict::Forward;
    }
    // An ICMP error belongs to the connection of what it quotes, a packet of the other direction (rule C1).
    let quotes = matches!(packet.role, Role::Error) && is_about(endpoint, packet, quoted, direction);
    let key = if quotes {
        flow_key(endpoint, direction.opposite(), quoted)
    } else {
        flow_key(endpoint, direction, packet)
    };
    let syn = packet.protocol == protocol::TCP && flow::is_syn(packet.tcp_flags);
    let entry = if quotes || has_flow(packet) {
        tables.flow(&key)
    } else {
        None
    };
    // Plain variables, all set on every path: the verifier refuses to follow the unset half of an Option.
    let mut known = false;
    let mut current = false;
    let mut initiator = direction;
    let mut sender = 0;
    let mut tag = 0;
    if let Some(entry) = &entry {
        entry.with(|flow| {
            if flow::alive(flow, key.protocol, tables.now(), tables.lifetimes()) {
                if syn && !quotes {
                    // It is judged as new, but what an open connection is, no end says alone.
                    flow::asks_anew(flow, packet, direction, tables.now());
                    return;
                }
                if !quotes {
                    // What is denied keeps a flow alive as well: silence by policy must not end it,
                    // or a reply would open a new one.
                    flow.last_seen = tables.now();
                    flow::agree(flow, packet, direction);
                }
                known = true;
                initiator = Direction::from_u8(flow.initiator);
                current = flow.policy == endpoint.policy(initiator) && flow.epoch == tables.epoch();
                sender = flow.sender;
                tag = flow.tag;
            }
        });
    }
    // The first packet seen need not be the first of its connection (rule C4): of TCP it is not,
    // without SYN; of UDP it may be a reply as far as this pod's other direction is isolated, or as
    // it comes from the node, to which no flow is made.
    let mid_stream = packet.protocol == protocol::TCP && !syn;
    let mut with_node = false;
    if !known
        && (mid_stream || packet.protocol == protocol::UDP)
        && matches!(packet.role, Role::Any)
        && addresses::is_own(endpoint, own_address(packet, direction))
    {
        let from_node = !sends && is_node(tables, &packet.source);
        // What enters where others may not is told so as well: its own flow may have had to make
        // room for theirs.
        let may_enter = !sends && (from_node || endpoint.ingress_policy != POLICY_NONE);
        let may_answer = packet.protocol == protocol::UDP
            && (endpoint.policy(direction.opposite()) != POLICY_NONE || may_enter);
        if mid_stream || may_answer {
            let opener = tables.opener(&key, own_address(packet, direction));
            if !matches!(opener, Opener::Unknown) {
                known = true;
                initiator = match opener {
                    Opener::Pod => Direction::Egress,
                    _ => Direction::Ingress,
                };
                // Of what the node opens, or is opened to it, nothing is remembered (rules A2, A3).
                with_node = from_node && matches!(opener, Opener::Pod)
                    || sends && matches!(opener, Opener::Remote) && is_node(tables, &packet.destination);
                if let Some(entry) = &entry
                    && !with_node
                {
                    entry.with(|flow| {
                        let found = new_flow(tables, POLICY_NONE, initiator);
                        *flow = Flow { epoch: 0, ..found };
                    });
                }
            }
        }
    }

    // What is known of the connection is judged in the direction that opened it, its replies too (rules C1, C2). A flow that is no
    // longer allowed stays in the table and is denied at each packet: without it a reply would open a connection of the other direction.
    let policy = endpoint.policy(initiator);
    let is_error = quotes && known;
    let view = if is_error { quoted } else { &*packet };
    let reply = (initiator as u8 != direction as u8) != is_error;
    // Behind masquerade one address and port may be one pod's today and another's tomorrow.
    let opened_here = matches!(initiator, Direction::Ingress) && !reply && !is_error;
    if opened_here {
        let came_by = place.ingress_ifindex;
        let has = tag::judged(place.tag);
        if tag != has {
            tag = has;
            current = false;
        } else if current && has == 0 && sender != came_by {
            // Not as one condition: the verifier refuses to see what a lookup found merged with another.
            current = sender == 0;
            if current && tables.is_endpoint(came_by) {
                current = false;
            }
        }
    }
    // Of answers to the pod it is how they came, so that others are looked at again (rule A6).
    let answers = matches!(initiator, Direction::Egress) && !sends && !is_error;
    if answers && tag::number(place.tag) != 0 {
        sender = place.ingress_ifindex;
    }
    // What the pod answers to the node is open whatever policy says (rule A2).
    let mut to_node = with_node && sends;
    let mut to_judge = false;
    if !current {
        let own_policy = Whose {
            subject: place.ifindex,
            direction: initiator,
            reply: initiator as u8 != direction as u8,
        };
        let port = if reply {
            view.source_port
        } else {
            view.destination_port
        };
        let own = own_address(packet, direction);
        let remote = if is_error {
            &key.remote
        } else {
            remote_address(packet, direction)
        };
        if matches!(initiator, Direction::Egress) {
            let opens = known || may_open(packet);
            let egress = judge::egress(tables, policy, remote, view.protocol, port, opens);
            if !matches!(egress.action, ACTION_ACCEPT | ACTION_DEFER) {
                return denied(own_policy, DropReason::Policy, policy, egress.identity);
            }
            to_node = egress.to_node;
            // Whatever this was judged by, kube-proxy may know other backends, or connection tracking remember some: where the packet leaves,
            // it is judged on what it ends at. ICMP errors are translated as the connection that they quote.
            let translated =
                !matches!(packet.role, Role::Single | Role::Error) || egress.action == ACTION_DEFER;
            tag = endpoint.tag(policy != POLICY_NONE && translated);
        } else {
            if opened_here {
                sender = judge::sender(tables, &place, packet);
                if sender == judge::UNKNOWN {
                    return denied(
                        Whose::sender(sender),
                        DropReason::UnknownSender,
                        POLICY_NONE,
                        IDENTITY_NONE,
                    );
                }
            }
            // A pod that reaches itself through a Service is its own peer, whatever address masquerade put on the packet (rule A1).
            let peer = if sender == place.ifindex { own } else { remote };
            let identity = tables.identity(peer).identity;
            if !judge::accepts(tables, policy, identity, view.protocol, port) {
                if !with_node {
                    return denied(own_policy, DropReason::Policy, policy, identity);
                }
                // Of what the node only forwarded with its address the second look is left (rule
                // A3).
                to_judge = endpoint.egress_policy != POLICY_NONE;
            }
            let egress = tables.egress_policy(sender);
            if egress != POLICY_NONE {
                // The node's own addresses are nobody's backend here: what a pod sends to the node reaches no other pod.
                let backend = tables.identity(own).identity;
                if !judge::accepts(tables, egress, backend, view.protocol, port) {
                    let of_sender = Whose {
                        reply: own_policy.reply,
                        ..Whose::sender(sender)
                    };
                    return denied(of_sender, DropReason::EgressBackend, egress, backend);
                }
            }
        }
    }

    if is_error {
        // It keeps nothing alive: anyone can send one.
        if sends {
            tables.put_tag(endpoint.tag(false));
        }
        return Verdict::Forward;
    }
    if let Some(entry) = &entry {
        entry.with(|flow| {
            if known && !with_node {
                flow.policy = policy;
                flow.epoch = tables.epoch();
                flow.packets += 1;
                flow.bytes += u64::from(tables.length());
                flow.sender = sender;
                flow.tag = tag;
                flow::advance(flow, packet, direction);
            } else if !to_node
                && opens_flow(packet)
                && (known || !mid_stream)
                && !flow::alive(flow, packet.protocol, tables.now(), tables.lifetimes())
            {
                let found = new_flow(tables, policy, initiator);
                *flow = Flow { sender, tag, ..found };
            }
        });
    } else if opens_flow(packet) && !to_node && (known || !mid_stream) {
        let flow = new_flow(tables, policy, initiator);
        let state = match (reply, packet.protocol) {
            (false, _) => State::Opening,
            (true, protocol::TCP) => State::Answered,
            (true, _) => State::Established,
        } as u8;
        tables.insert_flow(
            &key,
            &Flow {
                sender,
                tag,
                state,
                ..flow
            },
        );
    }
    fragments::remember(tables, endpoint, direction, packet);
    if sends {
        tables.put_tag(if reply { endpoint.tag(to_judge) } else { tag });
    }
    Verdict::Forward
}

#[inline(always)]
const fn denied(whose: Whose, reason: DropReason, policy: u32, identity: u32) -> Verdict {
    Verdict::Drop(Drop {
        reason,
        policy,
        identity,
        whose,
    })
}

#[inline(always)]
fn new_flow(tables: &impl Tables, policy: u32, initiator: Direction) -> Flow {
    Flow {
        last_seen: tables.now(),
        packets: 1,
        bytes: u64::from(tables.length()),
        policy,
        epoch: tables.epoch(),
        initiator: initiator as u8,
        state: State::Opening as u8,
        ..Flow::default()
    }
}

/// Whether a packet that no interface brought is one that the node only forwards all the same (rule A3). Connection tracking takes IPv6 fragments
/// from their sockets and puts them together; where the kernel must copy what it then takes apart again, it forgets the interface. What the
/// node makes in fragments belongs to the socket that sent it.
#[inline(always)]
fn is_forwarded(tables: &impl Tables, packet: &Packet) -> bool {
    packet.fragment_header && !tables.has_socket()
}

/// Whether an ICMP error is about a packet of its receiver's, or sender's, own: its quote names the same pod, and an error that the pod
/// sends goes to whom it is about. What a router on the way sends has an address of its own.
#[inline(always)]
fn is_about(endpoint: &Endpoint, packet: &Packet, quoted: &Packet, direction: Direction) -> bool {
    match direction {
        Direction::Ingress => {
            packet.destination == quoted.source && addresses::is_own(endpoint, &quoted.source)
        }
        Direction::Egress => packet.source == quoted.destination && packet.destination == quoted.source,
    }
}

/// Whether an address is one of the node's.
#[inline(always)]
fn is_node(tables: &impl Tables, address: &Address) -> bool {
    tables.identity(address).flags & IDENTITY_NODE != 0
}

/// Whether a packet of no known flow may be the first of a connection. Any packet but a TCP segment that continues one.
#[inline(always)]
const fn may_open(packet: &Packet) -> bool {
    packet.protocol != protocol::TCP || flow::is_syn(packet.tcp_flags)
}

/// Whether the flow table may speak for the packet. A SYN opens a connection, whatever the table remembers of an older one.
#[inline(always)]
const fn continues_flow(packet: &Packet) -> bool {
    let syn = packet.protocol == protocol::TCP && flow::is_syn(packet.tcp_flags);
    !syn && has_flow(packet)
}

/// Whether the flow table may know the connection of the packet.
#[inline(always)]
const fn has_flow(packet: &Packet) -> bool {
    !matches!(packet.role, Role::Single | Role::Error)
}

/// Whether packets can follow that belong to this one. To the node no flow is made: that way is open anyway (rule A2), and a flow would let
/// packets that are only forwarded with the node's address pass as its replies (rule A3).
#[inline(always)]
const fn opens_flow(packet: &Packet) -> bool {
    let reset = packet.protocol == protocol::TCP && packet.tcp_flags & RST != 0;
    !reset && matches!(packet.role, Role::Any | Role::EchoRequest)
}

/// The address at the other side.
#[inline(always)]
const fn remote_address(packet: &Packet, direction: Direction) -> &Address {
    match direction {
        Direction::Ingress => &packet.source,
        Direction::Egress => &packet.destination,
    }
}

/// The pod's own address.
#[inline(always)]
const fn own_address(packet: &Packet, direction: Direction) -> &Address {
    remote_address(packet, direction.opposite())
}

/// The flow that a packet belongs to.
#[inline(always)]
pub fn flow_key(endpoint: &Endpoint, direction: Direction, packet: &Packet) -> FlowKey {
    let requests = match packet.role {
        Role::EchoRequest => Some(direction),
        Role::EchoReply => Some(direction.opposite()),
        Role::Any | Role::Single | Role::Error => None,
    };
    let (local_port, remote_port) = match (requests, direction) {
        (Some(requests), _) => (packet.source_port, [0, requests as u8]),
        (None, Direction::Ingress) => (packet.destination_port, packet.source_port),
        (None, Direction::Egress) => (packet.source_port, packet.destination_port),
    };
    FlowKey {
        endpoint: endpoint.id,
        remote: *remote_address(packet, direction),
        local_port,
        remote_port,
        protocol: packet.protocol,
        pad: [0; 3],
    }
}
