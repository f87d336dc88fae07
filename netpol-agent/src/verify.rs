// SPDX-License-Identifier: Apache-2.0
//! The self-test of a live node: two scratch pods that no API server knows, and the policies for
//! them. The client of `netpol verify` makes their interfaces; the agent holds them in its snapshot
//! as long as that client keeps its connection open, so that they go through the same compiler,
//! plan and writes as all pods.
//!
//! Nothing of this is the client's choice, and nothing opens by it:
//! - The addresses are of ranges for documentation (RFC 5737, RFC 3849), which no pod network has.
//!   While an object or the node has one of them, the agent holds no scratch pods.
//! - The namespace has a name that Kubernetes refuses: no policy of the cluster is in it.
//! - Both pods are isolated both ways from the start, but for their test connections.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::model::{
    Direction, LabelSelector, NetworkPolicy, ObjectKey, Peer, Pod, PolicyPort, PortName, Rule, Snapshot,
};

mod probe;
mod room;

pub use probe::{Found, probe};
pub use room::Rooms;

/// Namespace of the scratch pods.
pub const NAMESPACE: &str = "netpol:verify";

/// A scratch pod. It is its own label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scratch {
    /// Opens the connections.
    Client,
    /// Receives them.
    Server,
}

/// A port of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TestPort {
    /// Both policies allow it.
    Allowed,
    /// The server's ingress does not.
    NoIngress,
    /// The client's egress does not.
    NoEgress,
}

/// The agent's first and only answer while it holds the scratch pods.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Held {
    /// Why it does not hold them; absent if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// Why the agent does not enforce on them; absent if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
}

impl Scratch {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Client, Self::Server];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }

    /// Namespace and name.
    pub fn key(self) -> ObjectKey {
        ObjectKey::new(NAMESPACE, self.name())
    }

    /// Its addresses, one of each family.
    pub const fn addresses(self) -> (Ipv4Addr, Ipv6Addr) {
        let last = match self {
            Self::Client => 241,
            Self::Server => 242,
        };
        (
            Ipv4Addr::new(192, 0, 2, last),
            Ipv6Addr::new(0x2001, 0xdb8, 0x6e65, 0x7470, 0, 0, 0, last as u16),
        )
    }

    /// The same, as a list.
    pub fn all_addresses(self) -> [IpAddr; 2] {
        let (ipv4, ipv6) = self.addresses();
        [ipv4.into(), ipv6.into()]
    }

    fn selector(self) -> LabelSelector {
        LabelSelector {
            match_labels: [("scratch".to_owned(), self.name().to_owned())].into(),
            ..LabelSelector::default()
        }
    }

    fn pod(self, node: &str) -> Pod {
        Pod {
            key: self.key(),
            uid: String::new(),
            labels: self.selector().match_labels,
            node: Some(node.to_owned().into()),
            host_network: false,
            terminal: false,
            terminating: false,
            static_uid: None,
            addresses: self.all_addresses().to_vec(),
            named_ports: Vec::new(),
            host_ports: Vec::new(),
        }
    }

    /// The policy that isolates it both ways, but for `rule` in one.
    fn policy(self) -> NetworkPolicy {
        let rule = |peer: Self, ports: [TestPort; 2]| Rule {
            peers: vec![Peer {
                pod_selector: Some(peer.selector()),
                ..Peer::default()
            }],
            ports: ports.map(TestPort::of_policy).into(),
        };
        let (ingress, egress) = match self {
            Self::Client => {
                let allowed = [TestPort::Allowed, TestPort::NoIngress];
                (Vec::new(), vec![rule(Self::Server, allowed)])
            }
            Self::Server => {
                let allowed = [TestPort::Allowed, TestPort::NoEgress];
                (vec![rule(Self::Client, allowed)], Vec::new())
            }
        };
        NetworkPolicy {
            key: self.key(),
            pod_selector: self.selector(),
            policy_types: Some(vec![Direction::Ingress, Direction::Egress]),
            ingress,
            egress,
        }
    }
}

impl TestPort {
    /// All of them, the allowed one first.
    pub const ALL: [Self; 3] = [Self::Allowed, Self::NoIngress, Self::NoEgress];

    /// Its number.
    pub const fn number(self) -> u16 {
        match self {
            Self::Allowed => 61_001,
            Self::NoIngress => 61_002,
            Self::NoEgress => 61_003,
        }
    }

    fn of_policy(self) -> PolicyPort {
        PolicyPort {
            protocol: Some("TCP".to_owned()),
            port: Some(PortName::Number(self.number().into())),
            end_port: None,
        }
    }
}

