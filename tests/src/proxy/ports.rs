// SPDX-License-Identifier: Apache-2.0
//! Ports of Services, with their frontends and the backends that kube-proxy chooses among.

use std::{
    collections::BTreeSet,
    hash::{DefaultHasher, Hash, Hasher},
    net::{IpAddr, SocketAddr},
};

use netpol_agent::model::{Protocol, Service, ServicePort, SliceEndpoint, Snapshot};

use super::Family;

/// A port of a Service in one family.
#[derive(Debug)]
pub(super) struct Port {
    /// `namespace/name:port`.
    pub name: String,
    /// `namespace/name/protocol/port`.
    pub path: String,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: &'static str,
    pub port: u16,
    pub node_port: Option<u16>,
    pub cluster_ips: Vec<IpAddr>,
    /// ExternalIPs and LoadBalancer IPs.
    pub external_ips: Vec<IpAddr>,
    pub backends: BTreeSet<SocketAddr>,
}

impl Port {
    /// Returns true if a packet to this address and port is for it.
    pub fn is_at(&self, address: IpAddr, port: u16, is_node: bool) -> bool {
        let virtual_ip = self.cluster_ips.contains(&address) || self.external_ips.contains(&address);
        virtual_ip && self.port == port || is_node && self.node_port == Some(port)
    }

    /// Returns true if it can be reached from outside the cluster.
    pub fn is_external(&self) -> bool {
        self.node_port.is_some() || !self.external_ips.is_empty()
    }
}

/// Returns the ports of all Services with a virtual address in the family, by name.
pub(super) fn ports(snapshot: &Snapshot, family: Family) -> Vec<Port> {
    let mut ports = Vec::new();
    for service in snapshot.services.values() {
        let of_family = |ips: &[IpAddr]| -> Vec<IpAddr> {
            let same = ips.iter().filter(|ip| ip.is_ipv4() == family.ipv4);
            same.copied().collect()
        };
        let cluster_ips = of_family(&service.cluster_ips);
        if cluster_ips.is_empty() {
            continue;
        }
        let external = [&service.external_ips[..], &service.load_balancer_ips].concat();
        for port in &service.ports {
            let protocol = protocol(port.protocol);
            ports.push(Port {
                name: format!("{}:{}", service.key, port.name),
                path: format!("{}/{protocol}/{}", service.key, port.name),
                protocol,
                port: port.port,
                node_port: port.node_port,
                cluster_ips: cluster_ips.clone(),
                external_ips: of_family(&external),
                backends: backends(snapshot, service, port, family),
            });
        }
    }
    ports
}

/// Returns the ready endpoints of all slices; if there are none, those that terminate and still
/// serve.
fn backends(
    snapshot: &Snapshot,
    service: &Service,
    port: &ServicePort,
    family: Family,
) -> BTreeSet<SocketAddr> {
    let choose = |wanted: fn(&SliceEndpoint) -> bool| {
        let mut chosen = BTreeSet::new();
        let slices = snapshot.endpoint_slices.values().filter(|slice| {
            slice.key.namespace == service.key.namespace
                && slice.service.as_deref() == Some(service.key.name.as_str())
        });
        for slice in slices {
            let number = slice
                .ports
                .iter()
                .find(|entry| entry.name == port.name && entry.protocol == port.protocol)
                .and_then(|entry| entry.number);
            let Some(number) = number else { continue };
            let endpoints = slice.endpoints.iter().filter(|endpoint| wanted(endpoint));
            // Like kube-proxy, uses only the first address of an endpoint.
            let addresses = endpoints.filter_map(|endpoint| endpoint.addresses.first());
            chosen.extend(
                addresses
                    .filter(|address| address.is_ipv4() == family.ipv4)
                    .map(|&address| SocketAddr::new(address, number)),
            );
        }
        chosen
    };
    let ready = choose(|endpoint| endpoint.ready);
    if ready.is_empty() {
        return choose(|endpoint| endpoint.serving && endpoint.terminating);
    }
    ready
}

pub(super) fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}

/// Returns a short name for a long one, for chains.
pub(super) fn digest(parts: &[&str]) -> String {
    let mut hasher = DefaultHasher::new();
    parts.hash(&mut hasher);
    format!("{:016X}", hasher.finish())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use netpol_agent::model::{EndpointPort, EndpointSlice, ObjectKey};

    use super::{super::FAMILIES, *};

    fn endpoint(address: &str, ready: bool, serving: bool, terminating: bool) -> SliceEndpoint {
        SliceEndpoint {
            addresses: vec![address.parse().unwrap()],
            ready,
            serving,
            terminating,
        }
    }

    fn chosen(endpoints: Vec<SliceEndpoint>) -> Vec<String> {
        let key = ObjectKey::new("shop", "web");
        let named = "http".to_owned();
        let service = Service {
            key: key.clone(),
            cluster_ips: vec!["10.96.0.1".parse().unwrap()],
            external_ips: Vec::new(),
            load_balancer_ips: Vec::new(),
            ports: vec![ServicePort {
                name: named.clone(),
                protocol: Protocol::Tcp,
                port: 80,
                node_port: None,
            }],
        };
        let port = |number, protocol| EndpointPort {
            name: named.clone(),
            protocol,
            number: Some(number),
        };
        let mut snapshot = Snapshot::default();
        snapshot.services.insert(key.clone(), Arc::new(service));
        for (number, endpoint) in endpoints.into_iter().enumerate() {
            let slice = EndpointSlice {
                key: ObjectKey::new("shop", format!("web-{number}")),
                service: Some("web".to_owned()),
                ports: vec![port(9, Protocol::Udp), port(8080, Protocol::Tcp)],
                endpoints: vec![endpoint],
            };
            snapshot
                .endpoint_slices
                .insert(slice.key.clone(), Arc::new(slice));
        }
        let ports = ports(&snapshot, FAMILIES[0]);
        ports[0].backends.iter().map(SocketAddr::to_string).collect()
    }

    #[test]
    fn the_ready_are_chosen_and_the_serving_only_if_none_is() {
        let ready = endpoint("10.244.0.1", true, true, false);
        let leaving = endpoint("10.244.0.2", false, true, true);
        let gone = endpoint("10.244.0.3", false, false, true);
        let starting = endpoint("10.244.0.4", false, false, false);
        let other_family = endpoint("fd00::1", true, true, false);
        assert_eq!(
            chosen(vec![ready, leaving.clone(), gone.clone(), starting.clone()]),
            ["10.244.0.1:8080"]
        );
        assert_eq!(
            chosen(vec![leaving, gone.clone(), starting.clone()]),
            ["10.244.0.2:8080"]
        );
        assert_eq!(chosen(vec![gone, starting, other_family]), Vec::<String>::new());
    }
}
