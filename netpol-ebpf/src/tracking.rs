// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Asks the kernel's connection tracking of this network namespace who opened a connection (rule
//! C4).

use core::{arch::asm, ptr::read_volatile};

use aya_ebpf::bindings::__sk_buff;
use netpol_common::{
    abi::{Address, FlowKey, Tracking},
    decide::Opener,
    parse::protocol,
};

use crate::{
    maps::{INHERITED, SCRATCH},
    scratch::Scratch,
};

/// The agent sets this when it loads the programs. To the verifier, its fields are constants.
#[unsafe(no_mangle)]
static TRACKING: Tracking = Tracking {
    access: 0,
    status: 0,
    flags: 0,
};

/// Bit `IPS_SEEN_REPLY` of `status` (linux/netfilter/nf_conntrack_common.h).
const ANSWERED: u32 = 1 << 1;
/// TCP flags of one side of a connection (linux/netfilter/nf_conntrack_tcp.h):
/// `IP_CT_TCP_FLAG_WINDOW_SCALE`, `IP_CT_TCP_FLAG_BE_LIBERAL`.
const WINDOW_SCALE: u8 = 0x01;
const BE_LIBERAL: u8 = 0x08;

/// Number of address words in `struct bpf_sock_tuple`. The ports follow them.
const IPV4_WORDS: usize = 2;
const IPV6_WORDS: usize = 8;

/// Arguments of the lookup: a `struct bpf_sock_tuple` and a `struct bpf_ct_opts`.
pub struct Question {
    tuple: [u32; IPV6_WORDS + 1],
    /// Network namespace, error, then single bytes: protocol, direction, and zeros.
    options: [u32; 3],
}

/// Number of bytes of [`Question::options`] that every kernel knows.
const OPTIONS: u64 = 12;
/// Value of `BPF_F_CURRENT_NETNS`.
const THIS_NAMESPACE: u32 = u32::MAX;

/// Returns who opened the connection of a packet that the pod with address `own` sends, or whose
/// answers it sends. For both, connection tracking has the addresses and ports that the pod sees.
///
/// The caller writes key and address to the scratch memory. This is a global function, so the
/// verifier checks it on its own.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn ask_tracking(skb: *mut __sk_buff) -> u32 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return Opener::Unknown as u32;
    };
    // SAFETY: a per-CPU value that only this run of the program uses, just looked up; the caller
    // wrote both fields.
    let (key, own) = unsafe { (&(*scratch).flow_key, &(*scratch).own) };
    // SAFETY: as above.
    (unsafe { opener(skb, scratch, key, own) }) as u32
}

/// # Safety
/// Only this run of the program uses `scratch`.
#[inline(always)]
unsafe fn opener(skb: *mut __sk_buff, scratch: *mut Scratch, key: &FlowKey, own: &Address) -> Opener {
    // SAFETY: a valid reference; volatile, so that the compiler does not use the object's value
    // instead of the agent's.
    let layout = unsafe { read_volatile(&raw const TRACKING) };
    // SAFETY: the value is not read.
    if layout.access == 0 || unsafe { INHERITED.get(own) }.is_some() {
        return Opener::Unknown;
    }
    // SAFETY: the caller's promise.
    let question = unsafe { &mut (*scratch).question };
    let [local, remote] = [key.local_port, key.remote_port].map(u16::from_ne_bytes);
    let ports = u32::from(local) | u32::from(remote) << 16;
    let size: u64;
    if own.is_ipv4() {
        question.tuple[0] = own.words()[3];
        question.tuple[1] = key.remote.words()[3];
        question.tuple[IPV4_WORDS] = ports;
        size = (IPV4_WORDS as u64 + 1) * 4;
    } else {
        question.tuple[..4].copy_from_slice(&own.words());
        question.tuple[4..IPV6_WORDS].copy_from_slice(&key.remote.words());
        question.tuple[IPV6_WORDS] = ports;
        size = (IPV6_WORDS as u64 + 1) * 4;
    }
    question.options = [THIS_NAMESPACE, 0, key.protocol.into()];
    let found: *const u8;
    // SAFETY: a call of a kernel function that reads the tuple and writes the options, both of the
    // sizes given.
    unsafe {
        asm!(
            ".quad {lookup}",
            lookup = const Tracking::LOOKUP,
            inlateout("r1") skb => _,
            inlateout("r2") &raw mut question.tuple => _,
            inlateout("r3") size => _,
            inlateout("r4") &raw mut question.options => _,
            inlateout("r5") OPTIONS => _,
            lateout("r0") found,
            options(nostack),
        );
    }
    if found.is_null() {
        return Opener::Unknown;
    }
    // SAFETY: within the structure that was found; the verifier checks it again.
    let (status, flags) = unsafe {
        (
            read_volatile(found.add(usize::from(layout.status)).cast::<u32>()),
            read_volatile(found.add(usize::from(layout.flags))),
        )
    };
    // SAFETY: the structure that was found is released once.
    unsafe {
        asm!(
            ".quad {release}",
            release = const Tracking::RELEASE,
            inlateout("r1") found => _,
            lateout("r0") _,
            lateout("r2") _,
            lateout("r3") _,
            lateout("r4") _,
            lateout("r5") _,
            options(nostack),
        );
    }
    // SAFETY: the caller's promise; volatile, as the kernel wrote it.
    let opened_here = unsafe { read_volatile(&raw const question.options[2]) } >> 8 & 0xff == 0;
    if key.protocol == protocol::TCP {
        // Connection tracking met this connection in the middle: its first packet may have been an
        // answer.
        if flags & (BE_LIBERAL | WINDOW_SCALE) == BE_LIBERAL {
            return Opener::Unknown;
        }
    } else if !opened_here && status & ANSWERED == 0 {
        return Opener::Unknown;
    }
    if opened_here { Opener::Pod } else { Opener::Remote }
}
