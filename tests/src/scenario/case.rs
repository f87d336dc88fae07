// SPDX-License-Identifier: Apache-2.0
//! Converts a case of the corpus to a [`Scenario`]: what sockets can play on one node.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use anyhow::{Context, Result, ensure};
use netpol_agent::{
    evaluate::Packet,
    model::{Pod, Snapshot},
};

use super::{Expectation, Scenario, Step, by_service::ByService};
use crate::{
    cases::{self, Case},
    node::Plan,
    probe::Service,
};

/// Name of the node that is played.
const NODE: &str = "node-a";

/// Why sockets on one node cannot check an expectation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LeftOut {
    /// Sockets here do not speak the protocol.
    Protocol,
    /// Nobody answers at a multicast address.
    Multicast,
    /// A pod that is gone has no interface.
    Gone,
    /// The node port of another node, which has no kube-proxy here.
    OtherNodePort,
}

impl LeftOut {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Protocol, Self::Multicast, Self::Gone, Self::OtherNodePort];
}

/// Returns the scenario of a case, and how many of its expectations it leaves out for which reason.
///
/// # Errors
/// If an object cannot be written as YAML, or an expectation is between others than pods of the
/// node.
pub fn scenario(case: &Case) -> Result<(Scenario, BTreeMap<LeftOut, usize>)> {
    let plan = Plan::first(NODE);
    let of_node = |own: bool| {
        let nodes = case.nodes.iter().filter(move |node| (node.name == NODE) == own);
        nodes.flat_map(|node| node.addresses.iter().copied())
    };
    let (own, others): (BTreeSet<IpAddr>, BTreeSet<IpAddr>) =
        (of_node(true).collect(), of_node(false).collect());
    let mut externals = BTreeSet::new();
    let mut left_out = BTreeMap::new();
    let mut steps = Vec::new();
    for step in &case.steps {
        let pods = pods(&step.snapshot, &plan);
        let local: BTreeSet<IpAddr> = pods.values().flatten().copied().collect();
        let mut wanted = Vec::new();
        for expectation in step.expectations.iter().filter(|wanted| wanted.via.is_none()) {
            let packet = step.packet(&case.nodes, expectation)?;
            let ends = [packet.source, packet.destination];
            let is_gone = |end: &IpAddr| {
                let in_pod_network = plan.pod_networks().iter().any(|net| net.contains(end));
                in_pod_network && !local.contains(end) && !own.contains(end)
            };
            let service = match service(packet.protocol, packet.port) {
                None => Err(LeftOut::Protocol),
                Some(_) if ends.iter().any(IpAddr::is_multicast) => Err(LeftOut::Multicast),
                Some(_) if ends.iter().any(is_gone) => Err(LeftOut::Gone),
                Some(service) => Ok(service),
            };
            let service = match service {
                Ok(service) => service,
                Err(why) => {
                    *left_out.entry(why).or_default() += 1;
                    continue;
                }
            };
            ensure!(
                ends.iter().any(|end| local.contains(end)),
                "{}: {expectation}: no pod of {NODE} is at its ends",
                case.name
            );
            let outside = |end: &IpAddr| !local.contains(end) && !own.contains(end);
            externals.extend(ends.into_iter().filter(outside));
            let [source, destination] = ends;
            wanted.push(Expectation {
                source,
                destination,
                service,
                allowed: expectation.allowed,
            });
        }
        let by_services = by_services(case, step, &others, &mut left_out)?;
        let backends = by_services.iter().flat_map(|wanted| &wanted.backends);
        externals.extend(backends.filter(|backend| !local.contains(backend)));
        steps.push(Step {
            manifests: manifests(step)?,
            pods,
            expectations: wanted,
            by_services,
            snapshot: step.snapshot.clone(),
        });
    }
    let externals = externals.into_iter().collect();
    Ok((
        Scenario {
            name: case.name.clone(),
            plan,
            externals,
            steps,
        },
        left_out,
    ))
}

/// Returns the expectations through Services, grouped by source and frontend.
fn by_services(
    case: &Case,
    step: &cases::Step,
    others: &BTreeSet<IpAddr>,
    left_out: &mut BTreeMap<LeftOut, usize>,
) -> Result<Vec<ByService>> {
    let mut found: BTreeMap<Packet, ByService> = BTreeMap::new();
    for expectation in step.expectations.iter().filter(|wanted| wanted.via.is_some()) {
        let packet = step.packet(&case.nodes, expectation)?;
        let asked = service(packet.protocol, packet.port);
        let why = match asked {
            None => Some(LeftOut::Protocol),
            Some(_) => others
                .contains(&packet.destination)
                .then_some(LeftOut::OtherNodePort),
        };
        let (Some(asked), None) = (asked, why) else {
            *left_out.entry(why.unwrap_or(LeftOut::Protocol)).or_default() += 1;
            continue;
        };
        let wanted = found.entry(packet).or_insert_with(|| ByService {
            source: packet.source,
            destination: packet.destination,
            service: asked,
            targets: BTreeSet::new(),
            backends: BTreeSet::new(),
            allowed: BTreeSet::new(),
            closed: false,
        });
        if let Some(translated) = step.translated(&case.nodes, expectation)? {
            let Packet {
                destination, port, ..
            } = translated.packet;
            wanted.backends.insert(destination);
            wanted.targets.extend(service(packet.protocol, port));
        }
        if expectation.allowed {
            wanted.allowed.insert(step.via_address(&case.nodes, expectation)?);
        }
        wanted.closed |= step.is_closed_as_a_whole(&case.nodes, expectation)?;
    }
    Ok(found.into_values().collect())
}

fn service(protocol: u8, port: Option<u16>) -> Option<Service> {
    match (protocol, port) {
        (6, Some(port)) => Some(Service::Tcp(port)),
        (17, Some(port)) => Some(Service::Udp(port)),
        (1 | 58, None) => Some(Service::Echo),
        _ => None,
    }
}

fn pods(snapshot: &Snapshot, plan: &Plan) -> BTreeMap<String, Vec<IpAddr>> {
    let here = |pod: &&std::sync::Arc<Pod>| {
        pod.node.as_deref() == Some(plan.name.as_str())
            && !pod.host_network
            && !pod.terminal
            && !pod.addresses.is_empty()
    };
    snapshot
        .pods
        .values()
        .filter(here)
        .map(|pod| (pod.key.to_string(), pod.addresses.clone()))
        .collect()
}

/// JSON is YAML.
fn manifests(step: &cases::Step) -> Result<String> {
    let texts: Vec<String> = step
        .objects
        .iter()
        .map(|object| serde_json::to_string(object).context("writing an object"))
        .collect::<Result<_>>()?;
    Ok(texts.join("\n---\n"))
}
