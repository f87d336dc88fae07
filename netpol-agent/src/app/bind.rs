// SPDX-License-Identifier: Apache-2.0
//! Decides which pod is behind which interface (rule A8), from facts that the pod cannot forge. A
//! pure function of the current state and of earlier bindings.
//!
//! Sources, in order: the runtime's record ([`crate::records`]); the earlier binding; another
//! interface that leads into the same network namespace; the addresses that were first seen on the
//! interface, if one pod and one namespace claim each other.
//!
//! A binding lasts as long as the interface, whatever happens to the pod and its addresses.
//! Addresses alone do not bind a pod that is being deleted or whose interface is gone: its address
//! may already be the next pod's. Such a pod is only lent the interface.

mod claims;
mod locals;
mod stored;
#[cfg(test)]
mod tests;
mod why;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr},
};

use netpol_common::abi;

use crate::{
    datapath::interfaces::{Interfaces, Mac, PodInterface},
    model::{ObjectKey, Text},
    records::{Record, Records},
    sync::{Link, endpoint_addresses},
};

use claims::{Contest, Contested};
pub use locals::Locals;
pub use stored::stored_bindings;
pub use why::{Standing, Why};

/// A pod of this node that has an address and a network of its own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LocalPod {
    /// `metadata.uid`; empty if the source gives none.
    pub uid: String,
    /// For the mirror of a static pod, the UID that the runtime uses.
    pub static_uid: Option<Text>,
    /// `status.podIPs`.
    pub addresses: Vec<IpAddr>,
    /// True if it is being deleted.
    pub terminating: bool,
}

/// The current state.
#[derive(Debug, Clone, Copy)]
pub struct World<'a> {
    /// The pods of this node.
    pub pods: &'a BTreeMap<ObjectKey, LocalPod>,
    /// The interfaces of this node.
    pub interfaces: &'a Interfaces,
    /// The runtime's records.
    pub records: &'a Records,
    /// The endpoints that the kernel holds. After a restart without bindings, they tell which pod
    /// was behind an interface.
    pub holds: &'a BTreeMap<u32, abi::Endpoint>,
}

/// A reference to a pod, which may be known already, still, or not at all.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodRef {
    /// Namespace and name.
    pub key: ObjectKey,
    /// UID; empty if unknown.
    pub uid: String,
}

/// The source of a binding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The addresses that were first seen there, or another interface into the same namespace.
    Seen,
    /// The runtime's record.
    Record,
}

/// Facts about an interface that last for its life.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Binding {
    /// MAC address of the interface on the node. With the index it distinguishes the interface from
    /// a later one.
    pub mac: Mac,
    /// The addresses from the record or, without one, those first seen behind the interface.
    pub addresses: BTreeSet<IpAddr>,
    /// The pod behind it, and the source of that.
    pub pod: Option<(PodRef, Source)>,
    /// MAC address inside the pod, from the record or, without one, as first seen together with the
    /// addresses.
    pub peer_mac: Option<Mac>,
    /// The pod's link-local address: the first one seen (rule A6).
    pub link_local: Option<Ipv6Addr>,
}

/// The bindings by interface index. A known pod keeps the binding of an interface that is gone.
pub type Bindings = BTreeMap<u32, Binding>;

/// The result: which pod is behind which interface.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Bound {
    /// The bindings to remember.
    pub bindings: Bindings,
    /// The pod of each interface. If several claim it, the first of them.
    pub pods: BTreeMap<u32, ObjectKey>,
    /// What each of these interfaces is, and the other pods that claim it.
    pub links: BTreeMap<u32, Link>,
    /// The state of each pod.
    pub standing: BTreeMap<ObjectKey, Standing>,
    /// Interfaces whose index belonged to another interface before.
    pub replaced: BTreeSet<u32>,
}

/// Binds pods to interfaces, starting from the earlier bindings.
pub fn bind(world: World<'_>, before: &Bindings) -> Bound {
    let mut bound = Bound::default();
    for (ifindex, interface) in &world.interfaces.pods {
        let known = before.get(ifindex);
        if known.is_some_and(|known| known.mac != interface.mac) {
            bound.replaced.insert(*ifindex);
        }
        let mut binding = known
            .filter(|known| known.mac == interface.mac)
            .cloned()
            .unwrap_or_else(|| Binding {
                mac: interface.mac,
                ..Binding::default()
            });
        if binding.addresses.is_empty() && !interface.addresses.is_empty() {
            binding.addresses.clone_from(&interface.addresses);
            // Both are from the same moment. Before its containers ran, a pod could not take
            // another's MAC address.
            binding.peer_mac = binding.peer_mac.or(interface.peer_mac);
        }
        if let Some((pod, record)) = recorded(world, interface) {
            let told = Some((pod, Source::Record));
            if binding.pod != told {
                let other = |(bound, _): &(PodRef, Source)| told.as_ref().is_none_or(|(pod, _)| pod != bound);
                if binding.pod.as_ref().is_some_and(other) {
                    (binding.peer_mac, binding.link_local) = (None, None);
                }
                // The record has what the last plugin left.
                binding.peer_mac = record.mac.or(binding.peer_mac);
                if !record.addresses.is_empty() {
                    binding.addresses.clone_from(&record.addresses);
                }
                binding.pod = told;
            }
        }
        bound.bindings.insert(*ifindex, binding);
    }
    let left = departed(world, before);
    let mut contested = share_namespaces(world, &mut bound.bindings);
    contested.extend(claims::settle(world, &mut bound.bindings, &left));
    know_links(world, &mut bound.bindings);
    endpoints(world, &contested, &mut bound);
    bound.standing = why::standing(world, &bound, &contested);
    bound.bindings.extend(left.into_values());
    bound
}

