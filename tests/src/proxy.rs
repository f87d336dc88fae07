// SPDX-License-Identifier: Apache-2.0
//! Writes kube-proxy's NAT rules on a node, from the same Services and EndpointSlices that the
//! agent reads. Leaves out session affinity, local traffic policies and source ranges.

mod iptables;
mod nftables;
mod ports;

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc};

use anyhow::Result;
use netpol_agent::{
    evaluate::Packet,
    model::{Node as Known, Protocol, Snapshot},
};

use crate::{
    netns::NetNs,
    node::{Node, Plan},
    overlay::CLUSTER_NETWORKS,
    services::SERVICE_NETWORKS,
};

/// kube-proxy's `--proxy-mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// `iptables`. A node port is open on every address of the node.
    Iptables,
    /// `nftables`. A node port is open on the node's primary addresses only.
    Nftables,
}

/// kube-proxy's rules on one node.
#[derive(Debug)]
pub struct Proxy {
    mode: Mode,
    plan: Plan,
    masquerade_all: bool,
    netns: Arc<NetNs>,
    chains: [BTreeSet<String>; 2],
}

/// Inputs for the rules of a family.
#[derive(Debug, Clone, Copy)]
struct Family {
    ipv4: bool,
    /// `--cluster-cidr`: traffic to a ClusterIP from elsewhere is masqueraded.
    pods: &'static str,
    /// `--masquerade-all`: all traffic to a ClusterIP is masqueraded.
    masquerade_all: bool,
    /// The range of ClusterIPs.
    services: &'static str,
}

const FAMILIES: [Family; 2] = [
    Family {
        ipv4: true,
        pods: CLUSTER_NETWORKS[0],
        masquerade_all: false,
        services: SERVICE_NETWORKS[0],
    },
    Family {
        ipv4: false,
        pods: CLUSTER_NETWORKS[1],
        masquerade_all: false,
        services: SERVICE_NETWORKS[1],
    },
];

impl Family {
    /// Returns the part of a rule that selects the traffic to a ClusterIP to masquerade. `not_from`
    /// is the syntax for a source outside of a network.
    fn masqueraded(self, not_from: &str) -> String {
        if self.masquerade_all {
            String::new()
        } else {
            format!("{not_from} {}", self.pods)
        }
    }
}

/// Returns where kube-proxy sends a pod's packet, and whether with another source address; `None`
/// if it is for no Service. A node port is at every address of every node.
pub fn backends(
    snapshot: &Snapshot,
    nodes: &[Known],
    packet: &Packet,
) -> Option<(BTreeSet<SocketAddr>, bool)> {
    let family = FAMILIES[usize::from(!packet.destination.is_ipv4())];
    let protocol = Protocol::ALL
        .into_iter()
        .find(|protocol| protocol.number() == packet.protocol)?;
    let is_node = nodes
        .iter()
        .any(|node| node.addresses.contains(&packet.destination));
    let number = packet.port?;
    let all = ports::ports(snapshot, family);
    let port = all.into_iter().find(|port| {
        port.protocol == ports::protocol(protocol) && port.is_at(packet.destination, number, is_node)
    })?;
    let masqueraded = !port.cluster_ips.contains(&packet.destination);
    Some((port.backends, masqueraded))
}

impl Proxy {
    /// Writes the rules that do not depend on Services. `masquerade_all` is kube-proxy's option of
    /// that name.
    ///
    /// # Errors
    /// Without the packages iptables and nftables, or if the kernel refuses.
    pub fn install(mode: Mode, node: &Node, masquerade_all: bool) -> Result<Self> {
        let netns = Arc::clone(node.netns());
        if mode == Mode::Iptables {
            for family in FAMILIES {
                netns.feed(iptables::program(family), &["--noflush"], &iptables::base())?;
            }
        }
        Ok(Self {
            mode,
            plan: node.plan().clone(),
            masquerade_all,
            netns,
            chains: [BTreeSet::new(), BTreeSet::new()],
        })
    }

    /// Replaces the rules for all Services and EndpointSlices.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn sync(&mut self, snapshot: &Snapshot) -> Result<()> {
        for (number, family) in FAMILIES.into_iter().enumerate() {
            let family = Family {
                masquerade_all: self.masquerade_all,
                ..family
            };
            let ports = ports::ports(snapshot, family);
            match self.mode {
                Mode::Iptables => {
                    let (rules, chains) = iptables::rules(&ports, family, &self.chains[number]);
                    self.netns
                        .feed(iptables::program(family), &["--noflush"], &rules)?;
                    self.chains[number] = chains;
                }
                Mode::Nftables => {
                    let primary = self.plan.uplink_addresses()[number];
                    let rules = nftables::rules(&ports, family, primary);
                    self.netns.feed("nft", &["-f", "-"], &rules)?;
                }
            }
        }
        Ok(())
    }
}
