// SPDX-License-Identifier: Apache-2.0
//! Byte layouts of the maps. Each is `repr(C)` without implicit padding, which zerocopy's derives
//! enforce. Its size is asserted at compile time, and a test compares it with the BTF of the
//! object. A change here needs a new [`ABI_VERSION`]; `observed`, by which the programs report, has
//! an [`OBSERVED_VERSION`] of its own, which is computed.
//!
//! Integers are in host byte order. Addresses and ports are byte arrays in network byte order.

use crate::tag;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Version of the layouts below. It is part of the pin path, so agents of different layouts never
/// share a map, but for those whose digest in [`LAYOUTS`] is the same: see there what else to
/// raise.
pub const ABI_VERSION: u32 = 7;

/// Policy id of an endpoint that nothing restricts in a direction: no policy isolates it (rule I1).
pub const POLICY_UNRESTRICTED: u32 = 0;

/// Stands in for a policy id: no policy decided. Says nothing of whether the endpoint is
/// isolated. Events and drops have it, and flows that were not judged.
pub const NO_POLICY: u32 = 0;

/// Policy id that denies everything. It never has entries.
pub const POLICY_DENY: u32 = u32::MAX;

/// Identity of an address that matches no peer of any policy in force.
pub const IDENTITY_NONE: u32 = 0;

/// [`Identity::flags`]: the address belongs to this node (rule A2).
pub const IDENTITY_NODE: u32 = 1;

/// [`Identity::flags`]: the address belongs to another node (rules A4, A5).
pub const IDENTITY_REMOTE_NODE: u32 = 2;

/// [`Endpoint::flags`]: the pod and its addresses are not known yet. Everything passes (rule B2).
pub const ENDPOINT_PENDING: u16 = 1 << 1;
/// [`Endpoint::flags`]: the pod also sends and receives for its addresses in map `forwards` (rule
/// A6).
pub const ENDPOINT_FORWARDS: u16 = 1;

/// Value of map `senders` at number 0: pods are behind this bridge, but nothing tells which of them
/// sent an untagged packet.
pub const SENDER_AMBIGUOUS: u32 = u32::MAX;

/// Stands for the bridge in keys of map `senders` that hold every sender, for packets that the
/// kernel took apart again without telling how they came.
pub const NO_INTERFACE: u32 = 0;

/// [`PolicyValue::action`]: the packet is dropped, as if the policy had no entry for it.
pub const ACTION_DENY: u32 = 0;

/// [`PolicyValue::action`]: the packet passes.
pub const ACTION_ACCEPT: u32 = 1;

/// [`PolicyValue::action`]: some backends of a Service are allowed, or the frontend's own address
/// is. The packet passes here and is judged again once it is known where it ends (rules A5, A9).
pub const ACTION_DEFER: u32 = 2;

