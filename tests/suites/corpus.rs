// SPDX-License-Identifier: Apache-2.0
//! Checks the corpus of cases against the evaluator and the compiler.

use std::{fs, path::Path};

use netpol_agent::{
    compile::{Compiled, compile},
    evaluate::{evaluate, evaluate_service},
    model::Direction,
};
use netpol_tests::{
    cases::{Case, Expectation, Step, load_all},
    lookup,
};

/// Checks every expectation of the corpus against `answer`, which returns the verdict and its
/// reason. With `enforced`, a Service that is closed as a whole must be closed. That is a
/// limitation: once it is gone, adapt [`Step::is_closed_as_a_whole`].
fn check(enforced: bool, answer: impl Fn(&Case, &Step, &Expectation) -> (bool, String)) {
    let mut wrong = Vec::new();
    for case in load_all().unwrap() {
        for (index, step) in case.steps.iter().enumerate() {
            for expectation in &step.expectations {
                let closed = enforced && step.is_closed_as_a_whole(&case.nodes, expectation).unwrap();
                let (allowed, why) = answer(&case, step, expectation);
                if allowed != (expectation.allowed && !closed) {
                    let expected = match (expectation.allowed, closed) {
                        (_, true) => "closed as a whole",
                        (true, false) => "allowed",
                        (false, false) => "denied",
                    };
                    let (name, rules) = (&case.name, case.rules.join(" "));
                    wrong.push(format!(
                        "{name} ({rules}) step {index}: {expectation} must be {expected}: {why}"
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn evaluator() {
    check(false, |case, step, expectation| {
        let packet = step.packet(&case.nodes, expectation).unwrap();
        if expectation.via.is_none() {
            let evaluation = evaluate(&step.snapshot, &case.nodes, &packet);
            return (evaluation.allowed(), format!("{evaluation:?}"));
        }
        let backends = evaluate_service(&step.snapshot, &case.nodes, &packet).expect("a Service is there");
        let wanted = step.via_address(&case.nodes, expectation).unwrap();
        let mut found = backends
            .iter()
            .filter(|(address, _, _)| *address == wanted)
            .peekable();
        let allowed = found.peek().is_some() && found.all(|(_, _, evaluation)| evaluation.allowed());
        (allowed, format!("{backends:?}"))
    });
}

#[test]
fn compiler() {
    check(true, |case, step, expectation| {
        let compiled: Vec<Compiled> = case
            .nodes
            .iter()
            .map(|node| compile(&step.snapshot, node))
            .collect();
        let packet = step.packet(&case.nodes, expectation).unwrap();
        if expectation.via.is_some() {
            return by_service(case, step, expectation, &compiled);
        }
        let (mut allowed, mut why) = (true, String::new());
        for (node, compiled) in case.nodes.iter().zip(&compiled) {
            for direction in [Direction::Egress, Direction::Ingress] {
                let verdict = lookup::allows(compiled, direction, &packet);
                allowed &= verdict.unwrap_or(true);
                why += &format!("{} {direction} {verdict:?}; ", node.name);
            }
        }
        (allowed, why)
    });
}

/// Checks the packet to the frontend, and then the translated packet to the backend.
fn by_service(case: &Case, step: &Step, expectation: &Expectation, compiled: &[Compiled]) -> (bool, String) {
    let packet = step.packet(&case.nodes, expectation).unwrap();
    let Some(translated) = step.translated(&case.nodes, expectation).unwrap() else {
        return (false, "kube-proxy does not lead there".to_owned());
    };
    let (mut allowed, mut why) = (true, String::new());
    for (node, compiled) in case.nodes.iter().zip(compiled) {
        let first = lookup::passes_frontend(compiled, &packet);
        let second = lookup::passes_backend(compiled, &translated.packet, translated.seen);
        allowed &= first.unwrap_or(true) && second.unwrap_or(true);
        why += &format!(
            "{}: at the frontend {first:?}, at the backend {second:?}; ",
            node.name
        );
    }
    (allowed, why)
}

#[test]
fn every_rule_has_a_case() {
    let cases = load_all().unwrap();
    let rules = "I1 I2 I3 I4 I5 I6 I7 P1 P2 P3 P4 P5 P6 P7 T1 T2 T3 T4 T5 A1 A2 A4 A5 A7 F4 F5";
    for rule in rules.split(' ') {
        assert!(
            cases
                .iter()
                .any(|case| case.rules.iter().any(|proven| proven == rule)),
            "no case proves {rule}"
        );
    }
}

#[test]
fn a5_every_kind_of_frontend_has_both_verdicts() {
    let mut found = std::collections::BTreeSet::new();
    for case in load_all().unwrap() {
        for step in &case.steps {
            for expectation in step.expectations.iter().filter(|wanted| wanted.via.is_some()) {
                let to = step.packet(&case.nodes, expectation).unwrap().destination;
                let services = || step.snapshot.services.values();
                let kind = if services().any(|service| service.cluster_ips.contains(&to)) {
                    "ClusterIP"
                } else if services().any(|service| service.external_ips.contains(&to)) {
                    "ExternalIP"
                } else if services().any(|service| service.load_balancer_ips.contains(&to)) {
                    "LoadBalancer IP"
                } else {
                    "NodePort"
                };
                found.insert((kind, to.is_ipv4(), expectation.allowed));
            }
        }
    }
    assert_eq!(
        found.len(),
        16,
        "four kinds, two families, two verdicts: {found:?}"
    );
}

/// A reviewer reads cases line by line: each line is short, and holds one thing. Flow style stands
/// for what is empty, and for the rules of a case.
#[test]
fn cases_are_in_block_style() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("cases");
    let mut read = 0;
    for folder in [folder.clone(), folder.join("clusters")] {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "yaml") {
                continue;
            }
            for (index, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
                let place = format!("{}:{}", path.display(), index + 1);
                assert!(line.chars().count() <= 120, "{place}: more than 120 columns");
                let flow = line.replace("{}", "").replace("[]", "").contains(['{', '[']);
                assert!(
                    !flow || line.starts_with("rules: ["),
                    "{place}: not in block style"
                );
            }
            read += 1;
        }
    }
    assert!(read > 35, "only {read} files were read");
}
