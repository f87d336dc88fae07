// SPDX-License-Identifier: Apache-2.0
//! Why two ends can or cannot connect: the reference evaluator's verdict of each direction, with the rule that allowed it, or the
//! policies that isolate and what is missing in each of their rules.

use std::collections::{BTreeMap, BTreeSet};

use self::ends::Candidate;
use crate::{
    compile::compile,
    evaluate::{Evaluation, Packet, Side, Why, evaluate, unmatched},
    model::{Diagnostic, Direction, Node, Pod, Snapshot},
};

mod answer;
mod ends;
mod nodes;
mod request;
mod text;

pub use answer::{Answer, EndShown, Finding, MissingShown, PolicyShown, RuleShown, SideShown, Verdict};
pub use ends::EndError;
pub use nodes::{NodeAddresses, known_nodes};
pub use request::{End, Family, Port, Request, RequestError};

/// Answers a request.
///
/// An end that is a pod has all its addresses, one that is a Service those of its ready endpoints; each pair of one family is
/// judged on its own (rule A5 for Services: on the backend and the target port). The answer is allowed if all pairs are.
///
/// `nodes` are the nodes whose addresses are known: see [`known_nodes`].
///
/// # Errors
/// An end that is not there, has no address, or shares no family with the other.
pub fn explain(snapshot: &Snapshot, nodes: &[Node], request: &Request) -> Result<Answer, EndError> {
    let mut notes = Vec::new();
    let sources = ends::sources(snapshot, &request.source, &mut notes)?;
    let destinations = ends::destinations(snapshot, &request.destination, request.port, &mut notes)?;
    let mut verdicts = Vec::new();
    let mut hairpin = false;
    for source in &sources {
        for destination in &destinations {
            let family = Family::of(source.address);
            let wanted = request.family.is_none_or(|only| only == family);
            if !wanted || Family::of(destination.address) != family {
                continue;
            }
            if destination.is_backend && source.name.is_some() && source.name == destination.name {
                notes.push(format!(
                    "{} is itself a backend of the Service; the way from it to itself through the Service is not judged here",
                    source.shown()
                ));
                hairpin = true;
                continue;
            }
            verdicts.push(judge(snapshot, nodes, source, destination, family));
        }
    }
    if verdicts.is_empty() && !hairpin && !sources.is_empty() && !destinations.is_empty() {
        let family = request.family.map_or("no", Family::name);
        return Err(EndError::NoCommonFamily {
            source_end: request.source.to_string(),
            destination: request.destination.to_string(),
            family,
        });
    }
    note_unknown_nodes(snapshot, nodes, &verdicts, &mut notes);
    notes.sort();
    notes.dedup();
    Ok(Answer {
        source: request.source.to_string(),
        destination: request.destination.to_string(),
        port: request.port.to_string(),
        revision: snapshot.revision,
        allowed: !verdicts.is_empty() && verdicts.iter().all(|verdict| verdict.allowed),
        diagnostics: diagnostics(snapshot, nodes, &verdicts),
        verdicts,
        notes,
    })
}

fn judge(
    snapshot: &Snapshot,
    nodes: &[Node],
    source: &Candidate,
    destination: &Candidate,
    family: Family,
) -> Verdict {
    let (protocol, port) = destination.port.of_family(family);
    let packet = Packet {
        source: source.address,
        destination: destination.address,
        protocol,
        port,
    };
    let evaluation = evaluate(snapshot, nodes, &packet);
    let Evaluation { egress, ingress } = &evaluation;
    let side = |side: &Side, direction| {
        let (own, other) = match direction {
            Direction::Egress => (source, destination),
            Direction::Ingress => (destination, source),
        };
        side_shown(snapshot, nodes, &packet, side, direction, own, other)
    };
    Verdict {
        family: family.name().to_owned(),
        source: source.end_shown(),
        destination: destination.end_shown(),
        port: destination.port.to_string(),
        allowed: evaluation.allowed(),
        egress: side(egress, Direction::Egress),
        ingress: side(ingress, Direction::Ingress),
    }
}