/// Returns the binding of a gone interface for each pod that is still known.
fn departed<'a>(world: World<'a>, before: &Bindings) -> BTreeMap<&'a ObjectKey, (u32, Binding)> {
    let gone = before
        .iter()
        .filter(|(ifindex, _)| !world.interfaces.pods.contains_key(ifindex));
    gone.filter_map(|(ifindex, binding)| {
        let (key, _) = resolve(world, &binding.pod.as_ref()?.0)?;
        Some((key, (*ifindex, binding.clone())))
    })
    .collect()
}

/// Looks up the pod of a reference.
fn resolve<'a>(world: World<'a>, pod: &PodRef) -> Option<(&'a ObjectKey, &'a LocalPod)> {
    let (key, found) = world.pods.get_key_value(&pod.key)?;
    let uid = stored::cut(&pod.uid);
    let is_static = found.static_uid.as_deref().map(stored::cut) == Some(uid);
    let same = stored::cut(&found.uid) == uid || is_static || found.uid.is_empty();
    same.then_some((key, found))
}

/// Returns the pod that the newest record gives an interface. A record without a UID counts only
/// for the pod of that name with its addresses.
fn recorded<'a>(world: World<'a>, interface: &PodInterface) -> Option<(PodRef, &'a Record)> {
    let records = world.records.values().map(|record| &**record);
    let of_interface = records.filter(|record| record.names(&interface.name, interface.mac));
    let newest = of_interface.max_by_key(|record| (record.written, &record.pod, &record.uid))?;
    let uid = if newest.uid.is_empty() {
        let pod = world.pods.get(&newest.pod)?;
        let shared = pod
            .addresses
            .iter()
            .any(|address| newest.addresses.contains(address));
        shared.then(|| pod.uid.clone())?
    } else {
        newest.uid.clone()
    };
    let key = newest.pod.clone();
    Some((PodRef { key, uid }, newest))
}

/// Binds all interfaces into a namespace to the pod that one of them is bound to. Returns the
/// interfaces whose namespace several pods are bound to.
fn share_namespaces(world: World<'_>, bindings: &mut Bindings) -> Contested {
    let mut of_namespace: BTreeMap<i32, BTreeSet<PodRef>> = BTreeMap::new();
    for (ifindex, binding) in bindings.iter() {
        let namespace = world.interfaces.pods[ifindex].namespace;
        if let (0.., Some((pod, _))) = (namespace, &binding.pod) {
            of_namespace.entry(namespace).or_default().insert(pod.clone());
        }
    }
    let mut contested = Contested::new();
    for (ifindex, binding) in bindings.iter_mut().filter(|(_, binding)| binding.pod.is_none()) {
        let Some(pods) = of_namespace.get(&world.interfaces.pods[ifindex].namespace) else {
            continue;
        };
        if let (Some(pod), 1) = (pods.first(), pods.len()) {
            binding.pod = Some((pod.clone(), Source::Seen));
            continue;
        }
        let claimants = pods.iter().filter_map(|pod| Some(resolve(world, pod)?.0.clone()));
        let contest = Contest {
            claimants: claimants.collect(),
            impostor: true,
        };
        contested.insert(*ifindex, contest);
    }
    contested
}

