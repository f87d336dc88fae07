// SPDX-License-Identifier: Apache-2.0
//! Two nodes with pods, Services and kube-proxy's rules, and an agent on each.

mod objects;
mod probes;

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use netpol_agent::{
    model::{ObjectKey, Snapshot},
    watch::directory,
};
use serde_json::Value;

use crate::{
    agent::Agent,
    manifests::ManifestDir,
    node::{Node, Plan, member},
    overlay::{self, Overlay},
    probe::{Prober, Service as Port},
    proxy::{Mode, Proxy},
    server::Servers,
    services::Service,
};

use objects::{PODS, SERVICES, joined};

/// Ports of the pods, the nodes and the outside.
const PORTS: [Port; 4] = [Port::Tcp(8080), Port::Tcp(9090), Port::Udp(5353), Port::Echo];

const POLICIES: &str = "policies.yaml";
const MORE: &str = "more.yaml";

/// Options of a cluster.
#[derive(Debug, Clone, Copy)]
pub struct World {
    /// kube-proxy's mode.
    pub mode: Mode,
    /// The network between the nodes.
    pub overlay: Overlay,
    /// `net.bridge.bridge-nf-call-iptables`, and the same for IPv6: if set, frames between pods of
    /// one node pass kube-proxy's rules.
    pub bridge_netfilter: bool,
    /// kube-proxy's `--masquerade-all`.
    pub masquerade_all: bool,
}

impl World {
    /// Returns what kubeadm and Flannel set up.
    pub fn usual(mode: Mode) -> Self {
        Self {
            mode,
            overlay: Overlay::Vxlan,
            bridge_netfilter: true,
            masquerade_all: false,
        }
    }
}

/// The cluster. The agents are dropped first, the nodes last.
#[derive(Debug)]
pub struct Cluster {
    agents: Vec<Agent>,
    proxies: Vec<Proxy>,
    manifests: ManifestDir,
    /// Makes the probes.
    pub prober: Prober,
    nodes: Vec<Node>,
    _servers: Servers,
    services: BTreeMap<String, Service>,
    policies: String,
    more: String,
}

impl Cluster {
    /// Makes the nodes, pods, Services and rules, without agents.
    ///
    /// # Errors
    /// If any of it fails.
    pub fn new(world: World) -> Result<Self> {
        let first = Node::new(Plan::first("node-a"))?;
        let second = first.beside(Plan {
            name: "node-b".to_owned(),
            index: 1,
        })?;
        let mut nodes = vec![first, second];
        overlay::connect(&nodes.iter().collect::<Vec<_>>(), world.overlay)?;
        let servers = Servers::new()?;
        for (host, (name, node, _)) in (10..).zip(PODS) {
            let node = &mut nodes[node];
            let addresses = node.plan().pod_networks().map(|net| member(net, host).addr());
            let site = node.add_pod(name, &addresses)?;
            servers.add(&site, &PORTS)?;
        }
        let mut proxies = Vec::new();
        let called = if world.bridge_netfilter { "1" } else { "0" };
        for node in &nodes {
            node.netns().sysctl(&[
                ("net/bridge/bridge-nf-call-iptables", called),
                ("net/bridge/bridge-nf-call-ip6tables", called),
                // kube-proxy refuses by ICMP errors. The kernel would limit them to one a second
                // per destination, and to few in total.
                ("net/ipv4/icmp_ratelimit", "0"),
                ("net/ipv4/icmp_ratemask", "0"),
                ("net/ipv6/icmp/ratelimit", "0"),
                ("net/ipv6/icmp/ratemask", "\n"),
            ])?;
            servers.add(&node.site(), &PORTS)?;
            proxies.push(Proxy::install(world.mode, node, world.masquerade_all)?);
        }
        servers.add(&nodes[0].outside(), &PORTS)?;
        let mut cluster = Self {
            agents: Vec::new(),
            proxies,
            manifests: ManifestDir::new()?,
            prober: Prober::new()?,
            nodes,
            _servers: servers,
            services: BTreeMap::new(),
            policies: String::new(),
            more: String::new(),
        };
        for (number, (name, backends)) in (1..).zip(SERVICES) {
            let service = cluster.make_service(number, name, backends)?;
            cluster.services.insert(name.to_owned(), service);
        }
        cluster
            .manifests
            .write("pods.yaml", &joined(&cluster.pod_manifests()?))?;
        cluster
            .manifests
            .write("nodes.yaml", &joined(&cluster.node_manifests()))?;
        cluster.publish()?;
        Ok(cluster)
    }

    /// Like [`Cluster::new`], with an agent on each node.
    ///
    /// # Errors
    /// If any of it fails.
    pub fn with_agents(world: World) -> Result<Self> {
        let mut cluster = Self::new(world)?;
        for node in &cluster.nodes {
            cluster.agents.push(Agent::start(node, cluster.manifests.path())?);
        }
        Ok(cluster)
    }

