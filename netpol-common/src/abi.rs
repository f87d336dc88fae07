// SPDX-License-Identifier: Apache-2.0
//! Byte layouts of the maps. Every one is `repr(C)` without implicit padding (zerocopy's derives refuse it), its size is asserted
//! at compile time, and a test holds it against the BTF of the object. A change here is a new
//! [`ABI_VERSION`]; what the programs tell (`observed`) has an [`OBSERVED_VERSION`] of its own.
//!
//! Integers are in host byte order, addresses and ports are byte arrays in network byte order.

use crate::tag;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Version of the layouts below; part of the pin path, so that agents of different layouts never share a map.
pub const ABI_VERSION: u32 = 6;

/// Policy id of an endpoint that is not isolated for a direction (rule I1).
pub const POLICY_NONE: u32 = 0;

/// Policy id that denies everything: it never has entries.
pub const POLICY_DENY: u32 = u32::MAX;

/// Identity of an address that matches no peer of any policy in force.
pub const IDENTITY_NONE: u32 = 0;

/// [`Identity::flags`]: an address of this node (rule A2).
pub const IDENTITY_NODE: u32 = 1;

/// [`Identity::flags`]: an address of another node (rules A4, A5).
pub const IDENTITY_REMOTE_NODE: u32 = 2;

/// [`Endpoint::flags`]: it is not known yet which pod this is, and what it may have as addresses: everything passes (rule B2).
pub const ENDPOINT_PENDING: u16 = 1 << 1;
/// [`Endpoint::flags`]: the pod sends and receives for the addresses that map `forwards` has for it, too (rule A6).
pub const ENDPOINT_FORWARDS: u16 = 1;

/// Value of map `senders` for the number 0: pods are behind this bridge, but who sent an untagged packet is not known.
pub const SENDER_AMBIGUOUS: u32 = u32::MAX;

/// In the place of the bridge in map `senders`: what the kernel took apart again and does not say how it came. All senders are here.
pub const NO_INTERFACE: u32 = 0;

/// [`PolicyValue::action`]: drop the packet, as a policy does that has no entry for it.
pub const ACTION_DENY: u32 = 0;

/// [`PolicyValue::action`]: let the packet pass.
pub const ACTION_ACCEPT: u32 = 1;

/// [`PolicyValue::action`]: some of a Service's backends are allowed. The packet passes here, and is judged again where it is known which
/// of them it goes to (rule A5).
pub const ACTION_DEFER: u32 = 2;

/// [`PolicyValue::action`]: drop the packet, though policy may let it go to the address itself
/// (rule L2). No entry at all says nothing of that.
pub const ACTION_REFUSE: u32 = 3;

