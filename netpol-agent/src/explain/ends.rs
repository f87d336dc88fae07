// SPDX-License-Identifier: Apache-2.0
//! Resolves an end of a request to its addresses.

use std::net::IpAddr;

use thiserror::Error;

use super::{
    answer::EndShown,
    request::{End, Family, Port},
};
use crate::{
    evaluate::{Packet, evaluate_service, pods_at},
    model::{EndpointSlice, Node, ObjectKey, Pod, Service, ServicePort, Snapshot},
};

/// An end that cannot be judged.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EndError {
    /// There is no such object.
    #[error("there is no {kind} {key}{hint}")]
    Missing {
        /// The kind that was looked for.
        kind: &'static str,
        /// Its key.
        key: ObjectKey,
        /// A hint at what exists instead.
        hint: String,
    },
    /// A pod and a Service have the same name.
    #[error(
        "there is a pod and a Service {key}: say {namespace}/pod/{name} or {namespace}/svc/{name}",
        namespace = key.namespace,
        name = key.name
    )]
    Ambiguous {
        /// Their key.
        key: ObjectKey,
    },
    /// The pod has no address.
    #[error("pod {0} has no address yet, so no packet can be its own")]
    NoAddress(ObjectKey),
    /// The Service does not have the port.
    #[error("Service {service} has no port {port}; it has {ports}")]
    NoServicePort {
        /// The Service.
        service: ObjectKey,
        /// The port asked for.
        port: Port,
        /// The ports it has.
        ports: String,
    },
    /// The ends share no address family.
    #[error("{source_end} and {destination} share {family} addresses of one family", family = if *family == "no" { "no".to_owned() } else { format!("no {family}") })]
    NoCommonFamily {
        /// The source.
        source_end: String,
        /// The destination.
        destination: String,
        /// The family that was asked for, or `no`.
        family: &'static str,
    },
}

/// One address of an end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    /// The pod that has the address.
    pub(super) name: Option<ObjectKey>,
    pub(super) address: IpAddr,
    /// The port at this address; meaningless for a source.
    pub(super) port: Port,
    /// True if a Service is reached here: its backends are judged instead.
    pub(super) is_frontend: bool,
}

impl Candidate {
    pub(super) fn end_shown(&self) -> EndShown {
        EndShown {
            name: self.name.as_ref().map(ToString::to_string),
            address: self.address,
        }
    }

    /// Looks up the pod that has the address, even if it shares its node's network or has ended.
    pub(super) fn pod<'a>(&self, snapshot: &'a Snapshot) -> Option<&'a Pod> {
        snapshot.pods.get(self.name.as_ref()?).map(AsRef::as_ref)
    }

    /// Explains why no pod with a network of its own has the address (rules I6, I7).
    pub(super) fn why_not_enforced(&self, snapshot: &Snapshot) -> String {
        match self.pod(snapshot) {
            Some(pod) if pod.host_network => "it uses the network of its node".to_owned(),
            Some(pod) if pod.terminal => "it has ended".to_owned(),
            _ => "it is no pod".to_owned(),
        }
    }
}

/// Returns the packet from one address to the other; both are of `family`.
pub(super) fn packet(source: &Candidate, destination: &Candidate, family: Family) -> Packet {
    let (protocol, port) = destination.port.of_family(family);
    Packet {
        source: source.address,
        destination: destination.address,
        protocol,
        port,
    }
}

/// Resolves the source to its addresses.
pub(super) fn sources(
    snapshot: &Snapshot,
    nodes: &[Node],
    end: &End,
    notes: &mut Vec<String>,
) -> Result<Vec<Candidate>, EndError> {
    match object(snapshot, end)? {
        Found::Pod(pod) => pod_addresses(pod, Port::Icmp, notes),
        Found::Address(address) => Ok(vec![at(snapshot, nodes, address, Port::Icmp)]),
        Found::Service(service) => ready_candidates(snapshot, nodes, service, Port::Icmp, notes),
    }
}

/// Resolves the destination to a Service's frontends; without any, to the addresses themselves.
pub(super) fn destinations(
    snapshot: &Snapshot,
    nodes: &[Node],
    end: &End,
    port: Port,
    notes: &mut Vec<String>,
) -> Result<Vec<Candidate>, EndError> {
    let service = match object(snapshot, end)? {
        Found::Pod(pod) => return pod_addresses(pod, port, notes),
        Found::Address(address) => return Ok(vec![destination(snapshot, nodes, address, port, notes)?]),
        Found::Service(service) => service,
    };
    if service.cluster_ips.is_empty() {
        notes.push(format!(
            "Service {} is headless: its pods are judged, and {port} is their port",
            service.key
        ));
        return ready_candidates(snapshot, nodes, service, port, notes);
    }
    has_port(service, port)?;
    let frontend = |address: &IpAddr| Candidate {
        is_frontend: true,
        ..at(snapshot, nodes, *address, port)
    };
    Ok(service.cluster_ips.iter().map(frontend).collect())
}

