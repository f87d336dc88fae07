// SPDX-License-Identifier: Apache-2.0
//! Matches pods and network namespaces by the addresses first seen, where no better source exists.
//!
//! A set of claims is settled if it can be matched in only one way. Then a pod that took another's
//! address beside its own keeps its own, and the other pod is bound where it is. Otherwise nobody
//! is bound. Each interface is then enforced as if all its claimants were behind it: it gets no
//! more than each of them would, and nothing if it may belong to none of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{Binding, Bindings, LocalPod, PodRef, Source, World, held, resolve, shares};
use crate::model::ObjectKey;

/// Interfaces whose pod cannot be determined.
pub type Contested = BTreeMap<u32, Contest>;

/// The pods that may be behind an interface. A single one is lent the interface.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Contest {
    /// The pods that claim it.
    pub claimants: BTreeSet<ObjectKey>,
    /// True if it may belong to none of them: more interfaces claim to be theirs than they can
    /// have.
    pub impostor: bool,
}

/// A network namespace: the interfaces that lead into it, and the addresses first seen behind them.
#[derive(Debug, Default)]
struct Namespace {
    interfaces: Vec<u32>,
    addresses: BTreeSet<IpAddr>,
}

/// Namespaces and pods connected by claims, by namespace number and pod key.
#[derive(Debug, Default)]
struct Knot<'a> {
    namespaces: BTreeSet<usize>,
    pods: BTreeSet<&'a ObjectKey>,
}

/// Binds what addresses decide, and returns the contested rest.
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

/// Returns the namespaces without a bound interface.
fn unbound(world: World<'_>, bindings: &Bindings) -> Vec<Namespace> {
    // A namespace that is ending has no number that it could share with another interface.
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

/// Groups pods and namespaces that claims connect.
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

/// Takes out of a knot what can be matched in only one way.
fn untie<'a>(
    world: World<'a>,
    namespaces: &[Namespace],
    knot: &mut Knot<'a>,
    found: &mut Vec<(usize, &'a ObjectKey)>,
) {
    let claims = |namespace: usize, key: &ObjectKey| {
        shares(&namespaces[namespace].addresses, &world.pods[key].addresses)
    };
    // First, what an agent enforced there before it lost its bindings.
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
    // If there are more pods than namespaces, pods that are being deleted have given their
    // addresses back.
    let live = |key: &&ObjectKey| !world.pods[*key].terminating;
    if knot.pods.len() > knot.namespaces.len() && knot.pods.iter().any(live) {
        knot.pods.retain(live);
    }
    if knot.pods.len() != knot.namespaces.len() {
        return;
    }
    // If the matching is unique, there always is a pod with one namespace left, or a namespace with
    // one pod.
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
