// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Events of dropped packets, at most so many a second and CPU: a flood must not cost more than its drops.

use aya_ebpf::{helpers::bpf_ktime_get_coarse_ns, programs::TcContext};
use netpol_common::{
    abi::{Endpoint, Hook},
    decide::Drop,
    parse::Packet,
};

use crate::{
    maps::{EVENT_BUDGET, EVENTS},
    packet::ifindex,
};

const SECOND: u64 = 1_000_000_000;

/// Writes the event of a drop, or counts it as left out.
#[inline(always)]
pub fn dropped(
    ctx: &TcContext,
    endpoint: &Endpoint,
    hook: Hook,
    packet: &Packet,
    drop: &Drop,
    per_second: u32,
) {
    let Some(budget) = EVENT_BUDGET.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: a per-CPU value that only this CPU writes, just looked up.
    let budget = unsafe { &mut *budget };
    // SAFETY: takes nothing, always allowed.
    let now = unsafe { bpf_ktime_get_coarse_ns() };
    if now - budget.window_start >= SECOND {
        budget.window_start = now;
        budget.written = 0;
    }
    if budget.written >= per_second {
        budget.suppressed += 1;
        return;
    }
    let Some(mut slot) = EVENTS.reserve(0) else {
        budget.suppressed += 1;
        return;
    };
    // Field by field into the ring: the stack of a program is 512 bytes.
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
    event.suppressed = budget.suppressed;
    event.source = packet.source;
    event.destination = packet.destination;
    event.source_port = packet.source_port;
    event.destination_port = packet.destination_port;
    event.protocol = packet.protocol;
    slot.submit(0);
    budget.written += 1;
    budget.suppressed = 0;
}
