// SPDX-License-Identifier: Apache-2.0
//! Computes who reaches whom: the reference evaluator's verdict on every ordered pair of pods.

use std::{collections::BTreeSet, net::IpAddr};

use serde::Serialize;

use crate::{
    evaluate::{Packet, evaluate},
    explain::{Family, Port},
    model::{NetworkPolicy, Node, ObjectKey, Pod, PortName, Protocol, Snapshot},
};

mod html;
mod table;

/// The reachability of all pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matrix {
    /// Revision of the objects.
    pub revision: u64,
    /// The pods that run, have a network of their own and have an address, sorted.
    pub pods: Vec<ObjectKey>,
    /// One grid for each port and family, ordered by port, then by family.
    pub grids: Vec<Grid>,
}

/// The reachability for one port and family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grid {
    /// The port.
    pub port: Port,
    /// The family.
    pub family: Family,
    /// Verdicts by source, then destination, as indices of [`Matrix::pods`]. `None` for a pod and
    /// itself, and where an end has no address of the family.
    pub cells: Vec<Vec<Option<bool>>>,
}

/// One pair, as `-o json` lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pair {
    /// `namespace/name` of the source.
    pub from: String,
    /// `namespace/name` of the destination.
    pub to: String,
    /// `IPv4` or `IPv6`.
    pub family: &'static str,
    /// `TCP`, `UDP`, `SCTP`, `ICMP`, or the number of another IP protocol.
    pub protocol: String,
    /// The port; `null` for protocols without ports.
    pub port: Option<u16>,
    /// True if the packet that opens a connection arrives.
    pub allowed: bool,
}

/// Judges every ordered pair of different pods that both have an address of a family. Leaves out
/// host-network, terminal and address-less pods (rules I6, I7). A pod with several addresses of a
/// family is judged by the first.
pub fn matrix(snapshot: &Snapshot, nodes: &[Node], ports: &[Port]) -> Matrix {
    let pods: Vec<&Pod> = snapshot
        .pods
        .values()
        .map(AsRef::as_ref)
        .filter(|pod: &&Pod| !pod.host_network && !pod.terminal && !pod.addresses.is_empty())
        .collect();
    let address = |pod: &Pod, family| -> Option<IpAddr> {
        let mut addresses = pod.addresses.iter().copied();
        addresses.find(|address| Family::of(*address) == family)
    };
    let mut grids = Vec::new();
    for &port in ports {
        for family in Family::ALL {
            if !pods.iter().any(|pod| address(pod, family).is_some()) {
                continue;
            }
            let (protocol, number) = port.of_family(family);
            let cell = |from: &Pod, to: &Pod| {
                let (source, destination) = address(from, family).zip(address(to, family))?;
                let packet = Packet {
                    source,
                    destination,
                    protocol,
                    port: number,
                };
                (from.key != to.key).then(|| evaluate(snapshot, nodes, &packet).allowed())
            };
            let row = |from: &&Pod| pods.iter().map(|to| cell(from, to)).collect();
            grids.push(Grid {
                port,
                family,
                cells: pods.iter().map(row).collect(),
            });
        }
    }
    Matrix {
        revision: snapshot.revision,
        pods: pods.iter().map(|pod| pod.key.clone()).collect(),
        grids,
    }
}

impl Matrix {
    /// Lists every judged pair, by port, family, source and destination.
    pub fn pairs(&self) -> impl Iterator<Item = Pair> {
        self.grids.iter().flat_map(move |grid| {
            let (protocol, port) = match grid.port {
                Port::Transport(protocol, port) => (protocol.to_string(), Some(port)),
                Port::Icmp => ("ICMP".to_owned(), None),
                Port::Ip(number) => (number.to_string(), None),
            };
            self.pods.iter().zip(&grid.cells).flat_map(move |(from, row)| {
                let protocol = protocol.clone();
                let judged = self.pods.iter().zip(row);
                judged.filter_map(move |(to, cell)| {
                    Some(Pair {
                        from: from.to_string(),
                        to: to.to_string(),
                        family: grid.family.name(),
                        protocol: protocol.clone(),
                        port,
                        allowed: (*cell)?,
                    })
                })
            })
        })
    }

    /// Renders the matrix as a self-contained HTML page.
    pub fn html(&self) -> String {
        html::page(self)
    }
}

/// Lists the ports that policies distinguish: every number that a policy names, both ends of its
/// ranges, every number that a pod gives to a port that a policy names, and 80 for entries without
/// a port. Returns 80/TCP if policies name none: then all ports have the same verdict.
pub fn ports_of_policies(snapshot: &Snapshot) -> Vec<Port> {
    let rules = |policy: &NetworkPolicy| {
        let rules = policy.ingress.iter().chain(&policy.egress);
        rules
            .flat_map(|rule| rule.ports.iter().cloned())
            .collect::<Vec<_>>()
    };
    let mut ports = BTreeSet::new();
    for entry in snapshot.policies.values().flat_map(|policy| rules(policy)) {
        let word = entry.protocol.as_deref().unwrap_or("TCP");
        let Some(protocol) = Protocol::from_kubernetes(word) else {
            continue;
        };
        let mut add = |number: i32| {
            let port = u16::try_from(number).ok().filter(|port| *port > 0);
            ports.extend(port.map(|port| Port::Transport(protocol, port)));
        };
        match &entry.port {
            None => add(80),
            Some(PortName::Number(number)) => {
                add(*number);
                entry.end_port.into_iter().for_each(add);
            }
            Some(PortName::Name(name)) => {
                let named = snapshot.pods.values().flat_map(|pod| &pod.named_ports);
                named
                    .filter(|port| port.name == *name && port.protocol == protocol)
                    .for_each(|port| add(i32::from(port.number)));
            }
        }
    }
    if ports.is_empty() {
        ports.insert(Port::Transport(Protocol::Tcp, 80));
    }
    ports.into_iter().collect()
}
