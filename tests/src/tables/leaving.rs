// SPDX-License-Identifier: Apache-2.0
//! Runs program `to_network` on a frame.

use netpol_common::{
    abi::Endpoint,
    checksum::{self, PartialChecksum},
    decide::{Drop, Place, Verdict, decide_leaving, leaves_unread},
    parse::{Frame, Packet, parse},
};

use super::Mirror;
use crate::frames::headers::ETHERNET;

/// A frame in which only the fields that the kernel tells without an Ethernet header are readable.
struct Leaving<'a>(&'a [u8]);

impl Frame for Leaving<'_> {
    fn read(&self, offset: usize, into: &mut [u8]) -> bool {
        let (at, into) = match offset {
            0 if into.len() >= ETHERNET => (12, &mut into[12..ETHERNET]),
            ETHERNET.. => (offset, into),
            _ => return false,
        };
        let Some(found) = self.0.get(at..at + into.len()) else {
            return false;
        };
        into.copy_from_slice(found);
        true
    }

    fn vlan_tag(&self) -> bool {
        false
    }

    fn length(&self) -> usize {
        self.0.len() + ETHERNET
    }
}

impl Mirror {
    /// Returns why a frame does not leave the node, or `None` if it does.
    pub(super) fn leave(&self, place: Place, frame: &[u8]) -> Option<Drop> {
        let is_ipv6 = frame.get(12..14) == Some(&[0x86, 0xdd]);
        if leaves_unread(&place, is_ipv6) {
            return None;
        }
        let (mut packet, mut quoted) = (Packet::default(), Packet::default());
        let parsed = parse(&Leaving(frame), &mut packet, &mut quoted);
        let parsed = checksum::check(parsed, &mut packet, PartialChecksum::NONE);
        let mut endpoint = Endpoint::CLOSED;
        match decide_leaving(self, &place, parsed, &mut packet, &mut endpoint) {
            Verdict::Forward => None,
            Verdict::Drop(drop) => Some(drop),
        }
    }
}
