// SPDX-License-Identifier: Apache-2.0
//! Checksums that a device is to write later, behind every hook (`CHECKSUM_PARTIAL`). Who sends a packet says where: who may open packet
//! sockets, anywhere. Where that is a header that was judged, what arrives is another packet.

use crate::{
    abi::{Address, DropReason},
    parse::{NOTHING_TOLD, Packet, Parsed, Part, protocol},
};

#[cfg(test)]
mod tests;

/// End of what tells that a frame is no IP packet: two MAC addresses, a VLAN tag, the EtherType.
const LINK_LAYER: i32 = 18;

/// A checksum that is not written yet. SCTP's has four bytes and is written eight behind `start`; the kernel says so in `offset`, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartialChecksum {
    /// Whether there is one; the rest means nothing else.
    pub is_pending: bool,
    /// Where what it covers begins, bytes from the link layer header.
    pub start: i32,
    /// Bytes from there to where it is written; it has two.
    pub offset: u16,
}

impl PartialChecksum {
    /// Every checksum is there.
    pub const NONE: Self = Self {
        is_pending: false,
        start: 0,
        offset: 0,
    };

    /// True if nothing is to be written into a [simple](crate::parse::simple) packet but its own
    /// checksum.
    #[inline(always)]
    pub const fn is_of(self, packet: &Packet) -> bool {
        let own = if packet.protocol == protocol::TCP { 16 } else { 6 };
        !self.is_pending || self.start == packet.upper as i32 && self.offset == own
    }
}

/// What a frame is, with the checksum that is still to be written. Where that changes what policy is asked about, it is malformed (rules F2, F3):
/// the only places for it are the header's own checksum, and what is behind all headers that were read, as for what a tunnel in the pod
/// carries. Where it may change the source address, that is nobody's (rule A6).
#[inline(always)]
pub fn check(parsed: Parsed, packet: &mut Packet, partial: PartialChecksum) -> Parsed {
    if !partial.is_pending {
        return parsed;
    }
    let source_end = match packet.source_end {
        0 => LINK_LAYER,
        end => i32::from(end),
    };
    if partial.start < 0 || partial.start + i32::from(partial.offset) < source_end {
        packet.source = Address::default();
        packet.protocol = NOTHING_TOLD;
        return Parsed::Unjudged(DropReason::Malformed);
    }
    match parsed {
        Parsed::Packet | Parsed::Neighbour | Parsed::Membership if !keeps_headers(packet, partial) => {
            Parsed::Unjudged(DropReason::Malformed)
        }
        parsed => parsed,
    }
}

/// Whether it leaves what was read of a packet as it is. Fragments are made of what has its checksum: one without is a forgery.
#[inline(always)]
fn keeps_headers(packet: &Packet, partial: PartialChecksum) -> bool {
    let upper = i32::from(packet.upper);
    // ARP: none of its fields is judged.
    if upper == 0 {
        return true;
    }
    if packet.part as u8 != Part::Whole as u8 {
        return false;
    }
    // Where the own checksum is, and the end of what was read; of ICMP that is what it quotes, too.
    let (own, end) = match packet.protocol {
        protocol::TCP => (16, 20),
        protocol::UDP => (6, 8),
        protocol::SCTP => (8, 12),
        protocol::ICMP | protocol::ICMPV6 | protocol::IGMP => (2, u16::MAX),
        _ => return partial.start >= upper,
    };
    partial.start == upper && partial.offset == own || partial.start >= upper + i32::from(end)
}
