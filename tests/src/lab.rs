// SPDX-License-Identifier: Apache-2.0
//! A node with pods, probe servers and the agent on a folder of manifests, for tests that contain
//! their own objects.

use std::{collections::BTreeMap, fmt::Write, net::IpAddr};

use anyhow::{Context, Result};

use crate::{
    agent::Agent,
    manifests::ManifestDir,
    node::{Node, Plan, Site, member},
    probe::{Outcome, Probe, Prober, Service, hold},
    server::Servers,
};

/// Services of the pods, the node and the outside.
pub const SERVICES: [Service; 3] = [Service::Tcp(8080), Service::Udp(5353), Service::Echo];

/// A policy that isolates all pods of namespace `shop` in both directions and allows nothing.
pub const DENY_ALL: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: shop, name: deny-all}
spec:
  podSelector: {}
  policyTypes: [Ingress, Egress]
";

/// File with the pods.
const PODS: &str = "pods.yaml";

/// The laboratory. The agent is dropped first, the node last.
#[derive(Debug)]
pub struct Lab {
    /// The agent.
    pub agent: Agent,
    /// The folder that it watches.
    pub manifests: ManifestDir,
    /// Makes the probes.
    pub prober: Prober,
    /// The node.
    pub node: Node,
    servers: Servers,
    labels: BTreeMap<String, String>,
    next: u16,
}

impl Lab {
    /// Makes the pods (`namespace/name` and labels as in `app: a`), writes `policies` (file name
    /// and text), and starts the agent.
    ///
    /// # Errors
    /// If any of it fails.
    pub fn new(pods: &[(&str, &str)], policies: &[(&str, &str)]) -> Result<Self> {
        let mut node = Node::new(Plan::first("node-a"))?;
        let servers = Servers::new()?;
        let manifests = ManifestDir::new()?;
        let mut labels = BTreeMap::new();
        let mut next = 10;
        for (name, label) in pods {
            let site = node.add_pod(name, &addresses(node.plan(), next))?;
            servers.add(&site, &SERVICES)?;
            labels.insert((*name).to_owned(), (*label).to_owned());
            next += 1;
        }
        servers.add(&node.site(), &SERVICES)?;
        servers.add(&node.outside(), &SERVICES)?;
        manifests.write(PODS, &pod_manifests(&node, &labels)?)?;
        for (file, text) in policies {
            manifests.write(file, text)?;
        }
        let agent = Agent::start(&node, manifests.path())?;
        Ok(Self {
            agent,
            manifests,
            prober: Prober::new()?,
            node,
            servers,
            labels,
            next,
        })
    }

    /// Adds a pod: first its interface, then its object.
    ///
    /// # Errors
    /// If the name is taken, or the agent does not apply it.
    pub fn add_pod(&mut self, name: &str, label: &str) -> Result<Site> {
        let site = self.add_interface(name)?;
        self.label(name, label)?;
        Ok(site)
    }

    /// Adds the interface of a pod, which has no object until it gets labels.
    ///
    /// # Errors
    /// If the name is taken.
    pub fn add_interface(&mut self, name: &str) -> Result<Site> {
        let site = self.node.add_pod(name, &addresses(self.node.plan(), self.next))?;
        self.next += 1;
        self.servers.add(&site, &SERVICES)?;
        Ok(site)
    }

    /// Adds the interface of a pod without an object, as a runtime does before the API server
    /// knows.
    ///
    /// # Errors
    /// If the name is taken.
    pub fn add_sandbox(&mut self, name: &str) -> Result<Site> {
        let addresses = addresses(self.node.plan(), self.next);
        self.next += 1;
        self.sandbox_with(name, &addresses)
    }

    /// Like [`Lab::add_sandbox`], with given addresses.
    ///
    /// # Errors
    /// If the name is taken.
    pub fn sandbox_with(&mut self, name: &str, addresses: &[IpAddr]) -> Result<Site> {
        let site = self.node.add_pod(name, addresses)?;
        self.servers.add(&site, &SERVICES)?;
        Ok(site)
    }

    /// Returns the addresses of the next pod.
    pub fn next_addresses(&self) -> Vec<IpAddr> {
        addresses(self.node.plan(), self.next)
    }

    /// Like [`Lab::add_pod`], without waiting until the agent has applied it.
    ///
    /// # Errors
    /// If the name is taken.
    pub fn offer_pod(&mut self, name: &str, label: &str) -> Result<Site> {
        let site = self.add_interface(name)?;
        self.labels.insert(name.to_owned(), label.to_owned());
        self.manifests
            .write(PODS, &pod_manifests(&self.node, &self.labels)?)?;
        Ok(site)
    }

