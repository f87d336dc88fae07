// SPDX-License-Identifier: Apache-2.0
//! How changes of peers, of wanted ports and of namespaces' labels change the groups. All peers of
//! a turn are taken at once: each profile is computed once, however many they are (rule L2).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    Profiles,
    groups::GroupId,
    keys::Keys,
    numbers::{Part, Which},
    profile::{Profile, ProfileId},
};
use crate::{
    compile::{
        active::Changes,
        peer::PeerSpec,
        peer_set::{PeerId, PeerSet},
        wanted::{Moved, Wanted},
    },
    model::{PortKey, Snapshot},
};

/// The number of each named port.
type Ports = BTreeMap<PortKey, u16>;

impl Profiles {
    /// Takes the peers that become active or stop being so, and the named ports by which active
    /// egress rules reach pods, if these may have changed.
    pub(in crate::compile) fn set_active(
        &mut self,
        changes: &Changes,
        wanted: impl FnOnce() -> Wanted,
        snapshot: &Snapshot,
    ) {
        let mut moved = Moved::default();
        if changes.changed {
            let wanted = wanted();
            moved = self.wanted.moved(&wanted);
            self.wanted = wanted;
        }
        let selects = |spec: &PeerSpec| matches!(spec, PeerSpec::Pods { .. });
        let removed = changes.removed.iter().filter(|(_, spec)| selects(spec));
        self.keys.remove(&keys(removed.clone()));
        let removed: PeerSet = removed.map(|(id, _)| *id).collect();
        let added = changes.added.iter().filter(|(_, spec)| selects(spec));
        let keys = keys(added.clone());
        let added: BTreeMap<_, _> = added.cloned().collect();
        removed.iter().for_each(|id| drop(self.selectors.remove(&id)));
        if !removed.is_empty() {
            self.groups.forget(&removed);
        }
        let mut gains: BTreeMap<ProfileId, BTreeMap<GroupId, PeerSet>> = BTreeMap::new();
        for (id, peers) in self.groups.meet(&added, &keys, snapshot) {
            let profile = self.groups[id].profile;
            gains.entry(profile).or_default().insert(id, peers);
        }
        self.selectors.extend(added);
        self.keys.add(keys);
        if !removed.is_empty() || !moved.is_nothing() {
            for (id, known) in &self.known {
                let peers = &known.profile.peers;
                if moved.concerns(peers) || removed.intersects(peers) {
                    gains.entry(*id).or_default();
                }
            }
        }
        if gains.is_empty() {
            return;
        }
        let mut parts = Vec::new();
        for (id, gains) in gains {
            self.split(id, gains, &removed, &moved, &mut parts);
        }
        self.number(parts);
        self.touch_shared();
    }

    /// Splits a profile into the parts of its groups that stay equal. `gains` has the groups that
    /// match new peers. The others are not visited unless ports moved: there may be very many.
    fn split(
        &mut self,
        id: ProfileId,
        mut gains: BTreeMap<GroupId, PeerSet>,
        removed: &PeerSet,
        moved: &Moved,
        parts: &mut Vec<Part>,
    ) {
        let known = &self.known[&id];
        let before = known.profile.clone();
        let peers = before.peers.minus(removed);
        let others = known.groups.len() - gains.len();
        if moved.concerns(&before.peers) {
            for group in &known.groups {
                gains.entry(*group).or_default();
            }
        } else if others > 0 || gains.is_empty() {
            let content = self.made(peers.clone(), before.named_ports.clone());
            parts.push(Part {
                from: id,
                keeps: true,
                count: others,
                groups: Which::AllBut(gains.keys().copied().collect()),
                content,
            });
        }
        let mut alike: BTreeMap<PeerSet, BTreeMap<Option<Ports>, BTreeSet<GroupId>>> = BTreeMap::new();
        for (group, gained) in gains {
            let ports = (moved.concerns(&gained) || moved.concerns(&before.peers)).then(|| {
                let example = self.groups[group].example();
                self.wanted.ports_of(example, [&peers, &gained])
            });
            let of_ports = alike.entry(gained).or_default();
            of_ports.entry(ports).or_default().insert(group);
        }
        let alike = alike.into_iter().flat_map(|(gained, of_ports)| {
            let each = of_ports.into_iter();
            each.map(move |(ports, groups)| (gained.clone(), ports, groups))
        });
        for (gained, ports, groups) in alike {
            let ports = ports.unwrap_or_else(|| before.named_ports.clone());
            parts.push(Part {
                from: id,
                keeps: ports == before.named_ports,
                count: groups.len(),
                content: self.made(peers.union(&gained), ports),
                groups: Which::These(groups),
            });
        }
    }

    pub(super) fn made(&mut self, peers: PeerSet, named_ports: Ports) -> Arc<Profile> {
        #[cfg(test)]
        {
            self.made += 1;
        }
        Arc::new(Profile { peers, named_ports })
    }

    /// Namespaces whose labels have changed, or that came or went.
    pub(in crate::compile) fn relabel<'a>(
        &mut self,
        namespaces: impl Iterator<Item = &'a String>,
        snapshot: &Snapshot,
    ) {
        let mut any = false;
        for namespace in namespaces {
            self.groups.forget_candidates(namespace);
            for id in self.groups.of_namespace(namespace) {
                let peers = self.matching(id, snapshot);
                self.set_peers(id, peers);
                any = true;
            }
        }
        if any {
            self.touch_shared();
        }
    }

    /// An address of several pods means what all of them say. It may change although no group
    /// moved.
    fn touch_shared(&mut self) {
        self.touched.extend(self.claims.shared());
        self.touched.extend(self.link_locals.shared());
    }
}

/// The keys of selector peers.
fn keys<'a>(peers: impl Iterator<Item = &'a (PeerId, Arc<PeerSpec>)>) -> Keys {
    Keys::of(peers.filter_map(|(id, spec)| match &**spec {
        PeerSpec::Pods { pods, .. } => Some((*id, pods)),
        PeerSpec::Block { .. } => None,
    }))
}
