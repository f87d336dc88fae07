// SPDX-License-Identifier: Apache-2.0
//! Policies that an API server would refuse or that mean nothing, although each part stays in force
//! as written.

use super::build::*;
use crate::model::*;

/// Key, operator and values.
type Expression = (&'static str, &'static str, &'static [&'static str]);

fn require(expressions: &[Expression]) -> LabelSelector {
    let expression = |&(key, operator, values): &Expression| LabelExpression {
        key: key.to_owned(),
        operator: operator.to_owned(),
        values: values.iter().map(|&value| value.to_owned()).collect(),
    };
    LabelSelector {
        match_labels: Labels::new(),
        match_expressions: expressions.iter().map(expression).collect(),
    }
}

/// Codes and fields for a policy with this `podSelector`, without those of other checks.
fn found(selector: LabelSelector) -> Vec<(&'static str, String)> {
    let mut policy = policy("", vec![], vec![]);
    policy.pod_selector = selector;
    let compiled = compiled(vec![web()], vec![policy]);
    let codes = codes(&compiled).into_iter();
    codes.map(|(code, field)| (code, field.to_owned())).collect()
}

#[test]
fn contradictory_selectors() {
    let contradictory: [&[Expression]; 6] = [
        &[("a", "In", &["x"]), ("a", "NotIn", &["x"])],
        &[("a", "Exists", &[]), ("a", "DoesNotExist", &[])],
        &[("a", "In", &["x"]), ("a", "In", &["y"])],
        &[("a", "In", &["x"]), ("a", "DoesNotExist", &[])],
        &[
            ("a", "In", &["x", "y"]),
            ("a", "NotIn", &["x"]),
            ("a", "NotIn", &["y"]),
        ],
        &[
            ("b", "Exists", &[]),
            ("a", "In", &["x"]),
            ("a", "NotIn", &["x", "y"]),
        ],
    ];
    for expressions in contradictory {
        let expected = [("selector-matches-nothing", "spec.podSelector".to_owned())];
        assert_eq!(found(require(expressions)), expected, "{expressions:?}");
    }
    let possible: [&[Expression]; 6] = [
        &[("a", "In", &["x", "y"]), ("a", "NotIn", &["x"])],
        &[("a", "Exists", &[]), ("a", "NotIn", &["x"])],
        &[("a", "DoesNotExist", &[]), ("a", "NotIn", &["x"])],
        &[("a", "In", &["x"]), ("b", "NotIn", &["x"])],
        &[("a", "Exists", &[]), ("b", "DoesNotExist", &[])],
        &[("a", "In", &["x", "y"]), ("a", "In", &["y", "z"])],
    ];
    for expressions in possible {
        assert_eq!(found(require(expressions)), [], "{expressions:?}");
    }
}

#[test]
fn contradictory_peers_are_reported_where_they_stand() {
    let nothing = require(&[("a", "Exists", &[]), ("a", "DoesNotExist", &[])]);
    let peers = vec![pods(nothing.clone()), namespaces(nothing)];
    let compiled = compiled(
        vec![web(), db()],
        vec![policy("", vec![rule(peers, vec![])], vec![])],
    );
    assert_eq!(
        codes(&compiled),
        [
            ("selector-matches-nothing", "spec.ingress[0].from[0].podSelector"),
            (
                "selector-matches-nothing",
                "spec.ingress[0].from[1].namespaceSelector"
            ),
        ]
    );
    assert!(!ingress(&compiled, B, 80));
}

#[test]
fn labels_that_no_object_can_have() {
    let mut labels = require(&[("a b", "Exists", &[]), ("a", "NotIn", &["-x", "y"])]);
    labels.match_labels.insert("c", "no value");
    let field = |below: &str| ("selector-label-invalid", format!("spec.podSelector.{below}"));
    assert_eq!(
        found(labels),
        [
            field("matchExpressions[0]"),
            field("matchExpressions[1]"),
            field("matchLabels[c]")
        ]
    );
}

#[test]
fn i2_rules_for_a_direction_that_is_not_named() {
    let mut odd = policy("", vec![], vec![Rule::default()]);
    odd.policy_types = Some(vec![Direction::Ingress]);
    let compiled = compiled(vec![web()], vec![odd]);
    assert_eq!(codes(&compiled), [("rules-not-in-force", "spec.egress")]);
    assert_eq!(compiled.endpoints[&ObjectKey::new("shop", "web")].egress, None);
}

#[test]
fn directions_that_are_named_too_often() {
    let mut odd = policy("", vec![], vec![]);
    odd.policy_types = Some(vec![Direction::Ingress; 3]);
    let compiled = compiled(vec![web()], vec![odd]);
    assert_eq!(codes(&compiled), [("policy-types-excess", "spec.policyTypes")]);
}

#[test]
fn t4_a_port_name_that_no_container_can_have_is_used_as_written() {
    let entry = port_name("Web_Port");
    let compiled = compiled(
        vec![named(web(), "Web_Port", 80)],
        vec![policy("", vec![rule(vec![], vec![entry])], vec![])],
    );
    assert_eq!(
        codes(&compiled),
        [("port-name-invalid", "spec.ingress[0].ports[0].port")]
    );
    assert!(ingress(&compiled, B, 80) && !ingress(&compiled, B, 81));
}
