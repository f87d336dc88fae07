// SPDX-License-Identifier: Apache-2.0
//! What the programs tell: counters, and events of dropped packets.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Address, field_size};

abi! {
    /// Record of the ring buffer `events`: one dropped packet.
    pub struct Event, 80 {
        /// Nanoseconds of the monotonic clock, by the tick (`bpf_ktime_get_coarse_ns`).
        pub timestamp: u64,
        /// [`Endpoint::id`](super::Endpoint::id) of the pod at whose hook it was dropped; of the sender, where it would leave the node.
        pub endpoint: u32,
        /// Interface index of that pod's host-side veth, or of the device that the packet would leave by.
        pub ifindex: u32,
        /// Interface index of the host-side veth of the subject, the pod whose policy dropped it; 0 where nothing tells which pod it is.
        pub subject: u32,
        /// Policy that dropped it, or [`POLICY_NONE`](super::POLICY_NONE).
        pub policy: u32,
        /// Identity of the other side, or [`IDENTITY_NONE`](super::IDENTITY_NONE).
        pub identity: u32,
        /// Source address, zeros if parsing did not come that far.
        pub source: Address,
        /// Destination address, zeros if parsing did not come that far.
        pub destination: Address,
        /// Source port or zeros.
        pub source_port: [u8; 2],
        /// Destination port or zeros.
        pub destination_port: [u8; 2],
        /// IANA protocol number, or 0.
        pub protocol: u8,
        /// A [`Direction`](super::Direction): of the subject's policy. The subject opened the connection (egress) or received it.
        pub direction: u8,
        /// A [`DropReason`].
        pub reason: u8,
        /// A [`Hook`].
        pub hook: u8,
        /// 1 if the packet goes against the direction in which its connection was opened, else 0.
        pub reply: u8,
        /// Zeros.
        pub pad: [u8; 3],
        /// Length of the frame, bytes.
        pub length: u32,
        /// Events of this endpoint that this CPU left out since the last one, because of the rate
        /// limit or a full buffer.
        pub suppressed: u32,
    }
}

abi! {
    /// Packets and bytes.
    pub struct Counter, 16 {
        /// Packets.
        pub packets: u64,
        /// Bytes, link layer header included.
        pub bytes: u64,
    }
}

abi! {
    /// Value of map `counters`, per CPU, by [`Direction`](super::Direction).
    pub struct Counters, 216 {
        /// Passed.
        pub forwarded: Counter,
        /// Dropped: [`DropReason::Policy`].
        pub policy: Counter,
        /// Dropped: [`DropReason::Malformed`].
        pub malformed: Counter,
        /// Dropped: [`DropReason::EtherType`].
        pub ether_type: Counter,
        /// Dropped: [`DropReason::Vlan`].
        pub vlan: Counter,
        /// Dropped: [`DropReason::Fragment`].
        pub fragment: Counter,
        /// Dropped: [`DropReason::ExtensionHeaders`].
        pub extension_headers: Counter,
        /// Dropped: [`DropReason::NoEndpoint`].
        pub no_endpoint: Counter,
        /// Dropped: [`DropReason::EgressBackend`].
        pub egress_backend: Counter,
        /// Dropped: [`DropReason::UnknownSender`].
        pub unknown_sender: Counter,
        /// Dropped: [`DropReason::Spoofed`].
        pub spoofed: Counter,
        /// Dropped: [`DropReason::NotOwnAddress`].
        pub not_own_address: Counter,
        /// Flow entries made (packets; bytes of their first packet).
        pub flows_created: Counter,
        /// Flow entries that could not be written; the connection is judged again, its replies may be dropped.
        pub flow_insert_failures: u64,
    }
}

abi! {
    /// Value of map `event_budget`, per CPU, by [`Endpoint::number`](super::Endpoint::number): the
    /// rate limit of events. Entry 0 is of all.
    pub struct EventBudget, 16 {
        /// Start of the current second, nanoseconds of the monotonic clock by the tick.
        pub window_start: u64,
        /// Events written in it.
        pub written: u32,
        /// Events left out since the last one written.
        pub suppressed: u32,
    }
}

/// Where a packet is met: the programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Hook {
    /// What a pod receives.
    ToPod = 0,
    /// What a pod sends.
    FromPod = 1,
    /// What leaves the node.
    ToNetwork = 2,
}

impl Hook {
    /// The program's name; `None` for a number that no hook has.
    pub const fn name_of(number: u8) -> Option<&'static str> {
        match number {
            0 => Some("to_pod"),
            1 => Some("from_pod"),
            2 => Some("to_network"),
            _ => None,
        }
    }
}

/// Why a packet was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum DropReason {
    /// The endpoint is isolated and no rule allows it (rules I1, I4).
    Policy = 1,
    /// A header is cut short or contradicts itself, or a device is to write a checksum over it (rule F2).
    Malformed = 2,
    /// Neither IPv4, IPv6 nor ARP (rule F2).
    EtherType = 3,
    /// VLAN tagged (rule F2).
    Vlan = 4,
    /// A fragment whose first fragment was not seen, or did not pass (rule C5).
    Fragment = 5,
    /// More IPv6 extension headers than are walked (rule F3).
    ExtensionHeaders = 6,
    /// The programs are on an interface that map `endpoints` does not know: it was too full, or was changed by hand (rule L1).
    NoEndpoint = 7,
    /// The pod that sent it is isolated for egress, and its policy does not allow the backend that a Service led to (rule A5).
    EgressBackend = 8,
    /// A pod of this node sent it through a Service with masquerade, its tag was overwritten on the way, and not every pod may reach the
    /// backend (rule A5).
    UnknownSender = 9,
    /// The pod sent it with a source or MAC address that is not the pod's (rule A6).
    Spoofed = 10,
    /// It came to a pod that has neither the address nor the MAC address that it is for (rule A9).
    NotOwnAddress = 11,
}

impl DropReason {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Policy,
        Self::Malformed,
        Self::EtherType,
        Self::Vlan,
        Self::Fragment,
        Self::ExtensionHeaders,
        Self::NoEndpoint,
        Self::EgressBackend,
        Self::UnknownSender,
        Self::Spoofed,
        Self::NotOwnAddress,
    ];

    /// Its name in logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::Malformed => "malformed",
            Self::EtherType => "ether_type",
            Self::Vlan => "vlan",
            Self::Fragment => "fragment",
            Self::ExtensionHeaders => "extension_headers",
            Self::NoEndpoint => "no_endpoint",
            Self::EgressBackend => "egress_backend",
            Self::UnknownSender => "unknown_sender",
            Self::Spoofed => "spoofed",
            Self::NotOwnAddress => "not_own_address",
        }
    }

    /// From its number in an event.
    pub fn from_u8(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| *reason as u8 == number)
    }
}

impl Counters {
    /// The counter of a drop reason.
    #[inline(always)]
    pub fn dropped(&mut self, reason: DropReason) -> &mut Counter {
        match reason {
            DropReason::Policy => &mut self.policy,
            DropReason::Malformed => &mut self.malformed,
            DropReason::EtherType => &mut self.ether_type,
            DropReason::Vlan => &mut self.vlan,
            DropReason::Fragment => &mut self.fragment,
            DropReason::ExtensionHeaders => &mut self.extension_headers,
            DropReason::NoEndpoint => &mut self.no_endpoint,
            DropReason::EgressBackend => &mut self.egress_backend,
            DropReason::UnknownSender => &mut self.unknown_sender,
            DropReason::Spoofed => &mut self.spoofed,
            DropReason::NotOwnAddress => &mut self.not_own_address,
        }
    }
}
