// SPDX-License-Identifier: Apache-2.0
//! What the evaluator's verdicts on a Service's backends make of the first look at its frontend (rule A5).

use std::net::IpAddr;

use netpol_agent::{
    evaluate::{Evaluation, Packet, Why, evaluate},
    model::{Node, Snapshot},
};

/// What a policy must say of a frontend: all backends allowed, some, or none. Where there is
/// nothing to reach, what kube-proxy answers may come; a rule for everyone and everything needs no
/// backend to say so. Its own node a pod reaches without policy (rule A2), but that is told of no
/// other node that chooses: such a backend is allowed in part, unless policy allows it too.
pub fn first_look(
    snapshot: &Snapshot,
    nodes: &[Node],
    packet: &Packet,
    backends: &[(IpAddr, u16, Evaluation)],
) -> &'static [&'static str] {
    let strangers: Vec<Node> = nodes
        .iter()
        .map(|node| Node {
            name: String::new(),
            ..node.clone()
        })
        .collect();
    let denied = backends.iter().filter(|(address, port, verdict)| {
        let translated = Packet {
            destination: *address,
            port: Some(*port),
            ..*packet
        };
        let egress = match verdict.egress.why {
            Why::Node => evaluate(snapshot, &strangers, &translated).egress,
            _ => verdict.egress.clone(),
        };
        !egress.allowed
    });
    let allowed = backends.iter().any(|(.., verdict)| verdict.egress.allowed);
    match (backends.len(), denied.count()) {
        (0, _) => &["defer", "accept"],
        (_, 0) => &["accept"],
        _ if !allowed => &["deny"],
        _ => &["defer"],
    }
}

/// Whether another of the nodes chooses the backend: what is allowed in part only is closed there.
pub fn chooses_elsewhere(nodes: &[Node], node: &Node, packet: &Packet) -> bool {
    nodes
        .iter()
        .any(|other| other.name != node.name && other.addresses.contains(&packet.destination))
}
