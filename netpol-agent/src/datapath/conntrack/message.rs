// SPDX-License-Identifier: Apache-2.0
//! Parses an entry of the kernel's connection table, as ctnetlink sends it
//! (`linux/netfilter/nfnetlink_conntrack.h`). Numbers are in network byte order. Skips attributes
//! that are not needed. An entry without a needed one is no [`Connection`].

use std::net::IpAddr;

use netpol_common::parse::protocol;

use crate::datapath::netlink::attributes;

/// `struct nfgenmsg`, before the attributes.
const NETFILTER_MESSAGE_BYTES: usize = 4;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
const CTA_PROTOINFO: u16 = 4;
const CTA_TIMEOUT: u16 = 7;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_PROTO_ICMP_ID: u16 = 4;
const CTA_PROTO_ICMP_TYPE: u16 = 5;
const CTA_PROTO_ICMPV6_ID: u16 = 7;
const CTA_PROTO_ICMPV6_TYPE: u16 = 8;
const CTA_PROTOINFO_TCP: u16 = 1;
const CTA_PROTOINFO_TCP_STATE: u16 = 1;
const CTA_PROTOINFO_TCP_FLAGS_ORIGINAL: u16 = 4;

/// `IPS_SEEN_REPLY`: packets passed in both directions.
const SEEN_REPLY: u32 = 1 << 1;
/// `IPS_DYING`: the entry is being removed.
const DYING: u32 = 1 << 9;
/// `IP_CT_TCP_FLAG_WINDOW_SCALE`.
const WINDOW_SCALE: u8 = 0x01;
/// `IP_CT_TCP_FLAG_BE_LIBERAL`.
const BE_LIBERAL: u8 = 0x08;

/// One direction of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tuple {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// IANA protocol number.
    pub protocol: u8,
    /// Source port, or the identifier of an ICMP message; network byte order, zeros if the protocol
    /// has none.
    pub source_port: [u8; 2],
    /// Destination port, network byte order; zeros if the protocol has none.
    pub destination_port: [u8; 2],
    /// Type of an ICMP message.
    pub icmp_type: Option<u8>,
}

/// State of a TCP connection (`enum tcp_conntrack`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tcp {
    /// One or two SYNs were seen.
    Opening,
    /// The handshake is complete.
    Established,
    /// A FIN was seen.
    Closing,
    /// A RST was seen, or nothing is known.
    Closed,
}

/// An entry of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Connection {
    /// Packets of the side that opened the connection, before any translation.
    pub original: Tuple,
    /// Packets of the other side, before their translation.
    pub reply: Tuple,
    /// True if packets passed in both directions.
    pub answered: bool,
    /// True if the entry is being removed.
    pub dying: bool,
    /// Time until the entry expires without a packet, seconds.
    pub timeout: Option<u32>,
    /// TCP state, for TCP.
    pub tcp: Option<Tcp>,
    /// True if tracking picked up an open connection: then it only guesses who opened it.
    pub picked_up: bool,
}

/// Parses an entry.
pub(super) fn connection(message: &[u8]) -> Option<Connection> {
    let (mut original, mut reply, mut status, mut timeout) = (None, None, None, None);
    let (mut tcp, mut flags) = (None, 0);
    for (kind, value) in attributes(message.get(NETFILTER_MESSAGE_BYTES..)?) {
        match kind {
            CTA_TUPLE_ORIG => original = tuple(value),
            CTA_TUPLE_REPLY => reply = tuple(value),
            CTA_STATUS => status = number(value),
            CTA_TIMEOUT => timeout = number(value),
            CTA_PROTOINFO => {
                for (kind, value) in nested(value, CTA_PROTOINFO_TCP) {
                    match kind {
                        CTA_PROTOINFO_TCP_STATE => tcp = value.first().map(|state| state_of(*state)),
                        CTA_PROTOINFO_TCP_FLAGS_ORIGINAL => flags = *value.first()?,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    let (original, reply, status) = (original?, reply?, status?);
    let same_kind = original.protocol == reply.protocol
        && original.source.is_ipv4() == reply.source.is_ipv4()
        && (original.protocol != protocol::TCP || tcp.is_some());
    same_kind.then_some(Connection {
        original,
        reply,
        answered: status & SEEN_REPLY != 0,
        dying: status & DYING != 0,
        timeout,
        tcp,
        // A connection picked up in the middle gets liberal window checks. Its SYN, which
        // negotiates the window scale, was not seen.
        picked_up: flags & (BE_LIBERAL | WINDOW_SCALE) == BE_LIBERAL,
    })
}

fn tuple(bytes: &[u8]) -> Option<Tuple> {
    let (mut source, mut destination) = (None, None);
    for (kind, value) in nested(bytes, CTA_TUPLE_IP) {
        match kind {
            CTA_IP_V4_SRC | CTA_IP_V6_SRC => source = ip(value),
            CTA_IP_V4_DST | CTA_IP_V6_DST => destination = ip(value),
            _ => {}
        }
    }
    let (mut protocol, mut icmp_type) = (None, None);
    let (mut source_port, mut destination_port) = ([0; 2], [0; 2]);
    for (kind, value) in nested(bytes, CTA_TUPLE_PROTO) {
        match kind {
            CTA_PROTO_NUM => protocol = value.first().copied(),
            CTA_PROTO_SRC_PORT | CTA_PROTO_ICMP_ID | CTA_PROTO_ICMPV6_ID => {
                source_port = value.try_into().ok()?;
            }
            CTA_PROTO_DST_PORT => destination_port = value.try_into().ok()?,
            CTA_PROTO_ICMP_TYPE | CTA_PROTO_ICMPV6_TYPE => icmp_type = value.first().copied(),
            _ => {}
        }
    }
    let (source, destination) = (source?, destination?);
    (source.is_ipv4() == destination.is_ipv4()).then_some(Tuple {
        source,
        destination,
        protocol: protocol?,
        source_port,
        destination_port,
        icmp_type,
    })
}

const fn state_of(state: u8) -> Tcp {
    match state {
        // SYN_SENT, SYN_RECV, SYN_SENT2.
        1 | 2 | 9 => Tcp::Opening,
        3 => Tcp::Established,
        // FIN_WAIT, CLOSE_WAIT, LAST_ACK, TIME_WAIT.
        4..=7 => Tcp::Closing,
        _ => Tcp::Closed,
    }
}

/// Returns the attributes nested in those of type `outer`.
fn nested(bytes: &[u8], outer: u16) -> impl Iterator<Item = (u16, &[u8])> {
    attributes(bytes)
        .filter(move |(kind, _)| *kind == outer)
        .flat_map(|(_, value)| attributes(value))
}

fn number(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(value.try_into().ok()?))
}

fn ip(value: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(value)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(value).map(IpAddr::from))
        .ok()
}

#[cfg(test)]
mod tests;
