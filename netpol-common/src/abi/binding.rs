// SPDX-License-Identifier: Apache-2.0
//! State of an interface when it was bound, kept for a later agent. No program reads it.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Address, field_size};

abi! {
    /// Value of map `bindings`: the pod behind an interface, by interface index (rule A8). An entry
    /// lives as long as the interface. Texts are UTF-8, padded with zeros.
    pub struct Binding, 456 {
        /// Interface index of the host-side veth, as in the key.
        pub ifindex: u32,
        /// [`Binding::NOBODY`], [`Binding::SEEN`] or [`Binding::RECORD`].
        pub told_by: u32,
        /// MAC address of the host-side veth. An interface with the same index and another MAC
        /// address is a different one.
        pub mac: [u8; 6],
        /// MAC address of the pod's interface; zeros if it is not known.
        pub peer_mac: [u8; 6],
        /// The pod's link-local IPv6 address; zeros if none is known.
        pub link_local: [u8; 16],
        /// The addresses that were first seen in the pod, padded with zeros.
        pub addresses: [Address; 4],
        /// UID of the pod.
        pub uid: [[u8; 4]; 9],
        /// Namespace of the pod.
        pub namespace: [[u8; 32]; 2],
        /// Name of the pod.
        pub name: [[u8; 32]; 8],
    }
}

impl Binding {
    /// Nothing tells which pod it is.
    pub const NOBODY: u32 = 0;
    /// The addresses that were first seen tell the pod.
    pub const SEEN: u32 = 1;
    /// The container runtime's record tells the pod.
    pub const RECORD: u32 = 2;
}
