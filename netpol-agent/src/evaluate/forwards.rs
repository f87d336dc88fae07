// SPDX-License-Identifier: Apache-2.0
//! Computes what the pods of a namespace route for (rule A6), by checking every range against
//! everything known.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;

use crate::model::{Node, Snapshot, forwarded_ranges, is_nobodys_alone};

/// Returns the ranges that pods of the namespace on `node` may send and receive for, beside their
/// own addresses.
pub fn forwards(snapshot: &Snapshot, node: &Node, namespace: &str) -> BTreeSet<IpNet> {
    let annotation = snapshot.namespaces.get(namespace);
    let text = annotation.and_then(|namespace| namespace.forwards.as_deref());
    let Ok(ranges) = forwarded_ranges(text.unwrap_or_default()) else {
        return BTreeSet::new();
    };
    let mut taken: Vec<IpAddr> = node.addresses.iter().copied().collect();
    let mut given: Vec<IpNet> = Vec::new();
    for node in snapshot.nodes.values() {
        taken.extend(&node.addresses);
        given.extend(&node.pod_cidrs);
    }
    for pod in snapshot.pods.values().filter(|pod| !pod.terminal) {
        taken.extend(&pod.addresses);
    }
    for service in snapshot.services.values() {
        taken.extend(&service.cluster_ips);
        taken.extend(&service.load_balancer_ips);
    }
    let ranges = ranges.into_iter().filter_map(|(_, range)| range.ok());
    let free = ranges.filter(|range| {
        let holds = |address: &IpAddr| range.contains(&address.to_canonical());
        let meets = |cidr: &IpNet| cidr.contains(&range.network()) || range.contains(&cidr.network());
        !is_nobodys_alone(*range) && !taken.iter().any(holds) && !given.iter().any(meets)
    });
    free.collect()
}
