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
    Address, Backend, BackendKind, Backends, Class, Frontend,
    classes::Classes,
    fault::{Fault, Findings},
};
use crate::model::{EndpointSlice, ObjectKey, Service, ServicePort, Snapshot};

/// A backend before its class is written out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Target {
    /// Index of the class of its address.
    pub(super) class: usize,
    /// What has the address.
    pub(super) kind: BackendKind,
    /// IANA protocol number.
    pub(super) protocol: u8,
    /// Target port.
    pub(super) port: u16,
}

/// What decides the class of a frontend.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Targets {
    /// The source address is rewritten on the way: the second look may not know who sent the packet.
    pub(super) masqueraded: bool,
    /// All backends that kube-proxy may choose.
    pub(super) backends: BTreeSet<Target>,
}

/// The frontends of a compilation.
#[derive(Debug, Default)]
pub(super) struct Frontends {
    /// The class of each frontend, counted on from the classes of addresses.
    pub(super) classes: BTreeMap<Frontend, usize>,
    /// The classes, in their order.
    pub(super) list: Vec<Targets>,
    /// Number of classes of addresses.
    pub(super) first: usize,
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
        let mut backends = Resolver::new(snapshot, classes);
        let mut found: BTreeMap<Frontend, (&ObjectKey, Targets)> = BTreeMap::new();
        for service in snapshot.services.values().map(Arc::as_ref) {
            let key = (service.key.namespace.as_str(), service.key.name.as_str());
            let slices = slices.get(&key).map_or(&[][..], Vec::as_slice);
            for (frontend, port, masqueraded) in frontends_of(service) {
                let targets = Targets {
                    masqueraded,
                    backends: backends.targets(slices, port, frontend.address.is_ipv4()),
                };
                let (first, known) = found
                    .entry(frontend)
                    .or_insert_with(|| (&service.key, targets.clone()));
                if *first != &service.key {
                    // Whichever the proxy chooses: what is not allowed of one is not allowed.
                    known.masqueraded |= targets.masqueraded;
                    known.backends.extend(&targets.backends);
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
            }
        }
        let distinct: BTreeSet<&Targets> = found.values().map(|(_, targets)| targets).collect();
        let list: Vec<Targets> = distinct.into_iter().cloned().collect();
        let index: BTreeMap<&Targets, usize> = list
            .iter()
            .enumerate()
            .map(|(index, targets)| (targets, index))
            .collect();
        let first = classes.list.len();
        let classes = found
            .iter()
            .map(|(frontend, (_, targets))| (*frontend, first + index[targets]))
            .collect();
        Self { classes, list, first }
    }

    /// The classes, written out.
    pub(super) fn written(&self, of_addresses: &[Class]) -> Vec<Class> {
        let backend = |target: &Target| Backend {
            peers: of_addresses[target.class].peers.clone(),
            named_ports: of_addresses[target.class].named_ports.clone(),
            kind: target.kind,
            protocol: target.protocol,
            port: target.port,
        };
        let class = |targets: &Targets| Class {
            frontend: Some(Backends {
                masqueraded: targets.masqueraded,
                backends: targets.backends.iter().map(backend).collect(),
            }),
            ..Class::default()
        };
        self.list.iter().map(class).collect()
    }
}

/// Where a Service is reached by each of its ports, and whether the source is rewritten on the way. A headless one has no frontends.
fn frontends_of(service: &Service) -> Vec<(Frontend, &ServicePort, bool)> {
    let mut frontends = Vec::new();
    if service.cluster_ips.is_empty() {
        return frontends;
    }
    for port in &service.ports {
        let mut add = |address: IpAddr, number, masqueraded| {
            let frontend = Frontend {
                address: address.to_canonical(),
                protocol: port.protocol.number(),
                port: number,
            };
            frontends.push((frontend, port, masqueraded));
        };
        for address in &service.cluster_ips {
            add(*address, port.port, false);
        }
        for address in service.external_ips.iter().chain(&service.load_balancer_ips) {
            add(*address, port.port, true);
        }
        if let Some(number) = port.node_port {
            for address in &service.cluster_ips {
                let any = match address.to_canonical() {
                    IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                    IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
                };
                add(any, number, true);
            }
        }
    }
    frontends
}

/// What stands behind the addresses of backends.
struct Resolver<'a> {
    classes: &'a Classes,
    /// Addresses of pods that the second look can be at, and of others that share an address with the node.
    pods: HashMap<IpAddr, bool>,
    known: HashMap<IpAddr, (usize, BackendKind)>,
}

impl<'a> Resolver<'a> {
    fn new(snapshot: &Snapshot, classes: &'a Classes) -> Self {
        let mut pods = HashMap::new();
        for pod in snapshot.pods.values().filter(|pod| !pod.terminal) {
            for address in super::addresses_of(pod) {
                *pods.entry(address).or_insert(true) &= !pod.host_network;
            }
        }
        Self {
            classes,
            pods,
            known: HashMap::new(),
        }
    }

    /// The backends of a Service's port in one family that kube-proxy may choose: those that are ready, and those that still serve while
    /// they end, which it takes when no other is left.
    fn targets(&mut self, slices: &[&EndpointSlice], port: &ServicePort, is_ipv4: bool) -> BTreeSet<Target> {
        let mut targets = BTreeSet::new();
        for slice in slices {
            let numbers: Vec<u16> = slice
                .ports
                .iter()
                .filter(|known| known.name == port.name && known.protocol == port.protocol)
                .filter_map(|known| known.number)
                .collect();
            for endpoint in &slice.endpoints {
                if !(endpoint.ready || endpoint.serving && endpoint.terminating) {
                    continue;
                }
                let addresses = endpoint.addresses.iter().map(IpAddr::to_canonical);
                for address in addresses.filter(|address| address.is_ipv4() == is_ipv4) {
                    let (class, kind) = self.resolve(address);
                    targets.extend(numbers.iter().map(|&port_number| Target {
                        class,
                        kind,
                        protocol: port.protocol.number(),
                        port: port_number,
                    }));
                }
            }
        }
        targets
    }

    fn resolve(&mut self, address: IpAddr) -> (usize, BackendKind) {
        let Self { classes, pods, known } = self;
        *known.entry(address).or_insert_with(|| {
            let found = address_at(&classes.addresses, address);
            let kind = if found.node {
                BackendKind::Node
            } else if pods.get(&address) == Some(&true) {
                BackendKind::Pod
            } else {
                BackendKind::Other
            };
            (found.class, kind)
        })
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
