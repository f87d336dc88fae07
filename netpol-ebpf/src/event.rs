// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Events of dropped packets. Each CPU writes only so many per second: a flood must not cost more
//! than its drops.
//!
//! An endpoint may write as many events as it leaves to others, so a flood at one endpoint does not
//! hide the drops of the rest.

use aya_ebpf::{helpers::bpf_ktime_get_coarse_ns, programs::TcContext};
use netpol_common::{
    abi::{Endpoint, EventBudget, Hook},
    decide::Drop,
    parse::Packet,
};

use crate::{
    maps::{EVENT_BUDGET, EVENTS},
    packet::ifindex,
};

const SECOND: u64 = 1_000_000_000;

/// Writes the event of a drop, or counts it as suppressed.
#[inline(always)]
pub fn dropped(
    ctx: &TcContext,
    endpoint: &Endpoint,
    hook: Hook,
    packet: &Packet,
    drop: &Drop,
    per_second: u32,
) {
    // An endpoint that is not known has no number. Only the limit of all endpoints applies to it.
    let number = if endpoint.id == 0 {
        0
    } else {
        u32::from(endpoint.number())
    };
    let (Some(all), Some(budget)) = (EVENT_BUDGET.get_ptr_mut(0), EVENT_BUDGET.get_ptr_mut(number)) else {
        return;
    };
    // SAFETY: takes nothing, always allowed.
    let now = unsafe { bpf_ktime_get_coarse_ns() };
    let (total, own) = (written(all, now), written(budget, now));
    let spent = if number == 0 { total } else { total + own };
    // SAFETY: a per-CPU value that only this CPU writes, just looked up.
    let suppressed = unsafe { &raw mut (*budget).suppressed };
    let slot = if spent < per_second {
        EVENTS.reserve(0)
    } else {
        None
    };
    let Some(mut slot) = slot else {
        // SAFETY: as above.
        unsafe { *suppressed += 1 };
        return;
    };
    // Written field by field into the ring, because the stack of a program has 512 bytes.
    // SAFETY: the slot holds an Event's bytes; every field is written before it is submitted.
    let event = unsafe { &mut *slot.as_mut_ptr() };
    event.timestamp = now;
    event.endpoint = endpoint.id;
    event.ifindex = ifindex(ctx);
    event.subject = drop.whose.subject;
    event.policy = drop.policy;
    event.identity = drop.identity;
    event.direction = drop.whose.direction as u8;
    event.reason = drop.reason as u8;
    event.hook = hook as u8;
    event.reply = u8::from(drop.whose.reply);
    event.pad = [0; 3];
    event.length = ctx.len();
    // SAFETY: as above.
    event.suppressed = unsafe { *suppressed };
    event.source = packet.source;
    event.destination = packet.destination;
    event.source_port = packet.source_port;
    event.destination_port = packet.destination_port;
    event.protocol = packet.protocol;
    slot.submit(0);
    // SAFETY: as above; both pointers may be the same.
    unsafe {
        (*all).written = total + 1;
        (*budget).written = if number == 0 { total } else { own } + 1;
        *suppressed = 0;
    }
}

/// Returns the number of events written in the current second, which may begin now.
#[inline(always)]
fn written(budget: *mut EventBudget, now: u64) -> u32 {
    // SAFETY: a per-CPU value that only this CPU writes, just looked up by the caller.
    let budget = unsafe { &mut *budget };
    if now - budget.window_start >= SECOND {
        budget.window_start = now;
        budget.written = 0;
    }
    budget.written
}
