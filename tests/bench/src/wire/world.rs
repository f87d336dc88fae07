// SPDX-License-Identifier: Apache-2.0
//! Two nodes connected by Flannel's VXLAN, three pods, and an enforcer of policies, or none. Frames
//! between pods of one node always pass the node's netfilter, as kubeadm sets it up.

use std::{fmt, io::ErrorKind, net::IpAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::filters;
use netpol_tests::{
    agent::Agent,
    manifests::ManifestDir,
    node::{Node, Plan, Site, member},
    overlay::{self, Overlay},
};

/// What enforces the policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// Nothing, and no policies.
    NoAgent,
    /// The agent, with this many policies.
    Netpol(u32),
    /// Equivalent rules and sets of nftables.
    Nftables(u32),
    /// Equivalent rules of iptables and sets of ipset.
    Ipset(u32),
}

impl Variant {
    /// Returns the number of policies.
    pub const fn policies(self) -> u32 {
        match self {
            Self::NoAgent => 0,
            Self::Netpol(policies) | Self::Nftables(policies) | Self::Ipset(policies) => policies,
        }
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoAgent => "no agent",
            Self::Netpol(_) => "netpol",
            Self::Nftables(_) => "nftables",
            Self::Ipset(_) => "iptables+ipset",
        })
    }
}

/// The path of packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Over the bridge of one node.
    Bridge,
    /// To another node, by VXLAN.
    Vxlan,
}

impl Way {
    /// Both paths.
    pub const ALL: [Self; 2] = [Self::Bridge, Self::Vxlan];
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bridge => "bridge",
            Self::Vxlan => "vxlan",
        })
    }
}

/// The measured port.
pub const PORT: u16 = 7000;
/// A port that no policy opens to the measured pods.
const CLOSED: u16 = 7001;
/// Pods that each policy names, except one.
const PODS_A_GROUP: u32 = 2;

/// The measured pods: name and node. Every policy selects all of them.
const PODS: [(&str, usize); 3] = [("shop/client", 0), ("shop/near", 0), ("shop/far", 1)];

/// The cluster. The agents are dropped first, the nodes last.
#[derive(Debug)]
pub struct World {
    /// The enforcer.
    pub variant: Variant,
    _agents: Vec<Agent>,
    _manifests: ManifestDir,
    nodes: Vec<Node>,
}

impl World {
    /// Makes the cluster, and checks that closed ports are closed.
    ///
    /// # Errors
    /// If any of it fails.
    pub fn new(variant: Variant) -> Result<Self> {
        let first = Node::new(Plan::first("node-a"))?;
        let second = first.beside(Plan {
            name: "node-b".to_owned(),
            index: 1,
        })?;
        let mut nodes = vec![first, second];
        overlay::connect(&nodes.iter().collect::<Vec<_>>(), Overlay::Vxlan)?;
        for (number, (name, node)) in (10..).zip(PODS) {
            let addresses = nodes[node]
                .plan()
                .pod_networks()
                .map(|net| member(net, number).addr());
            nodes[node].add_pod(name, &addresses)?;
        }
        for node in &nodes {
            node.netns()
                .sysctl(&[("net/bridge/bridge-nf-call-iptables", "1")])?;
        }
        let mut world = Self {
            variant,
            _agents: Vec::new(),
            _manifests: ManifestDir::new()?,
            nodes,
        };
        world.enforce().with_context(|| format!("{variant}"))?;
        for pod in PODS {
            // The clients' ports are used again and again.
            let pod = world.nodes[pod.1].pod(pod.0)?;
            pod.netns.sysctl(&[
                ("net/ipv4/ip_local_port_range", "1024 65000"),
                ("net/ipv4/tcp_tw_reuse", "1"),
            ])?;
        }
        for way in Way::ALL {
            world.check(way).with_context(|| format!("{variant}, {way}"))?;
        }
        Ok(world)
    }

    /// Returns the client and the server.
    ///
    /// # Errors
    /// A pod is missing.
    pub fn ends(&self, way: Way) -> Result<(Site, Site)> {
        let to = match way {
            Way::Bridge => self.nodes[0].pod(PODS[1].0),
            Way::Vxlan => self.nodes[1].pod(PODS[2].0),
        };
        Ok((self.nodes[0].pod(PODS[0].0)?, to?))
    }

    fn enforce(&mut self) -> Result<()> {
        let policies = self.variant.policies();
        let measured = self.measured()?;
        match self.variant {
            Variant::NoAgent => {}
            Variant::Netpol(_) => {
                let manifests = &self._manifests;
                manifests.write("objects.yaml", &joined(&self.objects(policies)?))?;
                for node in &self.nodes {
                    self._agents.push(Agent::start(node, manifests.path())?);
                }
            }
            Variant::Nftables(_) => {
                let rules = filters::nftables(&measured, policies);
                for node in &self.nodes {
                    node.netns().feed("nft", &["-f", "-"], &rules)?;
                }
            }
            Variant::Ipset(_) => {
                let (sets, rules) = filters::ipset(&measured, policies);
                for node in &self.nodes {
                    node.netns().feed("ipset", &["restore"], &sets)?;
                    node.netns().feed("iptables-restore", &["--noflush"], &rules)?;
                }
            }
        }
        Ok(())
    }

