// SPDX-License-Identifier: Apache-2.0
//! Probes within the cluster.

use std::{net::IpAddr, time::Duration};

use anyhow::{Context, Result};

use super::Cluster;
use crate::{
    agent::Agent,
    node::Site,
    probe::{MORE_PATIENCE, Outcome, Probe, Service as Port, hold},
    services::{Frontend, TCP_PORT, UDP_PORT},
};

/// A TCP socket that is still busy with its first segment notices a refusal only when its second
/// segment, a second later, is refused too.
const UNTIL_REFUSED: Duration = Duration::from_millis(2500);

impl Cluster {
    /// Returns a pod, a node (`node-a`, `node-b`) or `outside`.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn site(&self, name: &str) -> Result<Site> {
        if name == "outside" {
            return Ok(self.nodes[0].outside());
        }
        if let Some(node) = self.nodes.iter().find(|node| node.plan().name == name) {
            return Ok(node.site());
        }
        let pod = self.nodes.iter().find_map(|node| node.pod(name).ok());
        pod.with_context(|| format!("no pod {name}"))
    }

    /// Returns the agent of a node.
    ///
    /// # Errors
    /// If there is none of that name, or no agent on it.
    pub fn agent(&self, node: &str) -> Result<&Agent> {
        let index = self.nodes.iter().position(|other| other.plan().name == node);
        let agent = index.and_then(|index| self.agents.get(index));
        agent.with_context(|| format!("no agent on {node}"))
    }

    /// Returns the name of a pod's node.
    ///
    /// # Errors
    /// If there is no pod of that name.
    pub fn node_of(&self, pod: &str) -> Result<&str> {
        let node = self.nodes.iter().find(|node| node.pod(pod).is_ok());
        Ok(&node.with_context(|| format!("no pod {pod}"))?.plan().name)
    }

    /// Returns probes of a Service's virtual addresses of one kind, TCP and UDP, which `backend`
    /// must answer.
    ///
    /// # Errors
    /// If there is no Service or site of a name.
    pub fn to_service(
        &self,
        from: &str,
        service: &str,
        frontend: Frontend,
        backend: &str,
    ) -> Result<Vec<Probe>> {
        let addresses = self.service(service)?.addresses(frontend);
        self.probes(
            from,
            &addresses,
            &[Port::Tcp(TCP_PORT), Port::Udp(UDP_PORT)],
            backend,
        )
    }

    /// Returns probes of a Service's node ports at a node's uplink addresses, as
    /// [`Cluster::to_service`].
    ///
    /// # Errors
    /// If there is no Service or site of a name.
    pub fn to_node_port(&self, from: &str, service: &str, node: &str, backend: &str) -> Result<Vec<Probe>> {
        let node = self.nodes.iter().find(|known| known.plan().name == node);
        let addresses = node.context("no such node")?.plan().uplink_addresses();
        let (tcp, udp) = self.service(service)?.node_ports();
        self.probes(from, &addresses, &[Port::Tcp(tcp), Port::Udp(udp)], backend)
    }

    /// Returns probes of a site's own addresses.
    ///
    /// # Errors
    /// If there is no site of a name.
    pub fn to_site(&self, from: &str, to: &str, ports: &[Port]) -> Result<Vec<Probe>> {
        self.probes(from, &self.site(to)?.addresses, ports, to)
    }

    /// Returns probes of addresses that `to` must answer.
    ///
    /// # Errors
    /// If there is no site of a name.
    pub fn probes(&self, from: &str, addresses: &[IpAddr], ports: &[Port], to: &str) -> Result<Vec<Probe>> {
        let (from, to) = (self.site(from)?, self.site(to)?);
        let probe = |address, &port| Probe::new(&from, &to, address, port);
        Ok(addresses
            .iter()
            .flat_map(|&address| ports.iter().filter_map(move |port| probe(address, port)))
            .collect())
    }

    /// Asserts that every result is `outcome`.
    ///
    /// # Panics
    /// If one has another, or there are no probes.
    #[track_caller]
    pub fn expect(&self, what: &str, probes: &[Probe], outcome: &Outcome) {
        let outcomes = match outcome {
            Outcome::Refused => self.prober.probe_once(probes, UNTIL_REFUSED),
            _ => self.prober.probe(probes),
        };
        let outcomes = outcomes.expect("probes can be made");
        hold(what, probes, &outcomes, outcome);
    }

    /// Makes each probe `times` times at once, each from a new port, and counts the results of
    /// each.
    ///
    /// # Errors
    /// If sockets cannot be made.
    pub fn repeated(&self, probes: &[Probe], times: usize) -> Result<Vec<Vec<(Outcome, usize)>>> {
        let many: Vec<Probe> = probes
            .iter()
            .flat_map(|probe| vec![probe.clone(); times])
            .collect();
        let outcomes = self.prober.probe_once(&many, MORE_PATIENCE)?;
        Ok(outcomes.chunks(times).map(counted).collect())
    }

    /// Returns the number of packets that a device of a node has sent.
    ///
    /// # Errors
    /// If there is no node or device of a name.
    pub fn sent(&self, node: &str, device: &str) -> Result<u64> {
        let text = self.site(node)?.netns.run(|| {
            let path = "/proc/thread-self/net/dev";
            std::fs::read_to_string(path).with_context(|| format!("reading {path}"))
        })?;
        let line = text
            .lines()
            .find_map(|line| line.trim_start().strip_prefix(&format!("{device}:")));
        let count = line.and_then(|line| line.split_whitespace().nth(9));
        count
            .with_context(|| format!("no device {device} on {node}"))?
            .parse()
            .context("reading a counter")
    }
}

fn counted(outcomes: &[Outcome]) -> Vec<(Outcome, usize)> {
    let mut counts: Vec<(Outcome, usize)> = Vec::new();
    for outcome in outcomes {
        match counts.iter_mut().find(|(known, _)| known == outcome) {
            Some((_, count)) => *count += 1,
            None => counts.push((outcome.clone(), 1)),
        }
    }
    counts
}
