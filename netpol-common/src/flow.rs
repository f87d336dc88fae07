// SPDX-License-Identifier: Apache-2.0
//! The life of a flow entry: its state, and how long it may be silent before a packet is judged as new (rule C3). The times are
//! the defaults of nf_conntrack (Documentation/networking/nf_conntrack-sysctl.rst of the kernel).

use crate::{abi::Flow, parse::protocol};

/// How far a connection has come. Protocols other than TCP use the first two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// Packets of the initiator only.
    Opening = 0,
    /// Packets both ways.
    Established = 1,
    /// A FIN was seen.
    Closing = 2,
    /// A RST was seen.
    Closed = 3,
}

/// TCP flag FIN.
pub const FIN: u8 = 0x01;
/// TCP flag SYN.
pub const SYN: u8 = 0x02;
/// TCP flag RST.
pub const RST: u8 = 0x04;
/// TCP flag ACK.
pub const ACK: u8 = 0x10;

const SECOND: u64 = 1_000_000_000;

/// How long a flow of this protocol and state stays valid without a packet, nanoseconds.
#[inline(always)]
pub const fn lifetime(protocol: u8, state: u8) -> u64 {
    const ESTABLISHED: u8 = State::Established as u8;
    const CLOSED: u8 = State::Closed as u8;
    match (protocol, state) {
        (protocol::TCP, ESTABLISHED) => 432_000 * SECOND,
        (protocol::TCP, CLOSED) => 10 * SECOND,
        (protocol::TCP, _) => 120 * SECOND,
        (protocol::UDP, ESTABLISHED) => 120 * SECOND,
        (protocol::UDP | protocol::ICMP | protocol::ICMPV6, _) => 30 * SECOND,
        (protocol::SCTP, ESTABLISHED) => 210 * SECOND,
        (protocol::SCTP, _) => 30 * SECOND,
        _ => 600 * SECOND,
    }
}

/// Whether the flow may still speak for packets.
#[inline(always)]
pub const fn alive(flow: &Flow, protocol: u8, now: u64) -> bool {
    now.saturating_sub(flow.last_seen) <= lifetime(protocol, flow.state)
}

/// The state after a packet that passed. `reply`: it went against the direction that opened the flow.
#[inline(always)]
pub const fn next_state(state: u8, protocol: u8, tcp_flags: u8, reply: bool) -> u8 {
    if protocol == protocol::TCP {
        if tcp_flags & RST != 0 || state == State::Closed as u8 {
            return State::Closed as u8;
        }
        if tcp_flags & FIN != 0 || state == State::Closing as u8 {
            return State::Closing as u8;
        }
    }
    if reply { State::Established as u8 } else { state }
}
