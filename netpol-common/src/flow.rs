// SPDX-License-Identifier: Apache-2.0
//! The life of a flow entry: its state, and how long it may be silent before a packet is judged as
//! new (rule C3). The default times are those of nf_conntrack
//! (Documentation/networking/nf_conntrack-sysctl.rst of the kernel).

use crate::{
    abi::{Direction, Flow, Lifetimes, NO_POLICY},
    parse::{Packet, protocol},
};

/// Progress of a connection. Protocols other than TCP use only the first two states.
///
/// A TCP connection is established once its opener has agreed to the answer. A SYN alone, with what
/// the other side's stack replies to it, must not occupy an entry for days (rule C4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// Packets from the initiator only.
    Opening = 0,
    /// Packets in both directions. For TCP: the opener went on after an answer.
    Established = 1,
    /// Both sides sent a FIN.
    Closing = 2,
    /// One side sent a RST that the other must believe.
    Closed = 3,
    /// TCP: the other side answered, and the opener has said nothing since.
    Answered = 4,
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

/// Lifetimes in seconds that 0 stands for. nf_conntrack has more states than [`State`]; each
/// default is the longest of those that a state stands for. For TCP that is 120 for SYN_SENT among
/// the opening states, including [`State::Answered`], and 120 for FIN_WAIT and TIME_WAIT among the
/// closing ones.
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

/// Returns how long a flow of this protocol and state stays valid without a packet, in nanoseconds.
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

/// Returns true if the judgement of a flow still holds: the endpoint has the same policy, and
/// nothing that the policy was asked about has changed (rule C2).
#[inline(always)]
pub const fn is_current(flow: &Flow, policy: u32, epoch: u32) -> bool {
    flow.policy == policy && flow.epoch == epoch
}

/// Returns true if the flow still counts.
#[inline(always)]
pub const fn alive(flow: &Flow, protocol: u8, now: u64, lifetimes: &Lifetimes) -> bool {
    now.saturating_sub(flow.last_seen) <= lifetime(protocol, flow.state, lifetimes)
}

/// Returns true if a TCP segment asks for a connection. A segment with FIN belongs to no connection
/// (RFC 9293); the kernel agrees.
#[inline(always)]
pub const fn is_syn(tcp_flags: u8) -> bool {
    tcp_flags & (SYN | ACK | RST | FIN) == SYN
}

/// [`Flow::marks`]: the side whose segments go in this direction sent a FIN.
#[inline(always)]
const fn fin(direction: Direction) -> u8 {
    1 << (direction as u8 & 1)
}

/// [`Flow::marks`]: both sides sent a FIN.
pub const BOTH_FINS: u8 = fin(Direction::Ingress) | fin(Direction::Egress);

/// [`Flow::marks`]: the side whose segments go in this direction did not open the connection and
/// asks for a new one.
#[inline(always)]
const fn claimed(direction: Direction) -> u8 {
    4 << (direction as u8 & 1)
}

/// Returns the last acknowledgement number of the side whose segments go in this direction.
#[inline(always)]
const fn acknowledged(flow: &mut Flow, direction: Direction) -> &mut u32 {
    &mut flow.acknowledged[(direction as u8 & 1) as usize]
}

