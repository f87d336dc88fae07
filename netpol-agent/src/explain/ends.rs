// SPDX-License-Identifier: Apache-2.0
//! The addresses that an end stands for.

use std::net::IpAddr;

use thiserror::Error;

use super::{End, EndShown, Family, Port};
use crate::model::{EndpointSlice, ObjectKey, Pod, Service, Snapshot};

/// An end that cannot be judged.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EndError {
    /// There is no such object.
    #[error("there is no {kind} {key}{hint}")]
    Missing {
        /// What it was looked for as.
        kind: &'static str,
        /// Its key.
        key: ObjectKey,
        /// What there is instead.
        hint: String,
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
    /// No addresses of one family on both ends.
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

/// One address that an end stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    /// The pod that has it.
    pub(super) name: Option<ObjectKey>,
    pub(super) address: IpAddr,
    /// The port at this address; for a source it means nothing.
    pub(super) port: Port,
    /// It was reached through a Service.
    pub(super) is_backend: bool,
}

impl Candidate {
    pub(super) fn end_shown(&self) -> EndShown {
        EndShown {
            name: self.name.as_ref().map(ToString::to_string),
            address: self.address,
        }
    }

    pub(super) fn shown(&self) -> String {
        self.name
            .as_ref()
            .map_or_else(|| self.address.to_string(), ToString::to_string)
    }

    /// Why no pod of its own stands behind the address (rules I6, I7).
    pub(super) fn why_not_enforced(&self, snapshot: &Snapshot) -> String {
        let pod = self.name.as_ref().and_then(|key| snapshot.pods.get(key));
        match pod {
            Some(pod) if pod.host_network => "it uses the network of its node".to_owned(),
            Some(pod) if pod.terminal => "it has ended".to_owned(),
            _ => "it is no pod".to_owned(),
        }
    }
}

/// The addresses of a source.
pub(super) fn sources(
    snapshot: &Snapshot,
    end: &End,
    notes: &mut Vec<String>,
) -> Result<Vec<Candidate>, EndError> {
    match object(snapshot, end)? {
        Found::Pod(pod) => pod_addresses(pod, Port::Icmp, notes),
        Found::Address(address) => Ok(vec![at(snapshot, address, Port::Icmp, false)]),
        Found::Service(service) => {
            let slices = slices(snapshot, &service.key);
            let mut addresses: Vec<IpAddr> = slices.flat_map(ready_addresses).collect();
            addresses.sort_unstable();
            addresses.dedup();
            notes.extend(addresses.is_empty().then(|| no_endpoints(service)));
            let candidates = addresses
                .into_iter()
                .map(|address| at(snapshot, address, Port::Icmp, false));
            Ok(candidates.collect())
        }
    }
}

/// The addresses of a destination, each with the port that a packet for `port` has there.
pub(super) fn destinations(
    snapshot: &Snapshot,
    end: &End,
    port: Port,
    notes: &mut Vec<String>,
) -> Result<Vec<Candidate>, EndError> {
    let service = match object(snapshot, end)? {
        Found::Pod(pod) => return pod_addresses(pod, port, notes),
        Found::Address(address) => match service_at(snapshot, address) {
            None => return Ok(vec![at(snapshot, address, port, false)]),
            Some(service) => {
                notes.push(format!(
                    "{address} is an address of Service {}: its backends are judged",
                    service.key
                ));
                service
            }
        },
        Found::Service(service) => service,
    };
    let mut found = backends(snapshot, service, port)?;
    if let End::Address(address) = end {
        found.retain(|backend| Family::of(backend.address) == Family::of(*address));
    }
    notes.extend(found.is_empty().then(|| no_endpoints(service)));
    Ok(found)
}

fn no_endpoints(service: &Service) -> String {
    format!(
        "Service {} has no ready endpoints, so nothing answers",
        service.key
    )
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
        End::Named(key) => ("pod or Service", key, pod(key).or_else(|| service(key))),
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
        is_backend: false,
    };
    Ok(pod.addresses.iter().map(candidate).collect())
}

/// An address, with the pod that has it.
fn at(snapshot: &Snapshot, address: IpAddr, port: Port, is_backend: bool) -> Candidate {
    let mut pods = snapshot
        .pods
        .values()
        .filter(|pod| !pod.host_network && !pod.terminal);
    let pod = pods.find(|pod| pod.addresses.contains(&address));
    Candidate {
        name: pod.map(|pod| pod.key.clone()),
        address,
        port,
        is_backend,
    }
}

fn service_at(snapshot: &Snapshot, address: IpAddr) -> Option<&Service> {
    let services = snapshot.services.values().map(AsRef::as_ref);
    services.into_iter().find(|service: &&Service| {
        let lists = [
            &service.cluster_ips,
            &service.external_ips,
            &service.load_balancer_ips,
        ];
        lists.iter().any(|list| list.contains(&address))
    })
}

fn slices<'a>(snapshot: &'a Snapshot, service: &'a ObjectKey) -> impl Iterator<Item = &'a EndpointSlice> {
    snapshot
        .endpoint_slices
        .values()
        .map(AsRef::as_ref)
        .filter(|slice: &&EndpointSlice| {
            slice.key.namespace == service.namespace && slice.service.as_ref() == Some(&service.name)
        })
}

fn ready_addresses(slice: &EndpointSlice) -> impl Iterator<Item = IpAddr> {
    let ready = slice.endpoints.iter().filter(|endpoint| endpoint.ready);
    ready.flat_map(|endpoint| endpoint.addresses.iter().copied())
}

/// The ready endpoints behind a port of a Service, with the port that each has there (rule A5).
fn backends(snapshot: &Snapshot, service: &Service, port: Port) -> Result<Vec<Candidate>, EndError> {
    let is_asked =
        |candidate: &&crate::model::ServicePort| Port::Transport(candidate.protocol, candidate.port) == port;
    let Some(service_port) = service.ports.iter().find(is_asked) else {
        let ports: Vec<String> = service
            .ports
            .iter()
            .map(|port| format!("{}/{}", port.port, port.protocol))
            .collect();
        return Err(EndError::NoServicePort {
            service: service.key.clone(),
            port,
            ports: if ports.is_empty() {
                "none".to_owned()
            } else {
                ports.join(", ")
            },
        });
    };
    let mut found = Vec::new();
    for slice in slices(snapshot, &service.key) {
        let matching = slice
            .ports
            .iter()
            .filter(|port| port.name == service_port.name && port.protocol == service_port.protocol);
        for target in matching {
            let number = target.number.unwrap_or(service_port.port);
            let target = Port::Transport(target.protocol, number);
            found.extend(ready_addresses(slice).map(|address| at(snapshot, address, target, true)));
        }
    }
    found.sort_by_key(|candidate| (candidate.address, candidate.port));
    found.dedup();
    Ok(found)
}
