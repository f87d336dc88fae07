// SPDX-License-Identifier: Apache-2.0
//! Pods and network namespaces that claim each other by addresses first seen, where nothing better tells.
//!
//! Claims are settled where there is one way only: then whoever took another's address beside its own keeps its own, and the other
//! is where it is. Else nobody is bound, and each interface is enforced as if it were all who may be behind it at once: it gets no more
//! than each of them would; and nothing, if it may be none of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{Binding, Bindings, LocalPod, PodRef, Source, World, held, resolve, shares};
use crate::model::ObjectKey;

/// Interfaces that nobody can tell the pod of.
pub type Contested = BTreeMap<u32, Contest>;

/// Who may be behind an interface: one, if it is lent to a pod.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Contest {
    /// Those that claim it.
    pub claimants: BTreeSet<ObjectKey>,
    /// It may be none of them: more interfaces look like theirs than they are.
    pub impostor: bool,
}

/// A network namespace: the interfaces that lead into it, and the addresses that were first seen behind them.
#[derive(Debug, Default)]
struct Namespace {
    interfaces: Vec<u32>,
    addresses: BTreeSet<IpAddr>,
}

/// Namespaces and pods that are tied by claims, by the number of the namespace and the key of the pod.
#[derive(Debug, Default)]
struct Knot<'a> {
    namespaces: BTreeSet<usize>,
    pods: BTreeSet<&'a ObjectKey>,
}

/// Binds what can be told by addresses, and gives what cannot.
pub(super) fn settle(
    world: World<'_>,
    bindings: &mut Bindings,
    departed: &BTreeMap<&ObjectKey, (u32, Binding)>,
) -> Contested {
    let namespaces = unbound(world, bindings);
    let placed: BTreeSet<&ObjectKey> = bindings
        .values()
        .filter_map(|binding| Some(resolve(world, &binding.pod.as_ref()?.0)?.0))
        .collect();
    let free: BTreeMap<&ObjectKey, &LocalPod> = world
        .pods
        .iter()
        .filter(|(key, _)| !placed.contains(key))
        .collect();
    let mut found = Vec::new();
    let mut open = Vec::new();
    for mut knot in knots(&namespaces, &free) {
        untie(world, &namespaces, &mut knot, &mut found);
        if !knot.namespaces.is_empty() && !knot.pods.is_empty() {
            open.push(knot);
        }
    }
    let mut contested = Contested::new();
    for knot in open {
        let contest = Contest {
            claimants: knot.pods.iter().copied().cloned().collect(),
            impostor: knot.namespaces.len() > knot.pods.len(),
        };
        for namespace in knot.namespaces {
            let interfaces = namespaces[namespace].interfaces.iter();
            contested.extend(interfaces.map(|ifindex| (*ifindex, contest.clone())));
        }
    }
    for (namespace, key) in found {
        if world.pods[key].terminating || departed.contains_key(key) {
            let contest = Contest {
                claimants: BTreeSet::from([key.clone()]),
                impostor: false,
            };
            let interfaces = namespaces[namespace].interfaces.iter();
            contested.extend(interfaces.map(|ifindex| (*ifindex, contest.clone())));
            continue;
        }
        let uid = world.pods[key].uid.clone();
        let pod = PodRef {
            key: key.clone(),
            uid,
        };
        for ifindex in &namespaces[namespace].interfaces {
            if let Some(binding) = bindings.get_mut(ifindex) {
                binding.pod = Some((pod.clone(), Source::Seen));
            }
        }
    }
    contested
}

/// The namespaces that nothing is bound in.
fn unbound(world: World<'_>, bindings: &Bindings) -> Vec<Namespace> {
    // One that ends has no number that it shares with another interface.
    let number = |ifindex: u32| match world.interfaces.pods[&ifindex].namespace {
        namespace @ 0.. => (namespace, 0),
        ending => (ending, ifindex),
    };
    let mut namespaces: BTreeMap<(i32, u32), Namespace> = BTreeMap::new();
    let mut known = BTreeSet::new();
    for (ifindex, binding) in bindings {
        let number = number(*ifindex);
        if binding.pod.is_some() {
            known.insert(number);
        } else {
            let namespace = namespaces.entry(number).or_default();
            namespace.interfaces.push(*ifindex);
            namespace.addresses.extend(&binding.addresses);
        }
    }
    namespaces.retain(|number, _| !known.contains(number));
    namespaces.into_values().collect()
}

