// SPDX-License-Identifier: Apache-2.0
//! What one Service says: where it is reached, and by which backends.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use crate::{
    compile::Frontend,
    model::{EndpointSlice, Service, ServicePort},
};

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

/// Where a Service is reached by each of its ports. A headless one has no frontends.
fn frontends_of(service: &Service) -> Vec<(Frontend, &ServicePort)> {
    let mut frontends = Vec::new();
    if service.cluster_ips.is_empty() {
        return frontends;
    }
    let by_address = [
        &service.cluster_ips,
        &service.external_ips,
        &service.load_balancer_ips,
    ];
    for port in &service.ports {
        let mut add = |address: IpAddr, number| {
            let frontend = Frontend {
                address,
                protocol: port.protocol.number(),
                port: number,
            };
            frontends.push((frontend, port));
        };
        for address in by_address.into_iter().flatten() {
            add(address.to_canonical(), port.port);
        }
        if let Some(number) = port.node_port {
            for address in &service.cluster_ips {
                let any = match address.to_canonical() {
                    IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                    IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
                };
                add(any, number);
            }
        }
    }
    frontends
}

/// The backends of a Service's port in one family that kube-proxy may choose: those that are ready, and those that still serve while they
/// end, which it takes when no other is left.
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
