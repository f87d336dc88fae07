// SPDX-License-Identifier: Apache-2.0
//! Groups of equal pods: those of one namespace with the same labels and ports, such as the
//! replicas of a Deployment.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
    ops::{Index, IndexMut},
    sync::Arc,
};

use super::{
    keys::Keys,
    profile::{NO_POD, ProfileId},
};
use crate::{
    compile::{
        peer::{Namespaces, PeerSpec},
        peer_set::{PeerId, PeerSet},
        selector::Selector,
    },
    model::{Labels, Pod, Snapshot},
};

/// Up to so many peers it is faster to ask each than to look up its keys.
const FEW: usize = 8;

/// The label that every namespace carries (rule P4).
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// Number of a group.
pub(super) type GroupId = u64;

/// Pods of one namespace with the same labels and ports.
#[derive(Debug)]
pub(super) struct Group {
    /// By name. Never empty.
    pub(super) members: Vec<Arc<Pod>>,
    /// Its profile.
    pub(super) profile: ProfileId,
}

impl Group {
    /// One of its pods.
    pub(super) fn example(&self) -> &Pod {
        &self.members[0]
    }

    /// Its labels.
    pub(super) fn labels(&self) -> &Labels {
        &self.example().labels
    }
}

/// The groups of a namespace.
#[derive(Debug, Default)]
struct Space {
    groups: BTreeSet<GroupId>,
    /// Active selector peers that select pods of the namespace; `None`: to be looked up again.
    candidates: Option<PeerSet>,
}

/// All groups.
#[derive(Debug, Default)]
pub(super) struct Groups {
    groups: BTreeMap<GroupId, Group>,
    last: GroupId,
    /// By what their pods have in common.
    by_hash: BTreeSet<(u64, GroupId)>,
    spaces: BTreeMap<String, Space>,
}

impl Index<GroupId> for Groups {
    type Output = Group;

    fn index(&self, id: GroupId) -> &Group {
        &self.groups[&id]
    }
}

impl Groups {
    /// Puts a pod into its group; true if that is a new one.
    pub(super) fn join(&mut self, pod: &Arc<Pod>) -> (GroupId, bool) {
        if let Some(id) = self.find(pod) {
            if let Some(group) = self.groups.get_mut(&id) {
                let place = group.members.partition_point(|member| member.key < pod.key);
                group.members.insert(place, pod.clone());
            }
            return (id, false);
        }
        self.last += 1;
        let group = Group {
            members: vec![pod.clone()],
            profile: NO_POD,
        };
        self.groups.insert(self.last, group);
        self.by_hash.insert((hash(pod), self.last));
        let space = self.spaces.entry(pod.key.namespace.to_string()).or_default();
        space.groups.insert(self.last);
        (self.last, true)
    }

    /// Takes a pod out of its group. Returns the group if that was its last pod.
    pub(super) fn leave(&mut self, pod: &Pod) -> Option<(GroupId, Group)> {
        let id = self.find(pod)?;
        let members = &mut self.groups.get_mut(&id)?.members;
        let place = members.binary_search_by(|member| member.key.cmp(&pod.key)).ok()?;
        if members.len() > 1 {
            members.remove(place);
            return None;
        }
        self.by_hash.remove(&(hash(pod), id));
        let namespace = &*pod.key.namespace;
        if let Some(space) = self.spaces.get_mut(namespace) {
            space.groups.remove(&id);
            if space.groups.is_empty() {
                self.spaces.remove(namespace);
            }
        }
        Some((id, self.groups.remove(&id)?))
    }

    fn find(&self, pod: &Pod) -> Option<GroupId> {
        let hash = hash(pod);
        let alike = self.by_hash.range((hash, 0)..=(hash, GroupId::MAX));
        alike.map(|(_, id)| *id).find(|id| {
            let example = self[*id].example();
            example.key.namespace == pod.key.namespace
                && example.labels == pod.labels
                && example.named_ports == pod.named_ports
        })
    }

    /// The groups of a namespace.
    pub(super) fn of_namespace(&self, namespace: &str) -> Vec<GroupId> {
        let space = self.spaces.get(namespace);
        space
            .into_iter()
            .flat_map(|space| &space.groups)
            .copied()
            .collect()
    }

