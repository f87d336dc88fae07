// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Turns a packet at a hook into an action: looks up the endpoint, parses, decides and counts.

use core::{arch::asm, mem::offset_of, ptr};

use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_SHOT, TC_ACT_UNSPEC},
    programs::TcContext,
};
use aya_log_ebpf::debug;
use netpol_common::{
    abi::{
        Counter, Counters, Direction, DropReason, Endpoint, Hook, IDENTITY_NONE, NO_POLICY,
        POLICY_UNRESTRICTED,
    },
    checksum,
    decide::{self, Lookups as _, Place, Verdict, Whose, fast_path},
    flow,
    parse::{self, Packet, Parsed, Part, simple::simple},
};

use crate::{
    event,
    maps::{CONFIG, COUNTERS, SCRATCH},
    offload::{self, FrameStart},
    packet::{self, Leaving, Linear, Skb},
    tables::Maps,
};

/// The next program of the hook runs. `TCX_NEXT` has the same number.
const PASS: i32 = TC_ACT_UNSPEC;
/// The packet is dropped without an answer (rule A7). `TCX_DROP` has the same number.
const DROP: i32 = TC_ACT_SHOT;

/// Returns the action for a packet at one of a pod's hooks.
#[inline(always)]
pub fn at_hook(ctx: &TcContext, direction: Direction) -> i32 {
    let direction = direction as u8;
    if fast_path(ctx.skb.skb, direction) {
        PASS
    } else {
        let told = read_packet(ctx.skb.skb);
        let origin = if direction == Direction::Ingress as u8 {
            origin(ctx.skb.skb)
        } else {
            PLAIN
        };
        slow_path(ctx.skb.skb, direction, told | origin << ORIGIN_SHIFT)
    }
}

/// Fast path: returns true if the packet belongs to an open connection that is still allowed.
///
/// This and [`slow_path`] are separate functions. In one function, the verifier would follow each
/// path of the first through the second, and both would need stack space at the same time.
#[inline(never)]
fn fast_path(skb: *mut __sk_buff, direction: u8) -> bool {
    let ctx = &TcContext::new(skb);
    let Some(packet) = simple(&Linear(ctx)).filter(fast_path::may_pass) else {
        return false;
    };
    let direction = Direction::from_u8(direction);
    let (Some(config), Some(counters), Some(scratch)) = (
        CONFIG.get(0),
        COUNTERS.get_ptr_mut(direction as u32),
        SCRATCH.get_ptr_mut(0),
    ) else {
        return false;
    };
    // SAFETY: a per-CPU value that only this run of the program uses, just looked up.
    let checksum = unsafe { offload::partial(skb, FrameStart::Link, &raw mut (*scratch).sk_buff) };
    if !checksum.is_of(&packet) {
        return false;
    }
    let maps = Maps::new(ctx, config, counters, scratch);
    let place = place(ctx, direction);
    let mut endpoint = Endpoint::CLOSED;
    if !maps.endpoint(place.ifindex, &mut endpoint) {
        return false;
    }
    let passes = fast_path::passes(&maps, &endpoint, &place, &packet);
    if passes {
        // SAFETY: a per-CPU value that only this CPU writes, just looked up.
        count(unsafe { &mut (*counters).forwarded }, maps.length);
    }
    passes
}

/// Result of [`read_packet`] for a packet to judge. Numbers other than these three are those of a
/// [`DropReason`].
const IS_PACKET: u32 = 0;
/// Result of [`read_packet`] for neighbour discovery.
const IS_NEIGHBOUR: u32 = 0xff;
/// Result of [`read_packet`] for reports about groups.
const IS_MEMBERSHIP: u32 = 0xfe;
/// Position of the number of an [`Origin`](decide::Origin) beside that result.
const ORIGIN_SHIFT: u32 = 8;
const PLAIN: u32 = decide::Origin::Plain as u32;
const UNPACKED: u32 = decide::Origin::Unpacked as u32;

