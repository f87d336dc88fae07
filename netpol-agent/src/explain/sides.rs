// SPDX-License-Identifier: Apache-2.0
//! The verdict for one pair of addresses, and each side's reason in words.

use std::net::IpAddr;

use super::{Family, MissingShown, PolicyShown, RuleShown, SideShown, Verdict, ends::Candidate};
use crate::{
    evaluate::{Evaluation, Packet, Side, Unmatched, Why, evaluate, unmatched, unmatched_by_service},
    model::{Direction, Node, Snapshot},
};

/// The packet from one address to the other; both are of `family`.
pub(super) fn packet(source: &Candidate, destination: &Candidate, family: Family) -> Packet {
    let (protocol, port) = destination.port.of_family(family);
    Packet {
        source: source.address,
        destination: destination.address,
        protocol,
        port,
    }
}

/// Judges the packet from one address to the other; both are of `family`. One that comes by a Service's `frontend` was judged already.
pub(super) fn judge(
    snapshot: &Snapshot,
    nodes: &[Node],
    source: &Candidate,
    destination: &Candidate,
    family: Family,
    by_service: Option<(IpAddr, Evaluation)>,
) -> Verdict {
    let packet = packet(source, destination, family);
    let (frontend, evaluation) = by_service.unzip();
    let evaluation = evaluation.unwrap_or_else(|| evaluate(snapshot, nodes, &packet));
    let side = |side: &Side, direction| {
        let (own, other) = match direction {
            Direction::Egress => (source, destination),
            Direction::Ingress => (destination, source),
        };
        let (reason, text) = reason(snapshot, side, direction, own, other);
        let rule = match &side.why {
            Why::AllowedBy { policy, rule } => Some((policy.to_string(), rule_field(direction, *rule))),
            _ => None,
        };
        let (policy, field) = rule.unzip();
        let isolating = match frontend {
            None => unmatched(snapshot, nodes, &packet, direction),
            Some(_) => unmatched_by_service(snapshot, nodes, &packet, direction),
        };
        SideShown {
            allowed: side.allowed,
            reason: reason.to_owned(),
            text,
            policy,
            field,
            isolating: isolating
                .into_iter()
                .map(|policy| policy_shown(policy, direction))
                .collect(),
        }
    };
    Verdict {
        family: family.name().to_owned(),
        source: source.end_shown(),
        frontend,
        destination: destination.end_shown(),
        port: destination.port.to_string(),
        allowed: evaluation.allowed(),
        egress: side(&evaluation.egress, Direction::Egress),
        ingress: side(&evaluation.ingress, Direction::Ingress),
    }
}

fn rule_field(direction: Direction, index: usize) -> String {
    format!("spec.{direction}[{index}]")
}

fn policy_shown(unmatched: Unmatched, direction: Direction) -> PolicyShown {
    let missing = |missing: crate::evaluate::Missing| MissingShown {
        field: missing.field,
        message: missing.message,
    };
    let rules = unmatched.rules.into_iter().map(|rule| RuleShown {
        field: rule_field(direction, rule.index),
        missing: rule.missing.into_iter().map(missing).collect(),
    });
    PolicyShown {
        policy: unmatched.policy.to_string(),
        rules: rules.collect(),
    }
}

/// The reason as a word and in words.
fn reason(
    snapshot: &Snapshot,
    side: &Side,
    direction: Direction,
    own: &Candidate,
    other: &Candidate,
) -> (&'static str, String) {
    match &side.why {
        Why::NotEnforced => (
            "not-enforced",
            format!(
                "{}, and policies isolate pods only",
                own.why_not_enforced(snapshot)
            ),
        ),
        Why::SamePod => (
            "same-pod",
            "a pod that reaches its own address is not filtered".to_owned(),
        ),
        Why::Node => (
            "node",
            format!(
                "{} is an address of the node that the pod runs on, which is always allowed",
                other.address
            ),
        ),
        Why::NotIsolated => ("not-isolated", format!("no policy isolates it for {direction}")),
        Why::AllowedBy { policy, rule } => {
            let field = rule_field(direction, *rule);
            (
                "allowed-by-rule",
                format!("allowed by NetworkPolicy {policy}, {field}"),
            )
        }
        Why::DeniedBy { policies } => {
            let isolate = match policies.len() {
                1 => "1 policy isolates it".to_owned(),
                count => format!("{count} policies isolate it"),
            };
            let text = format!("{isolate} for {direction}, and no rule matches");
            ("no-rule-matches", text)
        }
    }
}