/// Settles the MAC and link-local addresses of bound interfaces. No two interfaces get the same
/// link-local address, and none gets one of the node's.
fn know_links(world: World<'_>, bindings: &mut Bindings) {
    let on_node = &world.interfaces.node_addresses;
    let is_free = |address: &Ipv6Addr| !on_node.contains(&IpAddr::V6(*address));
    for binding in bindings.values_mut() {
        binding.link_local = binding.link_local.filter(is_free);
    }
    let mut taken: BTreeSet<Ipv6Addr> = bindings
        .values()
        .filter_map(|binding| binding.link_local)
        .collect();
    // The link-local address that the kernel derives from an interface's MAC address belongs to
    // that interface, known or not.
    let made = bindings.iter().filter_map(|(ifindex, binding)| {
        let seen = || world.interfaces.pods.get(ifindex)?.peer_mac;
        Some((eui64(binding.peer_mac.or_else(seen)?), *ifindex))
    });
    let made: BTreeMap<Ipv6Addr, u32> = made.collect();
    for (ifindex, binding) in bindings.iter_mut().filter(|(_, binding)| binding.pod.is_some()) {
        let interface = &world.interfaces.pods[ifindex];
        binding.peer_mac = binding.peer_mac.or(interface.peer_mac);
        if binding.link_local.is_some() {
            continue;
        }
        let of_another = |address: &Ipv6Addr| made.get(address).is_some_and(|other| other != ifindex);
        let free = interface.link_locals.iter().copied();
        let free = free.filter(|address| is_free(address) && !of_another(address));
        let free: BTreeSet<Ipv6Addr> = free.collect();
        let made_of_mac = binding
            .peer_mac
            .map(eui64)
            .filter(|address| free.contains(address));
        let mut candidates = made_of_mac.into_iter().chain(free.iter().copied());
        binding.link_local = candidates.find(|address| !taken.contains(address));
        taken.extend(binding.link_local);
    }
}

/// Returns the link-local address that the kernel derives from a MAC address (RFC 4291, appendix
/// A).
fn eui64([a, b, c, d, e, f]: Mac) -> Ipv6Addr {
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

/// Builds the endpoint of each interface. An interface without the pod's addresses, beside another
/// that has them (a second network of the pod), is enforced with the pod's policies and the
/// addresses first seen there.
fn endpoints(world: World<'_>, contested: &Contested, bound: &mut Bound) {
    let mut of_pod: BTreeMap<&ObjectKey, Vec<u32>> = BTreeMap::new();
    for (ifindex, binding) in &bound.bindings {
        let pod = binding.pod.as_ref().and_then(|(pod, _)| resolve(world, pod));
        if let Some((key, _)) = pod {
            of_pod.entry(key).or_default().push(*ifindex);
        }
    }
    for (key, interfaces) in of_pod {
        let addresses = &world.pods[key].addresses;
        let has = |ifindex: &u32| shares(&bound.bindings[ifindex].addresses, addresses);
        let mut main: BTreeSet<u32> = interfaces.iter().copied().filter(has).collect();
        if main.is_empty() {
            main.extend(interfaces.first());
        }
        for ifindex in interfaces {
            let binding = &bound.bindings[&ifindex];
            let link = Link {
                mac: binding.peer_mac.unwrap_or_default(),
                link_local: binding.link_local,
                addresses: (!main.contains(&ifindex)).then(|| binding.addresses.iter().copied().collect()),
                ..Link::default()
            };
            bound.pods.insert(ifindex, key.clone());
            bound.links.insert(ifindex, link);
        }
    }
    for (ifindex, contest) in contested {
        let mut claimants = contest.claimants.iter();
        let Some(first) = claimants.next().cloned() else {
            continue;
        };
        let claimed = |address: &&IpAddr| {
            let mut claimants = contest.claimants.iter();
            claimants.any(|key| world.pods[key].addresses.contains(*address))
        };
        let seen = bound.bindings[ifindex].addresses.iter();
        let link = Link {
            addresses: Some(seen.filter(claimed).copied().collect()),
            rivals: claimants.cloned().collect(),
            closed: contest.impostor,
            ..Link::default()
        };
        bound.pods.insert(*ifindex, first);
        bound.links.insert(*ifindex, link);
    }
}

fn shares(seen: &BTreeSet<IpAddr>, addresses: &[IpAddr]) -> bool {
    addresses.iter().any(|address| seen.contains(address))
}

impl Bound {
    /// Lists the interfaces whose pods need no further search.
    pub fn settled(&self) -> BTreeSet<u32> {
        let bindings = self.bindings.iter();
        bindings
            .filter(|(_, binding)| {
                binding.pod.is_some()
                    && binding.peer_mac.is_some()
                    && binding.link_local.is_some()
                    && !binding.addresses.is_empty()
            })
            .map(|(ifindex, _)| *ifindex)
            .collect()
    }

    /// Returns the link-local addresses of this node's pods (rule A9).
    pub fn link_locals(&self) -> BTreeMap<ObjectKey, BTreeSet<Ipv6Addr>> {
        let mut found: BTreeMap<ObjectKey, BTreeSet<Ipv6Addr>> = BTreeMap::new();
        for (ifindex, link) in &self.links {
            if let (Some(key), Some(address)) = (self.pods.get(ifindex), link.link_local) {
                found.entry(key.clone()).or_default().insert(address);
            }
        }
        found
    }
}

/// Returns true if the kernel holds an endpoint with exactly the pod's addresses at an interface.
fn held(world: World<'_>, ifindex: u32, pod: &LocalPod) -> bool {
    let held = world
        .holds
        .get(&ifindex)
        .map(|endpoint| (endpoint.ipv4, endpoint.ipv6));
    held == Some(endpoint_addresses(&pod.addresses))
}
