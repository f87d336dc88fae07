// SPDX-License-Identifier: Apache-2.0
//! Checks every verdict of the corpus: `explain` on each expectation, `matrix` on each pair of
//! pods, and a reason for each rule that denies.

use std::{collections::BTreeMap, process::Output, thread};

use netpol_agent::{
    evaluate::{Unmatched, evaluate, unmatched},
    model::{Direction, Node, Pod},
};
use netpol_tests::{
    cases::{Case, End, Expectation, Family, Step, load_all},
    manifests::ManifestDir,
};
use serde_json::Value;

use crate::shared::{json, netpol, stderr, stdout};

/// Writes the objects of a step into a folder.
fn folder(step: &Step) -> ManifestDir {
    let folder = ManifestDir::new().unwrap();
    for (index, object) in step.objects.iter().enumerate() {
        folder
            .write(&format!("{index:03}.json"), &object.to_string())
            .unwrap();
    }
    folder
}

/// Returns `--node` for each node of the case.
fn node_options(nodes: &[Node]) -> Vec<String> {
    let option = |node: &Node| {
        let addresses: Vec<String> = node.addresses.iter().map(ToString::to_string).collect();
        format!("--node={}={}", node.name, addresses.join(","))
    };
    nodes.iter().map(option).collect()
}

fn port_of(expectation: &Expectation) -> String {
    match (expectation.protocol, expectation.port) {
        (6, Some(port)) => format!("{port}/TCP"),
        (17, Some(port)) => format!("{port}/udp"),
        (132, Some(port)) => format!("{port}/SCTP"),
        (1 | 58, None) => "icmp".to_owned(),
        (number, _) => format!("ip/{number}"),
    }
}

/// Returns an end as an argument; a node stands for its first address of the family.
fn end_of(case: &Case, end: &End, family: Family) -> String {
    match end {
        End::Node(name) => {
            let node = case.nodes.iter().find(|node| node.name == *name).unwrap();
            let mut addresses = node.addresses.iter();
            let address = addresses.find(|address| Family::of(address) == family).unwrap();
            address.to_string()
        }
        End::Service(key) => format!("{}/svc/{}", key.namespace, key.name),
        End::Pod(key) => format!("{}/pod/{}", key.namespace, key.name),
        other => other.to_string(),
    }
}

/// Runs `check` on every case, two at a time, and returns what is wrong.
fn in_parallel(check: impl Fn(&Case) -> Vec<String> + Sync) -> Vec<String> {
    let cases = load_all().unwrap();
    let halves = cases.chunks(cases.len().div_ceil(2));
    thread::scope(|scope| {
        let check = &check;
        let running: Vec<_> = halves
            .map(|half| scope.spawn(move || half.iter().flat_map(check).collect::<Vec<_>>()))
            .collect();
        running
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect()
    })
}

