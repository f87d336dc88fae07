// SPDX-License-Identifier: Apache-2.0
//! Services by where they are reached and by what is behind (rule A5). A frontend has a class like an address: all frontends with the same
//! classes of backends are one.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use ipnet::IpNet;

use super::{
    Address, Backend, Class, Frontend, Passage, Policy,
    classes::Classes,
    fault::{Fault, Findings},
};
use crate::model::{EndpointSlice, ObjectKey, Service, ServicePort, Snapshot};

/// A backend before its class is written out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Target {
    /// Index of the class of its address.
    pub(super) class: usize,
    /// This node has the address.
    pub(super) node: bool,
    /// IANA protocol number.
    pub(super) protocol: u8,
    /// Target port.
    pub(super) port: u16,
}

/// What decides the class of a frontend: all backends that kube-proxy may choose.
pub(super) type Targets = BTreeSet<Target>;

/// The frontends of a compilation.
#[derive(Debug, Default)]
pub(super) struct Frontends {
    /// The class of each frontend, counted on from the classes of addresses.
    pub(super) classes: BTreeMap<Frontend, usize>,
    /// The classes, in their order.
    pub(super) list: Vec<Targets>,
    /// Number of classes of addresses.
    pub(super) first: usize,
    /// The backends of each class, with their addresses.
    backends: Vec<BTreeSet<Frontend>>,
}

impl Frontends {
    /// The frontends of all Services.
    pub(super) fn new(snapshot: &Snapshot, classes: &Classes, findings: &mut Findings) -> Self {
        let mut slices: HashMap<(&str, &str), Vec<&EndpointSlice>> = HashMap::new();
        for slice in snapshot.endpoint_slices.values() {
            if let Some(service) = &slice.service {
                let key = (slice.key.namespace.as_str(), service.as_str());
                slices.entry(key).or_default().push(slice);
            }
        }
        let mut resolver = Resolver::new(classes);
        let mut found: BTreeMap<Frontend, (&ObjectKey, BTreeSet<Frontend>)> = BTreeMap::new();
        for service in snapshot.services.values().map(Arc::as_ref) {
            let key = (service.key.namespace.as_str(), service.key.name.as_str());
            let slices = slices.get(&key).map_or(&[][..], Vec::as_slice);
            for (frontend, port) in frontends_of(service) {
                let backends = backends(slices, port, frontend.address.is_ipv4());
                let (first, known) = found
                    .entry(frontend)
                    .or_insert_with(|| (&service.key, BTreeSet::new()));
                if *first != &service.key {
                    let message = format!(
                        "{}:{} is also reached by Service {first}; both count as one, with the backends of both",
                        frontend.address, frontend.port
                    );
                    findings.add(
                        "Service",
                        &service.key,
                        Fault::new("frontend-conflict", "spec.ports", message),
                    );
                }
                // Whichever the proxy chooses: what is not allowed of one is not allowed.
                known.extend(backends);
            }
        }
        let mut of_targets: BTreeMap<Targets, (Vec<Frontend>, BTreeSet<Frontend>)> = BTreeMap::new();
        for (frontend, (_, backends)) in found {
            let targets = backends.iter().map(|backend| resolver.target(backend)).collect();
            let (frontends, known) = of_targets.entry(targets).or_default();
            frontends.push(frontend);
            known.extend(backends);
        }
        let mut frontends = Self {
            first: classes.list.len(),
            ..Self::default()
        };
        for (targets, (reached, backends)) in of_targets {
            let class = frontends.first + frontends.list.len();
            frontends.list.push(targets);
            frontends.backends.push(backends);
            frontends
                .classes
                .extend(reached.into_iter().map(|frontend| (frontend, class)));
        }
        frontends
    }

    /// The classes, written out.
    pub(super) fn written(&self, of_addresses: &[Class]) -> Vec<Class> {
        let backend = |target: &Target| Backend {
            peers: of_addresses[target.class].peers.clone(),
            named_ports: of_addresses[target.class].named_ports.clone(),
            node: target.node,
            protocol: target.protocol,
            port: target.port,
        };
        let class = |targets: &Targets| Class {
            frontend: Some(targets.iter().map(backend).collect()),
            ..Class::default()
        };
        self.list.iter().map(class).collect()
    }

    /// The backends of frontends that some of these policies let pass in part.
    pub(super) fn guarded(&self, policies: &[Policy]) -> BTreeSet<Frontend> {
        let frontends = policies.iter().flat_map(|policy| &policy.frontends);
        let partial: BTreeSet<usize> = frontends
            .filter(|(_, passage)| **passage == Passage::Defer)
            .map(|(class, _)| class - self.first)
            .collect();
        let backends = partial.into_iter().flat_map(|index| &self.backends[index]);
        backends.copied().collect()
    }
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
fn backends(slices: &[&EndpointSlice], port: &ServicePort, is_ipv4: bool) -> BTreeSet<Frontend> {
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

/// The classes of backends' addresses.
struct Resolver<'a> {
    classes: &'a Classes,
    known: HashMap<IpAddr, Address>,
}

impl<'a> Resolver<'a> {
    fn new(classes: &'a Classes) -> Self {
        Self {
            classes,
            known: HashMap::new(),
        }
    }

    fn target(&mut self, backend: &Frontend) -> Target {
        let addresses = &self.classes.addresses;
        let address = self
            .known
            .entry(backend.address)
            .or_insert_with(|| address_at(addresses, backend.address));
        Target {
            class: address.class,
            node: address.node,
            protocol: backend.protocol,
            port: backend.port,
        }
    }
}

/// What the longest prefix around an address stands for.
fn address_at(addresses: &BTreeMap<IpNet, Address>, address: IpAddr) -> Address {
    let longest = IpNet::from(address).prefix_len();
    (0..=longest)
        .rev()
        .find_map(|length| addresses.get(&IpNet::new(address, length).ok()?.trunc()))
        .copied()
        .unwrap_or_default()
}
