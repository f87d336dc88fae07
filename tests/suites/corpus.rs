// SPDX-License-Identifier: Apache-2.0
//! The corpus of cases against the evaluator and against the compiler.

use netpol_agent::{compile::compile, evaluate::evaluate, model::Direction};
use netpol_tests::{
    cases::{Case, Step, load_all},
    lookup,
};

/// Asks every expectation of the corpus; the answer is the verdict and why.
fn check(answer: impl Fn(&Case, &Step, &netpol_agent::evaluate::Packet) -> (bool, String)) {
    let mut wrong = Vec::new();
    for case in load_all().unwrap() {
        for (index, step) in case.steps.iter().enumerate() {
            for expectation in &step.expectations {
                let packet = step.packet(&case.nodes, expectation).unwrap();
                let (allowed, why) = answer(&case, step, &packet);
                if allowed != expectation.allowed {
                    let expected = if expectation.allowed { "allowed" } else { "denied" };
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
    check(|case, step, packet| {
        let evaluation = evaluate(&step.snapshot, &case.nodes, packet);
        (evaluation.allowed(), format!("{evaluation:?}"))
    });
}

#[test]
fn compiler() {
    check(|case, step, packet| {
        let (mut allowed, mut why) = (true, String::new());
        for node in &case.nodes {
            let compiled = compile(&step.snapshot, node);
            for direction in [Direction::Egress, Direction::Ingress] {
                let verdict = lookup::allows(&compiled, direction, packet);
                allowed &= verdict.unwrap_or(true);
                why += &format!("{} {direction} {verdict:?}; ", node.name);
            }
        }
        (allowed, why)
    });
}

#[test]
fn every_rule_has_a_case() {
    let cases = load_all().unwrap();
    let rules = "I1 I2 I3 I4 I5 I6 I7 P1 P2 P3 P4 P5 P6 P7 T1 T2 T3 T4 T5 A1 A2 A4 F4 F5";
    for rule in rules.split(' ') {
        assert!(
            cases
                .iter()
                .any(|case| case.rules.iter().any(|proven| proven == rule)),
            "no case proves {rule}"
        );
    }
}
