// SPDX-License-Identifier: Apache-2.0
//! Groups addresses by the pods they belong to: the selector peers that these match, and their
//! named ports.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

pub(super) use self::profile::{NO_POD, Profile, ProfileId};
use self::{
    claims::{Claim, Claims, is_peer},
    groups::{GroupId, Groups, selects},
    keys::Keys,
    link_locals::LinkLocals,
    nodes::Nodes,
};
use super::{
    fault::{Findings, Topic},
    peer::PeerSpec,
    peer_set::{PeerId, PeerSet},
    wanted::Wanted,
};
use crate::model::{Node, Pod, Snapshot};

mod claims;
mod groups;
mod keys;
mod link_locals;
mod nodes;
mod numbers;
mod peers;
mod profile;

/// A profile in use.
#[derive(Debug, Default)]
struct UsedProfile {
    profile: Arc<Profile>,
    groups: BTreeSet<GroupId>,
    /// Number of classes with this profile.
    classes: usize,
}

/// The profiles of all addresses of pods and nodes.
#[derive(Debug)]
pub(super) struct Profiles {
    /// Active selector peers.
    selectors: BTreeMap<PeerId, Arc<PeerSpec>>,
    keys: Keys,
    wanted: Wanted,
    groups: Groups,
    known: BTreeMap<ProfileId, UsedProfile>,
    ids: HashMap<Arc<Profile>, ProfileId>,
    last: ProfileId,
    claims: Claims,
    nodes: Nodes,
    link_locals: LinkLocals,
    /// Addresses whose meaning may have changed.
    touched: BTreeSet<IpAddr>,
    /// Profiles that match other peers than before.
    renamed: BTreeSet<ProfileId>,
    /// Profiles that may be unused.
    idle: BTreeSet<ProfileId>,
    /// How often a profile was computed.
    #[cfg(test)]
    pub(super) made: usize,
}

impl Default for Profiles {
    fn default() -> Self {
        Self {
            selectors: BTreeMap::new(),
            keys: Keys::default(),
            wanted: Wanted::default(),
            groups: Groups::default(),
            known: BTreeMap::from([(NO_POD, UsedProfile::default())]),
            ids: HashMap::from([(Arc::default(), NO_POD)]),
            last: NO_POD,
            claims: Claims::default(),
            nodes: Nodes::default(),
            link_locals: LinkLocals::default(),
            touched: BTreeSet::new(),
            renamed: BTreeSet::new(),
            idle: BTreeSet::new(),
            #[cfg(test)]
            made: 0,
        }
    }
}

/// What an address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Host {
    /// By its pods.
    pub(super) profile: ProfileId,
    /// An address of this node.
    pub(super) node: bool,
    /// An address of another node.
    pub(super) remote_node: bool,
    /// The address that `ipBlock` peers are matched against.
    pub(super) blocks: Held,
}

/// The address that `ipBlock` peers are matched against (rule P5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Held {
    /// The address itself.
    Itself,
    /// Another address of the pod: this one is its link-local address (rule A9).
    Other(IpAddr),
    /// None: no block matches.
    Nothing,
}

/// The owner of an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owner {
    /// Its name, for people.
    pub(super) name: String,
    /// The address is on an interface of this node.
    pub(super) is_here: bool,
}

impl Profiles {
    /// Adds a pod.
    pub(super) fn add_pod(&mut self, pod: &Arc<Pod>, snapshot: &Snapshot) {
        if !is_peer(pod) {
            return;
        }
        let group = (!pod.host_network).then(|| {
            let (id, new) = self.groups.join(pod);
            if new {
                self.known.entry(NO_POD).or_default().groups.insert(id);
                let peers = self.matching(id, snapshot);
                self.set_peers(id, peers);
            }
            id
        });
        for address in pod.distinct_addresses() {
            self.claims.add(address, pod, group);
            self.touched.insert(address);
        }
    }

    /// Removes a pod.
    pub(super) fn remove_pod(&mut self, pod: &Pod) {
        if !is_peer(pod) {
            return;
        }
        for address in pod.distinct_addresses() {
            self.claims.remove(address, pod);
            self.touched.insert(address);
        }
        if let Some((id, group)) = self.groups.leave(pod).filter(|_| !pod.host_network) {
            self.drop_group(id, group.profile);
        }
    }