    /// The new peers that each group matches; `keys` are those of these peers. Groups without a
    /// match are left out. A peer is compared with the groups of the namespaces that it selects.
    pub(super) fn meet(
        &mut self,
        added: &BTreeMap<PeerId, Arc<PeerSpec>>,
        keys: &Keys,
        snapshot: &Snapshot,
    ) -> Vec<(GroupId, PeerSet)> {
        let mut named: BTreeMap<&str, Vec<(PeerId, &Selector)>> = BTreeMap::new();
        let mut selected = Vec::new();
        for (id, spec) in added {
            match &**spec {
                PeerSpec::Pods {
                    namespaces: Namespaces::Named(name),
                    pods,
                } => named.entry(name).or_default().push((*id, pods)),
                PeerSpec::Pods {
                    namespaces: Namespaces::Selected(namespaces),
                    pods,
                } => selected.push((*id, namespaces, pods)),
                PeerSpec::Block { .. } => {}
            }
        }
        let groups = &self.groups;
        let mut met = Vec::new();
        let mut meet = |space: &mut Space, mut about: Vec<(PeerId, &Selector)>| {
            about.sort_unstable_by_key(|(id, _)| *id);
            let peers: PeerSet = about.iter().map(|(id, _)| *id).collect();
            if let Some(candidates) = &mut space.candidates {
                *candidates = candidates.union(&peers);
            }
            // Few peers make few sets, which very many groups may share.
            let mut few: BTreeMap<u32, PeerSet> = BTreeMap::new();
            for id in &space.groups {
                let labels = groups[id].labels();
                let peers = if about.len() <= FEW {
                    let places = about.iter().enumerate();
                    let matching = places.filter(|(_, (_, pods))| pods.matches(labels));
                    let which = matching.fold(0, |which, (place, _)| which | 1 << place);
                    if which == 0 {
                        continue;
                    }
                    let set = few.entry(which).or_insert_with(|| {
                        let places = about.iter().enumerate();
                        let own = places.filter(|(place, _)| which & 1 << place != 0);
                        own.map(|(_, (peer, _))| *peer).collect()
                    });
                    set.clone()
                } else {
                    keys.matching(&peers, labels, |peer| {
                        let place = about.binary_search_by_key(&peer, |(id, _)| *id);
                        place.is_ok_and(|place| about[place].1.matches(labels))
                    })
                };
                if !peers.is_empty() {
                    met.push((*id, peers));
                }
            }
        };
        if selected.is_empty() {
            for (name, about) in named {
                if let Some(space) = self.spaces.get_mut(name) {
                    meet(space, about);
                }
            }
            return met;
        }
        for (name, space) in &mut self.spaces {
            let labels = namespace_labels(snapshot, name);
            let mut about = named.remove(name.as_str()).unwrap_or_default();
            let matching = selected
                .iter()
                .filter(|(_, namespaces, _)| namespaces.matches(&labels));
            about.extend(matching.map(|(id, _, pods)| (*id, *pods)));
            meet(space, about);
        }
        met
    }

    /// Forgets peers.
    pub(super) fn forget(&mut self, peers: &PeerSet) {
        for candidates in self
            .spaces
            .values_mut()
            .filter_map(|space| space.candidates.as_mut())
        {
            *candidates = candidates.minus(peers);
        }
    }

    /// Notes that other peers may select pods of a namespace.
    pub(super) fn forget_candidates(&mut self, namespace: &str) {
        if let Some(space) = self.spaces.get_mut(namespace) {
            space.candidates = None;
        }
    }

    /// The peers that select pods of a namespace, as `find` finds them.
    pub(super) fn candidates(&mut self, namespace: &str, find: impl FnOnce() -> PeerSet) -> PeerSet {
        let space = self.spaces.get_mut(namespace);
        let candidates = space.map(|space| space.candidates.get_or_insert_with(find));
        candidates.cloned().unwrap_or_default()
    }
}

impl IndexMut<GroupId> for Groups {
    fn index_mut(&mut self, id: GroupId) -> &mut Group {
        match self.groups.get_mut(&id) {
            Some(group) => group,
            None => unreachable!("groups are asked for by numbers that they gave"),
        }
    }
}

fn hash(pod: &Pod) -> u64 {
    let mut hasher = DefaultHasher::new();
    pod.key.namespace.hash(&mut hasher);
    pod.labels.hash(&mut hasher);
    pod.named_ports.hash(&mut hasher);
    hasher.finish()
}

/// Whether a peer selects pods of a namespace.
pub(super) fn selects(namespaces: &Namespaces, name: &str, snapshot: &Snapshot) -> bool {
    match namespaces {
        Namespaces::Named(named) => named == name,
        Namespaces::Selected(selector) => selector.matches(&namespace_labels(snapshot, name)),
    }
}

/// Labels of a namespace. One that the snapshot does not know has just its name (rule P4).
fn namespace_labels<'a>(snapshot: &'a Snapshot, name: &str) -> Cow<'a, Labels> {
    match snapshot.namespaces.get(name) {
        Some(namespace) => Cow::Borrowed(&namespace.labels),
        None => Cow::Owned(Labels::from([(NAMESPACE_NAME.to_owned(), name.to_owned())])),
    }
}
