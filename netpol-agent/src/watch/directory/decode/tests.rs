// SPDX-License-Identifier: Apache-2.0
//! Which documents are read, skipped and refused, and what is reported of them.

use serde_json::json;

use super::*;
use crate::watch::object::Object;

fn one(value: Value) -> Result<Outcome, Diagnostic> {
    let mut items = Vec::new();
    document("f.yaml, document 1", value, &mut items)?;
    Ok(items.pop().expect("one object").outcome)
}

fn policy(spec: Value) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
           "metadata": {"name": "p", "namespace": "shop", "annotations": {"a": "b"}}, "spec": spec})
}

#[test]
fn a_policy_with_a_field_that_kubernetes_refuses_is_refused() {
    for (spec, code, field) in [
        (json!({"podSelectr": {}}), "field-unknown", "spec.podSelectr"),
        (
            json!({"ingress": [{"from": [{"podSelectr": {}}]}]}),
            "field-unknown",
            "spec.ingress[0].from[0].podSelectr",
        ),
        (
            json!({"ingress": [{"to": []}]}),
            "field-unknown",
            "spec.ingress[0].to",
        ),
        (json!({"egress": {"to": []}}), "field-type", "spec.egress"),
        (json!({"ingress": [null]}), "field-type", "spec.ingress[0]"),
        (
            json!({"ingress": [{"from": [null]}]}),
            "field-type",
            "spec.ingress[0].from[0]",
        ),
        (
            json!({"ingress": [{"ports": [{"port": 1.5}]}]}),
            "field-type",
            "spec.ingress[0].ports[0].port",
        ),
        (
            json!({"ingress": [{"ports": [{"endPort": "80"}]}]}),
            "field-type",
            "spec.ingress[0].ports[0].endPort",
        ),
        (
            json!({"podSelector": {"matchLabels": {"a": 1}}}),
            "field-type",
            "spec.podSelector.matchLabels.a",
        ),
        (
            json!({"policyTypes": ["Ingress", "egress"]}),
            "policy-type-unknown",
            "spec.policyTypes[1]",
        ),
        (
            json!({"policyTypes": "Ingress"}),
            "field-type",
            "spec.policyTypes",
        ),
        (json!([]), "field-type", "spec"),
    ] {
        let Outcome::Refused(id, fault) = one(policy(spec.clone())).unwrap() else {
            panic!("{spec} is refused")
        };
        assert_eq!((fault.code, fault.field.as_str()), (code, field));
        assert_eq!(
            (id.to_string().as_str(), fault.object.as_str()),
            ("NetworkPolicy shop/p", "NetworkPolicy shop/p")
        );
        assert!(fault.message.contains("f.yaml, document 1"), "{fault}");
    }
}

#[test]
fn a_good_policy_is_read() {
    let Outcome::Read(entry) = one(policy(json!({"podSelector": {}, "ingress": [{"from": null}]}))).unwrap()
    else {
        panic!("it is good");
    };
    assert_eq!(entry.diagnostics, []);
}

#[test]
fn fields_beside_spec_are_checked_too() {
    let mut misplaced = policy(json!({}));
    misplaced["podSelector"] = json!({});
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "lables": {}}, "spec": {"any": 1}});
    for (value, expected) in [(misplaced, "podSelector"), (pod, "metadata.lables")] {
        let Outcome::Refused(_, fault) = one(value).unwrap() else {
            panic!("refused")
        };
        assert_eq!((fault.code, fault.field.as_str()), ("field-unknown", expected));
    }
}

#[test]
fn what_cannot_be_told_apart_spoils_the_file() {
    for (value, code) in [
        (json!("text"), "manifest-not-object"),
        (json!([1]), "manifest-not-object"),
        (json!({"knid": "Pod", "apiVersion": "v1"}), "manifest-not-object"),
        (json!({"kind": "Pod"}), "manifest-not-object"),
        (
            json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"generateName": "a"}}),
            "name-missing",
        ),
        (
            json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": 7}}),
            "name-missing",
        ),
        (
            json!({"kind": "NetworkPolcy", "apiVersion": "networking.k8s.io/v1"}),
            "kind-unknown",
        ),
    ] {
        assert_eq!(one(value).unwrap_err().code, code);
    }
}

#[test]
fn a_known_kind_of_an_unknown_version_is_refused_unless_it_is_known_to_be_another() {
    let of =
        |version: &str| json!({"kind": "NetworkPolicy", "apiVersion": version, "metadata": {"name": "p"}});
    for version in [
        "networking.k8s.io/v1beta1",
        "networking.k8.io/v1",
        "extensions/v1beta1",
        "v1",
    ] {
        let Outcome::Refused(_, fault) = one(of(version)).unwrap() else {
            panic!("{version} is refused")
        };
        assert_eq!(
            (fault.code, fault.field.as_str()),
            ("api-version-unknown", "apiVersion")
        );
    }
    let mut items = Vec::new();
    for other in [
        of("projectcalico.org/v3"),
        json!({"kind": "Deployment", "apiVersion": "apps/v1"}),
        json!({"kind": "ConfigMap", "apiVersion": "v1"}),
        json!({"kind": "Ingress", "apiVersion": "networking.k8s.io/v1"}),
    ] {
        document("f", other, &mut items).unwrap();
    }
    assert!(items.is_empty());
}

#[test]
fn bad_names_and_labels_are_reported_and_used() {
    let value = json!({"kind": "Pod", "apiVersion": "v1", "status": {"podIP": "10.0.0.1"},
        "metadata": {"name": "A_b", "namespace": "No", "labels": {"a b": "c", "d": "e f", "g": "h"}}});
    let Outcome::Read(entry) = one(value).unwrap() else {
        panic!("it goes on")
    };
    let found: Vec<_> = entry
        .diagnostics
        .iter()
        .map(|d| (d.code, d.field.as_str()))
        .collect();
    assert_eq!(
        found,
        [
            ("name-invalid", "metadata.name"),
            ("name-invalid", "metadata.namespace"),
            ("label-invalid", "metadata.labels[a b]"),
            ("label-invalid", "metadata.labels[d]"),
        ]
    );
    let Object::Pod(pod) = &entry.object else {
        panic!("a pod")
    };
    assert_eq!(pod.labels.len(), 3);
}
