// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Writes new flows, each in a place that its endpoint may have (rule C4).

use core::{arch::asm, ptr::read_volatile};

use aya_ebpf::bindings::BPF_NOEXIST;
use netpol_common::{
    abi::{self, Flow, FlowKey, FlowShare},
    flow::{BOTH_FINS, State},
    quota::{Count, Quota, RING},
};

use crate::maps::{FLOW_RINGS, FLOW_SHARES, FLOWS, SCRATCH};

/// Writes the flow in the scratch memory, whose key has no flow yet, and returns whether there was
/// room. The flow takes a place of its endpoint, or replaces one that the endpoint opened beyond
/// its share. This is a global function, so the verifier checks it on its own.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn insert_flow() -> u32 {
    let Some((key, flow)) = to_insert() else {
        return 0;
    };
    insert(key, flow).into()
}

/// The flow to write, from the scratch memory.
#[inline(always)]
fn to_insert<'a>() -> Option<(&'a FlowKey, &'a Flow)> {
    let scratch = SCRATCH.get_ptr_mut(0)?;
    // SAFETY: a per-CPU value that only this run of the program uses, just looked up; the caller
    // wrote both fields.
    Some(unsafe { (&(*scratch).flow_key, &(*scratch).flow) })
}

#[inline(always)]
fn insert(key: &FlowKey, flow: &Flow) -> bool {
    let number = u32::from(abi::number(key.endpoint));
    // An entry of an array always exists, but the verifier demands the check.
    let (Some(own), Some(all)) = (FLOW_SHARES.get_ptr_mut(number), FLOW_SHARES.get_ptr_mut(0)) else {
        return false;
    };
    // SAFETY: as above; volatile, as the agent writes them.
    let quota = || unsafe {
        Quota {
            guaranteed: read_volatile(&raw const (*all).guaranteed),
            shared: read_volatile(&raw const (*all).shared),
        }
    };
    let (flows, used) = (&Flows(own), &Flows(all));
    if quota().take(flows, used) {
        return put(key, flow, quota(), flows, used);
    }
    if quota().ring() == 0 {
        return false;
    }
    // SAFETY: as above. A concurrent run takes another place, or a place that is taken twice is
    // counted once.
    let mut turn = unsafe { read_volatile(&raw const (*own).beyond) };
    // Established flows are evicted last, because anyone can ask for connections.
    for _ in 0..RING {
        if !place(number, turn, quota().ring()).is_some_and(is_established) {
            break;
        }
        turn = turn.wrapping_add(1);
    }
    let Some(place) = place(number, turn, quota().ring()) else {
        return false;
    };
    // All is read again: kept values would not fit on the stack, whose 512 bytes all callers share.
    let Some((key, flow)) = to_insert() else {
        return false;
    };
    // SAFETY: as above.
    unsafe { (&raw mut (*own).beyond).write_volatile(turn.wrapping_add(1)) };
    // SAFETY: as above.
    let earlier = unsafe { &mut *place };
    // Not a copy: with one, the verifier would exceed its limits.
    let known: &FlowKey = earlier;
    if FLOWS.remove(known).is_ok() {
        quota().give_back(flows, used);
    }
    *earlier = *key;
    quota().take_ring(flows, used);
    put(key, flow, quota(), flows, used)
}

/// Returns true if the flow in a place of a ring is established and neither side sent a FIN.
#[inline(always)]
fn is_established(place: *mut FlowKey) -> bool {
    // SAFETY: an array's value, which outlives the run of the program.
    let key: &FlowKey = unsafe { &*place };
    FLOWS.get_ptr(key).is_some_and(|flow| {
        // SAFETY: values of hash maps outlive the run of the program (RCU).
        let (state, marks) = unsafe {
            (
                read_volatile(&raw const (*flow).state),
                read_volatile(&raw const (*flow).marks),
            )
        };
        state == State::Established as u8 && marks & BOTH_FINS == 0
    })
}

/// Returns the place in a ring for a turn.
#[inline(always)]
fn place(number: u32, turn: u64, ring: u64) -> Option<*mut FlowKey> {
    // Never 0 here, but the compiler demands the check.
    FLOW_RINGS.get_ptr_mut(number * RING as u32 + (turn % ring.max(1)) as u32)
}

/// Writes a flow whose place was taken. If that fails, gives the place back.
#[inline(always)]
fn put(key: &FlowKey, flow: &Flow, quota: Quota, flows: &Flows, used: &Flows) -> bool {
    let written = FLOWS.insert(key, flow, BPF_NOEXIST.into()).is_ok();
    if !written {
        quota.give_back(flows, used);
    }
    written
}

/// The flow count of a share in the map.
struct Flows(*mut FlowShare);

impl Count for Flows {
    #[inline(always)]
    fn add(&self, number: u64) -> u64 {
        let before;
        // SAFETY: an atomic addition (RFC 9669, 5.3: fetch and add, 64 bits) to the first field of
        // a map's value, which outlives the run of the program. The compiler has no such operation
        // for this target.
        unsafe {
            asm!(
                ".quad 0x1000021db",
                in("r1") &raw mut (*self.0).flows,
                inlateout("r2") number => before,
                options(nostack),
            );
        }
        before
    }

    #[inline(always)]
    fn now(&self) -> u64 {
        // SAFETY: as above.
        unsafe { read_volatile(&raw const (*self.0).flows) }
    }
}
