// SPDX-License-Identifier: Apache-2.0
//! The world that packets are judged in: a node with four pods, peers on other nodes, and policies
//! that name them.
//!
//! `shop/isolated` is isolated in both directions. Each of ten apps may reach it, and be reached by
//! it, on its own ports. `shop/free` is not isolated. `shop/local` is a peer on the same node,
//! `shop/spare` is unused. The peers' addresses are as Flannel assigns them: a /24 (and a /64) for
//! each node, filled one by one.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use anyhow::{Context, Result};
use netpol_agent::model::{
    Direction, LabelSelector, Labels, Namespace, NetworkPolicy, Node, ObjectKey, Peer, Pod, PolicyPort,
    PortName, Rule, Snapshot,
};

use netpol_tests::{
    empty::Empty,
    progrun::{Bench, local_pods},
};

/// Apps of the peers: classes of peers that policy distinguishes.
const APPS: u32 = 10;
/// Pods in the /24 of a node.
const PODS_A_NODE: u32 = 250;
/// Entries of map `flows`: the agent's minimum.
pub const FLOWS: u32 = 16_384;

/// Size of the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Peer pods on other nodes, each with an IPv4 and an IPv6 address.
    pub peers: u32,
    /// Entries of `ports` in each of the ten rules of a direction.
    pub ports: u32,
}

/// A node that enforces, and packets to try on it.
pub struct World {
    /// The datapath.
    pub bench: Bench,
    /// The empty program.
    pub empty: Empty,
    snapshot: Snapshot,
    node: Node,
    pods: BTreeMap<u32, ObjectKey>,
    addresses: BTreeMap<IpAddr, u32>,
    shape: Shape,
}

impl World {
    /// Makes a world and enforces its policies. Moves the calling thread into new namespaces.
    ///
    /// # Errors
    /// Without root, or without eBPF programs in this build.
    pub fn new(shape: Shape) -> Result<Self> {
        let mut bench = Bench::new(LOCAL.len())?;
        bench.restart(FLOWS)?;
        let node = Node {
            name: "node-a".to_owned(),
            addresses: ["10.63.0.1", "198.51.100.1", "fd00:10:63::1", "2001:db8:1::1"]
                .iter()
                .map(|text| text.parse())
                .collect::<Result<_, _>>()?,
            ..Node::default()
        };
        let snapshot = snapshot(shape, &node);
        let free = bench.interfaces().iter().copied().zip(LOCAL);
        let interfaces: BTreeMap<ObjectKey, u32> = free
            .map(|(ifindex, name)| (ObjectKey::new("shop", name), ifindex))
            .collect();
        let (pods, addresses) = local_pods(&snapshot, &node, |key| interfaces[key]);
        let mut world = Self {
            bench,
            empty: Empty::load()?,
            snapshot,
            node,
            pods,
            addresses,
            shape,
        };
        world.enforce(0)?;
        Ok(world)
    }

    /// Enforces again, with this many drop events a second.
    ///
    /// # Errors
    /// A write that failed.
    pub fn enforce(&mut self, events_per_second: u32) -> Result<()> {
        self.bench.set_events_per_second(events_per_second);
        self.bench.enforce(&self.snapshot, &self.node, &self.pods)
    }

    /// Returns the interface of a local pod.
    ///
    /// # Errors
    /// No local pod has the address.
    pub fn interface(&self, address: IpAddr) -> Result<u32> {
        let found = self.addresses.get(&address).copied();
        found.with_context(|| format!("no local pod has {address}"))
    }

    /// Returns a peer of the first app from the middle of the range: its lookups are as deep as
    /// any.
    pub fn peer(&self, ipv4: bool) -> IpAddr {
        let middle = self.shape.peers / 2;
        peer_address(middle - middle % APPS, ipv4)
    }

    /// Returns the middle one of the ports that the first app may use.
    pub fn open_port(&self) -> u16 {
        port_of(0, self.shape.ports / 2, self.shape.ports)
    }

    /// Returns a port that only the second app may use.
    pub fn closed_port(&self) -> u16 {
        port_of(1, self.shape.ports / 2, self.shape.ports)
    }
}