macro_rules! abi {
    ($(#[$attr:meta])* pub struct $name:ident, $size:tt { $($(#[$field_attr:meta])* pub $field:ident: $ty:ty,)* }) => {
        $(#[$attr])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(C)]
        pub struct $name { $($(#[$field_attr])* pub $field: $ty,)* }

        const _: () = assert!(size_of::<$name>() == $size);

        impl $name {
            /// Name, offset and size of each field, for the test that holds the layout against BTF.
            pub const LAYOUT: &'static [(&'static str, usize, usize)] =
                &[$((stringify!($field), core::mem::offset_of!($name, $field), field_size(|v: &$name| &v.$field))),*];
        }

        // SAFETY: repr(C), fixed-width integers and byte arrays only, no padding (proven by the IntoBytes derive).
        #[cfg(feature = "user")]
        unsafe impl aya::Pod for $name {}
    };
}

mod binding;
mod observed;
mod sk_buff;
mod tracking;
mod version;

pub use binding::Binding;
pub use observed::{Counter, Counters, DropReason, Event, EventBudget, Hook};
pub use sk_buff::SkBuff;
pub use tracking::Tracking;
pub use version::OBSERVED_VERSION;

/// The size of the field that `_project` points at.
const fn field_size<T, F>(_project: fn(&T) -> &F) -> usize {
    size_of::<F>()
}

/// `struct bpf_spin_lock` of the kernel, which knows it by this name (linux/bpf.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct bpf_spin_lock {
    /// The kernel's own.
    pub val: u32,
}

abi! {
    /// Value of map `endpoints`: a local pod, by the interface index of its host-side veth.
    pub struct Endpoint, 64 {
        /// Interface index of its host-side veth, as in the key: who reads the value while it is replaced sees that it is another's.
        pub ifindex: u32,
        /// Number of the endpoint. Never given to another pod while the maps live (rule C3).
        pub id: u32,
        /// Policy for what the pod receives, or [`POLICY_NONE`].
        pub ingress_policy: u32,
        /// Policy for what the pod sends, or [`POLICY_NONE`].
        pub egress_policy: u32,
        /// The pod's IPv4 address, or zeros.
        pub ipv4: [u8; 4],
        /// The pod's IPv6 address, or zeros.
        pub ipv6: [u8; 16],
        /// MAC address of the interface in the pod as it was when it was bound; zeros: not known, so not checked (rule A6).
        pub mac: [u8; 6],
        /// [`ENDPOINT_FORWARDS`], [`ENDPOINT_PENDING`] or nothing.
        pub flags: u16,
        /// The pod's one link-local IPv6 address; zeros while none is known, and none is the pod's then (rules A6, A9).
        pub link_local: [u8; 16],
        /// The kernel's own. With it, the value of an interface can be replaced where it is (`BPF_F_LOCK`): else the kernel puts the new one elsewhere
        /// and gives the old one's place to another interface's at once, while programs may still read there.
        pub lock: bpf_spin_lock,
    }
}

abi! {
    /// An address in a map key: IPv6, or IPv4 mapped into IPv6 (`::ffff:a.b.c.d`). In words, or the programs would copy it byte by byte.
    #[repr(align(4))]
    pub struct Address, 16 {
        /// Network byte order.
        pub octets: [u8; 16],
    }
}

abi! {
    /// Value of map `identities`: the class of peers that an address belongs to, by longest prefix. Whole addresses are in map `addresses`.
    pub struct Identity, 8 {
        /// Number of the class, or [`IDENTITY_NONE`].
        pub identity: u32,
        /// [`IDENTITY_NODE`], [`IDENTITY_REMOTE_NODE`] or nothing.
        pub flags: u32,
    }
}

impl Identity {
    /// From both fields, as they are in memory.
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        zerocopy::transmute!(word)
    }
}

abi! {
    /// Value of map `addresses`: the class of peers of an address that has an entry of its own.
    pub struct Peer, 28 {
        /// The address, as in the key: who reads the value of one that is removed sees when its place is given to another's.
        pub address: Address,
        /// As in map `identities`.
        pub class: Identity,
        /// The kernel's own. With it a value is replaced where it is, see [`Endpoint::lock`]: no lookup misses it meanwhile.
        pub lock: bpf_spin_lock,
    }
}

abi! {
    /// Key of map `frontends`: where a Service is reached, before translation. The value is the [`Identity`] of its class of backends,
    /// which is never [`IDENTITY_NONE`].
    pub struct Frontend, 20 {
        /// A virtual IP, or [`Address::any`] for a NodePort, which every address of every node has.
        pub address: Address,
        /// The Service's port or its NodePort, network byte order.
        pub port: [u8; 2],
        /// IANA protocol number.
        pub protocol: u8,
        /// Zero.
        pub pad: u8,
    }
}

abi! {
    /// Key of map `senders`: a tagged packet by the device that brought it. The value is the interface index of the sender's host-side veth, or
    /// [`SENDER_AMBIGUOUS`]. A tag counts only where it comes by the bridge that its sender is behind: another node in the same kernel
    /// may have tags of its own.
    pub struct Sender, 8 {
        /// Interface index of a bridge that pods are behind.
        pub bridge: u32,
        /// [`Endpoint::number`] of the sender; 0 for a packet without a tag.
        pub number: u32,
    }
}

abi! {
    /// Key of map `forwards` behind its prefix length: addresses that a pod sends and receives for
    /// beside its own (rule A6). The value is 1.
    pub struct Forwarded, 20 {
        /// Interface index of the pod's host-side veth; always whole.
        pub ifindex: u32,
        /// The addresses.
        pub address: Address,
    }
}

impl Forwarded {
    /// Prefix length, in bits, of a whole address.
    pub const ONE_ADDRESS: u32 = 160;
}

abi! {
    /// Key of map `policies` behind its prefix length, and of map `ports`: what a policy says about an identity, protocol and port.
    pub struct PolicyMatch, 12 {
        /// Number of the policy.
        pub policy: u32,
        /// Identity of the peer.
        pub identity: u32,
        /// IANA protocol number.
        pub protocol: u8,
        /// Destination port, network byte order.
        pub port: [u8; 2],
        /// Never part of a prefix.
        pub pad: u8,
    }
}

impl PolicyMatch {
    /// Prefix length, in bits, of an entry for every protocol and port.
    pub const ALL_PROTOCOLS: u32 = 64;
    /// Prefix length, in bits, of an entry for every port of a protocol.
    pub const ALL_PORTS: u32 = 72;
    /// Prefix length, in bits, of an entry for one port: the longest.
    pub const ONE_PORT: u32 = 88;

    /// All of it, in words as they are in memory.
    #[inline(always)]
    pub const fn words(&self) -> [u32; 3] {
        zerocopy::transmute!(*self)
    }
}

abi! {
    /// Value of map `policies`.
    pub struct PolicyValue, 8 {
        /// [`ACTION_ACCEPT`] or, for the class of a frontend, [`ACTION_DEFER`] or
        /// [`ACTION_REFUSE`]; anything else drops.
        pub action: u32,
        /// Number of the rule that says so.
        pub rule: u32,
    }
}

impl PolicyValue {
    /// From both fields, as they are in memory.
    #[inline(always)]
    pub const fn from_words(words: [u32; 2]) -> Self {
        zerocopy::transmute!(words)
    }
}

abi! {
    /// Value of map `ports`: what a policy says of one port.
    pub struct PortValue, 24 {
        /// As in the key, see [`Peer::address`].
        pub entry: PolicyMatch,
        /// As in map `policies`.
        pub value: PolicyValue,
        /// The kernel's own, see [`Peer::lock`].
        pub lock: bpf_spin_lock,
    }
}

abi! {
    /// Key of map `flows`: a connection as its endpoint sees it, the same for both directions.
    pub struct FlowKey, 28 {
        /// [`Endpoint::id`].
        pub endpoint: u32,
        /// Address of the other side.
        pub remote: Address,
        /// The pod's port, or the identifier of an ICMP echo.
        pub local_port: [u8; 2],
        /// The other side's port. For an ICMP echo the [`Direction`] of its requests: pings both ways are two flows.
        pub remote_port: [u8; 2],
        /// IANA protocol number.
        pub protocol: u8,
        /// [`FlowKey::LEAVING`] or zero, then zeros.
        pub pad: [u8; 3],
    }
}

impl FlowKey {
    /// First byte of [`FlowKey::pad`]: what was judged where it left the node, with the addresses and ports that it had there (rule A5). No
    /// packet at a pod's hook asks for it.
    pub const LEAVING: u8 = 1;
}

abi! {
    /// Value of map `flows`.
    pub struct Flow, 56 {
        /// When the last packet came, passed or denied: nanoseconds of the monotonic clock, by the
        /// tick (`bpf_ktime_get_coarse_ns`).
        pub last_seen: u64,
        /// Packets that passed, both directions.
        pub packets: u64,
        /// Bytes that passed, both directions, link layer header included.
        pub bytes: u64,
        /// The policy that the connection was judged under.
        pub policy: u32,
        /// The epoch that it was judged in.
        pub epoch: u32,
        /// The [`Direction`] of the packet that opened it.
        pub initiator: u8,
        /// A [`crate::flow::State`].
        pub state: u8,
        /// The [tag](crate::tag) of the packets of the side that opened the connection: as the pod's own get it or, where the pod
        /// received the first, as they had it.
        pub tag: u16,
        /// Interface index of the local pod that opened the connection, where the pod that received
        /// it knows; else 0 (rule A5). Of a connection that the pod opened, the interface by which
        /// answers of another pod of the node come (rule A6).
        pub sender: u32,
        /// TCP: the last acknowledgement number of each side, by the [`Direction`] of its segments;
        /// 0: none yet.
        pub acknowledged: [u32; 2],
        /// TCP: the acknowledgement number by which the side that opened the connection would agree
        /// to the other one's answer, see [`crate::flow::after`], or that the other one opens it
        /// anew, see [`crate::flow::asks_anew`].
        pub claim: u32,
        /// TCP: what each side said on its own, see [`crate::flow`].
        pub marks: u8,
        /// Zeros.
        pub pad: [u8; 3],
    }
}

abi! {
    /// Value of map `flow_shares`, by [`Endpoint::number`]: how many flows an endpoint has. Entry 0
    /// is of all, see [`crate::quota`].
    pub struct FlowShare, 32 {
        /// Flows of the endpoint; of all, the shared places in use.
        pub flows: u64,
        /// Flows that it made beyond what it may have: the next one takes the place of one of
        /// these.
        pub beyond: u64,
        /// Of all: places that each endpoint has for itself.
        pub guaranteed: u64,
        /// Of all: places that are for all.
        pub shared: u64,
    }
}

impl FlowShare {
    /// Entries of the map.
    pub const NUMBER: usize = tag::MAX_NUMBER as usize + 1;
}

abi! {
    /// Key of map `fragments`: a fragmented packet as its endpoint sees it (rule C5).
    pub struct FragmentKey, 44 {
        /// [`Endpoint::id`].
        pub endpoint: u32,
        /// The number that all fragments share.
        pub identification: u32,
        /// Source address.
        pub source: Address,
        /// Destination address.
        pub destination: Address,
        /// IANA protocol number as the IP header has it; of IPv6 that of the fragment header.
        pub protocol: u8,
        /// A [`Direction`].
        pub direction: u8,
        /// Zeros.
        pub pad: [u8; 2],
    }
}

abi! {
    /// Value of map `fragments`: what only the first fragment tells.
    pub struct Fragment, 16 {
        /// When the first fragment passed: nanoseconds of the monotonic clock.
        pub seen: u64,
        /// Source port, or the identifier of an ICMP echo.
        pub source_port: [u8; 2],
        /// Destination port.
        pub destination_port: [u8; 2],
        /// IANA protocol number of the upper layer.
        pub protocol: u8,
        /// A [`crate::parse::Role`].
        pub role: u8,
        /// Where another fragment of the packet may begin at the least, in units of 8 bytes: behind
        /// all that was judged.
        pub least: u16,
    }
}

abi! {
    /// How long a flow may be silent before it counts for nothing (rule C3): seconds, by protocol and [`crate::flow::State`]. 0 stands for the
    /// default, see [`crate::flow::lifetime`].
    pub struct Lifetimes, 40 {
        /// TCP, packets of the initiator only.
        pub tcp_opening: u32,
        /// TCP, packets both ways.
        pub tcp_established: u32,
        /// TCP, after a FIN.
        pub tcp_closing: u32,
        /// TCP, after a RST.
        pub tcp_closed: u32,
        /// UDP, packets of the initiator only.
        pub udp_opening: u32,
        /// UDP, packets both ways.
        pub udp_established: u32,
        /// SCTP, packets of the initiator only.
        pub sctp_opening: u32,
        /// SCTP, packets both ways.
        pub sctp_established: u32,
        /// Echo requests of ICMP and ICMPv6.
        pub icmp: u32,
        /// Every other protocol.
        pub other: u32,
    }
}

abi! {
    /// Value of map `config`, entry 0.
    pub struct Config, 60 {
        /// [`ABI_VERSION`].
        pub abi_version: u32,
        /// Raised when an address changes identity: flows are judged again (rule C2).
        pub epoch: u32,
        /// Events each CPU may write in a second; 0 turns them off.
        pub events_per_second: u32,
        /// The next [`Endpoint::id`]. Raised before a number is used, so that none is given twice, whenever the agent dies.
        pub next_endpoint: u32,
        /// The next policy number; as above.
        pub next_policy: u32,
        /// As the agent was told.
        pub lifetimes: Lifetimes,
    }
}

/// A direction as the pod sees it; the index of map `counters`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Direction {
    /// What the pod receives: hook `to_pod`.
    Ingress = 0,
    /// What the pod sends: hook `from_pod`.
    Egress = 1,
}

