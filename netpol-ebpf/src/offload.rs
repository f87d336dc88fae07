// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Reads what the kernel leaves to the device that a packet leaves by. It comes from the kernel's
//! own `struct sk_buff`, because no field of `__sk_buff` has it.

use core::{arch::asm, ptr::read_volatile};

use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_probe_read_kernel};
use netpol_common::{abi::SkBuff, checksum::PartialChecksum};

/// Value of `ip_summed` for a packet whose checksum is still to be written (linux/skbuff.h).
const CHECKSUM_PARTIAL: u8 = 3;
const ETHERNET_LENGTH: i32 = 14;

/// The agent sets this when it loads the programs. To the verifier, its fields are constants.
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

/// Start of a packet's frame.
#[derive(Clone, Copy)]
pub enum FrameStart {
    /// The link layer header.
    Link,
    /// An assumed Ethernet header before the network header.
    Network,
}

/// Copy of a part of a `struct sk_buff`.
pub type Part = [u64; SkBuff::MAX_LENGTH as usize / 8];

/// Returns the checksum of a packet that is still to be written. Copies the fields of the kernel's
/// structure into `part` where that is needed.
///
/// # Safety
/// Nobody else uses `part`.
#[inline(always)]
pub unsafe fn partial(skb: *mut __sk_buff, frame: FrameStart, part: *mut Part) -> PartialChecksum {
    // SAFETY: a valid reference; volatile, so that the compiler does not use the object's value
    // instead of the agent's.
    let layout = unsafe { read_volatile(&raw const SK_BUFF) };
    let (start, failed) = match layout.access {
        // SAFETY: as above.
        SkBuff::IN_PLACE => (unsafe { kernels(skb).add(usize::from(layout.first)) }, false),
        SkBuff::COPIED if layout.length <= SkBuff::MAX_LENGTH => {
            // SAFETY: the context of a program of this kind is the packet's `sk_buff`; the helper
            // writes so many bytes, or zeros if it fails.
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
    // SAFETY: within the structure, or within its copy; the verifier checks it again.
    let byte = |at: u16| unsafe { *start.add(usize::from(at)) };
    // SAFETY: as above, and fields are aligned.
    let field = |at: u16| unsafe { *start.add(usize::from(at)).cast::<u16>() };
    let (origin, before) = match frame {
        FrameStart::Link => (field(layout.mac_header), 0),
        FrameStart::Network => (field(layout.network_header), ETHERNET_LENGTH),
    };
    PartialChecksum {
        is_pending: failed || byte(layout.ip_summed) >> layout.ip_summed_shift & 3 == CHECKSUM_PARTIAL,
        start: i32::from(field(layout.csum_start)) - i32::from(origin) + before,
        offset: field(layout.csum_offset),
    }
}

/// Returns the kernel's own structure of a context, as `bpf_cast_to_kern_ctx` does. The verifier
/// gives the result that structure's type.
#[inline(always)]
fn kernels(skb: *mut __sk_buff) -> *const u8 {
    let kernels: *const u8;
    // SAFETY: a call of a kernel function that takes the context and returns it; all registers that
    // a call may change are named.
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