    /// Makes a site that is no pod answer to [`SERVICES`].
    ///
    /// # Errors
    /// If a server cannot be started there.
    pub fn serve(&self, site: &Site) -> Result<()> {
        self.servers.add(site, &SERVICES)
    }

    /// Removes a pod: first its object, then its interface.
    ///
    /// # Errors
    /// If there is none of that name, or the agent does not apply it.
    pub fn remove_pod(&mut self, name: &str) -> Result<()> {
        self.labels
            .remove(name)
            .with_context(|| format!("no pod {name}"))?;
        self.apply(PODS, &pod_manifests(&self.node, &self.labels)?)?;
        self.node.remove_pod(name)
    }

    /// Replaces a pod by another with the same addresses at once, interface and object, and waits
    /// until that is applied.
    ///
    /// # Errors
    /// If there is none of the old name, the new one is taken, or the agent does not apply it.
    pub fn replace_pod(&mut self, old: &str, new: &str, label: &str) -> Result<Site> {
        let addresses = self.node.pod(old)?.addresses;
        self.node.remove_pod(old)?;
        let site = self.node.add_pod(new, &addresses)?;
        self.servers.add(&site, &SERVICES)?;
        self.labels.remove(old);
        self.label(new, label)?;
        Ok(site)
    }

    /// Changes a pod's labels, and waits until that is applied.
    ///
    /// # Errors
    /// If the agent does not apply it.
    pub fn label(&mut self, name: &str, label: &str) -> Result<()> {
        self.labels.insert(name.to_owned(), label.to_owned());
        self.apply(PODS, &pod_manifests(&self.node, &self.labels)?)
    }

    /// Writes a file of manifests, and waits until it is applied.
    ///
    /// # Errors
    /// If the agent does not apply it.
    pub fn apply(&self, file: &str, text: &str) -> Result<()> {
        let revision = self.agent.revision();
        self.manifests.write(file, text)?;
        self.agent.wait_for_revision_after(revision).map(|_| ())
    }

    /// Makes the node track connections, also those that its bridge forwards, as with kube-proxy.
    ///
    /// # Errors
    /// Without `nft`.
    pub fn track(&self) -> Result<()> {
        const TRACK: &str = "table inet track { chain arriving { type filter hook prerouting priority 0; ct state new counter; }; }\n";
        let keys = ["iptables", "ip6tables"].map(|which| format!("net/bridge/bridge-nf-call-{which}"));
        let settings = keys.each_ref().map(|key| (key.as_str(), "1"));
        self.node.netns().sysctl(&settings)?;
        self.node.netns().feed("nft", &["-f", "-"], TRACK)?;
        Ok(())
    }

    /// Returns a pod, `node` or `outside`.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn site(&self, name: &str) -> Result<Site> {
        match name {
            "node" => Ok(self.node.site()),
            "outside" => Ok(self.node.outside()),
            pod => self.node.pod(pod),
        }
    }

    /// Returns a probe from one site to each address of another.
    ///
    /// # Errors
    /// If there is no site of a name.
    pub fn probes(&self, from: &str, to: &str, services: &[Service]) -> Result<Vec<Probe>> {
        let (from, to) = (self.site(from)?, self.site(to)?);
        Ok(services
            .iter()
            .flat_map(|&service| Probe::all(&from, &to, service))
            .collect())
    }

    /// Asserts that all services in both families have `outcome`.
    ///
    /// # Panics
    /// If one has another, or cannot be probed.
    #[track_caller]
    pub fn expect(&self, from: &str, to: &str, outcome: &Outcome) {
        let probes = self.probes(from, to, &SERVICES).expect("the sites exist");
        let outcomes = self.prober.probe(&probes).expect("probes can be made");
        hold(&format!("{from} -> {to}"), &probes, &outcomes, outcome);
    }
}

fn addresses(plan: &Plan, host: u16) -> Vec<IpAddr> {
    plan.pod_networks().map(|net| member(net, host).addr()).to_vec()
}

fn pod_manifests(node: &Node, labels: &BTreeMap<String, String>) -> Result<String> {
    let mut text = String::new();
    for (key, label) in labels {
        let (namespace, name) = key
            .split_once('/')
            .with_context(|| format!("pod {key} has no namespace"))?;
        let ips: Vec<String> = node
            .pod(key)?
            .addresses
            .iter()
            .map(|ip| format!("{{ip: \"{ip}\"}}"))
            .collect();
        writeln!(
            text,
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{namespace: {namespace}, name: {name}, labels: {{{label}}}}}\n\
             spec: {{nodeName: {}, containers: [{{name: main, image: example}}]}}\n\
             status: {{phase: Running, podIPs: [{}]}}",
            node.plan().name,
            ips.join(", ")
        )?;
    }
    Ok(text)
}
