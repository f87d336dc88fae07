// SPDX-License-Identifier: Apache-2.0
//! Changes a cluster at random.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use netpol_agent::model::*;

use super::{NAMESPACES, Random, cluster, labels, named_ports, namespace, nodes, peer, port};

/// Returns the cluster after a change of one object: a policy added, changed or deleted, a pod
/// added, relabelled or deleted, a namespace relabelled; or after a change of all Services or all
/// endpoints.
pub fn change(random: &mut Random, before: &Snapshot) -> Snapshot {
    let mut after = before.clone();
    after.revision += 1;
    let other = cluster(random);
    let pick = |random: &mut Random, len: usize| random.below(len.max(1));
    match random.below(11) {
        8 => {
            after.services = other.services;
        }
        9 => {
            after.endpoint_slices = other.endpoint_slices;
        }
        10 => {
            if let Some(key) = before.services.keys().nth(pick(random, before.services.len())) {
                after.services.remove(key);
            }
        }
        0 | 1 => {
            if let Some((key, policy)) = other.policies.iter().nth(pick(random, other.policies.len())) {
                after.policies.insert(key.clone(), policy.clone());
            }
        }
        2 => {
            if let Some(key) = before.policies.keys().nth(pick(random, before.policies.len())) {
                after.policies.remove(key);
            }
        }
        3 | 4 => {
            if let Some(key) = before.pods.keys().nth(pick(random, before.pods.len())) {
                let mut pod = Pod::clone(&before.pods[key]);
                pod.labels = labels(random);
                after.pods.insert(key.clone(), Arc::new(pod));
            }
        }
        5 => {
            if let Some(key) = before.pods.keys().nth(pick(random, before.pods.len())) {
                after.pods.remove(key);
            }
        }
        6 => {
            let taken: Vec<IpAddr> = before
                .pods
                .values()
                .flat_map(|pod| pod.addresses.clone())
                .collect();
            let free = |pod: &&Arc<Pod>| !pod.addresses.iter().any(|address| taken.contains(address));
            if let Some(pod) = other
                .pods
                .values()
                .find(|pod| free(pod) && !before.pods.contains_key(&pod.key))
            {
                after.pods.insert(pod.key.clone(), pod.clone());
            }
        }
        _ => {
            let name = random.pick(&NAMESPACES).to_owned();
            after
                .namespaces
                .insert(name.clone(), Arc::new(namespace(random, &name)));
        }
    }
    after
}

/// Returns the cluster after a change of one object of any kind: those of [`change`], pods that get
/// other or foreign addresses, another node, ports, phase or network, namespaces that come and go,
/// single Services and slices, and nodes.
pub fn any_change(random: &mut Random, before: &Snapshot) -> Snapshot {
    let mut after = before.clone();
    after.revision += 1;
    match random.below(18) {
        0..=4 => {
            let changed = change(random, before);
            // A pod's interface is found by name, so no two pods may have the same.
            let names: BTreeSet<_> = changed.pods.keys().map(|key| &key.name).collect();
            if names.len() == changed.pods.len() {
                return changed;
            }
        }
        5..=13 => {
            let nth = random.below(before.pods.len().max(1));
            if let Some((key, pod)) = before.pods.iter().nth(nth) {
                let mut pod = Pod::clone(pod);
                if change_pod(random, before, &mut pod) {
                    after.pods.insert(key.clone(), Arc::new(pod));
                } else {
                    after.pods.remove(key);
                    pod.key = ObjectKey::new(random.pick(&NAMESPACES), &*pod.key.name);
                    pod.uid = format!("uid-{}", random.below(1000));
                    after.pods.insert(pod.key.clone(), Arc::new(pod));
                }
            }
        }
        14 => {
            let name = random.pick(&NAMESPACES).to_owned();
            if after.namespaces.remove(&name).is_none() {
                after
                    .namespaces
                    .insert(name.clone(), Arc::new(namespace(random, &name)));
            }
        }
        15 => {
            let other = cluster(random);
            let nth = random.below(other.services.len().max(1));
            if let Some((key, service)) = other.services.iter().nth(nth) {
                after.services.insert(key.clone(), service.clone());
            }
        }
        16 => {
            let nth = random.below(before.endpoint_slices.len().max(1));
            if let Some((key, slice)) = before.endpoint_slices.iter().nth(nth) {
                let mut slice = EndpointSlice::clone(slice);
                match random.below(5) {
                    0 => drop(after.endpoint_slices.remove(key)),
                    1 => slice.service = Some(format!("service-{}", random.below(4))),
                    2 => drop(slice.endpoints.pop()),
                    3 => slice.ports.iter_mut().for_each(|port| port.number = Some(80)),
                    _ => {
                        let endpoints = slice.endpoints.iter_mut();
                        endpoints.for_each(|endpoint| endpoint.ready = !endpoint.ready);
                    }
                }
                if after.endpoint_slices.contains_key(key) {
                    after.endpoint_slices.insert(key.clone(), Arc::new(slice));
                }
            }
        }
        _ => {
            // Nodes may also report addresses that pods have.
            let mut node = nodes().swap_remove(random.below(2));
            match random.below(4) {
                0 => drop(after.nodes.remove(&node.name)),
                1 => {
                    node.name = "node-c".to_owned();
                    node.addresses = [any_address(random, before)].into();
                    after.nodes.insert(node.name.clone(), Arc::new(node));
                }
                2 => drop(after.nodes.remove("node-c")),
                _ => drop(after.nodes.insert(node.name.clone(), Arc::new(node))),
            }
        }
    }
    after
}