    /// Takes the addresses of nodes. Those of this one are on its interfaces.
    pub(super) fn set_nodes(&mut self, own: (&Node, &Node), before: &Snapshot, after: &Snapshot) {
        self.nodes.update(own, before, after, &mut self.touched);
        self.link_locals
            .update(&own.1.link_locals, after, &mut self.touched);
    }

    /// Takes the addresses whose meaning may have changed, those within `spans` included.
    pub(super) fn take_touched(&mut self, spans: &[(IpAddr, IpAddr)]) -> BTreeSet<IpAddr> {
        let mut touched = std::mem::take(&mut self.touched);
        for span in spans {
            touched.extend(self.claims.within(*span));
            touched.extend(self.nodes.within(*span));
        }
        self.link_locals.follow(&mut touched, spans);
        touched
    }

    /// Takes the profiles that match other peers than before.
    pub(super) fn take_renamed(&mut self) -> BTreeSet<ProfileId> {
        std::mem::take(&mut self.renamed)
    }

    /// The meaning of an address now; `None`: no pod and no node has it.
    ///
    /// An address that two pods claim has the intersection of their profiles. A hostNetwork pod
    /// matches no selector peer (rule I6). Neither does an address on an interface of this node,
    /// whatever a pod claims.
    pub(super) fn host(&mut self, address: IpAddr, findings: &mut Findings) -> Option<Host> {
        let node = self.nodes.is_own(address);
        let remote_node = !node && self.nodes.is_other(address);
        let mut faults = self.claims.faults(address, node);
        faults.extend(self.link_locals.faults(address, node));
        findings.report(Topic::Address(address), faults);
        let pods = self.link_locals.at(address).to_vec();
        if !node && !pods.is_empty() {
            return Some(self.link_local(&pods));
        }
        let claimed = self.claims.at(address);
        if claimed.is_empty() && !node && !remote_node {
            return None;
        }
        let of = claimed.iter().map(|claim| self.profile_of(claim)).collect();
        let profile = if node { NO_POD } else { self.common(of) };
        Some(Host {
            profile,
            node,
            remote_node,
            blocks: Held::Itself,
        })
    }

    /// The pod that has an address, or a node by its object.
    pub(super) fn owner(&self, address: IpAddr) -> Option<Owner> {
        let is_here = self.nodes.is_own(address);
        let pods = self.claims.at(address).iter();
        let mut with_network = pods.filter(|(pod, _)| !pod.host_network && !is_here);
        let name = match with_network.next() {
            Some((pod, _)) => format!("pod {}", pod.key),
            None if self.nodes.is_other(address) => "a node".to_owned(),
            None => return None,
        };
        Some(Owner { name, is_here })
    }

    /// The first address of a span that a pod or a node has.
    pub(super) fn within(&self, span: (IpAddr, IpAddr)) -> Option<IpAddr> {
        let pods = self.claims.within(span).next();
        pods.into_iter().chain(self.nodes.within(span)).min()
    }

    /// The meaning of a link-local address of these pods. A single pod is matched by its IPv6
    /// address.
    fn link_local(&mut self, pods: &[Arc<Pod>]) -> Host {
        let claim = |pod: &Arc<Pod>| {
            let mut claims = pod
                .distinct_addresses()
                .into_iter()
                .flat_map(|own| self.claims.at(own));
            claims.find(|(other, _)| other.key == pod.key)
        };
        // A pod that has given its addresses back does not count here either.
        let of = pods
            .iter()
            .map(|pod| claim(pod).map_or(NO_POD, |claim| self.profile_of(claim)));
        let of = of.collect();
        let own = match pods {
            [pod] if claim(pod).is_some() => pod.distinct_addresses().into_iter().find(IpAddr::is_ipv6),
            _ => None,
        };
        Host {
            profile: self.common(of),
            node: false,
            remote_node: false,
            blocks: own.map_or(Held::Nothing, Held::Other),
        }
    }

