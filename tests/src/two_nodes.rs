// SPDX-License-Identifier: Apache-2.0
//! Two nodes with pods, Services and kube-proxy's rules, and an agent on each.

use std::{collections::BTreeMap, fmt::Write, net::IpAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use netpol_agent::{model::Snapshot, watch::directory};
use serde_json::{Value, json};

use crate::{
    agent::Agent,
    manifests::ManifestDir,
    node::{Node, Plan, Site, member},
    overlay::{self, Overlay},
    probe::{MORE_PATIENCE, Outcome, Probe, Prober, Service as Port},
    proxy::{Mode, Proxy},
    server::Servers,
    services::{Backend, Frontend, Readiness, Service, TCP_PORT, UDP_PORT},
};

/// Name, node and label `app` of the pods, all in namespace `shop`.
const PODS: [(&str, usize, &str); 6] = [
    ("client", 0, "client"),
    ("web-a", 0, "web"),
    ("bad-a", 0, "bad"),
    ("far", 1, "client"),
    ("web-b", 1, "web"),
    ("bad-b", 1, "bad"),
];

/// What the pods, the nodes and the outside answer to.
const PORTS: [Port; 4] = [Port::Tcp(8080), Port::Tcp(9090), Port::Udp(5353), Port::Echo];

/// Backends of the Services by name; `-` before one that terminates, `!` before one that is not ready.
const SERVICES: [(&str, &[&str]); 12] = [
    ("web", &["web-a", "web-b"]),
    ("near", &["web-a"]),
    ("distant", &["web-b"]),
    ("mixed-near", &["web-a", "bad-a"]),
    ("mixed-distant", &["web-b", "bad-b"]),
    ("across", &["web-b", "bad-a"]),
    ("named", &["web-a", "web-b"]),
    ("empty", &[]),
    ("mine", &["client"]),
    ("abroad", &["outside"]),
    ("headless", &["web-a", "web-b"]),
    ("leaving", &["-web-a", "!bad-a"]),
];

/// A TCP socket that is still busy sending its first segment takes note of a refusal only when its second, a second later, meets one too.
const UNTIL_REFUSED: Duration = Duration::from_millis(2500);

const POLICIES: &str = "policies.yaml";

/// What there is to choose about a cluster.
#[derive(Debug, Clone, Copy)]
pub struct World {
    /// kube-proxy's mode.
    pub mode: Mode,
    /// The network between the nodes.
    pub overlay: Overlay,
    /// `net.bridge.bridge-nf-call-iptables`, and the same for IPv6: whether frames between pods of one node pass kube-proxy's rules.
    pub bridge_netfilter: bool,
    /// kube-proxy's `--masquerade-all`.
    pub masquerade_all: bool,
}

impl World {
    /// What kubeadm and Flannel set up.
    pub fn usual(mode: Mode) -> Self {
        Self {
            mode,
            overlay: Overlay::Vxlan,
            bridge_netfilter: true,
            masquerade_all: false,
        }
    }
}

/// The cluster. The agents go first, the nodes last.
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
}

