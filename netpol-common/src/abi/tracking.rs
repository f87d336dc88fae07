// SPDX-License-Identifier: Apache-2.0
//! What the programs need to ask the kernel's connection tracking.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::field_size;

abi! {
    /// Where the kernel keeps what its connection tracking knows: bytes of its `struct nf_conn`.
    /// The agent gives them to the programs when it loads them; no map has this.
    pub struct Tracking, 6 {
        /// Whether it can be asked: 1, else 0.
        pub access: u16,
        /// The first byte of `status`.
        pub status: u16,
        /// The byte that has `proto.tcp.seen[0].flags`.
        pub flags: u16,
    }
}

impl Tracking {
    /// The instruction that stands for the call of `bpf_skb_ct_lookup`, see [`SkBuff::CAST`](super::SkBuff::CAST).
    pub const LOOKUP: u64 = 0x6e70_6c6b_0000_2085;
    /// The same of `bpf_ct_release`.
    pub const RELEASE: u64 = 0x6e70_726c_0000_2085;
}
