// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! From a hook to an action: look up who the packet belongs to, parse, decide, count.

use core::{
    arch::asm,
    mem::offset_of,
    ptr::{self, read_volatile},
};

use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_SHOT, TC_ACT_UNSPEC},
    programs::TcContext,
};
use aya_log_ebpf::debug;
use netpol_common::{
    abi::{
        Counter, Counters, Direction, DropReason, Endpoint, Hook, IDENTITY_NONE, POLICY_DENY, POLICY_NONE,
        bpf_spin_lock,
    },
    checksum,
    decide::{self, Place, Tables as _, Verdict, Whose, judge::UNKNOWN, known},
    flow,
    parse::{self, Packet, Parsed, Part, plain::plain},
    tag,
};

use crate::{
    event,
    maps::{CONFIG, COUNTERS, ENDPOINTS, SCRATCH},
    offload::{self, Origin},
    packet::{self, Leaving, Linear, Skb},
    tables::{ATTEMPTS, Maps},
};

/// On to the next program of the hook; `TCX_NEXT` has the same number.
const PASS: i32 = TC_ACT_UNSPEC;
/// Dropped without an answer (rule A7); `TCX_DROP` has the same number.
const DROP: i32 = TC_ACT_SHOT;

/// The action for a packet at one of a pod's hooks.
#[inline(always)]
pub fn at_hook(ctx: &TcContext, direction: Direction) -> i32 {
    let direction = direction as u8;
    if continues(ctx.skb.skb, direction) {
        PASS
    } else {
        let told = read_packet(ctx.skb.skb);
        let origin = if direction == Direction::Ingress as u8 {
            origin(ctx.skb.skb)
        } else {
            PLAIN
        };
        judge(ctx.skb.skb, direction, told | origin << ORIGIN_SHIFT)
    }
}

/// Whether a packet is of a known connection and passes, as most do. This and [`judge`] are functions of the program: were they one, the verifier would
/// follow each way through the first into the second, and both would need room on the stack at a time.
#[inline(never)]
fn continues(skb: *mut __sk_buff, direction: u8) -> bool {
    let ctx = &TcContext::new(skb);
    let Some(packet) = plain(&Linear(ctx)).filter(known::may_continue) else {
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
    let unfinished = unsafe { offload::unfinished(skb, Origin::Link, &raw mut (*scratch).sk_buff) };
    if !unfinished.is_of(&packet) {
        return false;
    }
    // SAFETY: a valid reference; volatile, so that it is read here, before what it dates, and nowhere else.
    let epoch = unsafe { read_volatile(&raw const config.epoch) };
    let place = place(ctx, direction);
    let mut endpoint = CLOSED;
    if !find_endpoint(place.ifindex, &mut endpoint) {
        return false;
    }
    let maps = Maps {
        epoch,
        lifetimes: &config.lifetimes,
        counters,
        scratch,
        length: ctx.len(),
        events_per_second: config.events_per_second,
        skb,
    };
    let continues = known::continues(&maps, &endpoint, &place, &packet);
    if continues {
        // SAFETY: a per-CPU value that only this CPU writes, just looked up.
        count(unsafe { &mut (*counters).forwarded }, maps.length);
    }
    continues
}

/// What [`read_packet`] says of a packet to be judged. Other numbers are those of a [`DropReason`].
const IS_PACKET: u32 = 0;
/// The same of neighbour discovery.
const IS_NEIGHBOUR: u32 = 0xff;
/// The same of reports about groups.
const IS_MEMBERSHIP: u32 = 0xfe;
/// Where the number of an [`Origin`] is beside it.
const ORIGIN_SHIFT: u32 = 8;
const PLAIN: u32 = decide::Origin::Plain as u32;
const UNPACKED: u32 = decide::Origin::Unpacked as u32;

/// Reads a packet, and what it quotes, into the scratch memory. A global function of the program:
/// the verifier follows its ways on their own, and not each of them on through [`judge`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn read_packet(skb: *mut __sk_buff) -> u32 {
    let ctx = &TcContext::new(skb);
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return DropReason::Malformed as u32;
    };
    // SAFETY: a per-CPU value that only this run of the program uses, just looked up.
    let (packet, quoted) = unsafe { (&mut (*scratch).packet, &mut (*scratch).quoted) };
    let parsed = if let Some(found) = plain(&Linear(ctx)) {
        *packet = found;
        Parsed::Packet
    } else {
        *packet = Packet::default();
        parse::parse(&Skb(ctx), packet, quoted)
    };
    // SAFETY: as above.
    let unfinished = unsafe { offload::unfinished(skb, Origin::Link, &raw mut (*scratch).sk_buff) };
    match checksum::judged(parsed, packet, unfinished) {
        Parsed::Packet => IS_PACKET,
        Parsed::Neighbour => IS_NEIGHBOUR,
        Parsed::Membership => IS_MEMBERSHIP,
        Parsed::Unjudged(reason) => reason as u32,
    }
}

