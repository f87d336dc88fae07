// SPDX-License-Identifier: Apache-2.0
//! The tag of a packet: which pod of this node sent it, and whether its backend must still be
//! judged (rule A5).
//!
//! Program `from_pod` writes it into `skb->tc_index`, which routing, address translation and
//! masquerade do not change. A value without the form of a tag counts as no tag: either the packet
//! passed no such program, or someone overwrote the field. A foreign filter, for example, writes
//! its class there when it accepts a packet for good.

/// Leading bits of every tag.
const FORM: u16 = 0xa000;
const FORM_BITS: u16 = 0xf000;
/// Tag of a packet that was judged and left the node. It names no pod. Another node in the same
/// kernel (kind) sees this tag.
pub const LEFT: u16 = FORM;
/// Lowest bit: the packet must be judged again on its backend.
const DEFERRED: u16 = 1;

/// Greatest number that a tag can carry. The least is 1.
pub const MAX_NUMBER: u16 = !FORM_BITS >> 1;

/// Returns the tag of packets from the sender with a number; 0 if the number does not fit.
#[inline(always)]
pub const fn new(number: u16, deferred: bool) -> u16 {
    if number == 0 || number > MAX_NUMBER {
        0
    } else {
        FORM | number << 1 | deferred as u16
    }
}

/// Returns the number of the sender; 0 if the packet has no tag.
#[inline(always)]
pub const fn number(tag: u16) -> u16 {
    if tag & FORM_BITS == FORM {
        (tag & !FORM_BITS) >> 1
    } else {
        0
    }
}

/// Returns true if the packet must still be judged on its backend.
#[inline(always)]
pub const fn is_deferred(tag: u16) -> bool {
    number(tag) != 0 && tag & DEFERRED != 0
}

/// Returns the sender's tag for a packet that was judged where it left the pod.
#[inline(always)]
pub const fn without_deferral(tag: u16) -> u16 {
    new(number(tag), false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_has_its_number_and_nothing_else_has_one() {
        for number in 1..=MAX_NUMBER {
            for deferred in [false, true] {
                let tag = new(number, deferred);
                assert_eq!((self::number(tag), is_deferred(tag)), (number, deferred));
                assert_eq!(without_deferral(tag), new(number, false));
            }
        }
        assert_eq!((new(0, true), new(MAX_NUMBER + 1, true)), (0, 0));
        assert_eq!((number(LEFT), is_deferred(LEFT)), (0, false));
        for foreign in [0, 1, 2, 3, 0x0fff, 0x9fff, 0xa000, 0xa001, 0xb000, 0xffff] {
            assert_eq!(
                (number(foreign), is_deferred(foreign), without_deferral(foreign)),
                (0, false, 0)
            );
        }
    }
}