fn side_shown(
    snapshot: &Snapshot,
    nodes: &[Node],
    packet: &Packet,
    side: &Side,
    direction: Direction,
    own: &Candidate,
    other: &Candidate,
) -> SideShown {
    let isolating = unmatched(snapshot, nodes, packet, direction);
    let mut policies = Vec::new();
    for policy in isolating {
        let rules = policy.rules.into_iter().map(|rule| RuleShown {
            field: format!("spec.{direction}[{}]", rule.index),
            missing: rule
                .missing
                .into_iter()
                .map(|missing| MissingShown {
                    field: missing.field,
                    message: missing.message,
                })
                .collect(),
        });
        policies.push(PolicyShown {
            policy: policy.policy.to_string(),
            rules: rules.collect(),
        });
    }
    let (reason, text) = match &side.why {
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
        Why::AllowedBy { policy, rule } => (
            "allowed-by-rule",
            format!("allowed by NetworkPolicy {policy}, spec.{direction}[{rule}]"),
        ),
        Why::DeniedBy { policies } => {
            let isolate = match policies.len() {
                1 => "1 policy isolates it".to_owned(),
                count => format!("{count} policies isolate it"),
            };
            (
                "no-rule-matches",
                format!("{isolate} for {direction}, and no rule matches"),
            )
        }
    };
    let (policy, field) = match &side.why {
        Why::AllowedBy { policy, rule } => (
            Some(policy.to_string()),
            Some(format!("spec.{direction}[{rule}]")),
        ),
        _ => (None, None),
    };
    SideShown {
        allowed: side.allowed,
        reason: reason.to_owned(),
        text,
        policy,
        field,
        isolating: policies,
    }
}

/// An end that is no pod may be a node: its traffic with its own pods is always allowed (rule A2), which cannot be told if the
/// node's addresses are not known.
fn note_unknown_nodes(snapshot: &Snapshot, nodes: &[Node], verdicts: &[Verdict], notes: &mut Vec<String>) {
    for verdict in verdicts.iter().filter(|verdict| !verdict.allowed) {
        for (pod, other) in [
            (&verdict.source, &verdict.destination),
            (&verdict.destination, &verdict.source),
        ] {
            let Some(node) = pod_of(snapshot, pod).and_then(|pod| pod.node.as_deref()) else {
                continue;
            };
            let known = nodes
                .iter()
                .any(|known| known.name == node && !known.addresses.is_empty());
            if other.name.is_none() && !known {
                notes.push(format!(
                    "the addresses of node {node} are not known; if {} is one of them, it is allowed (give --node {node}={})",
                    other.address, other.address
                ));
            }
        }
    }
}

fn pod_of<'a>(snapshot: &'a Snapshot, end: &EndShown) -> Option<&'a Pod> {
    let name = end.name.as_deref()?;
    let pods = snapshot.pods.values().map(AsRef::as_ref);
    pods.into_iter().find(|pod: &&Pod| pod.key.to_string() == name)
}

/// What is wrong with the policies that isolate an end, with those of its namespace that would if their selector or policy types
/// were right, and with the pods themselves.
fn diagnostics(snapshot: &Snapshot, nodes: &[Node], verdicts: &[Verdict]) -> Vec<Finding> {
    let ends = verdicts
        .iter()
        .flat_map(|verdict| [&verdict.source, &verdict.destination]);
    let pods: BTreeMap<_, &Pod> = ends
        .filter_map(|end| pod_of(snapshot, end))
        .map(|pod| (pod.key.clone(), pod))
        .collect();
    let of_nodes: BTreeSet<&str> = pods.values().filter_map(|pod| pod.node.as_deref()).collect();
    let mut found: BTreeSet<Diagnostic> = BTreeSet::new();
    for name in of_nodes {
        let known = nodes.iter().find(|node| node.name == name).cloned();
        let node = known.unwrap_or_else(|| Node {
            name: name.to_owned(),
            ..Node::default()
        });
        found.extend(compile(snapshot, &node).diagnostics);
    }
    let sides = verdicts
        .iter()
        .flat_map(|verdict| [&verdict.egress, &verdict.ingress]);
    let involved: BTreeSet<String> = sides
        .flat_map(|side| {
            let isolating = side.isolating.iter().map(|policy| &policy.policy);
            isolating.chain(&side.policy).cloned()
        })
        .collect();
    let concerns = |diagnostic: &Diagnostic| match diagnostic.object.split_once(' ') {
        Some(("NetworkPolicy", key)) => {
            let of_an_end = pods
                .keys()
                .any(|pod| key.split('/').next() == Some(&pod.namespace));
            let decides_isolation = ["spec.podSelector", "spec.policyTypes"]
                .iter()
                .any(|field| diagnostic.field.starts_with(field));
            involved.contains(key) || of_an_end && decides_isolation
        }
        Some(("Pod", key)) => pods.keys().any(|pod| pod.to_string() == key),
        _ => false,
    };
    found.into_iter().filter(concerns).map(Finding::from).collect()
}