    /// Returns the IPv4 addresses of the measured pods.
    fn measured(&self) -> Result<Vec<IpAddr>> {
        let address = |(name, node): (&str, usize)| {
            let addresses = self.nodes[node].pod(name)?.addresses;
            addresses
                .into_iter()
                .find(IpAddr::is_ipv4)
                .context("a pod without IPv4")
        };
        PODS.into_iter().map(address).collect()
    }

    /// Checks that the closed port is closed with policies, and open without.
    fn check(&self, way: Way) -> Result<()> {
        // A new link may lose the first packet.
        const PATIENCE: Duration = Duration::from_secs(5);
        const SILENCE: Duration = Duration::from_millis(700);
        let (from, to) = self.ends(way)?;
        for port in [PORT, CLOSED] {
            let expected = port == PORT || self.variant.policies() == 0;
            let patience = if expected { PATIENCE } else { SILENCE };
            let address = (to.addresses[0], port).into();
            let listener = to.netns.run(|| Ok(std::net::TcpListener::bind(address)?))?;
            let connected = from
                .netns
                .run(|| Ok(std::net::TcpStream::connect_timeout(&address, patience)))?;
            drop(listener);
            let opened = match connected {
                Ok(_) => true,
                Err(error) if error.kind() == ErrorKind::TimedOut => false,
                Err(error) => return Err(error).context("connecting"),
            };
            ensure!(opened == expected, "port {port} is open: {opened}");
        }
        Ok(())
    }

    fn objects(&self, policies: u32) -> Result<Vec<Value>> {
        let mut objects = Vec::new();
        for node in &self.nodes {
            let addresses = node.site().addresses;
            let internal = addresses
                .iter()
                .map(|ip| json!({"type": "InternalIP", "address": ip}));
            objects.push(json!({
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {"name": node.plan().name},
                "status": {"addresses": internal.collect::<Vec<_>>()},
            }));
        }
        for (name, node) in PODS {
            let addresses = self.nodes[node].pod(name)?.addresses;
            let name = name.trim_start_matches("shop/");
            let labels = json!({"measured": "yes"});
            objects.push(pod(name, &self.nodes[node].plan().name, labels, &addresses));
        }
        for group in 1..policies {
            for (index, address) in group_addresses(group).into_iter().enumerate() {
                let labels = json!({"group": format!("group-{group}")});
                objects.push(pod(
                    &format!("peer-{group}-{index}"),
                    "node-c",
                    labels,
                    &[address],
                ));
            }
        }
        objects.extend((0..policies).map(|number| policy(number, policies)));
        Ok(objects)
    }
}

/// Returns the addresses of the pods that a policy names, on a node that exists only as an object.
pub fn group_addresses(group: u32) -> Vec<IpAddr> {
    let first = 0x0af5_0000 + group * PODS_A_GROUP;
    (first..first + PODS_A_GROUP)
        .map(|bits| std::net::Ipv4Addr::from_bits(bits).into())
        .collect()
}

/// Returns the port that a policy opens to the pods that it names.
pub fn group_port(group: u32) -> u16 {
    (20_000 + group) as u16
}

fn pod(name: &str, node: &str, labels: Value, addresses: &[IpAddr]) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": "shop", "name": name, "labels": labels},
        "spec": {"nodeName": node, "containers": [{"name": "main", "image": "example"}]},
        "status": {
            "phase": "Running",
            "podIPs": addresses.iter().map(|ip| json!({"ip": ip})).collect::<Vec<_>>(),
        },
    })
}

/// Returns one of `count` policies; all select the measured pods. The last one lets these reach
/// each other; each other one allows a group of pods.
fn policy(number: u32, count: u32) -> Value {
    let (peers, ports) = if number + 1 == count {
        let ports = ["TCP", "UDP"].map(|protocol| json!({"protocol": protocol, "port": PORT}));
        (json!({"measured": "yes"}), json!(ports))
    } else {
        let group = number + 1;
        let ports = json!([{"protocol": "TCP", "port": group_port(group)}]);
        (json!({"group": format!("group-{group}")}), ports)
    };
    let peer = json!([{"podSelector": {"matchLabels": peers}}]);
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"namespace": "shop", "name": format!("policy-{number}")},
        "spec": {
            "podSelector": {"matchLabels": {"measured": "yes"}},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": peer, "ports": ports}],
            "egress": [{"to": peer, "ports": ports}],
        },
    })
}

/// JSON is YAML.
fn joined(objects: &[Value]) -> String {
    let texts: Vec<String> = objects.iter().map(Value::to_string).collect();
    texts.join("\n---\n") + "\n"
}
