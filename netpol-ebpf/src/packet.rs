// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Gives the parser access to the frame of an `__sk_buff`.

use core::arch::asm;

use aya_ebpf::{
    bindings::bpf_hdr_start_off::BPF_HDR_START_NET,
    helpers::generated::{bpf_skb_load_bytes, bpf_skb_load_bytes_relative},
    programs::TcContext,
};
use netpol_common::parse::{Frame, ether_type};

/// A frame at a TC hook.
pub struct Skb<'a>(pub &'a TcContext);

impl Frame for Skb<'_> {
    #[inline(always)]
    fn read(&self, offset: usize, into: &mut [u8]) -> bool {
        // SAFETY: the context pointer is valid for the run of the program; the helper writes
        // `into.len()` bytes or fails.
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
        // SAFETY: the context pointer is valid for the run of the program; the verifier checks
        // this.
        unsafe { (*self.0.skb.skb).vlan_present != 0 }
    }

    #[inline(always)]
    fn length(&self) -> usize {
        self.0.len() as usize
    }
}

/// A frame at a TC hook, read in words. Only the linear part of its buffer is readable, where
/// headers usually are.
pub struct Linear<'a>(pub &'a TcContext);

impl Frame for Linear<'_> {
    #[inline(always)]
    fn read(&self, offset: usize, into: &mut [u8]) -> bool {
        Skb(self.0).read(offset, into)
    }

    #[inline(always)]
    fn words<const N: usize>(&self, offset: usize) -> Option<[u32; N]> {
        let from = self.0.data() + offset;
        if from + size_of::<[u32; N]>() > self.0.data_end() {
            return None;
        }
        let mut words = [0; N];
        for (index, word) in words.iter_mut().enumerate() {
            // SAFETY: within the frame, as just checked; the verifier checks it again.
            *word = unsafe { word_at(from + index * size_of::<u32>()) };
        }
        Some(words)
    }

    #[inline(always)]
    fn vlan_tag(&self) -> bool {
        Skb(self.0).vlan_tag()
    }

    #[inline(always)]
    fn length(&self) -> usize {
        self.0.len() as usize
    }
}

/// Reads a word of a packet in one instruction. The kernel lets programs read words at any address
/// that its machine supports. Rust requires alignment, so the compiler would use four instructions.
///
/// # Safety
/// The word is within the packet.
#[inline(always)]
unsafe fn word_at(address: usize) -> u32 {
    let word: u64;
    // SAFETY: reads only this word, which is there by the caller's promise.
    unsafe {
        asm!("{word} = *(u32 *)({address} + 0)", word = out(reg) word, address = in(reg) address, options(pure, readonly, nostack));
    }
    word as u32
}

/// A packet that leaves the node, possibly by a device without Ethernet headers. The kernel tells
/// where the network header is. Of the header before it, only the EtherType is known.
pub struct Leaving<'a>(pub &'a TcContext);

const ETHERNET_LENGTH: usize = 14;

impl Frame for Leaving<'_> {
    #[inline(always)]
    fn read(&self, offset: usize, into: &mut [u8]) -> bool {
        if offset == 0 {
            let Some(at) = into.get_mut(12..ETHERNET_LENGTH) else {
                return false;
            };
            // SAFETY: the context pointer is valid for the run of the program; the verifier checks
            // the access.
            let ether_type = unsafe { (*self.0.skb.skb).protocol };
            at.copy_from_slice(&(ether_type as u16).to_ne_bytes());
            return true;
        }
        // SAFETY: as above; the helper writes `into.len()` bytes or fails.
        unsafe {
            bpf_skb_load_bytes_relative(
                self.0.skb.skb.cast(),
                offset.wrapping_sub(ETHERNET_LENGTH) as u32,
                into.as_mut_ptr().cast(),
                into.len() as u32,
                BPF_HDR_START_NET,
            ) == 0
        }
    }

    #[inline(always)]
    fn vlan_tag(&self) -> bool {
        false
    }

    /// Returns at least the real length: nothing tells whether the kernel counts a header before
    /// the network header.
    #[inline(always)]
    fn length(&self) -> usize {
        self.0.len() as usize + ETHERNET_LENGTH
    }
}

/// Returns true if the kernel marks the packet as IPv6.
#[inline(always)]
pub fn is_ipv6(ctx: &TcContext) -> bool {
    // SAFETY: as above.
    unsafe { (*ctx.skb.skb).protocol == u32::from(u16::from_ne_bytes(ether_type::IPV6)) }
}

/// Returns the index of the interface that the packet came by. At `to_pod`, 0 if the node itself
/// made the packet (rules A2, A3).
#[inline(always)]
pub fn ingress_ifindex(ctx: &TcContext) -> u32 {
    // SAFETY: as above.
    unsafe { (*ctx.skb.skb).ingress_ifindex }
}

/// Returns the index of the interface whose hook runs.
#[inline(always)]
pub fn ifindex(ctx: &TcContext) -> u32 {
    // SAFETY: as above.
    unsafe { (*ctx.skb.skb).ifindex }
}

/// Returns the packet's tag.
#[inline(always)]
pub fn tag(ctx: &TcContext) -> u16 {
    // SAFETY: as above.
    unsafe { (*ctx.skb.skb).tc_index as u16 }
}

/// Makes a private copy of a frame's headers. Returns false if there is no memory for it.
///
/// A frame that a bridge floods is one buffer for all receivers, including the node. The node
/// writes new headers into the later fragments of a packet that it reassembles and fragments again.
#[inline(always)]
pub fn unshare(ctx: &TcContext) -> bool {
    // Length 0 stands for the whole linear part.
    ctx.pull_data(0).is_ok()
}
