// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! From a hook to an action: look up who the packet belongs to, parse, decide, count.

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC},
    programs::TcContext,
};
use aya_log_ebpf::debug;
use netpol_common::{
    abi::{Counter, Direction},
    decide::{self, Verdict},
    parse::{self, Packet},
};

use crate::{
    event,
    maps::{CONFIG, COUNTERS, ENDPOINTS},
    packet::{self, Skb},
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

    let from_node = matches!(direction, Direction::Ingress) && packet::from_node(ctx);
    let length = ctx.len();
    // SAFETY: values are replaced as a whole, and stay readable until the program ends (RCU).
    let Some(endpoint) = (unsafe { ENDPOINTS.get(packet::ifindex(ctx)) }) else {
        // The agent writes the endpoint before it attaches, and detaches before it removes it: this is trouble, and fails closed.
        // SAFETY: as below.
        count(unsafe { &mut (*counters).no_endpoint }, length);
        return if from_node { PASS } else { DROP };
    };
    let mut packet = Packet::default();
    let parsed = parse::parse(&Skb(ctx), &mut packet);
    let maps = Maps {
        config,
        counters,
        length,
    };
    let verdict = decide::decide(&maps, endpoint, direction, parsed, &packet, length, from_node);

    // SAFETY: a per-CPU value that only this CPU writes, just looked up.
    let counters = unsafe { &mut *counters };
    match verdict {
        Verdict::Forward => {
            count(&mut counters.forwarded, length);
            PASS
        }
        Verdict::Drop(drop) => {
            count(counters.dropped(drop.reason), length);
            event::dropped(ctx, endpoint, direction, &packet, &drop, config.events_per_second);
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
