// SPDX-License-Identifier: Apache-2.0
//! What the evaluator's verdicts on a Service's backends make of the first look at its frontend (rule A5).

use std::net::IpAddr;

use netpol_agent::{
    evaluate::{Evaluation, Packet},
    model::Snapshot,
};

/// What a policy must say of a frontend: all backends allowed, some, or none. Where some are, the second look must be able to tell:
/// it knows the sender only behind a ClusterIP, and only packets to pods are met again.
pub fn first_look(
    snapshot: &Snapshot,
    packet: &Packet,
    backends: &[(IpAddr, u16, Evaluation)],
) -> &'static [&'static str] {
    let masqueraded = !snapshot
        .services
        .values()
        .any(|service| service.cluster_ips.contains(&packet.destination));
    let is_pod = |address: &IpAddr| {
        let mut owners = snapshot
            .pods
            .values()
            .filter(|pod| !pod.terminal && pod.addresses.contains(address))
            .peekable();
        owners.peek().is_some() && owners.all(|pod| !pod.host_network)
    };
    let denied: Vec<_> = backends
        .iter()
        .filter(|(_, _, verdict)| !verdict.egress.allowed)
        .collect();
    let met_again = !masqueraded && denied.iter().all(|(address, _, _)| is_pod(address));
    match (backends.len(), denied.len()) {
        // Nothing to reach; a rule for everyone and everything needs no backend to say so.
        (0, _) if masqueraded => &["deny", "accept"],
        (0, _) => &["defer", "accept"],
        (_, 0) => &["accept"],
        (all, denied) if all == denied => &["deny"],
        _ if met_again => &["defer"],
        _ => &["deny"],
    }
}
