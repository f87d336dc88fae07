// SPDX-License-Identifier: Apache-2.0
//! Whether two classes say the same.

use std::collections::BTreeMap;

use crate::compile::{Class, ClassId, Compiled, FrontendClass, PeerId, PeerSet, Target, Untranslated};

/// Compares classes of two compilations by the peers that are active in both.
pub struct Agreement<'a> {
    then: &'a Compiled,
    now: &'a Compiled,
    peers: Peers,
}

/// The peers that are active both then and now.
enum Peers {
    /// All but these; each kept its number.
    AllBut(PeerSet),
    Renumbered {
        /// The number now, by the number then.
        now: BTreeMap<PeerId, PeerId>,
        /// The numbers now.
        both: PeerSet,
    },
}

impl<'a> Agreement<'a> {
    /// Compares an earlier and a later compilation.
    pub fn new(then: &'a Compiled, now: &'a Compiled) -> Self {
        let peers = if then.origin.is_same(&now.origin) {
            let changed = then.peers.diff(&now.peers).into_iter();
            Peers::AllBut(changed.map(|(id, _, _)| *id).collect())
        } else {
            let by_text: BTreeMap<_, PeerId> = now.peers.iter().map(|(id, text)| (text, *id)).collect();
            let both = then
                .peers
                .iter()
                .filter_map(|(id, text)| Some((*id, *by_text.get(text)?)));
            let now: BTreeMap<PeerId, PeerId> = both.collect();
            let both = now.values().copied().collect();
            Peers::Renumbered { now, both }
        };
        Self { then, now, peers }
    }

    /// Whether a class says what an earlier one said.
    pub fn holds(&self, then: &Class, now: ClassId) -> bool {
        let Some(now) = self.now.classes.get(&now) else {
            return false;
        };
        match (&then.frontend, &now.frontend) {
            (None, None) => self.alike(then, now),
            (Some(then), Some(now)) => self.lead_alike(then, now),
            _ => false,
        }
    }

    /// Whether packets to two classes of frontends may end at the same.
    fn lead_alike(&self, then: &FrontendClass, now: &FrontendClass) -> bool {
        let known = |old: &Target| now.backends.iter().any(|new| self.targets_alike(old, new));
        let held = |new: &Target| then.backends.iter().any(|old| self.targets_alike(old, new));
        let untranslated = match (&then.untranslated, &now.untranslated) {
            (None, None) => true,
            (Some(Untranslated::Address(then)), Some(Untranslated::Address(now))) => {
                self.targets_alike(then, now)
            }
            (Some(Untranslated::NodePort(then)), Some(Untranslated::NodePort(now))) => {
                self.lead_alike(then, now)
            }
            _ => false,
        };
        then.closed == now.closed
            && untranslated
            && then.backends.iter().all(known)
            && now.backends.iter().all(held)
    }

    fn targets_alike(&self, then: &Target, now: &Target) -> bool {
        let classes = self
            .then
            .classes
            .get(&then.class)
            .zip(self.now.classes.get(&now.class));
        (then.node, then.protocol, then.port) == (now.node, now.protocol, now.port)
            && classes.is_some_and(|(then, now)| self.alike(then, now))
    }

    /// Whether two classes of addresses say the same.
    fn alike(&self, then: &Class, now: &Class) -> bool {
        if then.named_ports != now.named_ports {
            return false;
        }
        match &self.peers {
            Peers::AllBut(others) => then.peers.minus(others) == now.peers.minus(others),
            Peers::Renumbered { now: numbers, both } => {
                let then = then.peers.iter().filter_map(|peer| numbers.get(&peer).copied());
                then.collect::<PeerSet>() == now.peers.intersection(both)
            }
        }
    }
}
