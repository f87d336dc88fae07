// SPDX-License-Identifier: Apache-2.0
//! Policies as teams write them: by labels of pods and of namespaces, by addresses, to ports by
//! number and by name. None has a range of ports: API servers before 1.22 drop it.

use serde_json::{Value, json};

use super::{
    APPS, POLICIES,
    object::{CREATED, app_name, near_name, team, uid},
};
use netpol_tests::random::Random;

/// Policy `index` of all: a namespace has one that denies everything, one for DNS, and one for each
/// of its apps.
pub(super) fn policy(namespace: &str, index: usize) -> Value {
    let (home, slot) = (index / POLICIES, index % POLICIES);
    let spec = match slot {
        0 => json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}),
        1 => json!({
            "podSelector": {}, "policyTypes": ["Egress"],
            "egress": [{
                "to": [{
                    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": near_name(0)}},
                    "podSelector": {"matchLabels": {"app": app_name(17)}},
                }],
                "ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}],
            }],
        }),
        _ => of_app(home, slot - 2),
    };
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {
            "namespace": namespace, "name": format!("policy-{slot:02}"),
            "uid": uid(&format!("{namespace}/{slot}")), "creationTimestamp": CREATED,
        },
        "spec": spec,
    })
}

/// What one app of a namespace lets in and out.
fn of_app(home: usize, app: usize) -> Value {
    let port = |number: usize| json!({"protocol": "TCP", "port": number});
    let named = |name: &str| json!({"protocol": "TCP", "port": name});
    let selector = |app: usize| json!({"matchLabels": {"app": app_name(app % APPS)}});
    let other_team = json!({"matchLabels": {"team": team(home + 1)}});
    let subject = selector(app);
    // The first ones are of every form; the others are mixed.
    let form = if app < 6 {
        app
    } else {
        Random((home * APPS + app) as u64).below(6)
    };
    match form {
        0 => json!({
            "podSelector": subject, "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"namespaceSelector": other_team}], "ports": [port(8080), port(8443)]}],
        }),
        1 => json!({
            "podSelector": subject, "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"podSelector": selector(app + 1)}], "ports": [named("http")]}],
        }),
        2 => json!({
            "podSelector": subject, "policyTypes": ["Egress"],
            "egress": [
                {"to": [{"ipBlock": {"cidr": "203.0.113.0/24", "except": ["203.0.113.128/25"]}}], "ports": [port(443)]},
                {"to": [{"ipBlock": {"cidr": format!("192.0.{}.0/24", home % 256)}}], "ports": [port(5432), port(6379)]},
            ],
        }),
        3 => json!({
            "podSelector": subject, "policyTypes": ["Ingress"],
            "ingress": [{
                "from": [
                    {"podSelector": selector(app + 1)},
                    {"namespaceSelector": other_team, "podSelector": selector(app + 2)},
                ],
                "ports": [port(8080), port(8081), port(9090), port(9091), port(9092)],
            }],
        }),
        4 => json!({
            "podSelector": subject, "policyTypes": ["Egress"],
            "egress": [
                {"to": [{"podSelector": selector(app + 1)}], "ports": [named("http"), named("metrics")]},
                {"to": [{"namespaceSelector": other_team}], "ports": [port(5432)]},
            ],
        }),
        _ => json!({
            "podSelector": subject, "policyTypes": ["Ingress", "Egress"],
            "ingress": [{
                "from": [{
                    "namespaceSelector": {"matchExpressions": [
                        {"key": "env", "operator": "In", "values": ["prod", "staging"]},
                    ]},
                    "podSelector": {"matchLabels": {"tier": "frontend"}},
                }],
                "ports": [port(8080)],
            }],
            "egress": [{"to": [{"podSelector": {}}]}],
        }),
    }
}
