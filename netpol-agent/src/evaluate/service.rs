// SPDX-License-Identifier: Apache-2.0
//! Services (rule A5): judges a packet to a virtual IP or NodePort, backend by backend.

use std::net::IpAddr;

use super::{Evaluation, Packet, claimants, is_own_node, judge};
use crate::model::{EndpointSlice, Node, Protocol, Service, ServicePort, Snapshot};

/// Judges a packet to a Service's frontend. Returns, for each backend that kube-proxy may choose,
/// its address, its port and the verdict on the packet after translation. `None` if no Service has
/// this frontend. A pod that reaches itself through a Service is subject to policy (rule A1).
pub fn evaluate_service(
    snapshot: &Snapshot,
    nodes: &[Node],
    packet: &Packet,
) -> Option<Vec<(IpAddr, u16, Evaluation)>> {
    let protocol = Protocol::ALL
        .into_iter()
        .find(|protocol| protocol.number() == packet.protocol)?;
    let port = packet.port?;
    let is_taken = is_taken(snapshot, nodes, packet);
    let mut reached = false;
    let mut backends = Vec::new();
    let refused = super::budget::refused_services(snapshot);
    for service in snapshot.services.values() {
        let is_refused = refused.contains(&service.key);
        for service_port in &service.ports {
            let here = service_port.protocol == protocol
                && (!is_taken
                    && !is_refused
                    && has_virtual_ip(service, service_port, packet.destination, port)
                    || has_node_port(service, service_port, nodes, packet.destination, port));
            if !here {
                continue;
            }
            reached = true;
            // The Service is over budget (rule L2), so nothing is known behind its node port.
            if is_refused {
                continue;
            }
            let slices = snapshot.endpoint_slices.values().filter(|slice| {
                slice.key.namespace == service.key.namespace
                    && slice.service.as_deref() == Some(service.key.name.as_str())
            });
            for slice in slices {
                add_backends(slice, service_port, packet.destination.is_ipv4(), &mut backends);
            }
        }
    }
    backends.sort_unstable();
    backends.dedup();
    let judged = backends.into_iter().map(|(address, port)| {
        let translated = Packet {
            destination: address,
            port: Some(port),
            ..*packet
        };
        (address, port, judge(snapshot, nodes, &translated, true))
    });
    reached.then(|| judged.collect())
}

/// Returns true if the destination is an address of a pod or of a node other than the sender's. No
/// Service is reached there, whatever it claims (rule A9).
fn is_taken(snapshot: &Snapshot, nodes: &[Node], packet: &Packet) -> bool {
    let senders = claimants(snapshot, packet.source);
    if senders
        .iter()
        .any(|pod| is_own_node(nodes, pod, packet.destination))
    {
        return false;
    }
    !claimants(snapshot, packet.destination).is_empty()
        || nodes
            .iter()
            .any(|node| node.addresses.contains(&packet.destination))
}

/// Returns true if the Service is reached at this address. A headless Service has no frontend. In a
/// family without a ClusterIP, its other addresses do not count.
fn has_virtual_ip(service: &Service, service_port: &ServicePort, address: IpAddr, port: u16) -> bool {
    let of_family = |known: &&IpAddr| known.is_ipv4() == address.is_ipv4();
    let cluster_ips: Vec<_> = service.cluster_ips.iter().filter(of_family).collect();
    let others = [&service.external_ips, &service.load_balancer_ips];
    let claims = cluster_ips.contains(&&address) || others.iter().any(|ips| ips.contains(&address));
    service_port.port == port && !cluster_ips.is_empty() && claims
}

/// Returns true if it is a node port at an address of any node, in a family of the Service.
fn has_node_port(
    service: &Service,
    service_port: &ServicePort,
    nodes: &[Node],
    address: IpAddr,
    port: u16,
) -> bool {
    service_port.node_port == Some(port)
        && nodes.iter().any(|node| node.addresses.contains(&address))
        && service
            .cluster_ips
            .iter()
            .any(|ip| ip.is_ipv4() == address.is_ipv4())
}

/// Adds ready endpoints. Endpoints that still serve while they terminate are used if no ready one
/// is left.
fn add_backends(
    slice: &EndpointSlice,
    service_port: &ServicePort,
    is_ipv4: bool,
    backends: &mut Vec<(IpAddr, u16)>,
) {
    for port in &slice.ports {
        let Some(number) = port.number else { continue };
        if port.name != service_port.name || port.protocol != service_port.protocol {
            continue;
        }
        for endpoint in &slice.endpoints {
            if endpoint.ready || (endpoint.serving && endpoint.terminating) {
                let addresses = endpoint.addresses.iter().copied();
                let of_family = addresses.filter(|address| address.is_ipv4() == is_ipv4);
                backends.extend(of_family.map(|address| (address, number)));
            }
        }
    }
}
