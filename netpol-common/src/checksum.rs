// SPDX-License-Identifier: Apache-2.0
//! Checks checksums that a device writes later, after every hook (`CHECKSUM_PARTIAL`). The sender
//! says where; one that may open packet sockets can say any place. If that place is in a header
//! that was judged, another packet arrives than the one that was judged.

use crate::{
    abi::{Address, DropReason},
    parse::{NOTHING_TOLD, Packet, Parsed, Part, protocol},
};

#[cfg(test)]
mod tests;

/// End of the bytes that tell that a frame is no IP packet: two MAC addresses, a VLAN tag, the
/// EtherType.
const LINK_LAYER: i32 = 18;

/// A checksum that is not written yet. That of SCTP has four bytes and is written eight bytes after
/// `start`; the kernel puts that into `offset`, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartialChecksum {
    /// True if a checksum is to be written. Otherwise the other fields mean nothing.
    pub is_pending: bool,
    /// Start of the covered bytes, counted from the link layer header.
    pub start: i32,
    /// Distance in bytes from there to the checksum, which has two bytes.
    pub offset: u16,
}

impl PartialChecksum {
    /// No checksum is left to write.
    pub const NONE: Self = Self {
        is_pending: false,
        start: 0,
        offset: 0,
    };

    /// Returns true if nothing but the checksum of a [simple](crate::parse::simple) packet is to be
    /// written into it.
    #[inline(always)]
    pub const fn is_of(self, packet: &Packet) -> bool {
        let own = if packet.protocol == protocol::TCP { 16 } else { 6 };
        !self.is_pending || self.start == packet.upper as i32 && self.offset == own
    }
}

/// Corrects the kind of a frame for the checksum that is still to be written.
///
/// If that changes what policy is asked about, the frame is malformed (rules F2, F3). The only
/// allowed places are the header's own checksum, and bytes after all headers that were read, as for
/// what a tunnel in the pod carries. If it may change the source address, the frame has no known
/// source (rule A6).
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
        return Parsed::Unreadable(DropReason::Malformed);
    }
    match parsed {
        Parsed::Packet | Parsed::Neighbour | Parsed::Membership if !keeps_headers(packet, partial) => {
            Parsed::Unreadable(DropReason::Malformed)
        }
        parsed => parsed,
    }
}

/// Returns true if the checksum leaves the headers that were read as they are. Fragments are made
/// from packets whose checksum is written, so a fragment without one is forged.
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
    // Offset of the own checksum, and the end of the bytes that were read. For ICMP, these include
    // what it quotes.
    let (own, end) = match packet.protocol {
        protocol::TCP => (16, 20),
        protocol::UDP => (6, 8),
        protocol::SCTP => (8, 12),
        protocol::ICMP | protocol::ICMPV6 | protocol::IGMP => (2, u16::MAX),
        _ => return partial.start >= upper,
    };
    partial.start == upper && partial.offset == own || partial.start >= upper + i32::from(end)
}
