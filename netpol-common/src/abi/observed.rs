// SPDX-License-Identifier: Apache-2.0
//! What the programs report: counters, and events of dropped packets.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Address, field_size};

mod reasons;

pub use reasons::{Counters, DropReason};

abi! {
    /// Record of the ring buffer `events`: one dropped packet.
    pub struct Event, 80 {
        /// Time of the drop: nanoseconds of the monotonic clock, at the resolution of a tick
        /// (`bpf_ktime_get_coarse_ns`).
        pub timestamp: u64,
        /// [`Endpoint::id`](super::Endpoint::id) of the pod at whose hook the packet was dropped.
        /// Where the packet would leave the node, that of its sender.
        pub endpoint: u32,
        /// Interface index of that pod's host-side veth, or of the device by which the packet would
        /// leave.
        pub ifindex: u32,
        /// Interface index of the host-side veth of the subject, the pod whose policy dropped the
        /// packet; 0 if nothing tells which pod it is.
        pub subject: u32,
        /// Policy that dropped it, or [`NO_POLICY`](super::NO_POLICY).
        pub policy: u32,
        /// Identity of the other side, or [`IDENTITY_NONE`](super::IDENTITY_NONE).
        pub identity: u32,
        /// Source address; zeros if parsing did not come that far.
        pub source: Address,
        /// Destination address; zeros if parsing did not come that far.
        pub destination: Address,
        /// Source port, or zeros.
        pub source_port: [u8; 2],
        /// Destination port, or zeros.
        pub destination_port: [u8; 2],
        /// IANA protocol number, or 0.
        pub protocol: u8,
        /// The [`Direction`](super::Direction) of the subject's policy: egress if the subject
        /// opened the connection, ingress if it received it.
        pub direction: u8,
        /// A [`DropReason`].
        pub reason: u8,
        /// A [`Hook`].
        pub hook: u8,
        /// 1 if the packet goes against the direction that opened its connection, else 0.
        pub reply: u8,
        /// Zeros.
        pub pad: [u8; 3],
        /// Length of the frame in bytes.
        pub length: u32,
        /// Events of this endpoint that this CPU left out since the last one, because of the rate
        /// limit or a full buffer.
        pub suppressed: u32,
    }
}

abi! {
    /// Counts packets and bytes.
    pub struct Counter, 16 {
        /// Packets.
        pub packets: u64,
        /// Bytes, link layer header included.
        pub bytes: u64,
    }
}

impl Counter {
    pub(crate) const fn plus(self, other: Self) -> Self {
        Self {
            packets: self.packets + other.packets,
            bytes: self.bytes + other.bytes,
        }
    }
}

abi! {
    /// Value of map `event_budget`, per CPU, by [`Endpoint::number`](super::Endpoint::number): the
    /// rate limit of events. Entry 0 limits all endpoints together.
    pub struct EventBudget, 16 {
        /// Start of the current second: nanoseconds of the monotonic clock, at the resolution of a
        /// tick.
        pub window_start: u64,
        /// Events written in this second.
        pub written: u32,
        /// Events left out since the last one written.
        pub suppressed: u32,
    }
}

/// The programs that meet packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Hook {
    /// Meets what a pod receives.
    ToPod = 0,
    /// Meets what a pod sends.
    FromPod = 1,
    /// Meets what leaves the node.
    ToNetwork = 2,
}

impl Hook {
    /// Returns the program's name; `None` for a number that no hook has.
    pub const fn name_of(number: u8) -> Option<&'static str> {
        match number {
            0 => Some("to_pod"),
            1 => Some("from_pod"),
            2 => Some("to_network"),
            _ => None,
        }
    }
}
