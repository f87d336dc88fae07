// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! From a hook to an action: look up who the packet belongs to, parse, decide, count.

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC},
    programs::TcContext,
};
use aya_log_ebpf::debug;
use netpol_common::{
    abi::{Counter, Direction, DropReason, Endpoint, POLICY_DENY},
    decide::{self, Verdict},
    parse::{self, Packet},
};

use crate::{
    event,
    maps::{CONFIG, COUNTERS, ENDPOINTS, SCRATCH},
    packet::{self, Skb},
    tables::Maps,
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
    let epoch = unsafe { core::ptr::read_volatile(&raw const config.epoch) };
    let from_node = matches!(direction, Direction::Ingress) && packet::from_node(ctx);
    let length = ctx.len();
    // An endpoint that the map does not know: the agent writes it before it attaches, and detaches before it removes it. This is trouble (a
    // full map, a change by hand), and fails closed but for the node and neighbours (rules L1, A2, F1).
    // Copied at once: the kernel may use the place of a value that was replaced for another endpoint's.
    // SAFETY: as the map says, the value is readable while this program runs.
    let (id, ingress_policy, egress_policy, known) = match unsafe { ENDPOINTS.get(packet::ifindex(ctx)) } {
        Some(endpoint) => (endpoint.id, endpoint.ingress_policy, endpoint.egress_policy, true),
        None => (0, POLICY_DENY, POLICY_DENY, false),
    };
    let endpoint = Endpoint {
        id,
        ingress_policy,
        egress_policy,
        ipv4: [0; 4],
        ipv6: [0; 16],
    };
    let Some(packet) = SCRATCH.get_ptr_mut(0) else {
        return DROP;
    };
    // SAFETY: a per-CPU value, just looked up; a run of a program is over before the next begins on its CPU.
    let packet = unsafe { &mut *packet };
    *packet = Packet::default();
    let parsed = parse::parse(&Skb(ctx), packet);
    let maps = Maps {
        epoch,
        counters,
        length,
    };
    let verdict = decide::decide(&maps, &endpoint, direction, parsed, packet, length, from_node);

    // SAFETY: a per-CPU value that only this CPU writes, just looked up.
    let counters = unsafe { &mut *counters };
    match verdict {
        Verdict::Forward => {
            count(&mut counters.forwarded, length);
            PASS
        }
        Verdict::Drop(mut drop) => {
            if !known {
                drop.reason = DropReason::NoEndpoint;
            }
            count(counters.dropped(drop.reason), length);
            event::dropped(ctx, &endpoint, direction, packet, &drop, config.events_per_second);
            // Few arguments: what the log macro keeps of them, and its own call, share a stack of 512 bytes with all the rest.
            debug!(
                ctx,
                "endpoint {}: dropped, reason {} policy {}", endpoint.id, drop.reason as u8, drop.policy
            );
            DROP
        }
    }
}

#[inline(always)]
fn count(counter: &mut Counter, length: u32) {
    counter.packets += 1;
    counter.bytes += u64::from(length);
}
