// SPDX-License-Identifier: Apache-2.0
//! Where a kernel keeps what it tells no program.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::field_size;

abi! {
    /// Where the kernel keeps what it knows of a packet: bytes of its `struct sk_buff`, which differ from kernel to kernel. The agent gives them to
    /// the programs when it loads them; no map has this.
    pub struct SkBuff, 18 {
        /// How it can be read: [`SkBuff::UNKNOWN`], [`SkBuff::COPIED`] or [`SkBuff::IN_PLACE`].
        pub access: u16,
        /// The first byte to read.
        pub first: u16,
        /// Bytes to read.
        pub length: u16,
        /// The byte that has `ip_summed`, counted from the first, as are all that follow.
        pub ip_summed: u16,
        /// Bits below `ip_summed` in its byte.
        pub ip_summed_shift: u16,
        /// `csum_start`.
        pub csum_start: u16,
        /// `csum_offset`.
        pub csum_offset: u16,
        /// `network_header`.
        pub network_header: u16,
        /// `mac_header`.
        pub mac_header: u16,
}
}

impl SkBuff {
    /// [`SkBuff::access`]: not at all.
    pub const UNKNOWN: u16 = 0;
    /// [`SkBuff::access`]: with a helper that copies from the kernel's memory.
    pub const COPIED: u16 = 1;
    /// [`SkBuff::access`]: by the pointer that the kernel function `bpf_cast_to_kern_ctx` makes of a context.
    pub const IN_PLACE: u16 = 2;
    /// The instruction that stands for the call of that function, whose number differs from kernel to kernel: the agent puts it into the object.
    pub const CAST: u64 = 0x6e70_636b_0000_2085;
    /// Most bytes that the programs read.
    pub const MAX_LENGTH: u16 = 128;
}
