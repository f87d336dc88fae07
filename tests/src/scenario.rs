// SPDX-License-Identifier: Apache-2.0
//! Plays a case of the corpus with real packets: objects in steps, and after each step who reaches
//! whom, by address.

pub mod by_service;
pub mod case;
mod explained;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use anyhow::{Context, Result};
use netpol_agent::model::Snapshot;

use self::by_service::ByService;
use crate::{
    agent::Agent,
    manifests::ManifestDir,
    node::{Node, Plan, Site},
    probe::{Probe, Prober, Service},
    proxy::{Mode, Proxy},
    server::Servers,
};

/// A case.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Its name, for messages.
    pub name: String,
    /// Address plan of the node under test.
    pub plan: Plan,
    /// Addresses of the outside: everything that is neither the node nor its pods.
    pub externals: Vec<IpAddr>,
    /// What happens, in order.
    pub steps: Vec<Step>,
}

/// All objects of one moment, and what must be true then.
#[derive(Debug, Clone)]
pub struct Step {
    /// Manifests, as one multi-document YAML.
    pub manifests: String,
    /// The node's pods with a network of their own: `namespace/name` and addresses.
    pub pods: BTreeMap<String, Vec<IpAddr>>,
    /// Who must reach whom.
    pub expectations: Vec<Expectation>,
    /// Which backends must answer at which frontends.
    pub by_services: Vec<ByService>,
    /// The same objects for kube-proxy.
    pub snapshot: Snapshot,
}

/// A connection and its verdict.
#[derive(Debug, Clone)]
pub struct Expectation {
    /// Source address: a pod's, the node's or the outside's.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Protocol and port.
    pub service: Service,
    /// True if it must pass.
    pub allowed: bool,
}

/// Plays a case with the agent, and describes what was not as expected.
///
/// # Errors
/// If the case cannot be played.
pub fn play(scenario: &Scenario) -> Result<Vec<String>> {
    let mut node = Node::new(scenario.plan.clone())?;
    for &address in &scenario.externals {
        node.add_external(address)?;
    }
    let by_services = || scenario.steps.iter().flat_map(|step| &step.by_services);
    let mut services: BTreeSet<Service> = scenario
        .steps
        .iter()
        .flat_map(|step| &step.expectations)
        .map(|wanted| wanted.service)
        .collect();
    services.extend(by_services().flat_map(|wanted| &wanted.targets));
    let mut proxy = by_services().next().map(|_| proxy(&node)).transpose()?;
    let services: Vec<Service> = services.into_iter().collect();
    let servers = Servers::new()?;
    servers.add(&node.site(), &services)?;
    servers.add(&node.outside(), &services)?;
    let prober = Prober::new()?;
    let manifests = ManifestDir::new()?;
    let mut agent: Option<Agent> = None;
    let mut wrong = Vec::new();
    let place = |number: usize| format!("{} step {}: ", scenario.name, number + 1);
    for (number, step) in scenario.steps.iter().enumerate() {
        change_pods(&mut node, &step.pods, &servers, &services)?;
        if let Some(proxy) = &mut proxy {
            proxy.sync(&step.snapshot)?;
        }
        let revision = agent.as_ref().map_or(0, Agent::revision);
        manifests.write("objects.yaml", &step.manifests)?;
        let agent = match &agent {
            Some(agent) => {
                agent.wait_for_revision_after(revision)?;
                agent
            }
            None => agent.insert(Agent::start(&node, manifests.path())?),
        };
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
                wrong.push(format!("{}{probe}: {outcome:?}, must be {verb}", place(number)));
            }
            let passed = outcome.allowed();
            let found = explained::differs(agent, wanted.source, wanted.destination, wanted.service, passed)?;
            wrong.extend(found.map(|found| place(number) + &found));
        }
        let found = by_service::ask(&step.by_services, &prober, &sites)?;
        wrong.extend(found.into_iter().map(|found| place(number) + &found));
        for wanted in &step.by_services {
            let found = explained::differs_by_service(agent, wanted)?;
            wrong.extend(found.map(|found| place(number) + &found));
        }
    }
    Ok(wrong)
}

/// Makes kube-proxy on the node. The bridge hands frames between pods to netfilter, as kubeadm sets
/// it up.
fn proxy(node: &Node) -> Result<Proxy> {
    node.netns().sysctl(&[
        ("net/bridge/bridge-nf-call-iptables", "1"),
        ("net/bridge/bridge-nf-call-ip6tables", "1"),
    ])?;
    Proxy::install(Mode::Iptables, node, false)
}

/// Removes pods that are gone or have other addresses, and makes new ones.
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
