// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! From a hook to an action: look up who the packet belongs to, parse, decide, count.

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC},
    programs::TcContext,
};
use aya_log_ebpf::debug;
use netpol_common::{
    abi::{Counter, Direction, Endpoint, POLICY_NONE},
    decide::{self, Place, Verdict},
    parse::{self, Packet, Parsed},
};

use crate::{
    event,
    maps::{CONFIG, COUNTERS, ENDPOINTS, LOCAL_PODS, SCRATCH},
    packet::{self, Leaving, Skb},
    tables::Maps,
};

/// On to the next program of the hook; `TCX_NEXT` has the same number.
const PASS: i32 = TC_ACT_UNSPEC;
/// Dropped without an answer (rule A7); `TCX_DROP` has the same number.
const DROP: i32 = TC_ACT_SHOT as i32;

/// The action for a packet at one of a pod's hooks.
#[inline(always)]
pub fn at_hook(ctx: &TcContext, direction: Direction) -> i32 {
    // An array's and a per-CPU array's entry always exists; the verifier wants to see that it is checked.
    let Some(config) = CONFIG.get(0) else { return DROP };
    let Some(counters) = COUNTERS.get_ptr_mut(direction as u32) else {
        return DROP;
    };

    let place = Place {
        direction,
        ifindex: packet::ifindex(ctx),
        ingress_ifindex: packet::ingress_ifindex(ctx),
    };
    let length = ctx.len();
    // SAFETY: values are replaced as a whole, and stay readable until the program ends (RCU).
    let Some(endpoint) = (unsafe { ENDPOINTS.get(place.ifindex) }) else {
        // The agent writes the endpoint before it attaches, and detaches before it removes it: this is trouble, and fails closed.
        // SAFETY: as below.
        count(unsafe { &mut (*counters).no_endpoint }, length);
        let from_node = matches!(direction, Direction::Ingress) && place.ingress_ifindex == 0;
        return if from_node { PASS } else { DROP };
    };
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return DROP;
    };
    // SAFETY: a per-CPU value that only this run of the program uses, just looked up.
    let packet = unsafe { &mut (*scratch).packet };
    *packet = Packet::default();
    let parsed = parse::parse(&Skb(ctx), packet);
    let maps = Maps {
        config,
        counters,
        scratch,
        length,
    };
    match decide::decide(&maps, endpoint, place, parsed, packet, length) {
        Verdict::Forward => {
            // SAFETY: a per-CPU value that only this CPU writes, just looked up.
            count(unsafe { &mut (*counters).forwarded }, length);
            PASS
        }
        Verdict::Drop(drop) => dropped(ctx, &maps, endpoint, direction, packet, &drop),
    }
}

/// The action for a packet that leaves the node. Only those of isolated local pods are looked at, and only drops are counted: they were
/// counted where they left the pod.
#[inline(always)]
pub fn leaving(ctx: &TcContext) -> i32 {
    let Some(config) = CONFIG.get(0) else { return DROP };
    let Some(counters) = COUNTERS.get_ptr_mut(Direction::Egress as u32) else {
        return DROP;
    };
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return DROP;
    };
    // SAFETY: a per-CPU value that only this run of the program uses, just looked up.
    let packet = unsafe { &mut (*scratch).packet };
    *packet = Packet::default();
    // What is malformed was dropped where it left an isolated pod (rule F2).
    let Parsed::Packet = parse::parse(&Leaving(ctx), packet) else {
        return PASS;
    };
    // SAFETY: values are replaced as a whole, and stay readable until the program ends (RCU).
    let Some(ifindex) = (unsafe { LOCAL_PODS.get(packet.source) }) else {
        return PASS;
    };
    // SAFETY: as above.
    let Some(endpoint) = (unsafe { ENDPOINTS.get(*ifindex) }) else {
        return PASS;
    };
    if endpoint.egress_policy == POLICY_NONE {
        return PASS;
    }
    let maps = Maps {
        config,
        counters,
        scratch,
        length: ctx.len(),
    };
    match decide::decide_leaving(&maps, endpoint, packet, maps.length) {
        Verdict::Forward => PASS,
        Verdict::Drop(drop) => dropped(ctx, &maps, endpoint, Direction::Egress, packet, &drop),
    }
}

#[inline(always)]
fn dropped(
    ctx: &TcContext,
    maps: &Maps<'_>,
    endpoint: &Endpoint,
    direction: Direction,
    packet: &Packet,
    drop: &decide::Drop,
) -> i32 {
    // SAFETY: a per-CPU value that only this CPU writes; checked for null where it was looked up.
    let counters = unsafe { &mut *maps.counters };
    count(counters.dropped(drop.reason), maps.length);
    event::dropped(
        ctx,
        endpoint,
        direction,
        packet,
        drop,
        maps.config.events_per_second,
    );
    debug!(
        ctx,
        "endpoint {} {}: dropped, reason {} policy {} identity {}",
        endpoint.id,
        direction.name(),
        drop.reason as u8,
        drop.policy,
        drop.identity
    );
    DROP
}

#[inline(always)]
fn count(counter: &mut Counter, length: u32) {
    counter.packets += 1;
    counter.bytes += u64::from(length);
}