/// Returns the cluster after many changes that fall into one turn. Policies come, go and change
/// together, and share peers, usually selectors. Some pods are relabelled. So pods that were alike
/// become different, others become alike, and some swap.
pub fn batch(random: &mut Random, before: &Snapshot) -> Snapshot {
    let mut after = before.clone();
    after.revision += 1;
    let pool = random.several(12, peer);
    for index in 0..2 + random.below(6) {
        let key = ObjectKey::new(random.pick(&NAMESPACES), format!("batch-{index}"));
        if random.below(4) == 0 {
            after.policies.remove(&key);
            continue;
        }
        let rules = |random: &mut Random| {
            random.many(3, |random| Rule {
                peers: random.many(6, |random| pool[random.below(pool.len())].clone()),
                ports: random.many(3, port),
            })
        };
        let policy = NetworkPolicy {
            key: key.clone(),
            pod_selector: LabelSelector::default(),
            policy_types: Some(vec![Direction::Ingress, Direction::Egress]),
            ingress: rules(random),
            egress: rules(random),
        };
        after.policies.insert(key, Arc::new(policy));
    }
    for (key, pod) in &before.pods {
        if random.below(8) > 0 {
            continue;
        }
        let mut pod = Pod::clone(pod);
        pod.labels = labels(random);
        after.pods.insert(key.clone(), Arc::new(pod));
    }
    if random.below(4) == 0 {
        let name = random.pick(&NAMESPACES).to_owned();
        let namespace = Arc::new(namespace(random, &name));
        after.namespaces.insert(name, namespace);
    }
    after
}

/// Returns an address of a pod, or one that no pod has.
fn any_address(random: &mut Random, snapshot: &Snapshot) -> IpAddr {
    let pods = snapshot.pods.values();
    let mut all: Vec<IpAddr> = pods.flat_map(|pod| pod.addresses.clone()).collect();
    let others = ["10.244.0.7", "10.244.1.1", "198.51.100.130", "fd00:10:244::7"];
    all.extend(others.map(|text| text.parse::<IpAddr>().expect("an address")));
    all[random.below(all.len())]
}

/// Changes one thing about a pod. Returns false if it must become a new pod of that number instead.
fn change_pod(random: &mut Random, snapshot: &Snapshot, pod: &mut Pod) -> bool {
    match random.below(14) {
        0 => pod.labels = labels(random),
        1 => pod.terminal = !pod.terminal,
        2 => pod.host_network = !pod.host_network,
        3 => {
            let node = nodes().swap_remove(random.below(2));
            pod.node = (random.below(4) > 0).then(|| node.name.into());
        }
        4 => pod.named_ports = named_ports(random),
        5 => drop(pod.addresses.pop()),
        // May be another pod's: that one gave it up, or both claim it.
        6 => pod.addresses = vec![any_address(random, snapshot)],
        7..=11 => pod.addresses.push(any_address(random, snapshot)),
        // Another pod of the same name, with the same address.
        12 => pod.uid = format!("uid-{}", random.below(1000)),
        _ => return false,
    }
    true
}