/// Updates a flow with a packet that passed and is no SYN. No claim of one side alone shortens the
/// flow's life (rule C4). A FIN counts once both sides sent one. A RST counts if its receiver would
/// accept it (its number is the one that the receiver acknowledged last; RFC 5961, 3.2), if it
/// refuses a connection, or if the receiver sent a FIN before.
#[inline(always)]
pub fn advance(flow: &mut Flow, packet: &Packet, direction: Direction) {
    let reply = flow.initiator != direction as u8;
    if packet.protocol == protocol::TCP {
        let flags = packet.tcp_flags;
        if flags & RST != 0 {
            let number = *acknowledged(flow, direction.opposite());
            let expected = number != 0 && number == packet.sequence;
            let refuses = reply && flow.state == State::Opening as u8;
            let agreed = flow.marks & fin(direction.opposite()) != 0;
            if expected || refuses || agreed {
                flow.state = State::Closed as u8;
            }
            return;
        }
        if flags & ACK != 0 {
            *acknowledged(flow, direction) = packet.acknowledgement;
        }
        if flags & SYN != 0 {
            // The answer to a SYN on a closed connection: this side goes on as well.
            flow.marks &= !fin(direction);
        }
        if flags & FIN != 0 {
            flow.marks |= fin(direction);
        }
        if flow.state == State::Closed as u8 {
            return;
        }
        if flow.marks & BOTH_FINS == BOTH_FINS {
            flow.state = State::Closing as u8;
            return;
        }
        if let Some(state) = after(flow, packet, reply) {
            flow.state = state as u8;
        }
        if reply && flags & (SYN | ACK) == SYN | ACK {
            flow.claim = packet.sequence.wrapping_add(1);
        }
    } else if reply {
        flow.state = State::Established as u8;
    }
}

/// Returns the new state of a connection after a TCP segment that is no RST, while no side ends the
/// connection. Returns `None` if the state stays.
#[inline(always)]
pub const fn after(flow: &Flow, packet: &Packet, reply: bool) -> Option<State> {
    const OPENING: u8 = State::Opening as u8;
    const ANSWERED: u8 = State::Answered as u8;
    // Another number refuses the answer (RFC 9293, 3.10.7.4). The SYN may have carried data.
    let ahead = packet.acknowledgement.wrapping_sub(flow.claim);
    let agrees = flow.claim == 0 || ahead <= u16::MAX as u32;
    let goes_on = packet.tcp_flags & (SYN | ACK) == ACK && agrees;
    match flow.state {
        OPENING if reply => Some(State::Answered),
        ANSWERED if !reply && goes_on => Some(State::Established),
        _ => None,
    }
}

/// Notes a SYN on a living flow, whether it passed or not. From the opener, it may reopen a closed
/// connection; an open one stays open until the other side agrees. From the other side it is a
/// claim and changes nothing until it is answered: a stack's reply to a SYN in an open connection
/// is no answer to that claim.
#[inline(always)]
pub fn asks_anew(flow: &mut Flow, packet: &Packet, direction: Direction, now: u64) {
    if flow.initiator != direction as u8 {
        flow.claim = packet.sequence.wrapping_add(1);
        flow.marks |= claimed(direction);
        return;
    }
    flow.last_seen = now;
    flow.marks &= !fin(direction);
    if flow.state != State::Established as u8 {
        flow.state = State::Opening as u8;
    }
}

/// Makes the other side the opener if this packet answers its claim (see [`asks_anew`]). The
/// connection is then judged that way.
#[inline(always)]
pub fn agree(flow: &mut Flow, packet: &Packet, direction: Direction) {
    let claimer = direction.opposite();
    let answers = packet.tcp_flags & ACK != 0
        && packet.tcp_flags & (SYN | RST) != 0
        && flow.marks & claimed(claimer) != 0
        && packet.acknowledgement == flow.claim;
    if answers {
        *flow = Flow {
            last_seen: flow.last_seen,
            packets: flow.packets,
            bytes: flow.bytes,
            initiator: claimer as u8,
            state: State::Opening as u8,
            ..NONE
        };
    }
}

/// A flow of which nothing is known. Its epoch is never the current one.
const NONE: Flow = Flow {
    last_seen: 0,
    packets: 0,
    bytes: 0,
    policy: NO_POLICY,
    epoch: 0,
    initiator: 0,
    state: 0,
    tag: 0,
    sender: 0,
    acknowledged: [0; 2],
    claim: 0,
    marks: 0,
    pad: [0; 3],
};

#[cfg(test)]
mod tests {
    use super::*;

    /// Each lifetime applies to its own protocol and state only.
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
