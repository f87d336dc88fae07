// SPDX-License-Identifier: Apache-2.0
//! Offsets that the programs need to ask the kernel's connection tracking.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::field_size;

abi! {
    /// Where the kernel keeps the state of its connection tracking: byte offsets into its `struct
    /// nf_conn`. The agent gives them to the programs when it loads them. No map holds this value.
    pub struct Tracking, 6 {
        /// 1 if connection tracking can be asked, else 0.
        pub access: u16,
        /// Offset of the first byte of `status`.
        pub status: u16,
        /// Offset of the byte `proto.tcp.seen[0].flags`.
        pub flags: u16,
    }
}

impl Tracking {
    /// Placeholder instruction for the call of `bpf_skb_ct_lookup`, see
    /// [`SkBuff::CAST`](super::SkBuff::CAST).
    pub const LOOKUP: u64 = 0x6e70_6c6b_0000_2085;
    /// Placeholder instruction for the call of `bpf_ct_release`.
    pub const RELEASE: u64 = 0x6e70_726c_0000_2085;
}
