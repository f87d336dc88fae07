// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The TC programs. Their names say what the packet does at the pod, never the TC direction: TC
//! ingress of the host-side veth is what the pod sends, TC egress is what it receives.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![expect(
    missing_docs,
    reason = "the classifier attribute drops the documentation of what it wraps"
)]

mod event;
mod flows;
mod maps;
mod offload;
mod packet;
mod scratch;
mod tables;
mod tracking;
mod verdict;

use aya_ebpf::{macros::classifier, programs::TcContext};
use netpol_common::abi::Direction;

/// Runs at TC ingress of a pod's host-side veth, on what the pod sends.
#[classifier]
pub fn from_pod(ctx: TcContext) -> i32 {
    verdict::at_hook(&ctx, Direction::Egress)
}

/// Runs at TC egress of a pod's host-side veth, on what the pod receives.
#[classifier]
pub fn to_pod(ctx: TcContext) -> i32 {
    verdict::at_hook(&ctx, Direction::Ingress)
}

/// Runs at TC egress of a device by which pods' packets leave the node: judges packets that a
/// Service led to a backend elsewhere (rule A5).
#[classifier]
pub fn to_network(ctx: TcContext) -> i32 {
    verdict::leaving(&ctx)
}

/// Some helpers are reserved for programs whose licence is compatible with the GPL.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}
