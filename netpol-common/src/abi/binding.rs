// SPDX-License-Identifier: Apache-2.0
//! What an interface was when it was bound, kept for an agent that comes later. No program reads it.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Address, field_size};

abi! {
    /// Value of map `bindings`: which pod is behind an interface, by its index (rule A8). It has the lifetime of the interface. Texts are UTF-8,
    /// filled up with zeros.
    pub struct Binding, 456 {
        /// Interface index of the host-side veth, as in the key.
        pub ifindex: u32,
        /// [`Binding::NOBODY`], [`Binding::SEEN`] or [`Binding::RECORD`].
        pub told_by: u32,
        /// MAC address of the host-side veth. An interface with the same index and another MAC address is another one.
        pub mac: [u8; 6],
        /// MAC address of the interface in the pod; zeros: not known.
        pub peer_mac: [u8; 6],
        /// The pod's link-local IPv6 address; zeros: none is known.
        pub link_local: [u8; 16],
        /// The addresses that were first seen in the pod, then zeros.
        pub addresses: [Address; 4],
        /// UID of the pod.
        pub uid: [[u8; 4]; 9],
        /// Its namespace.
        pub namespace: [[u8; 32]; 2],
        /// Its name.
        pub name: [[u8; 32]; 8],
    }
}

impl Binding {
    /// Nobody told which pod it is.
    pub const NOBODY: u32 = 0;
    /// The addresses that were first seen told it.
    pub const SEEN: u32 = 1;
    /// The runtime's record told it.
    pub const RECORD: u32 = 2;
}
