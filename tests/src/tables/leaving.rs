// SPDX-License-Identifier: Apache-2.0
//! What program `to_network` says of a frame.

use netpol_common::{
    abi::{DropReason, IDENTITY_NONE, POLICY_NONE},
    decide::{self, Drop, Place, Tables as _, Verdict, Whose, judge::UNKNOWN},
    parse::{Frame, Packet, Parsed, parse},
    tag,
};

use super::Mirror;
use crate::frames::headers::ETHERNET;

/// A frame of which only what the kernel tells without an Ethernet header is read.
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
    /// Why a frame does not leave the node, or nothing.
    pub(super) fn leave(&self, place: Place, frame: &[u8]) -> Option<Drop> {
        let by_node = place.ingress_ifindex == 0 && tag::number(place.tag) == 0;
        if by_node || place.tag == tag::LEFT {
            return None;
        }
        let (mut packet, mut quoted) = (Packet::default(), Packet::default());
        let unreadable = match parse(&Leaving(frame), &mut packet, &mut quoted) {
            Parsed::Packet => None,
            Parsed::Unjudged(reason) if tag::number(place.tag) != 0 => Some(reason),
            Parsed::Unjudged(_) | Parsed::Neighbour | Parsed::Membership => return None,
        };
        let sender = decide::sender_leaving(self, &place, &packet);
        let unjudged = |reason| Drop {
            reason,
            policy: POLICY_NONE,
            identity: IDENTITY_NONE,
            whose: Whose::sender(sender),
        };
        let endpoint = match sender {
            0 => return self.let_out(place),
            UNKNOWN => return Some(unjudged(DropReason::UnknownSender)),
            sender => self.endpoint(sender),
        };
        if endpoint.egress_policy == POLICY_NONE {
            return self.let_out(place);
        }
        if let Some(reason) = unreadable {
            return Some(unjudged(reason));
        }
        match decide::decide_leaving(self, &endpoint, &place, &mut packet) {
            Verdict::Forward => self.let_out(place),
            Verdict::Drop(drop) => Some(drop),
        }
    }

    fn let_out(&self, place: Place) -> Option<Drop> {
        if tag::number(place.tag) != 0 {
            self.put_tag(tag::LEFT);
        }
        None
    }
}
