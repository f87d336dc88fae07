// SPDX-License-Identifier: Apache-2.0
//! Derives the verdict on a Service's frontend, before translation, from the evaluator's verdicts
//! on its backends (rule A5).

use std::net::IpAddr;

use netpol_agent::{
    evaluate::{Evaluation, Packet, Why, evaluate},
    model::{Node, Snapshot},
};

/// Returns a policy's verdict on a frontend: all backends allowed, some, or none. Without backends,
/// kube-proxy's answer may come; a rule for everyone and everything allows it even so. A pod
/// reaches its own node without policy (rule A2), but another node that chooses does not know that:
/// such a backend counts as partly allowed, unless policy allows it too.
pub fn frontend_verdict(
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

/// Returns true if another node chooses the backend: there, a partly allowed frontend is closed.
pub fn chooses_elsewhere(nodes: &[Node], node: &Node, packet: &Packet) -> bool {
    nodes
        .iter()
        .any(|other| other.name != node.name && other.addresses.contains(&packet.destination))
}