/// How the packet that [`read_packet`] has read came, which a pod is to receive. A global function
/// of the program, for its stack.
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
    decide::judge::origin(&maps, &place(ctx, Direction::Ingress), packet) as u32
}

/// The action for any packet, which [`read_packet`] has read; `told` is what that said, and its
/// [`origin`] above it. The verifier knows nothing of them.
#[inline(never)]
fn judge(skb: *mut __sk_buff, direction: u8, told: u32) -> i32 {
    let ctx = &TcContext::new(skb);
    let direction = Direction::from_u8(direction);
    // An array's and a per-CPU array's entry always exists; the verifier wants to see that it is checked.
    let Some(config) = CONFIG.get(0) else { return DROP };
    let Some(counters) = COUNTERS.get_ptr_mut(direction as u32) else {
        return DROP;
    };

    // Read once, before anything that it dates: what is judged by an identity of before a change carries the epoch of before.
    // SAFETY: a valid reference; volatile, so that it is read here and nowhere else.
    let epoch = unsafe { read_volatile(&raw const config.epoch) };
    let origin = match told >> ORIGIN_SHIFT {
        PLAIN => decide::Origin::Plain,
        UNPACKED => decide::Origin::Unpacked,
        _ => decide::Origin::Forged,
    };
    let place = place(ctx, direction);
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
            &mut *(&raw mut (*scratch).endpoint).cast::<Endpoint>(),
        )
    };
    let known = find_endpoint(place.ifindex, endpoint);
    let maps = Maps {
        epoch,
        lifetimes: &config.lifetimes,
        counters,
        scratch,
        length,
        events_per_second: config.events_per_second,
        skb: ctx.skb.skb,
    };
    let parsed = match told & ((1 << ORIGIN_SHIFT) - 1) {
        IS_PACKET => Parsed::Packet,
        IS_NEIGHBOUR => Parsed::Neighbour,
        IS_MEMBERSHIP => Parsed::Membership,
        reason => Parsed::Unjudged(DropReason::from_u8(reason as u8).unwrap_or(DropReason::Malformed)),
    };
    let hook = match direction {
        Direction::Ingress => Hook::ToPod,
        Direction::Egress => Hook::FromPod,
    };
    match decide::decide_from(&maps, endpoint, (place, origin), parsed, packet, quoted) {
        Verdict::Forward => {
            let isolated =
                endpoint.ingress_policy != POLICY_NONE && direction as u8 == Direction::Ingress as u8;
            if isolated && packet.part as u8 == Part::Later as u8 && !packet::unshare(ctx) {
                let drop = decide::Drop {
                    reason: DropReason::Fragment,
                    policy: POLICY_NONE,
                    identity: IDENTITY_NONE,
                    whose: Whose::at_hook(&place),
                };
                return dropped(ctx, &maps, endpoint, hook, packet, &drop);
            }
            // SAFETY: a per-CPU value that only this CPU writes, just looked up.
            count(unsafe { &mut (*counters).forwarded }, length);
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
    let place = place(ctx, Direction::Egress);
    let by_node = place.ingress_ifindex == 0 && tag::number(place.tag) == 0 && !packet::is_ipv6(ctx);
    // What is encapsulated leaves by a second device.
    if by_node || place.tag == tag::LEFT {
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
            &mut *(&raw mut (*scratch).endpoint).cast::<Endpoint>(),
        )
    };
    *packet = Packet::default();
    // What is malformed was dropped where it left an isolated pod (rule F2). What is not, and cannot be read here, is not let out unjudged.
    let mut unreadable = None;
    let parsed = parse::parse(&Leaving(ctx), packet, quoted);
    // SAFETY: as above.
    let unfinished =
        unsafe { offload::unfinished(ctx.skb.skb, Origin::Network, &raw mut (*scratch).sk_buff) };
    match checksum::judged(parsed, packet, unfinished) {
        Parsed::Packet => {}
        Parsed::Unjudged(reason) if tag::number(place.tag) != 0 => unreadable = Some(reason),
        Parsed::Unjudged(_) | Parsed::Neighbour | Parsed::Membership => return PASS,
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
        return leaves(&maps, &place);
    }
    find_endpoint(sender, endpoint);
    let unjudged = if sender == UNKNOWN {
        Some(DropReason::UnknownSender)
    } else {
        unreadable
    };
    let verdict = if endpoint.egress_policy == POLICY_NONE {
        Verdict::Forward
    } else if let Some(reason) = unjudged {
        Verdict::Drop(decide::Drop {
            reason,
            policy: POLICY_NONE,
            identity: IDENTITY_NONE,
            whose: Whose::sender(sender),
        })
    } else {
        decide::decide_leaving(&maps, endpoint, &place, packet)
    };
    match verdict {
        Verdict::Forward => leaves(&maps, &place),
        Verdict::Drop(drop) => dropped(ctx, &maps, endpoint, Hook::ToNetwork, packet, &drop),
    }
}

