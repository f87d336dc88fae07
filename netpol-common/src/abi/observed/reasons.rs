// SPDX-License-Identifier: Apache-2.0
//! The table of drop reasons. Each line defines a reason, its name in events and metrics, its
//! counter, and its line in `docs/metrics.md`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{super::field_size, Counter};

macro_rules! drop_reasons {
    ($($reason:ident = $number:literal, $name:ident: $meaning:literal;)*) => {
        /// Why a packet was dropped.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum DropReason {
            $(#[doc = $meaning] $reason = $number,)*
        }

        impl DropReason {
            /// All reasons, in the order of their numbers.
            pub const ALL: [Self; [$($number),*].len()] = [$(Self::$reason),*];

            /// Returns the name in events, logs and metrics.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$reason => stringify!($name),)*
                }
            }

            /// Returns one sentence for people, with the rule.
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$reason => $meaning,)*
                }
            }

            /// Looks up the reason for a number in an event.
            pub fn from_u8(number: u8) -> Option<Self> {
                Self::ALL.into_iter().find(|reason| *reason as u8 == number)
            }
        }

        abi! {
            /// Value of map `counters`, per CPU, by [`Direction`](crate::abi::Direction).
            pub struct Counters, (size_of::<Counter>() * (DropReason::ALL.len() + 2) + size_of::<u64>()) {
                /// Packets that passed.
                pub forwarded: Counter,
                $(#[doc = $meaning] pub $name: Counter,)*
                /// Flow entries made, with the bytes of their first packets.
                pub flows_created: Counter,
                /// Flow entries that could not be written. Their connections are judged again, and
                /// their replies may be dropped.
                pub flow_insert_failures: u64,
            }
        }

        impl Counters {
            /// Adds up the counts of two CPUs.
            pub fn plus(&self, other: &Self) -> Self {
                Self {
                    forwarded: self.forwarded.plus(other.forwarded),
                    $($name: self.$name.plus(other.$name),)*
                    flows_created: self.flows_created.plus(other.flows_created),
                    flow_insert_failures: self.flow_insert_failures + other.flow_insert_failures,
                }
            }

            /// Returns the counter of a drop reason.
            #[inline(always)]
            pub fn dropped(&mut self, reason: DropReason) -> &mut Counter {
                match reason {
                    $(DropReason::$reason => &mut self.$name,)*
                }
            }
        }
    };
}

// The numbers have no gaps: the programs find a counter by its reason's number.
drop_reasons! {
    Policy = 1, policy: "The endpoint is isolated and no rule allows it (rules I1, I4).";
    Malformed = 2, malformed:
        "A header is cut short or contradicts itself, or a device is to write a checksum over it (rule F2).";
    EtherType = 3, ether_type: "Neither IPv4, IPv6 nor ARP (rule F2).";
    Vlan = 4, vlan: "VLAN tagged (rule F2).";
    Fragment = 5, fragment: "A fragment whose first fragment was not seen or did not pass, or that the kernel could not copy (rule C5).";
    ExtensionHeaders = 6, extension_headers: "More IPv6 extension headers than are read (rule F3).";
    NoEndpoint = 7, no_endpoint:
        "The interface has no endpoint: its pod is not known yet (rules B2, A8), or map `endpoints` is full or was changed by hand (rule L1).";
    EgressBackend = 8, egress_backend:
        "The egress policy of the pod that sent it does not allow the backend that a Service led to (rule A5).";
    UnknownSender = 9, unknown_sender:
        "Nothing tells which pod of this node sent it and not every pod may reach its destination (rule A5), or a pod forged its source in a tunnel (rule A6).";
    Spoofed = 10, spoofed: "The pod sent it from an address, IP or MAC, that is not the pod's (rule A6).";
    NotOwnAddress = 11, not_own_address:
        "It came to a pod whose IP or MAC address is not the one that it is for (rule A9).";
}

const _: () = {
    let mut at = 0;
    while at < DropReason::ALL.len() {
        assert!(DropReason::ALL[at] as usize == at + 1);
        at += 1;
    }
};