impl Direction {
    /// Both, by their number.
    pub const ALL: [Self; 2] = [Self::Ingress, Self::Egress];

    /// The other one.
    #[inline(always)]
    pub const fn opposite(self) -> Self {
        match self {
            Self::Ingress => Self::Egress,
            Self::Egress => Self::Ingress,
        }
    }

    /// From its number; any other number is egress, which is never a wrong index.
    #[inline(always)]
    pub const fn from_u8(number: u8) -> Self {
        if number == Self::Ingress as u8 {
            Self::Ingress
        } else {
            Self::Egress
        }
    }

    /// `ingress` or `egress`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

/// The number of the endpoint with an id, see [`Endpoint::number`].
#[inline(always)]
pub const fn number(id: u32) -> u16 {
    (id % tag::MAX_NUMBER as u32) as u16 + 1
}

impl Endpoint {
    /// Stand-in for a missing endpoint: denies everything.
    pub const CLOSED: Self = Self {
        ifindex: 0,
        id: 0,
        ingress_policy: POLICY_DENY,
        egress_policy: POLICY_DENY,
        ipv4: [0; 4],
        ipv6: [0; 16],
        mac: [0; 6],
        flags: 0,
        link_local: [0; 16],
        lock: bpf_spin_lock { val: 0 },
    };

