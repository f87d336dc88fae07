// SPDX-License-Identifier: Apache-2.0
//! Offsets of kernel fields that no helper exposes to the programs.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::field_size;

abi! {
    /// Where the kernel keeps its state of a packet: byte offsets into its `struct sk_buff`, which
    /// differ between kernels. The agent gives them to the programs when it loads them. No map
    /// holds this value.
    pub struct SkBuff, 18 {
        /// How the fields can be read: [`SkBuff::UNKNOWN`], [`SkBuff::COPIED`] or
        /// [`SkBuff::IN_PLACE`].
        pub access: u16,
        /// The first byte to read.
        pub first: u16,
        /// Number of bytes to read.
        pub length: u16,
        /// Byte that holds `ip_summed`, counted from the first byte to read, as in all fields
        /// below.
        pub ip_summed: u16,
        /// Position of the lowest bit of `ip_summed` in its byte.
        pub ip_summed_shift: u16,
        /// Byte offset of `csum_start`.
        pub csum_start: u16,
        /// Byte offset of `csum_offset`.
        pub csum_offset: u16,
        /// Byte offset of `network_header`.
        pub network_header: u16,
        /// Byte offset of `mac_header`.
        pub mac_header: u16,
}
}

impl SkBuff {
    /// [`SkBuff::access`]: the fields cannot be read.
    pub const UNKNOWN: u16 = 0;
    /// [`SkBuff::access`]: a helper copies them from the kernel's memory.
    pub const COPIED: u16 = 1;
    /// [`SkBuff::access`]: a program reads them through the pointer that the kernel function
    /// `bpf_cast_to_kern_ctx` makes of a context.
    pub const IN_PLACE: u16 = 2;
    /// Placeholder instruction for the call of that function. Its number differs between kernels,
    /// so the agent writes the real call into the object.
    pub const CAST: u64 = 0x6e70_636b_0000_2085;
    /// Maximum number of bytes that the programs read.
    pub const MAX_LENGTH: u16 = 128;
}
