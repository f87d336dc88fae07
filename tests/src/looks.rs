// SPDX-License-Identifier: Apache-2.0
//! What the evaluator's verdicts on a Service's backends make of the first look at its frontend (rule A5).

use std::net::IpAddr;

use netpol_agent::{
    evaluate::{Evaluation, Packet},
    model::Node,
};

/// What a policy must say of a frontend: all backends allowed, some, or none. Where there is nothing to reach, what kube-proxy answers may
/// come; a rule for everyone and everything needs no backend to say so.
pub fn first_look(backends: &[(IpAddr, u16, Evaluation)]) -> &'static [&'static str] {
    let denied = backends.iter().filter(|(.., verdict)| !verdict.egress.allowed);
    match (backends.len(), denied.count()) {
        (0, _) => &["defer", "accept"],
        (_, 0) => &["accept"],
        (all, denied) if all == denied => &["deny"],
        _ => &["defer"],
    }
}

/// Whether another of the nodes chooses the backend: what is allowed in part only is closed there.
pub fn chooses_elsewhere(nodes: &[Node], node: &Node, packet: &Packet) -> bool {
    nodes
        .iter()
        .any(|other| other.name != node.name && other.addresses.contains(&packet.destination))
}