impl Cluster {
    /// Makes the nodes, pods, Services and rules; no agent yet.
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
                // kube-proxy's refusals are ICMP errors, of which the kernel sends one a second to a destination, and few at once to all.
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
        };
        for (number, (name, backends)) in (1..).zip(SERVICES) {
            let backends = cluster.backends(name, backends)?;
            let service = Service {
                name: name.to_owned(),
                number,
                headless: name == "headless",
                named_target: name == "named",
                backends,
                slice_size: 1,
            };
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

    /// As [`Cluster::new`], with an agent on each node.
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

    /// Replaces the backends of a Service, in kube-proxy's rules and for the agents.
    ///
    /// # Errors
    /// If there is no such Service, or it is not applied.
    pub fn set_backends(&mut self, service: &str, backends: &[&str]) -> Result<()> {
        let backends = self.backends(service, backends)?;
        let known = self.services.get_mut(service);
        known.with_context(|| format!("no Service {service}"))?.backends = backends;
        self.applied(Self::publish)
    }

    /// Replaces all policies; waits until every agent has applied them.
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

    /// Undoes [`Cluster::set_backends`] and [`Cluster::set_policies`].
    ///
    /// # Errors
    /// If an agent does not apply it.
    pub fn reset(&mut self) -> Result<()> {
        for (service, backends) in SERVICES {
            if self.service(service)?.backends != self.backends(service, backends)? {
                self.set_backends(service, backends)?;
            }
        }
        self.set_policies(&[])
    }

    /// A pod, a node (`node-a`, `node-b`) or `outside`.
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

    /// Puts a filter of someone else behind ours on what a pod sends: it lets every packet pass for good, with a class of its own.
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

    /// Name of the node that a pod is on.
    ///
    /// # Errors
    /// If there is no pod of that name.
    pub fn node_of(&self, pod: &str) -> Result<&str> {
        let node = self.nodes.iter().find(|node| node.pod(pod).is_ok());
        Ok(&node.with_context(|| format!("no pod {pod}"))?.plan().name)
    }

    /// Probes of a Service's virtual addresses of one kind, TCP and UDP, that `backend` must answer.
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

    /// Probes of a Service's node ports on a node's addresses on the uplink, as [`Cluster::to_service`].
    ///
    /// # Errors
    /// If there is no Service or site of a name.
    pub fn to_node_port(&self, from: &str, service: &str, node: &str, backend: &str) -> Result<Vec<Probe>> {
        let node = self.nodes.iter().find(|known| known.plan().name == node);
        let addresses = node.context("no such node")?.plan().uplink_addresses();
        let (tcp, udp) = self.service(service)?.node_ports();
        self.probes(from, &addresses, &[Port::Tcp(tcp), Port::Udp(udp)], backend)
    }

    /// Probes of a site's own addresses.
    ///
    /// # Errors
    /// If there is no site of a name.
    pub fn to_site(&self, from: &str, to: &str, ports: &[Port]) -> Result<Vec<Probe>> {
        self.probes(from, &self.site(to)?.addresses, ports, to)
    }

    /// Probes of addresses that `to` must answer.
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

    /// Holds every outcome against `outcome`.
    ///
    /// # Panics
    /// If one is another, or there are no probes.
    #[track_caller]
    pub fn expect(&self, what: &str, probes: &[Probe], outcome: &Outcome) {
        let outcomes = match outcome {
            Outcome::Refused => self.prober.probe_once(probes, UNTIL_REFUSED),
            _ => self.prober.probe(probes),
        };
        let outcomes = outcomes.expect("probes can be made");
        let wrong: Vec<_> = probes
            .iter()
            .zip(&outcomes)
            .filter(|(_, found)| *found != outcome)
            .collect();
        let mut text = String::new();
        for (probe, found) in &wrong {
            let _ = writeln!(text, "  {probe}: {found:?}");
        }
        assert!(
            wrong.is_empty() && !probes.is_empty(),
            "{what}: expected {outcome:?}, but {} of {} are not:\n{text}",
            wrong.len(),
            probes.len()
        );
    }

    /// Makes each probe `times` times, each from a new port, all of them at once, and gives of each how often which outcome came.
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

    /// Number of packets that a device of a node has sent.
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

    fn service(&self, name: &str) -> Result<&Service> {
        let service = self.services.get(name);
        service.with_context(|| format!("no Service {name}"))
    }

    fn backends(&self, service: &str, names: &[&str]) -> Result<Vec<Backend>> {
        let backend = |name: &&str| {
            let readiness = match name.as_bytes()[0] {
                b'-' => Readiness::Terminating,
                b'!' => Readiness::Unready,
                _ => Readiness::Ready,
            };
            let name = name.trim_start_matches(['-', '!']);
            let tcp = if service == "named" { http_port(name) } else { 8080 };
            Ok(Backend {
                addresses: self.site(name)?.addresses,
                tcp,
                udp: 5353,
                readiness,
            })
        };
        names.iter().map(backend).collect()
    }

    /// Writes the Services and slices, and from what the agents read of them the rules.
    fn publish(&mut self) -> Result<()> {
        let objects: Vec<Value> = self.services.values().flat_map(Service::manifests).collect();
        self.manifests.write("services.yaml", &joined(&objects))?;
        let snapshot = self.read()?;
        ensure!(
            snapshot.services.len() == self.services.len(),
            "the agents read {} of {} Services",
            snapshot.services.len(),
            self.services.len()
        );
        self.proxies
            .iter_mut()
            .try_for_each(|proxy| proxy.sync(&snapshot))
    }

    /// What the agents read.
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

    fn node_manifests(&self) -> Vec<Value> {
        let manifest = |node: &Node| {
            let addresses = node.site().addresses;
            let internal = addresses
                .iter()
                .map(|ip| json!({"type": "InternalIP", "address": ip}));
            json!({
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {"name": node.plan().name},
                "status": {"addresses": internal.collect::<Vec<_>>()},
            })
        };
        self.nodes.iter().map(manifest).collect()
    }

    fn pod_manifests(&self) -> Result<Vec<Value>> {
        let manifest = |(name, node, app): (&str, usize, &str)| {
            let node = &self.nodes[node];
            let addresses = node.pod(name)?.addresses;
            Ok(json!({
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"namespace": "shop", "name": name, "labels": {"app": app}},
                "spec": {
                    "nodeName": node.plan().name,
                    "containers": [{
                        "name": "main",
                        "image": "example",
                        "ports": [{"name": "http", "containerPort": http_port(name)}],
                    }],
                },
                "status": {
                    "phase": "Running",
                    "podIPs": addresses.iter().map(|ip| json!({"ip": ip})).collect::<Vec<_>>(),
                },
            }))
        };
        PODS.into_iter().map(manifest).collect()
    }
}

/// What a pod means by port name `http`.
fn http_port(pod: &str) -> u16 {
    if pod == "web-b" { 9090 } else { 8080 }
}

/// JSON is YAML.
fn joined(objects: &[Value]) -> String {
    let texts: Vec<String> = objects.iter().map(Value::to_string).collect();
    texts.join("\n---\n") + "\n"
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
