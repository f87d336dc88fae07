// SPDX-License-Identifier: Apache-2.0
//! The life of a flow entry: its state, and how long it may be silent before a packet is judged as new (rule C3). The times are
//! the defaults of nf_conntrack (Documentation/networking/nf_conntrack-sysctl.rst of the kernel).

use crate::{
    abi::{Flow, Lifetimes},
    parse::protocol,
};

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

/// The lifetimes that stand for 0, seconds. Where nf_conntrack has more states than [`State`], the longest of those that a state stands for: 120
/// for SYN_SENT among the opening ones of TCP, 120 for FIN_WAIT and TIME_WAIT among the closing ones.
pub const DEFAULTS: Lifetimes = Lifetimes {
    tcp_opening: 120,
    tcp_established: 432_000,
    tcp_closing: 120,
    tcp_closed: 10,
    udp_opening: 30,
    udp_established: 120,
    sctp_opening: 30,
    sctp_established: 210,
    icmp: 30,
    other: 600,
};

/// How long a flow of this protocol and state stays valid without a packet, nanoseconds: as `lifetimes` says, or by default.
#[inline(always)]
pub const fn lifetime(protocol: u8, state: u8, lifetimes: &Lifetimes) -> u64 {
    const ESTABLISHED: u8 = State::Established as u8;
    const CLOSING: u8 = State::Closing as u8;
    const CLOSED: u8 = State::Closed as u8;
    let (given, default) = match (protocol, state) {
        (protocol::TCP, ESTABLISHED) => (lifetimes.tcp_established, DEFAULTS.tcp_established),
        (protocol::TCP, CLOSING) => (lifetimes.tcp_closing, DEFAULTS.tcp_closing),
        (protocol::TCP, CLOSED) => (lifetimes.tcp_closed, DEFAULTS.tcp_closed),
        (protocol::TCP, _) => (lifetimes.tcp_opening, DEFAULTS.tcp_opening),
        (protocol::UDP, ESTABLISHED) => (lifetimes.udp_established, DEFAULTS.udp_established),
        (protocol::UDP, _) => (lifetimes.udp_opening, DEFAULTS.udp_opening),
        (protocol::SCTP, ESTABLISHED) => (lifetimes.sctp_established, DEFAULTS.sctp_established),
        (protocol::SCTP, _) => (lifetimes.sctp_opening, DEFAULTS.sctp_opening),
        (protocol::ICMP | protocol::ICMPV6, _) => (lifetimes.icmp, DEFAULTS.icmp),
        _ => (lifetimes.other, DEFAULTS.other),
    };
    let seconds = if given == 0 { default } else { given };
    seconds as u64 * SECOND
}

/// Whether the flow may still speak for packets.
#[inline(always)]
pub const fn alive(flow: &Flow, protocol: u8, now: u64, lifetimes: &Lifetimes) -> bool {
    now.saturating_sub(flow.last_seen) <= lifetime(protocol, flow.state, lifetimes)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Each lifetime is that of its own protocol and state, and of no other.
    #[test]
    fn c3_a_lifetime_that_is_given_counts_in_place_of_the_default() {
        const STATES: [State; 4] = [State::Opening, State::Established, State::Closing, State::Closed];
        const PROTOCOLS: [u8; 6] = [
            protocol::TCP,
            protocol::UDP,
            protocol::SCTP,
            protocol::ICMP,
            protocol::ICMPV6,
            47,
        ];
        let given = Lifetimes {
            tcp_opening: 1,
            tcp_established: 2,
            tcp_closing: 3,
            tcp_closed: 4,
            udp_opening: 5,
            udp_established: 6,
            sctp_opening: 7,
            sctp_established: 8,
            icmp: 9,
            other: 10,
        };
        let seconds = |lifetimes: &Lifetimes| {
            PROTOCOLS.map(|protocol| {
                STATES.map(|state| (lifetime(protocol, state as u8, lifetimes) / SECOND) as u32)
            })
        };
        assert_eq!(
            seconds(&given),
            [[1, 2, 3, 4], [5, 6, 5, 5], [7, 8, 7, 7], [9; 4], [9; 4], [10; 4]]
        );
        assert_eq!(seconds(&Lifetimes::default()), seconds(&DEFAULTS));
    }

    #[test]
    fn c3_a_flow_lives_to_the_end_of_its_lifetime() {
        let lifetimes = Lifetimes {
            udp_opening: 3,
            ..Lifetimes::default()
        };
        let flow = Flow {
            last_seen: SECOND,
            ..Flow::default()
        };
        assert!(alive(&flow, protocol::UDP, 4 * SECOND, &lifetimes));
        assert!(!alive(&flow, protocol::UDP, 4 * SECOND + 1, &lifetimes));
        assert!(alive(&flow, protocol::TCP, 4 * SECOND + 1, &lifetimes));
    }
}