#[test]
fn explain_gives_the_verdict_of_every_expectation() {
    let wrong = in_parallel(|case| {
        let mut wrong = Vec::new();
        for (index, step) in case.steps.iter().enumerate() {
            let folder = folder(step);
            let source = folder.path().to_str().unwrap();
            let nodes = node_options(&case.nodes);
            for expectation in &step.expectations {
                let family = expectation.family.to_string();
                let from = end_of(case, &expectation.from, expectation.family);
                let to = end_of(case, &expectation.to, expectation.family);
                let port = port_of(expectation);
                let mut arguments = vec!["explain", "--source", source, "-o", "json", "--family", &family];
                arguments.extend([from.as_str(), &to, &port]);
                arguments.extend(nodes.iter().map(String::as_str));
                let output = netpol(&arguments);
                if expectation.via.is_some() {
                    wrong.extend(odd_backend(case, step, expectation, &output));
                    continue;
                }
                let code = if expectation.allowed { 0 } else { 1 };
                let place = format!("{} step {index}: {expectation}", case.name);
                if output.status.code() != Some(code) {
                    wrong.push(format!(
                        "{place}: {} {}{}",
                        output.status,
                        stdout(&output),
                        stderr(&output)
                    ));
                    continue;
                }
                let answer = json(&output);
                wrong.extend(
                    odd_answer(&answer, expectation.allowed).map(|odd| format!("{place}: {odd}: {answer}")),
                );
            }
        }
        wrong
    });
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// Describes what is wrong with the answer to an expectation through a Service. The backend must be
/// among the verdicts with the right one, and their sum must be the exit code.
fn odd_backend(case: &Case, step: &Step, expectation: &Expectation, output: &Output) -> Option<String> {
    let answer = json(output);
    let verdicts = answer["verdicts"].as_array().unwrap();
    let allowed = verdicts
        .iter()
        .filter(|verdict| verdict["allowed"] == true)
        .count();
    let unknown = verdicts.iter().any(|verdict| verdict["verdict"] == "cannot-tell");
    let (code, outcome) = match allowed {
        _ if unknown => (3, "cannot-tell"),
        0 => (1, "denied"),
        all if all == verdicts.len() => (0, "allowed"),
        _ => (1, "partly"),
    };
    let backend = step.via_address(&case.nodes, expectation).unwrap().to_string();
    let frontend = step
        .packet(&case.nodes, expectation)
        .unwrap()
        .destination
        .to_string();
    let found = verdicts
        .iter()
        .find(|verdict| verdict["destination"]["address"] == *backend);
    let odd = if output.status.code() != Some(code) || answer["outcome"] != outcome {
        Some("another outcome than the verdicts come to")
    } else if verdicts.iter().any(|verdict| verdict["frontend"] != *frontend) {
        Some("another frontend")
    } else {
        match found {
            None => expectation.allowed.then_some("the backend is missing"),
            Some(verdict) => odd_verdict(verdict, expectation.allowed),
        }
    };
    odd.map(|odd| format!("{}: {expectation}: {odd}: {} {answer}", case.name, output.status))
}

/// Describes what in an answer contradicts its verdict.
fn odd_answer(answer: &Value, allowed: bool) -> Option<&'static str> {
    let outcome = if allowed { "allowed" } else { "denied" };
    if answer["outcome"] != outcome || answer["allowed"] != allowed {
        return Some("another outcome than the exit code");
    }
    odd_verdict(&answer["verdicts"][0], allowed)
}

fn odd_verdict(verdict: &Value, allowed: bool) -> Option<&'static str> {
    if verdict["allowed"] != allowed {
        return Some("the wrong verdict");
    }
    let sides = ["egress", "ingress"].map(|side| &verdict[side]);
    for side in sides {
        let isolating = side["isolating"].as_array()?;
        let denied = side["allowed"] == false;
        if denied == isolating.is_empty() {
            return Some("isolating policies are named exactly on a denied side");
        }
        if (side["reason"] == "allowed-by-rule") != side["field"].is_string() {
            return Some("the rule is named exactly where one allows");
        }
        let rules = isolating
            .iter()
            .filter_map(|policy| policy["rules"].as_array())
            .flatten();
        for rule in rules {
            if rule["missing"].as_array().is_none_or(Vec::is_empty) {
                return Some("a rule that does not match without what is missing");
            }
        }
    }
    None
}

