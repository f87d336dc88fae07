// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! What the kernel leaves to the device that a packet leaves by: read from its own `struct sk_buff`, as no field of `__sk_buff` tells.

use core::{arch::asm, ptr::read_volatile};

use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_probe_read_kernel};
use netpol_common::{abi::SkBuff, checksum::PartialChecksum};

/// What `ip_summed` says of a packet whose checksum is still to be written (linux/skbuff.h).
const CHECKSUM_PARTIAL: u8 = 3;
const ETHERNET_LENGTH: i32 = 14;

/// Set by the agent when it loads the programs: to the verifier these are constants.
#[unsafe(no_mangle)]
static SK_BUFF: SkBuff = SkBuff {
    access: SkBuff::UNKNOWN,
    first: 0,
    length: 0,
    ip_summed: 0,
    ip_summed_shift: 0,
    csum_start: 0,
    csum_offset: 0,
    network_header: 0,
    mac_header: 0,
};

/// Where a packet's frame begins.
#[derive(Clone, Copy)]
pub enum Origin {
    /// At the link layer header.
    Link,
    /// At a link layer header of Ethernet, were there one before the network header.
    Network,
}

/// A part of a `struct sk_buff`.
pub type Part = [u64; SkBuff::MAX_LENGTH as usize / 8];

/// The checksum of a packet that is still to be written. What it takes of the kernel's structure goes into `part`.
///
/// # Safety
/// Nobody else uses `part`.
#[inline(always)]
pub unsafe fn partial(skb: *mut __sk_buff, origin: Origin, part: *mut Part) -> PartialChecksum {
    // SAFETY: it is valid; volatile, so that what the object has is not taken for what the agent put there.
    let layout = unsafe { read_volatile(&raw const SK_BUFF) };
    let (start, failed) = match layout.access {
        // SAFETY: as above.
        SkBuff::IN_PLACE => (unsafe { kernels(skb).add(usize::from(layout.first)) }, false),
        SkBuff::COPIED if layout.length <= SkBuff::MAX_LENGTH => {
            // SAFETY: the context of a program of this kind is the packet's `sk_buff`; the helper writes so many bytes, or zeros if it fails.
            let failed = unsafe {
                bpf_probe_read_kernel(
                    part.cast(),
                    u32::from(layout.length),
                    skb.cast::<u8>().add(usize::from(layout.first)).cast(),
                ) != 0
            };
            (part.cast::<u8>().cast_const(), failed)
        }
        _ => return PartialChecksum::NONE,
    };
    // SAFETY: within the structure, or what was copied of it; the verifier checks it again.
    let byte = |at: u16| unsafe { *start.add(usize::from(at)) };
    // SAFETY: as above, and fields are aligned.
    let field = |at: u16| unsafe { *start.add(usize::from(at)).cast::<u16>() };
    let (origin, before) = match origin {
        Origin::Link => (field(layout.mac_header), 0),
        Origin::Network => (field(layout.network_header), ETHERNET_LENGTH),
    };
    PartialChecksum {
        is_pending: failed || byte(layout.ip_summed) >> layout.ip_summed_shift & 3 == CHECKSUM_PARTIAL,
        start: i32::from(field(layout.csum_start)) - i32::from(origin) + before,
        offset: field(layout.csum_offset),
    }
}

/// The kernel's own structure behind a context: what `bpf_cast_to_kern_ctx` returns, to which the verifier gives the type of that.
#[inline(always)]
fn kernels(skb: *mut __sk_buff) -> *const u8 {
    let kernels: *const u8;
    // SAFETY: a call of a kernel function, which takes the context and returns it; the registers that a call may change are named.
    unsafe {
        asm!(
            ".quad {cast}",
            cast = const SkBuff::CAST,
            inlateout("r1") skb => _,
            lateout("r0") kernels,
            lateout("r2") _,
            lateout("r3") _,
            lateout("r4") _,
            lateout("r5") _,
            options(readonly, nostack),
        );
    }
    kernels
}
