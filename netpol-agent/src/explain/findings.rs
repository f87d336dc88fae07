// SPDX-License-Identifier: Apache-2.0
//! Adds remarks to the verdicts: nodes with unknown addresses, and problems of the objects
//! involved.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    answer::{EndShown, Finding, Verdict},
    held::{Enforcement, World},
};
use crate::{
    compile::compile,
    model::{Diagnostic, Node, Pod, Snapshot},
};

/// Notes that an end which is no pod may be a node. Traffic between a node and its own pods is
/// always allowed (rule A2), but this cannot be decided without the node's addresses.
pub(super) fn note_unknown_nodes(
    snapshot: &Snapshot,
    nodes: &[Node],
    verdicts: &[Verdict],
    notes: &mut Vec<String>,
) {
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

/// Notes policies on other nodes, whose enforcement is unknown here.
pub(super) fn note_enforcement(world: World<'_>, verdicts: &[Verdict], notes: &mut Vec<String>) {
    let mut nodes = BTreeSet::new();
    for verdict in verdicts {
        let sides = [
            (&verdict.source, &verdict.egress),
            (&verdict.destination, &verdict.ingress),
        ];
        for (end, side) in sides {
            if side.isolated && side.enforced == Enforcement::CannotTell {
                let pod = pod_of(world.snapshot, end).filter(|pod| !world.is_local(pod));
                nodes.extend(pod.map(|pod| pod.node.as_deref().unwrap_or("no node yet").to_owned()));
            }
        }
    }
    if !nodes.is_empty() {
        let names: Vec<String> = nodes.into_iter().collect();
        notes.push(format!(
            "cannot tell whether it is enforced on {}: only an agent that is asked there can",
            names.join(", ")
        ));
    }
}

fn pod_of<'a>(snapshot: &'a Snapshot, end: &EndShown) -> Option<&'a Pod> {
    let name = end.name.as_deref()?;
    let pods = snapshot.pods.values().map(AsRef::as_ref);
    pods.into_iter().find(|pod: &&Pod| pod.key.to_string() == name)
}

/// Lists problems of the policies that isolate an end, of policies in its namespace that would
/// isolate it with a correct selector or policy types, and of the pods themselves.
pub(super) fn diagnostics(snapshot: &Snapshot, nodes: &[Node], verdicts: &[Verdict]) -> Vec<Finding> {
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
        found.extend(compile(snapshot, &node).diagnostics.keys().cloned());
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
                .any(|pod| key.split('/').next() == Some(pod.namespace.as_str()));
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