/// Names of the local pods, in namespace `shop`.
const LOCAL: [&str; 4] = ["isolated", "free", "local", "spare"];

/// Returns the address of a local pod.
pub fn local_address(name: &str, ipv4: bool) -> IpAddr {
    let number = LOCAL.iter().position(|local| *local == name).unwrap_or_default() as u16 + 10;
    if ipv4 {
        Ipv4Addr::new(10, 63, 0, number as u8).into()
    } else {
        Ipv6Addr::new(0xfd00, 0x10, 0x63, 0, 0, 0, 0, number).into()
    }
}

fn peer_address(index: u32, ipv4: bool) -> IpAddr {
    let (node, pod) = (index / PODS_A_NODE, index % PODS_A_NODE + 2);
    if ipv4 {
        Ipv4Addr::from_bits(0x0a40_0000 + (node << 8) + pod).into()
    } else {
        Ipv6Addr::new(0xfd00, 0x10, 0x64, node as u16, 0, 0, 0, pod as u16).into()
    }
}

/// Returns a port of an app. Ports are spread, so that no two become one entry.
fn port_of(app: u32, index: u32, ports: u32) -> u16 {
    (10_000 + (app * ports + index) * 3) as u16
}

fn app_labels(app: u32) -> Labels {
    Labels::from([("app".to_owned(), format!("app-{app}"))])
}

fn snapshot(shape: Shape, node: &Node) -> Snapshot {
    let mut snapshot = Snapshot {
        revision: 1,
        nodes: [(node.name.clone(), Arc::new(node.clone()))]
            .into_iter()
            .collect(),
        ..Snapshot::default()
    };
    let name = "shop".to_owned();
    let labels = Labels::from([("kubernetes.io/metadata.name".to_owned(), name.clone())]);
    let namespace = Arc::new(Namespace {
        name: name.clone(),
        labels,
        forwards: None,
    });
    snapshot.namespaces.insert(name, namespace);
    let mut add = |name: String, node: &str, labels: Labels, addresses: [IpAddr; 2]| {
        let pod = Pod {
            key: ObjectKey::new("shop", name),
            uid: String::new(),
            labels,
            node: Some(node.into()),
            host_network: false,
            terminal: false,
            terminating: false,
            static_uid: None,
            addresses: addresses.to_vec(),
            named_ports: Vec::new(),
            host_ports: Vec::new(),
        };
        snapshot.pods.insert(pod.key.clone(), Arc::new(pod));
    };
    for name in LOCAL {
        let labels = match name {
            "isolated" => Labels::from([("isolated".to_owned(), "yes".to_owned())]),
            _ => app_labels(0),
        };
        let addresses = [local_address(name, true), local_address(name, false)];
        add(name.to_owned(), &node.name, labels, addresses);
    }
    for index in 0..shape.peers {
        let addresses = [peer_address(index, true), peer_address(index, false)];
        let labels = app_labels(index % APPS);
        add(
            format!("peer-{index}"),
            &format!("node-{}", index / PODS_A_NODE),
            labels,
            addresses,
        );
    }
    let policy = policy(shape);
    snapshot.policies.insert(policy.key.clone(), Arc::new(policy));
    snapshot
}

fn policy(shape: Shape) -> NetworkPolicy {
    let selector = |match_labels: Labels| LabelSelector {
        match_labels,
        match_expressions: Vec::new(),
    };
    let rule = |app: u32| Rule {
        peers: vec![Peer {
            pod_selector: Some(selector(app_labels(app))),
            ..Peer::default()
        }],
        ports: (0..shape.ports)
            .flat_map(|index| {
                ["TCP", "UDP"].map(|protocol| PolicyPort {
                    protocol: Some(protocol.to_owned()),
                    port: Some(PortName::Number(port_of(app, index, shape.ports).into())),
                    end_port: None,
                })
            })
            .collect(),
    };
    let rules: Vec<Rule> = (0..APPS).map(rule).collect();
    NetworkPolicy {
        key: ObjectKey::new("shop", "isolated"),
        pod_selector: selector(Labels::from([("isolated".to_owned(), "yes".to_owned())])),
        policy_types: Some(vec![Direction::Ingress, Direction::Egress]),
        ingress: rules.clone(),
        egress: rules,
    }
}