#[expect(
    clippy::too_many_lines,
    reason = "one comparison, in each way to print a matrix"
)]
#[test]
fn matrix_lists_every_pair_with_the_evaluator_s_verdict() {
    let wrong = in_parallel(|case| {
        let mut wrong = Vec::new();
        for (index, step) in case.steps.iter().enumerate() {
            let folder = folder(step);
            let nodes = node_options(&case.nodes);
            let mut arguments = vec![
                "matrix",
                "--source",
                folder.path().to_str().unwrap(),
                "-o",
                "json",
            ];
            // A Service's backend is an ordinary pod, at its own port.
            let at_backend = |expectation: &Expectation| -> Option<Expectation> {
                let Some(backend) = expectation.via.clone() else {
                    return Some(expectation.clone());
                };
                let translated = step.translated(&case.nodes, expectation).unwrap()?;
                Some(Expectation {
                    to: backend,
                    port: translated.packet.port,
                    ..expectation.clone()
                })
            };
            let expectations: Vec<Expectation> = step.expectations.iter().filter_map(at_backend).collect();
            if expectations.is_empty() {
                continue; // Nothing is led to any pod.
            }
            let ports: Vec<String> = expectations.iter().map(port_of).collect();
            arguments.extend(ports.iter().flat_map(|port| ["--port", port]));
            arguments.extend(nodes.iter().map(String::as_str));
            let output = netpol(&arguments);
            assert_eq!(
                output.status.code(),
                Some(0),
                "{}: {}",
                case.name,
                stderr(&output)
            );
            let pairs = listed(case, &output);
            let pods: Vec<_> = step
                .snapshot
                .pods
                .values()
                .filter(|pod| !pod.host_network && !pod.terminal)
                .collect();
            let families = [Family::Ipv4, Family::Ipv6].map(|family| {
                let count = pods.iter().filter(|pod| has_family(pod, family)).count();
                count * count.saturating_sub(1)
            });
            let mut distinct = ports.clone();
            distinct.sort();
            distinct.dedup();
            assert_eq!(
                pairs.len(),
                families.iter().sum::<usize>() * distinct.len(),
                "{} step {index}",
                case.name
            );
            for expectation in &expectations {
                let is_listed = |end: &End| pods.iter().any(|pod| *end == End::Pod(pod.key.clone()));
                if !is_listed(&expectation.from)
                    || !is_listed(&expectation.to)
                    || expectation.from == expectation.to
                {
                    continue;
                }
                let key = (
                    expectation.from.to_string(),
                    expectation.to.to_string(),
                    expectation.family.to_string(),
                    port_of(expectation).to_lowercase(),
                );
                if pairs.get(&key) != Some(&expectation.allowed) {
                    wrong.push(format!(
                        "{} step {index}: {expectation}: {:?}",
                        case.name,
                        pairs.get(&key)
                    ));
                }
            }
        }
        wrong
    });
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// Returns the pairs that `matrix` lists, each once, in lower case: from, to, family, port; and
/// whether it is allowed.
fn listed(case: &Case, output: &Output) -> BTreeMap<(String, String, String, String), bool> {
    let mut pairs = BTreeMap::new();
    for pair in json(output).as_array().unwrap() {
        let text = |field: &str| pair[field].as_str().unwrap().to_lowercase();
        let port = match pair["port"].as_u64() {
            Some(port) => format!("{port}/{}", text("protocol")),
            None if text("protocol") == "icmp" => "icmp".to_owned(),
            None => format!("ip/{}", text("protocol")),
        };
        let key = (text("from"), text("to"), text("family"), port);
        let allowed = pair["allowed"].as_bool().unwrap();
        let before = pairs.insert(key, allowed);
        assert_eq!(before, None, "{}: a pair is listed twice: {pair}", case.name);
    }
    pairs
}

fn has_family(pod: &Pod, family: Family) -> bool {
    pod.addresses.iter().any(|address| Family::of(address) == family)
}

#[test]
fn every_rule_that_does_not_match_says_why() {
    let mut denied = 0;
    for case in load_all().unwrap() {
        for step in &case.steps {
            for expectation in &step.expectations {
                if expectation.via.is_some() {
                    continue; // Looked at in the answers of the command.
                }
                let packet = step.packet(&case.nodes, expectation).unwrap();
                let evaluation = evaluate(&step.snapshot, &case.nodes, &packet);
                for (direction, side) in [
                    (Direction::Egress, &evaluation.egress),
                    (Direction::Ingress, &evaluation.ingress),
                ] {
                    let found: Vec<Unmatched> = unmatched(&step.snapshot, &case.nodes, &packet, direction);
                    assert_eq!(found.is_empty(), side.allowed, "{}: {expectation}", case.name);
                    let mut rules = found.iter().flat_map(|policy| &policy.rules);
                    assert!(
                        rules.all(|rule| !rule.missing.is_empty()),
                        "{}: {expectation}: {found:?}",
                        case.name
                    );
                    denied += usize::from(!side.allowed);
                }
            }
        }
    }
    assert!(denied > 50, "only {denied} sides are denied");
}
