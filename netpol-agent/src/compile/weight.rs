// SPDX-License-Identifier: Apache-2.0
//! What an object would cost, counted by the lengths of its lists. Nothing is built, and counting
//! takes no longer than reading the object.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;

use super::budget::Weight;
use crate::model::{
    EndpointSlice, IpBlock, LabelSelector, NetworkPolicy, POLICY_RESOURCES, Peer, PolicyPort, PortName,
    Protocol, Rule, Service, parse_cidr,
};

/// The most aligned blocks that a range of ports needs.
const RANGE: usize = 30;

/// An `ipBlock` of more hosts than this, in bits, counts as one of everyone's addresses.
const NARROW: u8 = 8;

/// What a NetworkPolicy would use of [`crate::model::POLICY_RESOURCES`], as part of one policy of
/// an endpoint.
pub(super) fn policy(policy: &NetworkPolicy) -> Weight<{ POLICY_RESOURCES.len() }> {
    let rules = || policy.ingress.iter().chain(&policy.egress);
    let peers = || rules().flat_map(|rule| &rule.peers);
    let blocks = || peers().filter_map(|peer| peer.ip_block.as_ref());
    let selectors = peers().flat_map(|peer| peer.pod_selector.iter().chain(&peer.namespace_selector));
    [
        rules().map(pairs).fold(0, usize::saturating_add),
        blocks().map(prefixes).sum(),
        depth(blocks().collect()),
        selectors.map(requirements).sum(),
        rules().filter(|rule| is_wide(rule)).map(ports).sum(),
    ]
}

/// The least pairs that a rule counts as: each rule is visited for each class.
const RULE: usize = 16;

/// Peers times ports of a rule. An empty list counts as one.
fn pairs(rule: &Rule) -> usize {
    let of_peer = |peer: &Peer| peer.ip_block.as_ref().map_or(1, prefixes);
    let peers: usize = rule.peers.iter().map(of_peer).sum();
    peers.max(1).saturating_mul(ports(rule)).max(RULE)
}

fn ports(rule: &Rule) -> usize {
    rule.ports.iter().map(blocks_of).sum::<usize>().max(1)
}

/// Whether a rule matches many addresses, among which others may have prefixes: it has entries for
/// the class of each.
fn is_wide(rule: &Rule) -> bool {
    let is_large = |block: &IpBlock| {
        parse_cidr(&block.cidr).is_ok_and(|net| net.max_prefix_len() - net.prefix_len() > NARROW)
    };
    let mut blocks = rule.peers.iter().filter_map(|peer| peer.ip_block.as_ref());
    rule.peers.is_empty() || blocks.any(is_large)
}

/// A range counts as its ports, but not as more than the blocks that it needs.
fn blocks_of(port: &PolicyPort) -> usize {
    match (&port.port, port.end_port) {
        (Some(PortName::Number(first)), Some(last)) if last > *first => {
            usize::try_from(i64::from(last) - i64::from(*first) + 1).map_or(RANGE, |ports| ports.min(RANGE))
        }
        _ => 1,
    }
}

fn prefixes(block: &IpBlock) -> usize {
    1 + block.except.len()
}

/// A requirement counts once for each of its values.
fn requirements(selector: &LabelSelector) -> usize {
    let values = selector.match_expressions.iter();
    let values = values.map(|expression| expression.values.len().max(1));
    selector.match_labels.len() + values.sum::<usize>()
}

/// The most different blocks around one address. Sorted CIDRs come parents first, so those around
/// the current one are a stack.
fn depth(blocks: Vec<&IpBlock>) -> usize {
    let different: BTreeSet<&IpBlock> = blocks.into_iter().collect();
    let cidrs = different.iter().filter_map(|block| parse_cidr(&block.cidr).ok());
    let mut cidrs: Vec<IpNet> = cidrs.collect();
    cidrs.sort_unstable();
    let mut around: Vec<IpNet> = Vec::new();
    let mut most = 0;
    for cidr in cidrs {
        while around.last().is_some_and(|outer| !outer.contains(&cidr)) {
            around.pop();
        }
        around.push(cidr);
        most = most.max(around.len());
    }
    most
}

/// What a Service with these slices would use of [`crate::model::SERVICE_RESOURCES`].
pub(super) fn service(service: &Service, slices: &[&Arc<EndpointSlice>]) -> Weight<2> {
    if service.cluster_ips.is_empty() {
        return [0; 2];
    }
    let lists = [
        &service.cluster_ips,
        &service.external_ips,
        &service.load_balancer_ips,
    ];
    let of_family = |is_ipv4| {
        let addresses = lists.iter().copied().flatten();
        addresses.filter(|address| is_v4(address) == is_ipv4).count()
    };
    let addresses = [of_family(false), of_family(true)];
    let node_ports = [false, true].map(|is_ipv4| {
        let mut own = service.cluster_ips.iter();
        usize::from(own.any(|address| is_v4(address) == is_ipv4))
    });
    let backends = backends(slices);
    let mut weight = [0_usize; 2];
    for port in &service.ports {
        let of_port = backends.get(&(port.name.as_str(), port.protocol));
        for family in 0..2 {
            let node_port = port.node_port.map_or(0, |_| node_ports[family]);
            let frontends = addresses[family] + node_port;
            let backends = of_port.map_or(0, |counts| counts[family]);
            weight[0] = weight[0].saturating_add(frontends);
            weight[1] = weight[1].saturating_add(frontends.saturating_mul(backends));
        }
    }
    weight
}

/// The number of backends by name and protocol of their port, for IPv6 and IPv4.
fn backends<'a>(slices: &[&'a Arc<EndpointSlice>]) -> BTreeMap<(&'a str, Protocol), [usize; 2]> {
    let mut backends: BTreeMap<(&str, Protocol), [usize; 2]> = BTreeMap::new();
    for slice in slices {
        let addresses = slice.endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
        let mut of_slice = [0; 2];
        addresses.for_each(|address| of_slice[usize::from(is_v4(address))] += 1);
        for port in &slice.ports {
            let counts = backends.entry((port.name.as_str(), port.protocol)).or_default();
            (0..2).for_each(|family| counts[family] += of_slice[family]);
        }
    }
    backends
}

fn is_v4(address: &IpAddr) -> bool {
    address.to_canonical().is_ipv4()
}
