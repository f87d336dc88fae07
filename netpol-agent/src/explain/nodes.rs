// SPDX-License-Identifier: Apache-2.0
//! Finds the addresses of nodes (rule A2), as far as objects give them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    str::FromStr,
};

use crate::model::{Node, Snapshot};

/// A node's addresses as given on the command line: `NAME=ADDRESS[,ADDRESS]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeAddresses(pub Node);

impl FromStr for NodeAddresses {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, list) = text
            .split_once('=')
            .filter(|(name, _)| !name.is_empty())
            .ok_or_else(|| "expected NAME=ADDRESS[,ADDRESS]".to_owned())?;
        let mut addresses = BTreeSet::new();
        for word in list.split(',') {
            let address: IpAddr = word.parse().map_err(|_| format!("{word:?} is no IP address"))?;
            addresses.insert(address.to_canonical());
        }
        Ok(Self(Node {
            name: name.to_owned(),
            addresses,
            ..Node::default()
        }))
    }
}

/// Returns the nodes with their known addresses: those `given`, those of their objects, and those
/// of running hostNetwork pods, which are their node's. `own` is the node of the agent that
/// answers: only the addresses on its interfaces count (rule A2).
pub fn known_nodes(snapshot: &Snapshot, given: &[Node], own: Option<Node>) -> Vec<Node> {
    let mut nodes: BTreeMap<&str, BTreeSet<IpAddr>> = BTreeMap::new();
    for (name, node) in snapshot.nodes.iter() {
        nodes.entry(name).or_default().extend(&node.addresses);
    }
    for node in given {
        nodes.entry(&node.name).or_default().extend(&node.addresses);
    }
    for pod in snapshot.pods.values() {
        if let Some(name) = pod.node.as_deref()
            && pod.host_network
            && !pod.terminal
        {
            nodes.entry(name).or_default().extend(&pod.addresses);
        }
    }
    if let Some(own) = &own {
        nodes.insert(&own.name, own.addresses.clone());
    }
    let link_locals = |name: &str| {
        let known = own.iter().chain(given).find(|node| node.name == name);
        known.map_or_else(BTreeMap::new, |node| node.link_locals.clone())
    };
    nodes
        .iter()
        .map(|(name, addresses)| Node {
            name: (*name).to_owned(),
            addresses: addresses.clone(),
            link_locals: link_locals(name),
            ..Node::default()
        })
        .collect()
}

/// Does the same, but with all addresses that objects give the own node too: a node port is reached
/// at each of them (rule A5).
pub(super) fn of_node_ports(snapshot: &Snapshot, known: &[Node]) -> Vec<Node> {
    known_nodes(snapshot, known, None)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{Labels, ObjectKey, Pod};

    fn pod(name: &str, host_network: bool, terminal: bool, address: &str) -> Arc<Pod> {
        Arc::new(Pod {
            key: ObjectKey::new("kube-system", name),
            uid: String::new(),
            labels: Labels::new(),
            node: Some("a".into()),
            host_network,
            terminal,
            terminating: false,
            static_uid: None,
            addresses: vec![address.parse().unwrap()],
            named_ports: Vec::new(),
            host_ports: Vec::new(),
        })
    }

    #[test]
    fn a2_running_host_network_pods_tell_the_addresses_of_their_node() {
        let mut snapshot = Snapshot::default();
        for pod in [
            pod("proxy", true, false, "192.0.2.1"),
            pod("done", true, true, "192.0.2.2"),
            pod("dns", false, false, "10.244.0.9"),
        ] {
            snapshot.pods.insert(pod.key.clone(), pod);
        }
        let NodeAddresses(given) = "a=2001:db8::1,::ffff:192.0.2.7".parse().unwrap();
        let nodes = known_nodes(&snapshot, &[given], None);
        let expected = ["192.0.2.1", "192.0.2.7", "2001:db8::1"].map(|text| text.parse().unwrap());
        assert_eq!(nodes.len(), 1);
        assert_eq!(nodes[0].addresses, BTreeSet::from(expected));
    }

    #[test]
    fn node_options_that_say_nothing_are_refused() {
        for bad in ["a", "=10.0.0.1", "a=", "a=10.0.0.1,x"] {
            assert!(bad.parse::<NodeAddresses>().is_err(), "{bad}");
        }
    }
}