    /// The number that [tags](crate::tag) carry, from 1 on: of the low bits of [`Endpoint::id`]. The agent gives no id whose number a living
    /// endpoint has.
    #[inline(always)]
    pub const fn number(&self) -> u16 {
        number(self.id)
    }

    /// Whether it is not known yet which pod this is.
    #[inline(always)]
    pub const fn is_pending(&self) -> bool {
        self.flags & ENDPOINT_PENDING != 0
    }

    /// The tag of a packet that the pod sends.
    #[inline(always)]
    pub const fn tag(&self, deferred: bool) -> u16 {
        tag::new(self.number(), deferred)
    }

    /// The policy of a direction.
    #[inline(always)]
    pub const fn policy(&self, direction: Direction) -> u32 {
        match direction {
            Direction::Ingress => self.ingress_policy,
            Direction::Egress => self.egress_policy,
        }
    }
}

impl Address {
    /// What an IPv4 address has in the place of the third word.
    const MAPPED: u32 = 0xffff_u32.to_be();

    /// An IPv4 address, mapped into IPv6.
    #[inline(always)]
    pub const fn from_ipv4(octets: [u8; 4]) -> Self {
        Self::from_words([0, 0, Self::MAPPED, u32::from_ne_bytes(octets)])
    }

    /// An IPv6 address.
    #[inline(always)]
    pub const fn from_ipv6(octets: [u8; 16]) -> Self {
        Self { octets }
    }

    /// From four words, each with its octets as they are in the address.
    #[inline(always)]
    pub const fn from_words(words: [u32; 4]) -> Self {
        zerocopy::transmute!(words)
    }

    /// The reverse.
    #[inline(always)]
    pub const fn words(&self) -> [u32; 4] {
        zerocopy::transmute!(*self)
    }

    /// The zero address of this one's family.
    #[inline(always)]
    pub const fn any(&self) -> Self {
        if self.is_ipv4() {
            Self::from_ipv4([0; 4])
        } else {
            Self { octets: [0; 16] }
        }
    }

    /// Whether it is an IPv4 address. In the header of an IPv6 packet it is none that anyone has.
    #[inline(always)]
    pub const fn is_ipv4(&self) -> bool {
        let [first, second, third, _] = self.words();
        first | second == 0 && third == Self::MAPPED
    }
}