/// Lets a packet leave the node, without a pod's tag.
#[inline(always)]
fn leaves(maps: &Maps, place: &Place) -> i32 {
    if tag::number(place.tag) != 0 {
        maps.put_tag(tag::LEFT);
    }
    PASS
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

/// In the place of an endpoint that there is not.
const CLOSED: Endpoint = Endpoint {
    ifindex: 0,
    id: 0,
    ingress_policy: POLICY_DENY,
    egress_policy: POLICY_DENY,
    ipv4: [0; 4],
    ipv6: [0; 16],
    mac: [0; 6],
    flags: 0,
    link_local: [0; 16],
    lock: bpf_spin_lock { val: 0 },
};

/// Copies the endpoint of an interface, and returns whether there is one; without, it is one that is closed. The kernel may give the place
/// of a value that was replaced to another endpoint's at once, and write that while it is read here.
#[inline(always)]
fn find_endpoint(ifindex: u32, into: &mut Endpoint) -> bool {
    for _ in 0..ATTEMPTS {
        // A lookup may miss a value in the moment that it is replaced.
        let Some(place) = ENDPOINTS.get_ptr(ifindex) else {
            continue;
        };
        let (from, to) = (place.cast::<u32>(), (&raw mut *into).cast::<u32>());
        // Whose it is comes first in the value, and is read last: so it tells of all of it.
        for word in (0..offset_of!(Endpoint, lock) / 4).rev() {
            // SAFETY: the value is readable while this program runs (RCU), and both are of so many words; volatile, so that it is read here,
            // in this order, and nowhere else.
            unsafe { to.add(word).write(read_volatile(from.add(word))) };
        }
        if into.ifindex == ifindex {
            return true;
        }
    }
    *into = CLOSED;
    false
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
    // SAFETY: a per-CPU value that only this CPU writes; checked for null where it was looked up.
    let counters = unsafe { &mut *maps.counters };
    count(counter_of(counters, drop.reason), maps.length);
    event::dropped(ctx, endpoint, hook, packet, drop, maps.events_per_second);
    // Few arguments: what the log macro keeps of them, and its own call, share a stack of 512 bytes with all the rest.
    debug!(
        ctx,
        "endpoint {}: dropped, reason {} policy {}", endpoint.id, drop.reason as u8, drop.policy
    );
    DROP
}

/// [`Counters::dropped`], in a way that the verifier follows for a reason that it does not know: they are in the order of their numbers.
#[inline(always)]
fn counter_of(counters: &mut Counters, reason: DropReason) -> &mut Counter {
    const LAST: usize = offset_of!(Counters, flows_created) - size_of::<Counter>();
    const _: () = assert!(LAST == DropReason::ALL.len() * size_of::<Counter>());
    let mut at = reason as usize * size_of::<Counter>();
    // SAFETY: it stays as it is; the compiler, which knows what it may be, would leave the
    // comparison out.
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