/// Reads a packet, and what it quotes, into the scratch memory. This is a global function, so the
/// verifier checks it on its own and does not follow each of its paths through [`judge`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn read_packet(skb: *mut __sk_buff) -> u32 {
    let ctx = &TcContext::new(skb);
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return DropReason::Malformed as u32;
    };
    // SAFETY: a per-CPU value that only this run of the program uses, just looked up.
    let (packet, quoted) = unsafe { (&mut (*scratch).packet, &mut (*scratch).quoted) };
    let parsed = if let Some(found) = simple(&Linear(ctx)) {
        *packet = found;
        Parsed::Packet
    } else {
        *packet = Packet::default();
        parse::parse(&Skb(ctx), packet, quoted)
    };
    // SAFETY: as above.
    let partial = unsafe { offload::partial(skb, FrameStart::Link, &raw mut (*scratch).sk_buff) };
    match checksum::check(parsed, packet, partial) {
        Parsed::Packet => IS_PACKET,
        Parsed::Neighbour => IS_NEIGHBOUR,
        Parsed::Membership => IS_MEMBERSHIP,
        Parsed::Unreadable(reason) => reason as u32,
    }
}

/// Returns how a packet to a pod came, after [`read_packet`] has read it. This is a global
/// function, so that it has a stack frame of its own.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn origin(skb: *mut __sk_buff) -> u32 {
    let ctx = &TcContext::new(skb);
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return decide::Origin::Forged as u32;
    };
    let maps = Maps {
        epoch: 0,
        lifetimes: &flow::DEFAULTS,
        counters: ptr::null_mut(),
        scratch,
        length: 0,
        events_per_second: 0,
        skb,
    };
    // SAFETY: a per-CPU value that only this run of the program uses, just looked up.
    let packet = unsafe { &(*scratch).packet };
    decide::origin(&maps, &place(ctx, Direction::Ingress), packet) as u32
}

/// Returns the action for any packet that [`read_packet`] has read. `told` is the result of that
/// function, with the [`origin`] in the bits above it. The verifier assumes nothing about their
/// values.
#[inline(never)]
fn slow_path(skb: *mut __sk_buff, direction: u8, told: u32) -> i32 {
    let ctx = &TcContext::new(skb);
    let direction = Direction::from_u8(direction);
    // Entries of an array and of a per-CPU array always exist, but the verifier demands the checks.
    let Some(config) = CONFIG.get(0) else { return DROP };
    let Some(counters) = COUNTERS.get_ptr_mut(direction as u32) else {
        return DROP;
    };
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return DROP;
    };
    let maps = Maps::new(ctx, config, counters, scratch);
    let origin = match told >> ORIGIN_SHIFT {
        PLAIN => decide::Origin::Plain,
        UNPACKED => decide::Origin::Unpacked,
        _ => decide::Origin::Forged,
    };
    let place = place(ctx, direction);
    // SAFETY: a per-CPU value that only this run of the program uses, just looked up.
    let (packet, quoted, endpoint) = unsafe {
        (
            &mut (*scratch).packet,
            &mut (*scratch).quoted,
            &mut *(&raw mut (*scratch).endpoint).cast::<Endpoint>(),
        )
    };
    // An interface without an endpoint is closed, except for the node and neighbours (rules L1, A2,
    // F1): its pod is not known yet, or the map is full or was changed by hand.
    let known = maps.endpoint(place.ifindex, endpoint);
    let parsed = match told & ((1 << ORIGIN_SHIFT) - 1) {
        IS_PACKET => Parsed::Packet,
        IS_NEIGHBOUR => Parsed::Neighbour,
        IS_MEMBERSHIP => Parsed::Membership,
        reason => Parsed::Unreadable(DropReason::from_u8(reason as u8).unwrap_or(DropReason::Malformed)),
    };
    let hook = match direction {
        Direction::Ingress => Hook::ToPod,
        Direction::Egress => Hook::FromPod,
    };
    match decide::decide_from(&maps, endpoint, (place, origin), parsed, packet, quoted) {
        Verdict::Forward => {
            let isolated =
                endpoint.ingress_policy != POLICY_UNRESTRICTED && direction as u8 == Direction::Ingress as u8;
            if isolated && packet.part as u8 == Part::Later as u8 && !packet::unshare(ctx) {
                let drop = decide::Drop {
                    reason: DropReason::Fragment,
                    policy: NO_POLICY,
                    identity: IDENTITY_NONE,
                    whose: Whose::at_hook(&place),
                };
                return dropped(ctx, &maps, endpoint, hook, packet, &drop);
            }
            // SAFETY: a per-CPU value that only this CPU writes, just looked up.
            count(unsafe { &mut (*counters).forwarded }, maps.length);
            PASS
        }
        Verdict::Drop(mut drop) => {
            if !known {
                drop.reason = DropReason::NoEndpoint;
            }
            dropped(ctx, &maps, endpoint, hook, packet, &drop)
        }
    }
}

