// SPDX-License-Identifier: Apache-2.0
//! Whether two classes say the same.

use std::collections::{BTreeMap, BTreeSet};

use crate::compile::{Class, ClassId, Compiled, PeerId, Target};

/// Compares classes of two compilations, as far as the same peers are in force.
pub struct Agreement<'a> {
    then: &'a Compiled,
    now: &'a Compiled,
    /// Numbers that peers in force both then and now have now, where they may be others.
    renumbered: Option<Renumbered>,
}

struct Renumbered {
    /// By the number that each had then.
    now: BTreeMap<PeerId, PeerId>,
    /// The numbers now.
    both: BTreeSet<PeerId>,
}

impl<'a> Agreement<'a> {
    /// Of an earlier and a later compilation.
    pub fn new(then: &'a Compiled, now: &'a Compiled) -> Self {
        let renumbered = (!then.origin.is_same(&now.origin)).then(|| {
            let by_text: BTreeMap<_, PeerId> = now.peers.iter().map(|(id, text)| (text, *id)).collect();
            let both = then
                .peers
                .iter()
                .filter_map(|(id, text)| Some((*id, *by_text.get(text)?)));
            let now: BTreeMap<PeerId, PeerId> = both.collect();
            let both = now.values().copied().collect();
            Renumbered { now, both }
        });
        Self {
            then,
            now,
            renumbered,
        }
    }

    /// Whether a class says what an earlier one said.
    pub fn holds(&self, then: &Class, now: ClassId) -> bool {
        let Some(now) = self.now.classes.get(&now) else {
            return false;
        };
        if then.closed != now.closed {
            return false;
        }
        match (&then.frontend, &now.frontend) {
            (None, None) => self.alike(then, now),
            (Some(then), Some(now)) => {
                let alike = |then: &Target, now: &Target| {
                    let classes = self
                        .then
                        .classes
                        .get(&then.class)
                        .zip(self.now.classes.get(&now.class));
                    (then.node, then.protocol, then.port) == (now.node, now.protocol, now.port)
                        && classes.is_some_and(|(then, now)| self.alike(then, now))
                };
                let known = |then: &Target| now.iter().any(|now| alike(then, now));
                let held = |now: &Target| then.iter().any(|then| alike(then, now));
                then.iter().all(known) && now.iter().all(held)
            }
            _ => false,
        }
    }

    /// Of classes of addresses.
    fn alike(&self, then: &Class, now: &Class) -> bool {
        if then.named_ports != now.named_ports {
            return false;
        }
        match &self.renumbered {
            None => {
                let then = then
                    .peers
                    .iter()
                    .filter(|peer| self.now.peers.contains_key(*peer));
                let now = now
                    .peers
                    .iter()
                    .filter(|peer| self.then.peers.contains_key(*peer));
                then.eq(now)
            }
            Some(renumbered) => {
                let mut then: Vec<_> = then
                    .peers
                    .iter()
                    .filter_map(|peer| renumbered.now.get(peer))
                    .collect();
                then.sort_unstable();
                let now = now.peers.iter().filter(|peer| renumbered.both.contains(*peer));
                then.into_iter().eq(now)
            }
        }
    }
}