    fn profile_of(&self, claim: &Claim) -> ProfileId {
        claim.1.map_or(NO_POD, |group| self.groups[group].profile)
    }

    /// The profile of what all of these say.
    fn common(&mut self, profiles: Vec<ProfileId>) -> ProfileId {
        match *profiles {
            [] => NO_POD,
            [one] => one,
            [first, ref others @ ..] => {
                let mut both = Profile::clone(&self.known[&first].profile);
                for other in others {
                    both.intersect(&self.known[other].profile);
                }
                self.intern(Arc::new(both))
            }
        }
    }

    /// The profile of a number in use.
    pub(super) fn profile(&self, id: ProfileId) -> &Profile {
        &self.known[&id].profile
    }

    /// Counts a class with this profile.
    pub(super) fn hold(&mut self, id: ProfileId) {
        self.known.entry(id).or_default().classes += 1;
    }

    /// Counts a class less.
    pub(super) fn release(&mut self, id: ProfileId) {
        self.known.entry(id).or_default().classes -= 1;
        self.idle.insert(id);
    }

    /// Forgets unused profiles.
    pub(super) fn clear(&mut self) {
        for id in std::mem::take(&mut self.idle) {
            let unused = |known: &&UsedProfile| known.groups.is_empty() && known.classes == 0 && id != NO_POD;
            if self.known.get(&id).filter(unused).is_some() {
                self.forget_content(id);
                self.known.remove(&id);
            }
        }
    }

    /// Whether a profile shares the memory of this set.
    #[cfg(test)]
    pub(super) fn has(&self, peers: &PeerSet) -> bool {
        let mut known = self.known.values();
        known.any(|known| known.profile.peers.is_same(peers))
    }

    fn intern(&mut self, profile: Arc<Profile>) -> ProfileId {
        if let Some(id) = self.ids.get(&profile) {
            return *id;
        }
        self.last += 1;
        self.ids.insert(profile.clone(), self.last);
        let known = UsedProfile {
            profile,
            ..UsedProfile::default()
        };
        self.known.insert(self.last, known);
        self.idle.insert(self.last);
        self.last
    }

    fn forget_content(&mut self, id: ProfileId) {
        let profile = &self.known[&id].profile;
        if self.ids.get(profile) == Some(&id) {
            self.ids.remove(profile);
        }
    }

    fn move_group(&mut self, id: GroupId, profile: ProfileId) {
        let group = &mut self.groups[id];
        let before = std::mem::replace(&mut group.profile, profile);
        if before == profile {
            return;
        }
        self.touched
            .extend(group.members.iter().flat_map(|pod| pod.distinct_addresses()));
        self.known.entry(profile).or_default().groups.insert(id);
        self.drop_group(id, before);
    }

    fn drop_group(&mut self, id: GroupId, profile: ProfileId) {
        self.known.entry(profile).or_default().groups.remove(&id);
        self.idle.insert(profile);
    }

    /// The selector peers that a group matches.
    fn matching(&mut self, id: GroupId, snapshot: &Snapshot) -> PeerSet {
        let selectors = &self.selectors;
        let example = self.groups[id].members[0].clone();
        let namespace = &example.key.namespace;
        let candidates = self.groups.candidates(namespace, || {
            let can_match = |spec: &PeerSpec| match spec {
                PeerSpec::Pods { namespaces, .. } => selects(namespaces, namespace, snapshot),
                PeerSpec::Block { .. } => false,
            };
            let matching = selectors.iter().filter(|(_, spec)| can_match(spec));
            matching.map(|(id, _)| *id).collect()
        });
        self.keys.matching(&candidates, &example.labels, |peer| {
            matches!(selectors.get(&peer).map(|spec| &**spec),
                Some(PeerSpec::Pods { pods, .. }) if pods.matches(&example.labels))
        })
    }

    /// Sets the selector peers that a group matches.
    fn set_peers(&mut self, id: GroupId, peers: PeerSet) {
        let example = self.groups[id].example();
        let named_ports = self.wanted.ports_of(example, [&peers, &PeerSet::default()]);
        let profile = self.made(peers, named_ports);
        let profile = self.intern(profile);
        self.move_group(id, profile);
    }
}
