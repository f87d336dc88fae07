// SPDX-License-Identifier: Apache-2.0
//! Selectors by their label keys. Only selectors with a key that a pod has need to be asked whether
//! they match it.

use std::collections::BTreeMap;

use crate::{
    compile::{
        peer_set::{PeerId, PeerSet},
        selector::Selector,
    },
    model::Labels,
};

/// Peers by what decides whether they match.
#[derive(Debug, Default)]
pub(super) struct Keys {
    /// Peers that match a pod without labels, and so any pod that has none of their keys.
    bare: PeerSet,
    /// Peers by the keys of their selectors.
    by_key: BTreeMap<String, PeerSet>,
}

impl Keys {
    /// The keys of these peers.
    pub(super) fn of<'a>(peers: impl Iterator<Item = (PeerId, &'a Selector)>) -> Self {
        let none = Labels::new();
        let mut bare = Vec::new();
        let mut by_key: BTreeMap<&str, Vec<PeerId>> = BTreeMap::new();
        for (peer, selector) in peers {
            if selector.matches(&none) {
                bare.push(peer);
            }
            for key in selector.keys() {
                by_key.entry(key).or_default().push(peer);
            }
        }
        let by_key = by_key.into_iter();
        Self {
            bare: bare.into_iter().collect(),
            by_key: by_key
                .map(|(key, peers)| (key.to_owned(), peers.into_iter().collect()))
                .collect(),
        }
    }

    /// Adds other peers.
    pub(super) fn add(&mut self, others: Self) {
        self.bare = self.bare.union(&others.bare);
        for (key, peers) in others.by_key {
            let known = self.by_key.entry(key).or_default();
            *known = known.union(&peers);
        }
    }

    /// Removes peers.
    pub(super) fn remove(&mut self, others: &Self) {
        self.bare = self.bare.minus(&others.bare);
        for (key, peers) in &others.by_key {
            if let Some(known) = self.by_key.get_mut(key) {
                *known = known.minus(peers);
                if known.is_empty() {
                    self.by_key.remove(key);
                }
            }
        }
    }

    /// The peers among these that match a pod with these labels. `matches` asks one.
    pub(super) fn matching(
        &self,
        among: &PeerSet,
        labels: &Labels,
        matches: impl Fn(PeerId) -> bool,
    ) -> PeerSet {
        let about = labels.iter().filter_map(|(key, _)| self.by_key.get(key));
        let about = PeerSet::union_of(about);
        let asked = about.intersection(among);
        let bare = self.bare.intersection(among).minus(&about);
        bare.union(&asked.iter().filter(|peer| matches(*peer)).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, collections::BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::model::{LabelExpression, LabelSelector};

    const KEYS: [&str; 4] = ["a", "b", "c", "d"];

    fn selector() -> impl Strategy<Value = Selector> {
        let expression = (0..KEYS.len(), 0..4_usize, 0..3_u8).prop_map(|(key, operator, value)| {
            let values = if operator < 2 {
                vec![value.to_string()]
            } else {
                Vec::new()
            };
            LabelExpression {
                key: KEYS[key].to_owned(),
                operator: ["In", "NotIn", "Exists", "DoesNotExist"][operator].to_owned(),
                values,
            }
        });
        prop::collection::vec(expression, 0..4).prop_map(|match_expressions| {
            let match_labels = Labels::new();
            let selector = LabelSelector {
                match_labels,
                match_expressions,
            };
            Selector::parse(&selector, "").unwrap()
        })
    }

    proptest! {
        /// It is what asking each gives, whatever came and went, and only those are asked that are
        /// about a key which is there.
        #[test]
        fn l2_what_labels_match_is_found_by_their_keys(
            selectors in prop::collection::vec((selector(), any::<bool>(), any::<bool>()), 0..100),
            labels in prop::collection::btree_map(0..KEYS.len(), 0..3_u8, 0..4),
        ) {
            let all = || selectors.iter().enumerate().map(|(nth, one)| (nth as PeerId, one));
            let mut keys = Keys::of(all().filter(|(_, one)| one.1).map(|(id, one)| (id, &one.0)));
            keys.add(Keys::of(all().filter(|(_, one)| !one.1).map(|(id, one)| (id, &one.0))));
            keys.remove(&Keys::of(all().filter(|(_, one)| one.2).map(|(id, one)| (id, &one.0))));
            let labels: Labels = labels
                .into_iter()
                .map(|(key, value)| (KEYS[key].to_owned(), value.to_string()))
                .collect();
            let left = || all().filter(|(_, one)| !one.2);
            for among in [left().map(|(id, _)| id).collect(), left().step_by(2).map(|(id, _)| id).collect::<PeerSet>()] {
                let asked = RefCell::new(BTreeSet::new());
                let found = keys.matching(&among, &labels, |peer| {
                    asked.borrow_mut().insert(peer);
                    selectors[peer as usize].0.matches(&labels)
                });
                let matching = among.iter().filter(|peer| selectors[*peer as usize].0.matches(&labels));
                prop_assert_eq!(found, matching.collect::<PeerSet>());
                for peer in asked.into_inner() {
                    prop_assert!(selectors[peer as usize].0.keys().any(|key| labels.contains_key(key)));
                }
            }
        }
    }
}