/// Returns the action for a packet that leaves the node. Only packets that must still be judged for
/// a pod of this node can be dropped, and only drops are counted: packets were counted where they
/// left the pod.
#[inline(always)]
pub fn leaving(ctx: &TcContext) -> i32 {
    let place = place(ctx, Direction::Egress);
    if decide::leaves_unread(&place, packet::is_ipv6(ctx)) {
        return PASS;
    }
    let Some(config) = CONFIG.get(0) else { return DROP };
    let Some(counters) = COUNTERS.get_ptr_mut(Direction::Egress as u32) else {
        return DROP;
    };
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return DROP;
    };
    let maps = Maps::new(ctx, config, counters, scratch);
    // SAFETY: a per-CPU value that only this run of the program uses, just looked up.
    let (packet, quoted, endpoint) = unsafe {
        (
            &mut (*scratch).packet,
            &mut (*scratch).quoted,
            &mut *(&raw mut (*scratch).endpoint).cast::<Endpoint>(),
        )
    };
    *packet = Packet::default();
    let parsed = parse::parse(&Leaving(ctx), packet, quoted);
    // SAFETY: as above.
    let partial = unsafe { offload::partial(ctx.skb.skb, FrameStart::Network, &raw mut (*scratch).sk_buff) };
    let parsed = checksum::check(parsed, packet, partial);
    match decide::decide_leaving(&maps, &place, parsed, packet, endpoint) {
        Verdict::Forward => PASS,
        Verdict::Drop(drop) => dropped(ctx, &maps, endpoint, Hook::ToNetwork, packet, &drop),
    }
}

#[inline(always)]
fn place(ctx: &TcContext, direction: Direction) -> Place {
    Place {
        direction,
        ifindex: packet::ifindex(ctx),
        ingress_ifindex: packet::ingress_ifindex(ctx),
        tag: packet::tag(ctx),
    }
}

#[inline(always)]
fn dropped(
    ctx: &TcContext,
    maps: &Maps,
    endpoint: &Endpoint,
    hook: Hook,
    packet: &Packet,
    drop: &decide::Drop,
) -> i32 {
    // SAFETY: a per-CPU value that only this CPU writes; checked for null at its lookup.
    let counters = unsafe { &mut *maps.counters };
    count(counter_of(counters, drop.reason), maps.length);
    event::dropped(ctx, endpoint, hook, packet, drop, maps.events_per_second);
    // Few arguments: the log macro's copies of them, and its call, share a stack of 512 bytes with
    // everything else.
    debug!(
        ctx,
        "endpoint {}: dropped, reason {} policy {}", endpoint.id, drop.reason as u8, drop.policy
    );
    DROP
}

/// Like [`Counters::dropped`], in a form that the verifier accepts for an unknown reason: counters
/// are in the order of the reasons' numbers.
#[inline(always)]
fn counter_of(counters: &mut Counters, reason: DropReason) -> &mut Counter {
    const LAST: usize = offset_of!(Counters, flows_created) - size_of::<Counter>();
    const _: () = assert!(LAST == DropReason::ALL.len() * size_of::<Counter>());
    let mut at = reason as usize * size_of::<Counter>();
    // SAFETY: the value does not change. Without this, the compiler, which knows its range, would
    // remove the comparison.
    unsafe { asm!("{0} = {0}", inlateout(reg) at, options(pure, nomem, nostack)) };
    if at > LAST {
        at = DropReason::Malformed as usize * size_of::<Counter>();
    }
    // SAFETY: one of the counters.
    unsafe { &mut *(&raw mut *counters).byte_add(at).cast::<Counter>() }
}

#[inline(always)]
fn count(counter: &mut Counter, length: u32) {
    counter.packets += 1;
    counter.bytes += u64::from(length);
}
