// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! From a hook to an action: look up who the packet belongs to, parse, decide, count.

use core::ptr::read_volatile;

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC},
    programs::TcContext,
};
use aya_log_ebpf::debug;
use netpol_common::{
    abi::{Counter, Direction, DropReason, Endpoint, IDENTITY_NONE, POLICY_DENY, POLICY_NONE},
    decide::{self, Place, Tables as _, Verdict, judge::UNKNOWN},
    parse::{self, Packet, Parsed, Part},
    tag,
};

use crate::{
    event,
    maps::{CONFIG, COUNTERS, ENDPOINTS, SCRATCH},
    packet::{self, Leaving, Skb},
    tables::{ATTEMPTS, Maps},
};

/// On to the next program of the hook; `TCX_NEXT` has the same number.
const PASS: i32 = TC_ACT_UNSPEC;
/// Dropped without an answer (rule A7); `TCX_DROP` has the same number.
const DROP: i32 = TC_ACT_SHOT;

/// The action for a packet at one of a pod's hooks.
#[inline(always)]
pub fn at_hook(ctx: &TcContext, direction: Direction) -> i32 {
    // An array's and a per-CPU array's entry always exists; the verifier wants to see that it is checked.
    let Some(config) = CONFIG.get(0) else { return DROP };
    let Some(counters) = COUNTERS.get_ptr_mut(direction as u32) else {
        return DROP;
    };

    // Read once, before anything that it dates: what is judged by an identity of before a change carries the epoch of before.
    // SAFETY: a valid reference; volatile, so that it is read here and nowhere else.
    let epoch = unsafe { read_volatile(&raw const config.epoch) };
    let place = Place {
        direction,
        ifindex: packet::ifindex(ctx),
        ingress_ifindex: packet::ingress_ifindex(ctx),
        tag: packet::tag(ctx),
    };
    let length = ctx.len();
    // An endpoint that the map does not know: the agent writes it before it attaches, and detaches before it removes it. This is trouble (a
    // full map, a change by hand), and fails closed but for the node and neighbours (rules L1, A2, F1).
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return DROP;
    };
    // SAFETY: a per-CPU value that only this run of the program uses, just looked up.
    let (packet, quoted, endpoint) = unsafe {
        (
            &mut (*scratch).packet,
            &mut (*scratch).quoted,
            &mut (*scratch).endpoint,
        )
    };
    let known = find_endpoint(place.ifindex, endpoint);
    *packet = Packet::default();
    *quoted = Packet::default();
    let parsed = parse::parse(&Skb(ctx), packet, quoted);
    let maps = Maps {
        epoch,
        lifetimes: &config.lifetimes,
        counters,
        scratch,
        length,
        events_per_second: config.events_per_second,
        skb: ctx.skb.skb,
    };
    match decide::decide(&maps, endpoint, place, parsed, packet, quoted) {
        Verdict::Forward => {
            let isolated =
                endpoint.ingress_policy != POLICY_NONE && direction as u8 == Direction::Ingress as u8;
            if isolated && packet.part as u8 == Part::Later as u8 && !packet::unshare(ctx) {
                let drop = decide::Drop {
                    reason: DropReason::Fragment,
                    policy: POLICY_NONE,
                    identity: IDENTITY_NONE,
                };
                return dropped(ctx, &maps, endpoint, direction, packet, &drop);
            }
            // SAFETY: a per-CPU value that only this CPU writes, just looked up.
            count(unsafe { &mut (*counters).forwarded }, length);
            PASS
        }
        Verdict::Drop(mut drop) => {
            if !known {
                drop.reason = DropReason::NoEndpoint;
            }
            dropped(ctx, &maps, endpoint, direction, packet, &drop)
        }
    }
}

