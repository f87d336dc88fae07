// SPDX-License-Identifier: Apache-2.0
//! Finds objects over budget (rule L2). The rules of such a policy match nothing, and such a
//! Service is not reachable.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::peer::Cidr;
use crate::model::{
    EndpointSlice, Everyones, IpBlock, Limit, NetworkPolicy, ObjectKey, Pod, PolicyPort, PortName, Rule,
    Service, Snapshot,
};

/// Finds the policies over budget on a pod's node, among those that select a pod there.
pub(super) fn refused_policies(snapshot: &Snapshot, subject: &Pod) -> BTreeSet<ObjectKey> {
    let limits = &snapshot.limits.policies;
    // Fast path: most clusters are far below every limit.
    let all: Vec<(&ObjectKey, Vec<usize>)> = snapshot
        .policies
        .iter()
        .map(|(key, policy)| (key, at_most(policy)))
        .collect();
    let sum = |nth: usize| {
        all.iter()
            .map(|(_, uses)| uses[nth])
            .fold(0, usize::saturating_add)
    };
    let fits = |(nth, limit): (usize, &Limit)| sum(nth) <= limit.object.min(limit.namespace).min(limit.all);
    let product = sum(1).saturating_mul(sum(4)).saturating_mul(snapshot.pods.len());
    if limits.iter().enumerate().all(fits) && product <= snapshot.limits.everyones.most {
        return BTreeSet::new();
    }
    let on_node: Vec<&Arc<Pod>> = snapshot
        .pods
        .values()
        .filter(|pod| {
            pod.node == subject.node && !pod.host_network && !pod.terminal && !pod.addresses.is_empty()
        })
        .collect();
    let in_force = snapshot.policies.iter().filter(|(_, policy)| {
        on_node.iter().any(|pod| {
            pod.key.namespace == policy.key.namespace
                && super::selector::selects(&policy.pod_selector, &pod.labels)
        })
    });
    let in_force: Vec<_> = in_force.collect();
    // Pods selected by the same policies share their entries.
    let sets: BTreeSet<Vec<&ObjectKey>> = on_node
        .iter()
        .map(|pod| {
            let selecting = in_force.iter().filter(|(_, policy)| {
                pod.key.namespace == policy.key.namespace
                    && super::selector::selects(&policy.pod_selector, &pod.labels)
            });
            selecting.map(|(key, _)| *key).collect()
        })
        .collect();
    let uses: Vec<_> = in_force
        .iter()
        .map(|(key, policy)| {
            let mut uses = uses(policy);
            uses[4] *= sets.iter().filter(|set| set.contains(key)).count();
            (*key, uses)
        })
        .collect();
    refused(&uses, limits, Some(&snapshot.limits.everyones))
}

/// Finds the Services over budget.
pub(super) fn refused_services(snapshot: &Snapshot) -> BTreeSet<ObjectKey> {
    let mut slices: BTreeMap<ObjectKey, Vec<&EndpointSlice>> = BTreeMap::new();
    for slice in snapshot.endpoint_slices.values() {
        if let Some(service) = &slice.service {
            let service = ObjectKey::new(&slice.key.namespace, service);
            slices.entry(service).or_default().push(slice);
        }
    }
    let none = Vec::new();
    let uses: Vec<_> = snapshot
        .services
        .iter()
        .map(|(key, service)| (key, service_uses(service, slices.get(key).unwrap_or(&none))))
        .collect();
    refused(&uses, &snapshot.limits.services, None)
}

/// Returns the objects that are refused. `uses` are the objects in the order of their names, with
/// their use of every resource. `beside` limits resource 1 by the use of resource 4.
fn refused(
    uses: &[(&ObjectKey, Vec<usize>)],
    limits: &[Limit],
    beside: Option<&Everyones>,
) -> BTreeSet<ObjectKey> {
    // First each object on its own, then what fits into its namespace.
    let small = |(_, object): &&(&ObjectKey, Vec<usize>)| {
        (0..limits.len()).all(|nth| object[nth] <= limits[nth].object)
    };
    let small: Vec<_> = uses.iter().filter(small).collect();
    let own: Vec<usize> = limits.iter().map(|limit| limit.namespace).collect();
    let (fitting, by_namespace) = admit(&small, &own);
    let used = |nth: usize| by_namespace.values().map(move |used| used[nth]);
    let all_of = |nth: usize| match beside {
        Some(beside) if nth == 1 => {
            let entries: usize = used(4).map(|entries| entries.min(beside.each)).sum();
            let prefixes: usize = used(1).sum();
            match prefixes * entries > beside.most {
                true => limits[1].all.min(beside.least.max(beside.most / entries)),
                false => limits[1].all,
            }
        }
        _ => limits[nth].all,
    };
    let each = |nth: usize| beside.filter(|_| nth == 1).map_or(0, |beside| beside.each);
    // Then what fits into the total.
    let shares: Vec<usize> = limits
        .iter()
        .enumerate()
        .map(|(nth, limit)| {
            let fits = |share: usize| {
                let used = by_namespace.values().map(|used| used[nth].min(share));
                used.sum::<usize>() <= all_of(nth)
            };
            // Finds the largest share with which everything fits.
            let (mut low, mut high) = (0, limit.namespace);
            while low < high {
                let middle = low + (high - low).div_ceil(2);
                if fits(middle) {
                    low = middle;
                } else {
                    high = middle - 1;
                }
            }
            low.max(each(nth))
        })
        .collect();
    let (admitted, _) = admit(&fitting, &shares);
    let admitted: BTreeSet<_> = admitted.iter().map(|(key, _)| *key).collect();
    let keys = uses.iter().map(|(key, _)| *key);
    keys.filter(|key| !admitted.contains(key)).cloned().collect()
}

