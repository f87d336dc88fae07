// SPDX-License-Identifier: Apache-2.0
//! The version of what the programs tell, and of each map's layout.

use super::{
    Address, Binding, Config, Counter, Counters, DropReason, Endpoint, Event, EventBudget, Flow, FlowKey,
    FlowShare, Forwarded, Fragment, FragmentKey, Frontend, Identity, Lifetimes, Peer, PolicyMatch,
    PolicyValue, PortValue, Sender,
};
use crate::quota::RING;

/// Name, offset and size of each field.
type Layout = [(&'static str, usize, usize)];

/// Version of the layouts of the maps `counters`, `events` and `event_budget`, and of the meaning
/// of [`Event::reason`]. It is a digest of them: who changes one has no number to raise. Part of
/// the pin path of these maps, beside [`ABI_VERSION`](super::ABI_VERSION), so that they are made
/// anew when they differ, and the maps that enforce are not.
pub const OBSERVED_VERSION: u32 = {
    let mut version = Digest::new()
        .layout(Event::LAYOUT)
        .layout(Counter::LAYOUT)
        .layout(Counters::LAYOUT)
        .layout(EventBudget::LAYOUT);
    let mut nth = 0;
    while nth < DropReason::ALL.len() {
        let reason = DropReason::ALL[nth];
        version = version.text(reason.name()).number(reason as usize);
        nth += 1;
    }
    version.0
};

/// Raise it, with [`ABI_VERSION`](super::ABI_VERSION), when a field or a number in the maps gets
/// another meaning and keeps its layout, and when a map gets another type, other flags or another
/// number of entries: a map that is kept stays as it was made.
const MEANING: usize = 1;

/// A key or value without fields.
const NUMBER: &Layout = &[("number", 0, 4)];

/// Digests of the layouts of the maps that enforce, keys and values, with all structures in them.
/// [`ABI_VERSION`](super::ABI_VERSION) is one number for all; these tell which maps it is about: a
/// new version keeps an earlier one's maps whose digest is its own.
pub const LAYOUTS: [(&str, u32); 17] = [
    ("endpoints", digest(&[NUMBER, Endpoint::LAYOUT])),
    ("bindings", digest(&[NUMBER, Binding::LAYOUT])),
    ("local_pods", digest(&[Address::LAYOUT, NUMBER])),
    ("senders", digest(&[Sender::LAYOUT, NUMBER])),
    ("restricted", digest(&[Frontend::LAYOUT, Address::LAYOUT, NUMBER])),
    ("forwards", digest(&[Forwarded::LAYOUT, Address::LAYOUT, NUMBER])),
    (
        "addresses",
        digest(&[Address::LAYOUT, Peer::LAYOUT, Identity::LAYOUT]),
    ),
    ("identities", digest(&[Address::LAYOUT, Identity::LAYOUT])),
    (
        "frontends",
        digest(&[Frontend::LAYOUT, Address::LAYOUT, Identity::LAYOUT]),
    ),
    (
        "ports",
        digest(&[PolicyMatch::LAYOUT, PortValue::LAYOUT, PolicyValue::LAYOUT]),
    ),
    ("policies", digest(&[PolicyMatch::LAYOUT, PolicyValue::LAYOUT])),
    ("flows", digest(&[FlowKey::LAYOUT, Address::LAYOUT, Flow::LAYOUT])),
    (
        "flow_shares",
        entries(FlowShare::NUMBER, &[NUMBER, FlowShare::LAYOUT]),
    ),
    (
        "flow_rings",
        entries(RING as usize, &[NUMBER, FlowKey::LAYOUT, Address::LAYOUT]),
    ),
    ("inherited", digest(&[Address::LAYOUT, NUMBER])),
    (
        "fragments",
        digest(&[FragmentKey::LAYOUT, Address::LAYOUT, Fragment::LAYOUT]),
    ),
    ("config", digest(&[NUMBER, Config::LAYOUT, Lifetimes::LAYOUT])),
];

const fn digest(layouts: &[&Layout]) -> u32 {
    entries(0, layouts)
}

/// The same, of a map whose entries have places that depend on their number.
const fn entries(number: usize, layouts: &[&Layout]) -> u32 {
    let mut digest = Digest::new().number(MEANING).number(number);
    let mut nth = 0;
    while nth < layouts.len() {
        digest = digest.layout(layouts[nth]);
        nth += 1;
    }
    digest.0
}

/// FNV-1a, 32 bits.
struct Digest(u32);

impl Digest {
    const fn new() -> Self {
        Self(0x811c_9dc5)
    }

    const fn byte(self, byte: u8) -> Self {
        Self((self.0 ^ byte as u32).wrapping_mul(0x0100_0193))
    }

    /// Of numbers below 65536.
    const fn number(self, number: usize) -> Self {
        assert!(number <= u16::MAX as usize);
        let [low, high] = (number as u16).to_le_bytes();
        self.byte(low).byte(high)
    }

    const fn text(self, text: &str) -> Self {
        let bytes = text.as_bytes();
        let mut digest = self.number(bytes.len());
        let mut nth = 0;
        while nth < bytes.len() {
            digest = digest.byte(bytes[nth]);
            nth += 1;
        }
        digest
    }

    const fn layout(self, layout: &Layout) -> Self {
        let mut digest = self.number(layout.len());
        let mut nth = 0;
        while nth < layout.len() {
            let (name, offset, size) = layout[nth];
            digest = digest.text(name).number(offset).number(size);
            nth += 1;
        }
        digest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_of_a_layout_is_another_version() {
        let layouts: [&Layout; 6] = [
            &[("packets", 0, 8), ("bytes", 8, 8)],
            &[("bytes", 0, 8), ("packets", 8, 8)],
            &[("packets", 0, 8), ("octets", 8, 8)],
            &[("packets", 0, 4), ("bytes", 8, 8)],
            &[("packets", 0, 8), ("bytes", 12, 8)],
            &[("packets", 0, 8), ("bytes", 8, 8), ("flows", 16, 8)],
        ];
        let versions = layouts.map(|layout| Digest::new().layout(layout).0);
        for (nth, version) in versions.iter().enumerate() {
            assert!(!versions[..nth].contains(version), "{:?}", layouts[nth]);
        }
    }

    #[test]
    fn the_digest_is_fnv_1a() {
        // From the specification of FNV, for the one byte "a".
        assert_eq!(Digest::new().byte(b'a').0, 0xe40c_292c);
    }
}
