// SPDX-License-Identifier: Apache-2.0
//! A case of the corpus as a [`Scenario`]: what can be played on one node with sockets.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use anyhow::{Context, Result};
use netpol_agent::model::{Pod, Snapshot};

use super::{Expectation, Scenario, Step};
use crate::{
    cases::{self, Case},
    node::Plan,
    probe::Service,
};

/// Name of the corpus' node that is played.
const NODE: &str = "node-a";

/// The scenario of a case, and the number of its expectations that it leaves out: protocols without sockets, multicast, packets that
/// touch no pod of the node, and addresses of pods that are gone.
///
/// # Errors
/// If an object cannot be written as YAML.
pub fn scenario(case: &Case) -> Result<(Scenario, usize)> {
    let plan = Plan::first(NODE);
    let own: BTreeSet<IpAddr> = case
        .nodes
        .iter()
        .filter(|node| node.name == NODE)
        .flat_map(|node| node.addresses.iter().copied())
        .collect();
    let mut externals = BTreeSet::new();
    let mut left_out = 0;
    let mut steps = Vec::new();
    for step in &case.steps {
        let pods = pods(&step.snapshot, &plan);
        let local: BTreeSet<IpAddr> = pods.values().flatten().copied().collect();
        let mut wanted = Vec::new();
        for expectation in &step.expectations {
            let packet = step.packet(&case.nodes, expectation)?;
            let ends = [packet.source, packet.destination];
            let known = |end: IpAddr| {
                let gone = plan.pod_networks().iter().any(|net| net.contains(&end));
                local.contains(&end) || own.contains(&end) || (!gone && !end.is_multicast())
            };
            let service = service(packet.protocol, packet.port)
                .filter(|_| ends.into_iter().all(known) && ends.iter().any(|end| local.contains(end)));
            let Some(service) = service else {
                left_out += 1;
                continue;
            };
            externals.extend(
                ends.into_iter()
                    .filter(|end| !local.contains(end) && !own.contains(end)),
            );
            let [source, destination] = ends;
            wanted.push(Expectation {
                source,
                destination,
                service,
                allowed: expectation.allowed,
            });
        }
        steps.push(Step {
            manifests: manifests(step)?,
            pods,
            expectations: wanted,
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