    /// Replaces the backends of a Service, for kube-proxy's rules and for the agents.
    ///
    /// # Errors
    /// If there is no such Service, or it is not applied.
    pub fn set_backends(&mut self, service: &str, backends: &[&str]) -> Result<()> {
        let backends = self.backends(service, backends)?;
        let known = self.services.get_mut(service);
        known.with_context(|| format!("no Service {service}"))?.backends = backends;
        self.applied(Self::publish)
    }

    /// Replaces all policies, and waits until every agent has applied them.
    ///
    /// # Errors
    /// If an agent does not.
    pub fn set_policies(&mut self, policies: &[String]) -> Result<()> {
        let text = policies.join("---\n");
        if text == self.policies {
            return Ok(());
        }
        self.policies = text;
        self.applied(|cluster| match cluster.policies.as_str() {
            "" => cluster.manifests.remove(POLICIES),
            text => cluster.manifests.write(POLICIES, text),
        })?;
        let snapshot = self.read()?;
        ensure!(
            snapshot.policies.len() == policies.len(),
            "the agents read {} of {} policies",
            snapshot.policies.len(),
            policies.len()
        );
        Ok(())
    }

    /// Replaces the additional objects. kube-proxy has no rules for them, unless `with_rules`.
    ///
    /// # Errors
    /// If they cannot be read, or an agent does not apply them.
    pub fn set_more(&mut self, objects: &[Value], with_rules: bool) -> Result<()> {
        let text = if objects.is_empty() {
            String::new()
        } else {
            joined(objects)
        };
        if text != self.more {
            self.more = text;
            self.applied(|cluster| match cluster.more.as_str() {
                "" => cluster.manifests.remove(MORE),
                text => cluster.manifests.write(MORE, text),
            })?;
        }
        let mut snapshot = self.read()?;
        if !with_rules {
            let known = |key: &ObjectKey| self.services.contains_key(key.name.as_str());
            snapshot.services = snapshot
                .services
                .iter()
                .filter(|(key, _)| known(key))
                .map(|(key, service)| (key.clone(), service.clone()))
                .collect();
        }
        self.proxies
            .iter_mut()
            .try_for_each(|proxy| proxy.sync(&snapshot))
    }

    /// Undoes [`Cluster::set_backends`], [`Cluster::set_more`] and [`Cluster::set_policies`].
    ///
    /// # Errors
    /// If an agent does not apply it.
    pub fn reset(&mut self) -> Result<()> {
        if !self.more.is_empty() {
            self.set_more(&[], true)?;
        }
        for (service, backends) in SERVICES {
            if self.service(service)?.backends != self.backends(service, backends)? {
                self.set_backends(service, backends)?;
            }
        }
        self.set_policies(&[])
    }

    /// Attaches someone else's filter after ours on what a pod sends: it accepts every packet, and
    /// sets its own class.
    ///
    /// # Errors
    /// If there is no such pod, or the kernel refuses.
    pub fn overwrite_tags(&self, pod: &str) -> Result<()> {
        let node = self.nodes.iter().find(|node| node.pod(pod).is_ok());
        let node = node.with_context(|| format!("no pod {pod}"))?;
        let veth = node.veth(pod)?;
        let batch = [
            "qdisc add dev {} clsact",
            "filter add dev {} ingress bpf bytecode '1,6 0 0 4294967295,' flowid 1:2",
        ];
        let batch = batch.map(|line| line.replace("{}", veth)).join("\n");
        node.netns().feed("tc", &["-force", "-batch", "-"], &batch)
    }

    fn service(&self, name: &str) -> Result<&Service> {
        let service = self.services.get(name);
        service.with_context(|| format!("no Service {name}"))
    }

    /// Writes the Services and slices, and the rules for what the agents read.
    fn publish(&mut self) -> Result<()> {
        let objects: Vec<Value> = self.services.values().flat_map(Service::manifests).collect();
        self.manifests.write("services.yaml", &joined(&objects))?;
        let snapshot = self.read()?;
        let names = || snapshot.services.keys().map(|key| key.name.as_str());
        let unread = self
            .services
            .keys()
            .find(|name| names().all(|known| known != *name));
        ensure!(unread.is_none(), "the agents did not read Service {unread:?}");
        self.proxies
            .iter_mut()
            .try_for_each(|proxy| proxy.sync(&snapshot))
    }

    /// Returns what the agents read.
    fn read(&self) -> Result<Snapshot> {
        let snapshot = directory::load(self.manifests.path()).context("reading the manifests")?;
        ensure!(
            snapshot.diagnostics.is_empty(),
            "manifests are faulty: {:?}",
            snapshot.diagnostics
        );
        Ok(snapshot)
    }

    fn applied(&mut self, change: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let before: Vec<u64> = self.agents.iter().map(Agent::revision).collect();
        change(self)?;
        for (agent, revision) in self.agents.iter().zip(before) {
            agent.wait_for_revision_after(revision)?;
        }
        Ok(())
    }
}
