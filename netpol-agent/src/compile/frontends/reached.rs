// SPDX-License-Identifier: Apache-2.0
//! The frontends of one Service, and their backends.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use crate::model::{EndpointSlice, Frontend, Service, ServicePort};

/// The backends of each frontend.
pub(super) type Reached = BTreeMap<Frontend, BTreeSet<Frontend>>;

/// The frontends of a Service, with the backends that its slices have for each.
pub(super) fn reached(service: &Service, slices: &[&Arc<EndpointSlice>]) -> Reached {
    let mut reached = Reached::new();
    for (frontend, port) in frontends_of(service) {
        let backends = backends(slices, port, frontend.address.is_ipv4());
        reached.entry(frontend).or_default().extend(backends);
    }
    reached
}

/// The NodePorts of a Service without backends, for a Service over budget (rule L2). Another node
/// may lead from them to backends that nobody judged, so they stay closed there.
pub(super) fn node_ports(service: &Service) -> Reached {
    let ports = node_ports_of(service).into_iter();
    ports.map(|(frontend, _)| (frontend, BTreeSet::new())).collect()
}

/// The frontends of a Service, each with its port. A headless Service has none. In a family without
/// a ClusterIP kube-proxy serves none of the other addresses.
fn frontends_of(service: &Service) -> Vec<(Frontend, &ServicePort)> {
    let mut frontends = Vec::new();
    let cluster_ips: BTreeSet<IpAddr> = service.cluster_ips.iter().map(IpAddr::to_canonical).collect();
    let has_family = |address: &IpAddr| cluster_ips.iter().any(|ip| ip.is_ipv4() == address.is_ipv4());
    let others = service.external_ips.iter().chain(&service.load_balancer_ips);
    let others: BTreeSet<IpAddr> = others.map(IpAddr::to_canonical).filter(has_family).collect();
    for port in &service.ports {
        let mut add = |address: IpAddr, number| {
            let frontend = Frontend {
                address,
                protocol: port.protocol.number(),
                port: number,
            };
            frontends.push((frontend, port));
        };
        for address in cluster_ips.union(&others) {
            add(*address, port.port);
        }
    }
    frontends.extend(node_ports_of(service));
    frontends
}

/// The NodePorts of a Service, in all its families.
fn node_ports_of(service: &Service) -> Vec<(Frontend, &ServicePort)> {
    let cluster_ips = service.cluster_ips.iter().map(IpAddr::to_canonical);
    let families: BTreeSet<IpAddr> = cluster_ips
        .map(|address| match address {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        })
        .collect();
    let numbers = service
        .ports
        .iter()
        .filter_map(|port| Some((port, port.node_port?)));
    numbers
        .flat_map(|(port, number)| {
            families.iter().map(move |address| {
                let frontend = Frontend {
                    address: *address,
                    protocol: port.protocol.number(),
                    port: number,
                };
                (frontend, port)
            })
        })
        .collect()
}

/// The backends of a Service's port in one family that kube-proxy may choose: those that are ready,
/// and those that serve while they terminate, which it takes if no other is left.
fn backends(slices: &[&Arc<EndpointSlice>], port: &ServicePort, is_ipv4: bool) -> BTreeSet<Frontend> {
    let mut backends = BTreeSet::new();
    for slice in slices {
        let numbers: Vec<u16> = slice
            .ports
            .iter()
            .filter(|known| known.name == port.name && known.protocol == port.protocol)
            .filter_map(|known| known.number)
            .collect();
        let chosen = slice
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.ready || endpoint.serving && endpoint.terminating);
        for address in chosen.flat_map(|endpoint| &endpoint.addresses) {
            let address = address.to_canonical();
            if address.is_ipv4() == is_ipv4 {
                backends.extend(numbers.iter().map(|&number| Frontend {
                    address,
                    protocol: port.protocol.number(),
                    port: number,
                }));
            }
        }
    }
    backends
}