/// Returns the snapshot with the scratch pods of a node and their policies.
pub fn with_scratch(snapshot: &Snapshot, node: &str) -> Snapshot {
    let mut with = snapshot.clone();
    for scratch in Scratch::ALL {
        with.pods.insert(scratch.key(), Arc::new(scratch.pod(node)));
        with.policies.insert(scratch.key(), Arc::new(scratch.policy()));
    }
    with
}

/// Says who has an address of a scratch pod, if anyone does. `of_pods`: this node's pod ranges.
pub fn taken(snapshot: &Snapshot, of_node: &BTreeSet<IpAddr>, of_pods: &[IpNet]) -> Option<String> {
    let addresses = Scratch::ALL.map(Scratch::all_addresses).concat();
    let has = |held: &[IpAddr]| addresses.iter().copied().find(|address| held.contains(address));
    if let Some(address) = addresses.iter().find(|address| of_node.contains(address)) {
        return Some(format!("the node has {address}"));
    }
    for pod in snapshot.pods.values() {
        if let Some(address) = has(&pod.addresses) {
            return Some(format!("pod {} has {address}", pod.key));
        }
    }
    for service in snapshot.services.values() {
        let all = [
            &service.cluster_ips,
            &service.external_ips,
            &service.load_balancer_ips,
        ];
        if let Some(address) = all.into_iter().find_map(|held| has(held)) {
            return Some(format!("Service {} has {address}", service.key));
        }
    }
    let contained = |cidr: &IpNet| addresses.iter().any(|address| cidr.contains(address));
    if let Some(cidr) = of_pods.iter().find(|cidr| contained(cidr)) {
        return Some(format!("the pods of this node are in {cidr}"));
    }
    for (name, node) in snapshot.nodes.iter() {
        if addresses.iter().any(|address| node.addresses.contains(address)) {
            return Some(format!("node {name} has it"));
        }
        if let Some(cidr) = node.pod_cidrs.iter().find(|cidr| contained(cidr)) {
            return Some(format!("the pods of node {name} are in {cidr}"));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        evaluate::{Packet, evaluate},
        model::Node,
    };

    fn allowed(snapshot: &Snapshot, from: IpAddr, to: IpAddr, port: u16) -> bool {
        let packet = Packet {
            source: from,
            destination: to,
            protocol: 6,
            port: Some(port),
        };
        evaluate(snapshot, &[], &packet).allowed()
    }

    #[test]
    fn i5_one_test_connection_is_allowed_and_each_end_denies_another() {
        let with = with_scratch(&Snapshot::default(), "node-a");
        let outside: IpAddr = "203.0.113.9".parse().unwrap();
        for family in 0..2 {
            let [client, server] = Scratch::ALL.map(|scratch| scratch.all_addresses()[family]);
            for port in TestPort::ALL {
                let passes = allowed(&with, client, server, port.number());
                assert_eq!(passes, port == TestPort::Allowed, "{port:?}");
                assert!(!allowed(&with, server, client, port.number()));
                for scratch in [client, server] {
                    assert!(!allowed(&with, outside, scratch, port.number()));
                    assert!(!allowed(&with, scratch, outside, port.number()));
                }
            }
            assert!(!allowed(&with, client, server, 80));
        }
    }

    #[test]
    fn a8_an_address_that_someone_has_is_not_given_to_a_scratch_pod() {
        let nothing = BTreeSet::new();
        assert_eq!(taken(&Snapshot::default(), &nothing, &[]), None);
        let address = Scratch::Server.all_addresses()[0];
        let on_node = taken(&Snapshot::default(), &BTreeSet::from([address]), &[]);
        assert_eq!(on_node.as_deref(), Some("the node has 192.0.2.242"));
        let mut pods = Snapshot::default();
        let pod = Pod {
            key: ObjectKey::new("shop", "web"),
            ..Scratch::Server.pod("node-b")
        };
        pods.pods.insert(pod.key.clone(), Arc::new(pod));
        let of_pod = taken(&pods, &nothing, &[]);
        assert_eq!(of_pod.as_deref(), Some("pod shop/web has 192.0.2.242"));
        let mut ranges = Snapshot::default();
        let node = Node {
            pod_cidrs: vec!["192.0.2.0/24".parse().unwrap()],
            ..Node::default()
        };
        ranges.nodes.insert("node-b".to_owned(), Arc::new(node));
        assert!(taken(&ranges, &nothing, &[]).is_some());
        let given = ["192.0.2.0/24".parse().unwrap()];
        assert!(taken(&Snapshot::default(), &nothing, &given).is_some());
    }
}