/// What is tied together by claims.
fn knots<'a>(namespaces: &[Namespace], pods: &BTreeMap<&'a ObjectKey, &LocalPod>) -> Vec<Knot<'a>> {
    let mut of_address: BTreeMap<IpAddr, Vec<usize>> = BTreeMap::new();
    for (number, namespace) in namespaces.iter().enumerate() {
        for address in &namespace.addresses {
            of_address.entry(*address).or_default().push(number);
        }
    }
    let mut knots: Vec<Knot<'a>> = Vec::new();
    for (key, pod) in pods {
        let mut knot = Knot::default();
        knot.pods.insert(key);
        let claimed = pod.addresses.iter().filter_map(|address| of_address.get(address));
        knot.namespaces.extend(claimed.flatten());
        if knot.namespaces.is_empty() {
            continue;
        }
        let apart = |other: &Knot<'_>| other.namespaces.is_disjoint(&knot.namespaces);
        let (apart, tied): (Vec<_>, Vec<_>) = knots.into_iter().partition(apart);
        knots = apart;
        for mut other in tied {
            knot.namespaces.append(&mut other.namespaces);
            knot.pods.append(&mut other.pods);
        }
        knots.push(knot);
    }
    knots
}

/// Takes out of a knot what there is one way for.
fn untie<'a>(
    world: World<'a>,
    namespaces: &[Namespace],
    knot: &mut Knot<'a>,
    found: &mut Vec<(usize, &'a ObjectKey)>,
) {
    let claims = |namespace: usize, key: &ObjectKey| {
        shares(&namespaces[namespace].addresses, &world.pods[key].addresses)
    };
    // What an agent enforced there before it lost its bindings.
    for namespace in knot.namespaces.clone() {
        let was = |key: &&&ObjectKey| {
            let interfaces = &namespaces[namespace].interfaces;
            claims(namespace, key)
                && interfaces
                    .iter()
                    .any(|ifindex| held(world, *ifindex, &world.pods[**key]))
        };
        let held: Vec<&ObjectKey> = knot.pods.iter().filter(was).copied().collect();
        if let [key] = held[..] {
            take(knot, namespace, key, found);
        }
    }
    // A pod that is being deleted has given its address back, if there are more pods than places.
    let live = |key: &&ObjectKey| !world.pods[*key].terminating;
    if knot.pods.len() > knot.namespaces.len() && knot.pods.iter().any(live) {
        knot.pods.retain(live);
    }
    if knot.pods.len() != knot.namespaces.len() {
        return;
    }
    // With one way only, there always is a pod with one namespace left, or a namespace with one pod.
    let (all, given) = ((knot.namespaces.clone(), knot.pods.clone()), found.len());
    while !knot.pods.is_empty() {
        let only_place = knot.pods.iter().find_map(|key| {
            let mut places = knot
                .namespaces
                .iter()
                .filter(|namespace| claims(**namespace, key));
            Some((*places.next().filter(|_| places.next().is_none())?, *key))
        });
        let only_pod = knot.namespaces.iter().find_map(|namespace| {
            let mut pods = knot.pods.iter().filter(|key| claims(*namespace, key));
            Some((*namespace, *pods.next().filter(|_| pods.next().is_none())?))
        });
        let Some((namespace, key)) = only_place.or(only_pod) else {
            (knot.namespaces, knot.pods) = all;
            found.truncate(given);
            return;
        };
        take(knot, namespace, key, found);
    }
}

fn take<'a>(
    knot: &mut Knot<'a>,
    namespace: usize,
    key: &'a ObjectKey,
    found: &mut Vec<(usize, &'a ObjectKey)>,
) {
    knot.namespaces.remove(&namespace);
    knot.pods.remove(key);
    found.push((namespace, key));
}