/// Resolves an address to a frontend or to its owner. A ClusterIP has only the ports of its
/// Service.
fn destination(
    snapshot: &Snapshot,
    nodes: &[Node],
    address: IpAddr,
    port: Port,
    notes: &mut Vec<String>,
) -> Result<Candidate, EndError> {
    let candidate = at(snapshot, nodes, address, port);
    let family = Family::of(address);
    let is_frontend = evaluate_service(snapshot, nodes, &packet(&candidate, &candidate, family)).is_some();
    if is_frontend {
        notes.push(format!(
            "a Service is reached at {address} {port}: its backends are judged"
        ));
    } else {
        let mut services = snapshot.services.values();
        if let Some(service) = services.find(|service| service.cluster_ips.contains(&address)) {
            has_port(service, port)?;
        }
    }
    Ok(Candidate {
        is_frontend,
        ..candidate
    })
}

/// Returns the ready endpoints of a Service, untranslated.
fn ready_candidates(
    snapshot: &Snapshot,
    nodes: &[Node],
    service: &Service,
    port: Port,
    notes: &mut Vec<String>,
) -> Result<Vec<Candidate>, EndError> {
    let slices = slices(snapshot, &service.key);
    let mut addresses: Vec<IpAddr> = slices.flat_map(ready_addresses).collect();
    addresses.sort_unstable();
    addresses.dedup();
    notes.extend(
        addresses
            .is_empty()
            .then(|| format!("Service {} has no ready endpoints", service.key)),
    );
    let candidates = addresses
        .into_iter()
        .map(|address| at(snapshot, nodes, address, port));
    Ok(candidates.collect())
}

enum Found<'a> {
    Pod(&'a Pod),
    Service(&'a Service),
    Address(IpAddr),
}

fn object<'a>(snapshot: &'a Snapshot, end: &End) -> Result<Found<'a>, EndError> {
    let pod = |key| snapshot.pods.get(key).map(|pod| Found::Pod(pod));
    let service = |key| snapshot.services.get(key).map(|service| Found::Service(service));
    let (kind, key, found) = match end {
        End::Address(address) => return Ok(Found::Address(*address)),
        End::Named(key) => match (pod(key), service(key)) {
            (Some(_), Some(_)) => return Err(EndError::Ambiguous { key: key.clone() }),
            (pod, service) => ("pod or Service", key, pod.or(service)),
        },
        End::Pod(key) => ("pod", key, pod(key)),
        End::Service(key) => ("Service", key, service(key)),
    };
    found.ok_or_else(|| EndError::Missing {
        kind,
        key: key.clone(),
        hint: hint(snapshot, &key.namespace),
    })
}

fn hint(snapshot: &Snapshot, namespace: &str) -> String {
    let mut names = snapshot
        .pods
        .keys()
        .filter(|key| key.namespace == namespace)
        .map(|key| key.name.as_str());
    let first: Vec<&str> = names.by_ref().take(5).collect();
    match (first.is_empty(), names.count()) {
        (true, _) if !snapshot.namespaces.contains_key(namespace) => {
            format!("; there is no namespace {namespace}")
        }
        (true, _) => format!("; namespace {namespace} has no pods"),
        (false, 0) => format!("; the pods of namespace {namespace} are {}", first.join(", ")),
        (false, more) => format!(
            "; namespace {namespace} has {} and {more} more pods",
            first.join(", ")
        ),
    }
}

fn pod_addresses(pod: &Pod, port: Port, notes: &mut Vec<String>) -> Result<Vec<Candidate>, EndError> {
    if pod.addresses.is_empty() {
        return Err(EndError::NoAddress(pod.key.clone()));
    }
    if pod.terminal {
        notes.push(format!(
            "pod {} has ended: its addresses count as any address outside, or as the pod's that has them now",
            pod.key
        ));
    } else if pod.host_network {
        notes.push(format!(
            "pod {} uses the network of its node: its addresses are the node's",
            pod.key
        ));
    }
    let candidate = |address: &IpAddr| Candidate {
        name: Some(pod.key.clone()),
        address: *address,
        port,
        is_frontend: false,
    };
    Ok(pod.addresses.iter().map(candidate).collect())
}

/// Returns an address with the pod that has it.
pub(super) fn at(snapshot: &Snapshot, nodes: &[Node], address: IpAddr, port: Port) -> Candidate {
    Candidate {
        name: pods_at(snapshot, nodes, address)
            .first()
            .map(|pod| pod.key.clone()),
        address,
        port,
        is_frontend: false,
    }
}

fn slices<'a>(snapshot: &'a Snapshot, service: &'a ObjectKey) -> impl Iterator<Item = &'a EndpointSlice> {
    snapshot
        .endpoint_slices
        .values()
        .map(AsRef::as_ref)
        .filter(|slice: &&EndpointSlice| {
            slice.key.namespace == service.namespace
                && slice.service.as_deref() == Some(service.name.as_str())
        })
}

fn ready_addresses(slice: &EndpointSlice) -> impl Iterator<Item = IpAddr> {
    let ready = slice.endpoints.iter().filter(|endpoint| endpoint.ready);
    ready.flat_map(|endpoint| endpoint.addresses.iter().copied())
}

fn has_port(service: &Service, port: Port) -> Result<(), EndError> {
    let known = |port: &ServicePort| Port::Transport(port.protocol, port.port);
    if service.ports.iter().any(|candidate| known(candidate) == port) {
        return Ok(());
    }
    let ports: Vec<String> = service.ports.iter().map(|port| known(port).to_string()).collect();
    Err(EndError::NoServicePort {
        service: service.key.clone(),
        port,
        ports: if ports.is_empty() {
            "none".to_owned()
        } else {
            ports.join(", ")
        },
    })
}
