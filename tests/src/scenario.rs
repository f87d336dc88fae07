// SPDX-License-Identifier: Apache-2.0
//! A case of the corpus, played with real packets: objects in steps, and after each step who reaches whom, by address.

pub mod case;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use anyhow::{Context, Result};

use crate::{
    agent::Agent,
    manifests::ManifestDir,
    node::{Node, Plan, Site},
    probe::{Probe, Prober, Service},
    server::Servers,
};

/// A case.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Its name, for messages.
    pub name: String,
    /// Address plan of the node under test.
    pub plan: Plan,
    /// Addresses that the outside carries: everything that is neither a pod of the node nor the node.
    pub externals: Vec<IpAddr>,
    /// What happens, in order.
    pub steps: Vec<Step>,
}

/// The objects of one moment, all of them, and what must be true then.
#[derive(Debug, Clone)]
pub struct Step {
    /// Manifests, as one multi-document YAML.
    pub manifests: String,
    /// Pods of the node with a network of their own: `namespace/name` and addresses.
    pub pods: BTreeMap<String, Vec<IpAddr>>,
    /// Who must reach whom.
    pub expectations: Vec<Expectation>,
}

/// One connection and its verdict.
#[derive(Debug, Clone)]
pub struct Expectation {
    /// Source address: of a pod, the node, or the outside.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Protocol and port.
    pub service: Service,
    /// Whether it must pass.
    pub allowed: bool,
}

/// Plays a case with the agent, and gives what was not as expected, in words.
///
/// # Errors
/// If the case cannot be played.
pub fn play(scenario: &Scenario) -> Result<Vec<String>> {
    let mut node = Node::new(scenario.plan.clone())?;
    for &address in &scenario.externals {
        node.add_external(address)?;
    }
    let services: BTreeSet<Service> = scenario
        .steps
        .iter()
        .flat_map(|step| &step.expectations)
        .map(|wanted| wanted.service)
        .collect();
    let services: Vec<Service> = services.into_iter().collect();
    let servers = Servers::new()?;
    servers.add(&node.site(), &services)?;
    servers.add(&node.outside(), &services)?;
    let prober = Prober::new()?;
    let manifests = ManifestDir::new()?;
    let mut agent: Option<Agent> = None;
    let mut wrong = Vec::new();
    for (number, step) in scenario.steps.iter().enumerate() {
        change_pods(&mut node, &step.pods, &servers, &services)?;
        let revision = agent.as_ref().map_or(0, Agent::revision);
        manifests.write("objects.yaml", &step.manifests)?;
        match &agent {
            Some(agent) => agent.wait_for_revision_after(revision).map(|_| ())?,
            None => agent = Some(Agent::start(&node, manifests.path())?),
        }
        let sites: Vec<Site> = node
            .pods()
            .into_iter()
            .chain([node.site(), node.outside()])
            .collect();
        let find = |address: IpAddr| {
            let site = sites.iter().find(|site| site.addresses.contains(&address));
            site.with_context(|| format!("{}: nobody has address {address}", scenario.name))
        };
        let mut probes = Vec::new();
        for Expectation {
            source,
            destination,
            service,
            ..
        } in &step.expectations
        {
            let (from, to) = (find(*source)?, find(*destination)?);
            let probe = Probe::new(from, to, *destination, *service);
            let probe = probe.with_context(|| format!("{}: no address of that family", scenario.name))?;
            probes.push(Probe {
                source: *source,
                ..probe
            });
        }
        for ((probe, wanted), outcome) in probes.iter().zip(&step.expectations).zip(prober.probe(&probes)?) {
            if outcome.allowed() != Some(wanted.allowed) {
                let verb = if wanted.allowed { "allowed" } else { "denied" };
                wrong.push(format!(
                    "{} step {}: {probe}: {outcome:?}, must be {verb}",
                    scenario.name,
                    number + 1
                ));
            }
        }
    }
    Ok(wrong)
}

/// Removes pods that are no more, or have other addresses, and makes those that are new.
fn change_pods(
    node: &mut Node,
    wanted: &BTreeMap<String, Vec<IpAddr>>,
    servers: &Servers,
    services: &[Service],
) -> Result<()> {
    for pod in node.pods() {
        if wanted.get(&pod.name) != Some(&pod.addresses) {
            node.remove_pod(&pod.name)?;
        }
    }
    for (name, addresses) in wanted {
        if node.pod(name).is_err() {
            let site = node.add_pod(name, addresses)?;
            servers.add(&site, services)?;
        }
    }
    Ok(())
}