type Uses<'a> = (&'a ObjectKey, Vec<usize>);

/// Admits objects as long as their namespace has room in its share. Returns those, and the use of
/// each namespace.
fn admit<'a, 'b>(
    objects: &[&'b Uses<'a>],
    shares: &[usize],
) -> (Vec<&'b Uses<'a>>, BTreeMap<&'a str, Vec<usize>>) {
    let mut admitted = Vec::new();
    let mut used: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for &entry in objects {
        let (key, object) = entry;
        let of_namespace = used
            .entry(&key.namespace)
            .or_insert_with(|| vec![0; shares.len()]);
        if (0..shares.len()).all(|nth| of_namespace[nth] + object[nth] <= shares[nth]) {
            (0..shares.len()).for_each(|nth| of_namespace[nth] += object[nth]);
            admitted.push(entry);
        }
    }
    (admitted, used)
}

/// Counts a policy's use of each resource: pairs of peers and ports, prefixes, nested blocks,
/// requirements, and entries for everyone's addresses in one set of policies.
fn uses(policy: &NetworkPolicy) -> Vec<usize> {
    let mut uses = at_most(policy);
    let blocks = policy
        .ingress
        .iter()
        .chain(&policy.egress)
        .flat_map(|rule| &rule.peers);
    uses[2] = deepest(&blocks.filter_map(|peer| peer.ip_block.as_ref()).collect());
    uses
}

/// Bounds [`uses`] from above: counts every block as nested with all others.
fn at_most(policy: &NetworkPolicy) -> Vec<usize> {
    let mut uses = vec![0_usize; 5];
    for Rule { peers, ports } in policy.ingress.iter().chain(&policy.egress) {
        let mut of_peers = 0_usize;
        for peer in peers {
            if let Some(block) = &peer.ip_block {
                of_peers += 1 + block.except.len();
                uses[1] += 1 + block.except.len();
                uses[2] += 1;
            } else {
                of_peers += 1;
            }
            for selector in [&peer.pod_selector, &peer.namespace_selector]
                .into_iter()
                .flatten()
            {
                uses[3] += selector.match_labels.len();
                for expression in &selector.match_expressions {
                    uses[3] += 1.max(expression.values.len());
                }
            }
        }
        let of_ports: usize = ports.iter().map(port_uses).sum();
        let of_rule = of_peers.max(1).saturating_mul(of_ports.max(1)).max(16);
        uses[0] = uses[0].saturating_add(of_rule);
        // A wide block has more than 256 addresses.
        let blocks = peers.iter().filter_map(|peer| peer.ip_block.as_ref());
        let mut spans = blocks.filter_map(|block| Some(Cidr::parse(&block.cidr)?.span()));
        let is_wide =
            |(_, first, behind): (bool, u128, Option<u128>)| behind.is_none_or(|behind| behind - first > 256);
        if peers.is_empty() || spans.any(is_wide) {
            uses[4] += of_ports.max(1);
        }
    }
    uses
}

fn port_uses(entry: &PolicyPort) -> usize {
    match (&entry.port, entry.end_port) {
        (Some(PortName::Number(first)), Some(last)) if first < &last => {
            (i64::from(last) - i64::from(*first) + 1).min(30) as usize
        }
        _ => 1,
    }
}

/// Returns the largest number of blocks that hold one address. Sweeps over the line of all
/// addresses, where blocks begin and end.
fn deepest(blocks: &BTreeSet<&IpBlock>) -> usize {
    let mut line: BTreeMap<(bool, u128), isize> = BTreeMap::new();
    for cidr in blocks.iter().filter_map(|block| Cidr::parse(&block.cidr)) {
        let (is_ipv4, first, behind) = cidr.span();
        *line.entry((is_ipv4, first)).or_default() += 1;
        if let Some(behind) = behind {
            *line.entry((is_ipv4, behind)).or_default() -= 1;
        }
    }
    let (mut depth, mut most, mut family) = (0, 0, None);
    for ((is_ipv4, _), change) in line {
        if family.replace(is_ipv4) != Some(is_ipv4) {
            depth = 0;
        }
        depth += change;
        most = most.max(depth);
    }
    most.unsigned_abs()
}

/// Counts a Service's frontends, and its pairs of frontend and backend.
fn service_uses(service: &Service, slices: &[&EndpointSlice]) -> Vec<usize> {
    let mut uses = vec![0_usize; 2];
    if service.cluster_ips.is_empty() {
        return uses;
    }
    let is_ipv4 = |address: &std::net::IpAddr| address.to_canonical().is_ipv4();
    for port in &service.ports {
        for family in [false, true] {
            let virtual_ips = [
                &service.cluster_ips,
                &service.external_ips,
                &service.load_balancer_ips,
            ];
            let virtual_ips = virtual_ips.into_iter().flatten();
            let mut places = virtual_ips.filter(|address| is_ipv4(address) == family).count();
            let mut own = service.cluster_ips.iter();
            if port.node_port.is_some() && own.any(|address| is_ipv4(address) == family) {
                places += 1;
            }
            let mut backends = 0_usize;
            for slice in slices {
                let same = |known: &&crate::model::EndpointPort| {
                    known.name == port.name && known.protocol == port.protocol
                };
                let addresses = slice.endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
                backends += slice.ports.iter().filter(same).count()
                    * addresses.filter(|address| is_ipv4(address) == family).count();
            }
            uses[0] += places;
            uses[1] = uses[1].saturating_add(places.saturating_mul(backends));
        }
    }
    uses
}
