// SPDX-License-Identifier: Apache-2.0
//! Peers that come in force and leave it, ports that are wanted, and namespaces with other labels: what they make of profiles in use.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{Known, NO_POD, Profile, ProfileId, Profiles, groups::GroupId, selects};
use crate::{
    compile::{
        force::Wanted,
        peer::{PeerId, PeerSpec},
    },
    model::Snapshot,
};

impl Profiles {
    /// A peer comes in force. Where all pods of a profile match it, the profile stays and matches it from now on.
    pub(in crate::compile) fn add_peer(&mut self, peer: PeerId, spec: &Arc<PeerSpec>, snapshot: &Snapshot) {
        let PeerSpec::Pods { namespaces, pods } = &**spec else {
            return;
        };
        self.selectors.insert(peer, spec.clone());
        let mut matching: BTreeMap<ProfileId, BTreeSet<GroupId>> = BTreeMap::new();
        let in_space = |name: &str| selects(namespaces, name, snapshot);
        self.groups.meet(peer, namespaces, in_space, |id, group| {
            if pods.matches(group.labels()) {
                matching.entry(group.profile).or_default().insert(id);
            }
        });
        for (id, groups) in matching {
            let Some(known) = self.known.get(&id) else {
                continue;
            };
            let before = known.profile.clone();
            let mut with = Profile::clone(&before);
            with.peers.push(peer);
            if id == NO_POD || groups.len() * 2 <= known.groups.len() {
                let new = self.intern(with);
                groups.into_iter().for_each(|group| self.move_group(group, new));
                continue;
            }
            let others: Vec<GroupId> = known.groups.difference(&groups).copied().collect();
            self.rename(id, with);
            if !others.is_empty() {
                let new = self.intern(Profile::clone(&before));
                others.into_iter().for_each(|group| self.move_group(group, new));
            }
        }
        self.touched.extend(self.claims.shared());
    }

    /// A peer is no longer in force. Profiles that then are the same become one.
    pub(in crate::compile) fn remove_peer(&mut self, peer: PeerId, spec: &PeerSpec) {
        if matches!(spec, PeerSpec::Block { .. }) {
            return;
        }
        self.selectors.remove(&peer);
        self.groups.forget(peer);
        let has = |known: &Known| known.profile.peers.binary_search(&peer).is_ok();
        let having: Vec<ProfileId> = self
            .known
            .iter()
            .filter(|(_, known)| has(known))
            .map(|(id, _)| *id)
            .collect();
        for id in having {
            let known = &self.known[&id];
            let mut without = Profile::clone(&known.profile);
            without.peers.retain(|other| *other != peer);
            let Some(&same) = self.ids.get(&without) else {
                self.rename(id, without);
                continue;
            };
            let (stays, goes) = if same == NO_POD || self.known[&same].groups.len() >= known.groups.len() {
                (same, id)
            } else {
                (id, same)
            };
            self.forget_content(goes);
            if stays == id {
                self.rename(id, without);
            }
            let groups: Vec<GroupId> = self.known[&goes].groups.iter().copied().collect();
            groups.into_iter().for_each(|group| self.move_group(group, stays));
        }
        self.touched.extend(self.claims.shared());
    }

    /// Takes the named ports by which egress rules in force reach pods.
    pub(in crate::compile) fn want(&mut self, wanted: Wanted) {
        if self.wanted == wanted {
            return;
        }
        let before = std::mem::replace(&mut self.wanted, wanted);
        let all = before.of_all != self.wanted.of_all;
        let concerns = |peer: &PeerId| before.of_peers.get(peer) != self.wanted.of_peers.get(peer);
        let concerned = self
            .known
            .values()
            .filter(|known| all || known.profile.peers.iter().any(concerns));
        let groups: Vec<GroupId> = concerned.flat_map(|known| &known.groups).copied().collect();
        for id in groups {
            let peers = self.known[&self.groups[id].profile].profile.peers.clone();
            self.set_peers(id, peers);
        }
        self.touched.extend(self.claims.shared());
    }

    /// A namespace has other labels, or is or is no longer known.
    pub(in crate::compile) fn relabel(&mut self, namespace: &str, snapshot: &Snapshot) {
        self.groups.forget_candidates(namespace);
        for id in self.groups.of_namespace(namespace) {
            let peers = self.matching(id, snapshot);
            self.set_peers(id, peers);
        }
        self.touched.extend(self.claims.shared());
    }
}