/// The action for a packet that leaves the node. Only what is still to be judged for a pod of this node is looked at, and only drops are
/// counted: packets were counted where they left the pod.
#[inline(always)]
pub fn leaving(ctx: &TcContext) -> i32 {
    let Some(config) = CONFIG.get(0) else { return DROP };
    let Some(counters) = COUNTERS.get_ptr_mut(Direction::Egress as u32) else {
        return DROP;
    };
    // SAFETY: as at a pod's hook.
    let epoch = unsafe { read_volatile(&raw const config.epoch) };
    let place = Place {
        direction: Direction::Egress,
        ifindex: packet::ifindex(ctx),
        ingress_ifindex: packet::ingress_ifindex(ctx),
        tag: packet::tag(ctx),
    };
    if place.ingress_ifindex == 0 && tag::number(place.tag) == 0 && !packet::is_ipv6(ctx) {
        return PASS;
    }
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return DROP;
    };
    // SAFETY: a per-CPU value that only this run of the program uses, just looked up.
    let (packet, quoted, endpoint) = unsafe {
        (
            &mut (*scratch).packet,
            &mut (*scratch).quoted,
            &mut (*scratch).endpoint,
        )
    };
    *packet = Packet::default();
    *quoted = Packet::default();
    // What is malformed was dropped where it left an isolated pod (rule F2). What is not, and cannot be read here, is not let out unjudged.
    let mut unreadable = None;
    match parse::parse(&Leaving(ctx), packet, quoted) {
        Parsed::Packet => {}
        Parsed::Unjudged(reason) if tag::is_deferred(place.tag) => unreadable = Some(reason),
        Parsed::Unjudged(_) | Parsed::Neighbour => return PASS,
    }
    let maps = Maps {
        epoch,
        lifetimes: &config.lifetimes,
        counters,
        scratch,
        length: ctx.len(),
        events_per_second: config.events_per_second,
        skb: ctx.skb.skb,
    };
    let sender = decide::sender_leaving(&maps, &place, packet);
    if sender == 0 {
        return PASS;
    }
    find_endpoint(sender, endpoint);
    let unjudged = if sender == UNKNOWN {
        Some(DropReason::UnknownSender)
    } else {
        unreadable
    };
    let verdict = if endpoint.egress_policy == POLICY_NONE {
        maps.put_tag(tag::judged(place.tag));
        Verdict::Forward
    } else if let Some(reason) = unjudged {
        Verdict::Drop(decide::Drop {
            reason,
            policy: POLICY_NONE,
            identity: IDENTITY_NONE,
        })
    } else {
        decide::decide_leaving(&maps, endpoint, &place, packet)
    };
    match verdict {
        Verdict::Forward => PASS,
        Verdict::Drop(drop) => dropped(ctx, &maps, endpoint, Direction::Egress, packet, &drop),
    }
}

/// Copies the endpoint of an interface, and returns whether there is one; without, it is one that is closed. The kernel may give the place
/// of a value that was replaced to another endpoint's at once: what was copied is only taken if the value still is where it was.
#[inline(always)]
fn find_endpoint(ifindex: u32, into: &mut Endpoint) -> bool {
    for _ in 0..ATTEMPTS {
        let Some(place) = ENDPOINTS.get_ptr(ifindex) else {
            break;
        };
        // SAFETY: the value is readable while this program runs (RCU); volatile, so that it is read here and nowhere else.
        unsafe {
            into.id = read_volatile(&raw const (*place).id);
            into.ingress_policy = read_volatile(&raw const (*place).ingress_policy);
            into.egress_policy = read_volatile(&raw const (*place).egress_policy);
            into.ipv4 = read_volatile(&raw const (*place).ipv4);
            into.ipv6 = read_volatile(&raw const (*place).ipv6);
        }
        if ENDPOINTS.get_ptr(ifindex) == Some(place) {
            return true;
        }
    }
    *into = Endpoint {
        id: 0,
        ingress_policy: POLICY_DENY,
        egress_policy: POLICY_DENY,
        ipv4: [0; 4],
        ipv6: [0; 16],
    };
    false
}

#[inline(always)]
fn dropped(
    ctx: &TcContext,
    maps: &Maps,
    endpoint: &Endpoint,
    direction: Direction,
    packet: &Packet,
    drop: &decide::Drop,
) -> i32 {
    // SAFETY: a per-CPU value that only this CPU writes; checked for null where it was looked up.
    let counters = unsafe { &mut *maps.counters };
    count(counters.dropped(drop.reason), maps.length);
    event::dropped(ctx, endpoint, direction, packet, drop, maps.events_per_second);
    // Few arguments: what the log macro keeps of them, and its own call, share a stack of 512 bytes with all the rest.
    debug!(
        ctx,
        "endpoint {}: dropped, reason {} policy {}", endpoint.id, drop.reason as u8, drop.policy
    );
    DROP
}

#[inline(always)]
fn count(counter: &mut Counter, length: u32) {
    counter.packets += 1;
    counter.bytes += u64::from(length);
}