macro_rules! abi {
    ($(#[$attr:meta])* pub struct $name:ident, $size:tt { $($(#[$field_attr:meta])* pub $field:ident: $ty:ty,)* }) => {
        $(#[$attr])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(C)]
        pub struct $name { $($(#[$field_attr])* pub $field: $ty,)* }

        const _: () = assert!(size_of::<$name>() == $size);

        impl $name {
            /// Name, offset and size of each field, for the test that compares the layout with BTF.
            pub const LAYOUT: &'static [(&'static str, usize, usize)] =
                &[$((stringify!($field), core::mem::offset_of!($name, $field), field_size(|v: &$name| &v.$field))),*];
        }

        // SAFETY: repr(C), only fixed-width integers and byte arrays, no padding (the IntoBytes
        // derive proves it).
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
pub use version::{LAYOUTS, OBSERVED_VERSION};

/// The size of the field that `_project` points at.
const fn field_size<T, F>(_project: fn(&T) -> &F) -> usize {
    size_of::<F>()
}

/// The kernel's `struct bpf_spin_lock`. The kernel recognises it by this name (linux/bpf.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct bpf_spin_lock {
    /// Used by the kernel only.
    pub val: u32,
}

abi! {
    /// Value of map `endpoints`: a local pod. The key is the interface index of its host-side veth.
    pub struct Endpoint, 64 {
        /// Interface index of the host-side veth, as in the key. A reader of a value that is being
        /// replaced sees that it belongs to another interface.
        pub ifindex: u32,
        /// Id of the endpoint. No other pod gets it while the maps live (rule C3).
        pub id: u32,
        /// Policy for what the pod receives, or [`POLICY_UNRESTRICTED`].
        pub ingress_policy: u32,
        /// Policy for what the pod sends, or [`POLICY_UNRESTRICTED`].
        pub egress_policy: u32,
        /// The pod's IPv4 address, or zeros.
        pub ipv4: [u8; 4],
        /// The pod's IPv6 address, or zeros.
        pub ipv6: [u8; 16],
        /// MAC address of the pod's interface when it was bound. Zeros: not known, so not checked
        /// (rule A6).
        pub mac: [u8; 6],
        /// [`ENDPOINT_FORWARDS`], [`ENDPOINT_PENDING`] or nothing.
        pub flags: u16,
        /// The pod's one link-local IPv6 address. Zeros: none is known, so no link-local address is
        /// the pod's (rules A6, A9).
        pub link_local: [u8; 16],
        /// Used by the kernel only. It allows replacing a value in place (`BPF_F_LOCK`). Otherwise
        /// the kernel puts the new value elsewhere and reuses the old place at once for another
        /// interface, while programs may still read it.
        pub lock: bpf_spin_lock,
    }
}

abi! {
    /// An address in a map key: IPv6, or IPv4 mapped into IPv6 (`::ffff:a.b.c.d`). It is aligned to
    /// words, because the programs would otherwise copy it byte by byte.
    #[repr(align(4))]
    pub struct Address, 16 {
        /// Network byte order.
        pub octets: [u8; 16],
    }
}

abi! {
    /// Value of map `identities`: the class of peers that an address belongs to, by longest prefix.
    /// Whole addresses are in map `addresses`.
    pub struct Identity, 8 {
        /// Number of the class, or [`IDENTITY_NONE`].
        pub identity: u32,
        /// [`IDENTITY_NODE`], [`IDENTITY_REMOTE_NODE`] or nothing.
        pub flags: u32,
    }
}

impl Identity {
    /// Converts both fields from one word, as they are in memory.
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        zerocopy::transmute!(word)
    }
}

abi! {
    /// Value of map `addresses`: the class of peers of an address with an entry of its own.
    pub struct Peer, 28 {
        /// The address, as in the key. A reader of a removed value sees when its place goes to
        /// another address.
        pub address: Address,
        /// The class, as in map `identities`.
        pub class: Identity,
        /// Used by the kernel only. It allows replacing a value in place, see [`Endpoint::lock`],
        /// so no lookup misses the value meanwhile.
        pub lock: bpf_spin_lock,
    }
}

abi! {
    /// Key of map `frontends`: where a Service is reached, before translation. The value is the
    /// [`Identity`] of its class of backends, never [`IDENTITY_NONE`].
    pub struct Frontend, 20 {
        /// A virtual IP. For a NodePort, which every address of every node has, [`Address::any`].
        pub address: Address,
        /// Port of the Service or NodePort, network byte order.
        pub port: [u8; 2],
        /// IANA protocol number.
        pub protocol: u8,
        /// Zero.
        pub pad: u8,
    }
}

abi! {
    /// Key of map `senders`: the tag of a packet and the device that brought it. The value is the
    /// interface index of the sender's host-side veth, or [`SENDER_AMBIGUOUS`].
    ///
    /// A tag counts only if the packet came by the bridge that its sender is behind, because
    /// another node in the same kernel may have tags of its own.
    pub struct Sender, 8 {
        /// Interface index of a bridge that pods are behind.
        pub bridge: u32,
        /// [`Endpoint::number`] of the sender; 0 for a packet without a tag.
        pub number: u32,
    }
}

abi! {
    /// Key of map `forwards`, after its prefix length: addresses that a pod sends and receives for
    /// besides its own (rule A6). The value is 1.
    pub struct Forwarded, 20 {
        /// Interface index of the pod's host-side veth. Every prefix includes all of it.
        pub ifindex: u32,
        /// The prefix of the addresses.
        pub address: Address,
    }
}

impl Forwarded {
    /// Prefix length, in bits, of a whole address.
    pub const ONE_ADDRESS: u32 = 160;
}

abi! {
    /// Key of map `policies`, after its prefix length, and of map `ports`: the identity, protocol
    /// and port that a policy is asked about.
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

    /// Converts the key to words, as they are in memory.
    #[inline(always)]
    pub const fn words(&self) -> [u32; 3] {
        zerocopy::transmute!(*self)
    }
}

abi! {
    /// Value of map `policies`.
    pub struct PolicyValue, 8 {
        /// [`ACTION_ACCEPT`]. For the class of a frontend also [`ACTION_DEFER`]. Anything else
        /// drops.
        pub action: u32,
        /// Number of the rule that decides.
        pub rule: u32,
    }
}

impl PolicyValue {
    /// Converts both fields from words, as they are in memory.
    #[inline(always)]
    pub const fn from_words(words: [u32; 2]) -> Self {
        zerocopy::transmute!(words)
    }
}

abi! {
    /// Value of map `ports`: a policy's verdict on one port.
    pub struct PortValue, 24 {
        /// The entry, as in the key, see [`Peer::address`].
        pub entry: PolicyMatch,
        /// The verdict, as in map `policies`.
        pub value: PolicyValue,
        /// Used by the kernel only, see [`Peer::lock`].
        pub lock: bpf_spin_lock,
    }
}

abi! {
    /// Key of map `flows`: a connection as its endpoint sees it. Both directions have the same key.
    pub struct FlowKey, 28 {
        /// [`Endpoint::id`].
        pub endpoint: u32,
        /// Address of the other side.
        pub remote: Address,
        /// The pod's port, or the identifier of an ICMP echo.
        pub local_port: [u8; 2],
        /// The other side's port. For an ICMP echo, the [`Direction`] of its requests: pings in
        /// both directions are two flows.
        pub remote_port: [u8; 2],
        /// IANA protocol number.
        pub protocol: u8,
        /// [`FlowKey::LEAVING`] or zero, then zeros.
        pub pad: [u8; 3],
    }
}

impl FlowKey {
    /// First byte of [`FlowKey::pad`]: the flow was judged where its packets leave the node, and
    /// its key has their addresses and ports there (rule A5). No packet at a pod's hook looks it
    /// up.
    pub const LEAVING: u8 = 1;
}

abi! {
    /// Value of map `flows`: the state of a connection.
    pub struct Flow, 56 {
        /// Time of the last packet, passed or denied: nanoseconds of the monotonic clock, at the
        /// resolution of a tick (`bpf_ktime_get_coarse_ns`).
        pub last_seen: u64,
        /// Packets that passed in both directions.
        pub packets: u64,
        /// Bytes that passed in both directions, link layer header included.
        pub bytes: u64,
        /// The policy that judged the connection.
        pub policy: u32,
        /// The epoch of that judgement.
        pub epoch: u32,
        /// The [`Direction`] of the packet that opened the connection.
        pub initiator: u8,
        /// A [`crate::flow::State`].
        pub state: u8,
        /// The [tag](crate::tag) of the opener's packets: the one that they get if the pod opened
        /// the connection, else the one that they came with.
        pub tag: u16,
        /// Interface index of the pod at the other end, if that is a pod of this node; else 0. If
        /// the other end opened the connection, its egress policy is asked, too (rule A5). If this
        /// one did, answers come by that interface only (rule A6).
        pub sender: u32,
        /// TCP: the last acknowledgement number of each side, by the [`Direction`] of its segments;
        /// 0 before the first.
        pub acknowledged: [u32; 2],
        /// TCP: the acknowledgement number by which the opener would agree to the other side's
        /// answer, see [`crate::flow::after`], or to the other side opening the connection anew,
        /// see [`crate::flow::asks_anew`].
        pub claim: u32,
        /// TCP: what each side claimed on its own, see [`crate::flow`].
        pub marks: u8,
        /// Zeros.
        pub pad: [u8; 3],
    }
}

abi! {
    /// Value of map `flow_shares`, by [`Endpoint::number`]: how many flows an endpoint has. Entry 0
    /// counts for all endpoints, see [`crate::quota`].
    pub struct FlowShare, 32 {
        /// Flows of the endpoint. In entry 0, the shared places in use.
        pub flows: u64,
        /// Flows that the endpoint made beyond its share. The next one takes the place of one of
        /// these.
        pub beyond: u64,
        /// Entry 0 only: places that each endpoint has for itself.
        pub guaranteed: u64,
        /// Entry 0 only: places that all endpoints share.
        pub shared: u64,
    }
}

impl FlowShare {
    /// Number of entries of the map.
    pub const NUMBER: usize = tag::MAX_NUMBER as usize + 1;
}

abi! {
    /// Key of map `fragments`: a fragmented packet as its endpoint sees it (rule C5).
    pub struct FragmentKey, 44 {
        /// [`Endpoint::id`].
        pub endpoint: u32,
        /// Identification number that all fragments share.
        pub identification: u32,
        /// Source address.
        pub source: Address,
        /// Destination address.
        pub destination: Address,
        /// IANA protocol number from the IP header; for IPv6, that of the fragment header.
        pub protocol: u8,
        /// A [`Direction`].
        pub direction: u8,
        /// Zeros.
        pub pad: [u8; 2],
    }
}

abi! {
    /// Value of map `fragments`: what only the first fragment of a packet tells.
    pub struct Fragment, 16 {
        /// Time when the first fragment passed: nanoseconds of the monotonic clock.
        pub seen: u64,
        /// Source port, or the identifier of an ICMP echo.
        pub source_port: [u8; 2],
        /// Destination port.
        pub destination_port: [u8; 2],
        /// IANA protocol number of the upper layer.
        pub protocol: u8,
        /// A [`crate::parse::Role`].
        pub role: u8,
        /// Least offset at which another fragment of the packet may begin, in units of 8 bytes:
        /// after all headers that were judged.
        pub least: u16,
    }
}

abi! {
    /// How long a flow may be silent before it no longer counts (rule C3), in seconds, by protocol
    /// and [`crate::flow::State`]. 0 stands for the default, see [`crate::flow::lifetime`].
    pub struct Lifetimes, 40 {
        /// TCP, before the opener went on after an answer.
        pub tcp_opening: u32,
        /// TCP, after the opener went on after an answer.
        pub tcp_established: u32,
        /// TCP, after a FIN from both sides.
        pub tcp_closing: u32,
        /// TCP, after a RST that its receiver must believe.
        pub tcp_closed: u32,
        /// UDP, packets from the initiator only.
        pub udp_opening: u32,
        /// UDP, packets in both directions.
        pub udp_established: u32,
        /// SCTP, packets from the initiator only.
        pub sctp_opening: u32,
        /// SCTP, packets in both directions.
        pub sctp_established: u32,
        /// ICMP and ICMPv6 echo.
        pub icmp: u32,
        /// Every other protocol.
        pub other: u32,
    }
}

abi! {
    /// Value of map `config`, entry 0: settings and counters of the agent.
    pub struct Config, 60 {
        /// [`ABI_VERSION`].
        pub abi_version: u32,
        /// The agent raises it when an address changes its identity. Flows are then judged again
        /// (rule C2).
        pub epoch: u32,
        /// Events that each CPU may write per second; 0 turns events off.
        pub events_per_second: u32,
        /// The next [`Endpoint::id`]. The agent raises it before it uses an id, so that no id is
        /// given twice, whenever the agent dies.
        pub next_endpoint: u32,
        /// The next policy number, raised in the same way.
        pub next_policy: u32,
        /// Lifetimes of flows from the agent's settings.
        pub lifetimes: Lifetimes,
    }
}

/// A direction as the pod sees it. Its number is the index of map `counters`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Direction {
    /// To the pod: hook `to_pod`.
    Ingress = 0,
    /// From the pod: hook `from_pod`.
    Egress = 1,
}

impl Direction {
    /// Both directions, in the order of their numbers.
    pub const ALL: [Self; 2] = [Self::Ingress, Self::Egress];

    /// Returns the other direction.
    #[inline(always)]
    pub const fn opposite(self) -> Self {
        match self {
            Self::Ingress => Self::Egress,
            Self::Egress => Self::Ingress,
        }
    }

    /// Converts a number. Any unknown number is egress, so the result is always a valid index.
    #[inline(always)]
    pub const fn from_u8(number: u8) -> Self {
        if number == Self::Ingress as u8 {
            Self::Ingress
        } else {
            Self::Egress
        }
    }

    /// Returns `ingress` or `egress`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

/// Returns the number of the endpoint with an id, see [`Endpoint::number`].
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

    /// Returns the number that [tags](crate::tag) carry: from 1 on, the id modulo their
    /// number. The agent gives no id whose number a living endpoint has.
    #[inline(always)]
    pub const fn number(&self) -> u16 {
        number(self.id)
    }

    /// Returns true if the pod behind the interface is not known yet.
    #[inline(always)]
    pub const fn is_pending(&self) -> bool {
        self.flags & ENDPOINT_PENDING != 0
    }

    /// Returns the tag of a packet that the pod sends.
    #[inline(always)]
    pub const fn tag(&self, deferred: bool) -> u16 {
        tag::new(self.number(), deferred)
    }

    /// Returns the policy of a direction.
    #[inline(always)]
    pub const fn policy(&self, direction: Direction) -> u32 {
        match direction {
            Direction::Ingress => self.ingress_policy,
            Direction::Egress => self.egress_policy,
        }
    }
}

impl Address {
    /// Third word of an IPv4 address that is mapped into IPv6.
    const MAPPED: u32 = 0xffff_u32.to_be();

    /// Maps an IPv4 address into IPv6.
    #[inline(always)]
    pub const fn from_ipv4(octets: [u8; 4]) -> Self {
        Self::from_words([0, 0, Self::MAPPED, u32::from_ne_bytes(octets)])
    }

    /// Wraps an IPv6 address.
    #[inline(always)]
    pub const fn from_ipv6(octets: [u8; 16]) -> Self {
        Self { octets }
    }

    /// Converts from four words, each with its octets in the order of the address.
    #[inline(always)]
    pub const fn from_words(words: [u32; 4]) -> Self {
        zerocopy::transmute!(words)
    }

    /// Converts to four words, the reverse of [`Address::from_words`].
    #[inline(always)]
    pub const fn words(&self) -> [u32; 4] {
        zerocopy::transmute!(*self)
    }

    /// Returns the zero address of the same family.
    #[inline(always)]
    pub const fn any(&self) -> Self {
        if self.is_ipv4() {
            Self::from_ipv4([0; 4])
        } else {
            Self { octets: [0; 16] }
        }
    }

    /// Returns true for an IPv4 address. In the header of an IPv6 packet, nobody has such an
    /// address.
    #[inline(always)]
    pub const fn is_ipv4(&self) -> bool {
        let [first, second, third, _] = self.words();
        first | second == 0 && third == Self::MAPPED
    }
}
