// SPDX-License-Identifier: Apache-2.0
//! The addresses of nodes (rule A2), as far as objects tell them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    str::FromStr,
};

use crate::model::{Node, Snapshot};

/// A node's addresses as they are given on the command line: `NAME=ADDRESS[,ADDRESS]`.
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
        }))
    }
}

/// The nodes with what is known of their addresses: those `given`, and the addresses of running hostNetwork pods, which are
/// their node's.
pub fn known_nodes(snapshot: &Snapshot, given: &[Node]) -> Vec<Node> {
    let mut nodes: BTreeMap<&str, BTreeSet<IpAddr>> = BTreeMap::new();
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
    nodes
        .into_iter()
        .map(|(name, addresses)| Node {
            name: name.to_owned(),
            addresses,
        })
        .collect()
}
