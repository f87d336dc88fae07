// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The frame of an `__sk_buff`, for the parser.

use aya_ebpf::{helpers::generated::bpf_skb_load_bytes, programs::TcContext};
use netpol_common::parse::Frame;

/// A frame at a TC hook.
pub struct Skb<'a>(pub &'a TcContext);

impl Frame for Skb<'_> {
    #[inline(always)]
    fn read(&self, offset: usize, into: &mut [u8]) -> bool {
        // SAFETY: the context pointer is valid for the run of the program; the helper writes `into.len()` bytes or fails.
        unsafe {
            bpf_skb_load_bytes(
                self.0.skb.skb.cast(),
                offset as u32,
                into.as_mut_ptr().cast(),
                into.len() as u32,
            ) == 0
        }
    }

    #[inline(always)]
    fn vlan_tag(&self) -> bool {
        // SAFETY: the context pointer is valid for the run of the program; the verifier checks the access.
        unsafe { (*self.0.skb.skb).vlan_present != 0 }
    }
}

/// Whether the node itself made the packet: nothing was received that it came from (rules A2, A3). Only said at `to_pod`.
#[inline(always)]
pub fn from_node(ctx: &TcContext) -> bool {
    // SAFETY: as above.
    unsafe { (*ctx.skb.skb).ingress_ifindex == 0 }
}

/// Index of the interface whose hook runs.
#[inline(always)]
pub fn ifindex(ctx: &TcContext) -> u32 {
    // SAFETY: as above.
    unsafe { (*ctx.skb.skb).ifindex }
}
