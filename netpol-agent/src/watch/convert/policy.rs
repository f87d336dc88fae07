// SPDX-License-Identifier: Apache-2.0
//! NetworkPolicy. Everything that has a meaning of its own stays as written.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::model::{
    Direction, IpBlock, LabelExpression, LabelSelector, NetworkPolicy, Peer, PolicyPort, PortName, Rule,
};

use super::{Faults, taken};
use crate::watch::{
    kinds::OfKind as _,
    object::{Entry, Object},
    wire::{self, Refusal, Wire},
};

/// The direction that a word of `policyTypes` means.
fn direction(word: &str) -> Option<Direction> {
    match word {
        "Ingress" => Some(Direction::Ingress),
        "Egress" => Some(Direction::Egress),
        _ => None,
    }
}

impl Wire for wire::NetworkPolicy {
    /// A word that may be a misspelled direction.
    fn refusal(&self) -> Option<Refusal> {
        let spec = self.spec.iter();
        let mut words = spec.flat_map(|spec| spec.policy_types.iter().flatten());
        let unknown = words.position(|word| direction(word).is_none())?;
        let word = self.spec.as_ref()?.policy_types.as_ref()?.get(unknown)?;
        Some((
            "policy-type-unknown",
            format!("spec.policyTypes[{unknown}]"),
            format!("`{word}` is neither Ingress nor Egress"),
        ))
    }

    fn convert(self) -> Entry {
        let (id, _, _) = taken(Self::KIND, self.metadata);
        let mut faults = Faults::of(&id);
        let spec = self.spec.unwrap_or_default();

        // An unknown word leaves the list given: the policy does not fall back to the default
        // directions (rule I2).
        let policy_types = spec.policy_types.filter(|words| !words.is_empty()).map(|words| {
            let mut directions = Vec::new();
            for (index, word) in words.iter().enumerate() {
                match direction(word) {
                    Some(direction) => directions.push(direction),
                    None => faults.report(
                        "policy-type-unknown",
                        format!("spec.policyTypes[{index}]"),
                        format!("`{word}` is neither Ingress nor Egress; this word isolates nothing"),
                    ),
                }
            }
            directions
        });
        let ingress = spec
            .ingress
            .unwrap_or_default()
            .into_iter()
            .map(|rule| self::rule(rule.from, rule.ports));
        let egress = spec
            .egress
            .unwrap_or_default()
            .into_iter()
            .map(|rule| self::rule(rule.to, rule.ports));

        let policy = NetworkPolicy {
            key: id.key,
            pod_selector: selector(spec.pod_selector.unwrap_or_default()),
            policy_types,
            ingress: exact(ingress),
            egress: exact(egress),
        };
        Entry {
            object: Object::NetworkPolicy(Arc::new(policy)),
            diagnostics: faults.found,
        }
    }
}

/// A list without room for more: there may be ten thousand policies, and what they are decoded from
/// is larger.
fn exact<T>(items: impl Iterator<Item = T>) -> Vec<T> {
    let mut items: Vec<T> = items.collect();
    items.shrink_to_fit();
    items
}

fn rule(peers: Option<Vec<wire::NetworkPolicyPeer>>, ports: Option<Vec<wire::NetworkPolicyPort>>) -> Rule {
    Rule {
        peers: exact(peers.unwrap_or_default().into_iter().map(peer)),
        ports: exact(ports.unwrap_or_default().into_iter().map(port)),
    }
}

fn peer(peer: wire::NetworkPolicyPeer) -> Peer {
    Peer {
        pod_selector: peer.pod_selector.map(selector),
        namespace_selector: peer.namespace_selector.map(selector),
        ip_block: peer.ip_block.map(|block| IpBlock {
            cidr: block.cidr.unwrap_or_default(),
            except: exact(block.except.unwrap_or_default().into_iter()),
        }),
    }
}

fn port(port: wire::NetworkPolicyPort) -> PolicyPort {
    PolicyPort {
        protocol: port.protocol,
        port: port.port.map(|port| match port {
            IntOrString::Int(number) => PortName::Number(number),
            IntOrString::String(name) => PortName::Name(name),
        }),
        end_port: port.end_port,
    }
}

fn selector(selector: wire::LabelSelector) -> LabelSelector {
    let expressions = selector.match_expressions.unwrap_or_default().into_iter();
    LabelSelector {
        match_labels: selector.match_labels.unwrap_or_default(),
        match_expressions: exact(expressions.map(|expression| LabelExpression {
            key: expression.key.unwrap_or_default(),
            operator: expression.operator.unwrap_or_default(),
            values: exact(expression.values.unwrap_or_default().into_iter()),
        })),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::watch::convert::{codes, converted};

    fn policy(spec: Value) -> (NetworkPolicy, Entry) {
        let entry = converted::<wire::NetworkPolicy>(
            json!({"metadata": {"name": "p", "namespace": "shop"}, "spec": spec}),
        );
        match &entry.object {
            Object::NetworkPolicy(policy) => (NetworkPolicy::clone(policy), entry.clone()),
            other => panic!("not a policy: {other:?}"),
        }
    }

    #[test]
    fn i2_policy_types_absent_empty_and_given() {
        for (types, expected) in [
            (json!(null), None),
            (json!([]), None),
            (json!(["Egress"]), Some(vec![Direction::Egress])),
            (
                json!(["Ingress", "Egress"]),
                Some(vec![Direction::Ingress, Direction::Egress]),
            ),
        ] {
            let (policy, entry) = policy(json!({"policyTypes": types}));
            assert_eq!(policy.policy_types, expected);
            assert_eq!(codes(&entry), []);
        }
    }

    #[test]
    fn i2_an_unknown_policy_type_is_reported_and_does_not_bring_the_default_back() {
        let (policy, entry) = policy(json!({"policyTypes": ["egress"]}));
        assert_eq!(policy.policy_types, Some(vec![]));
        assert_eq!(codes(&entry), [("policy-type-unknown", "spec.policyTypes[0]")]);
    }

    #[test]
    fn i3_an_absent_selector_is_the_empty_one() {
        assert_eq!(policy(json!({})).0.pod_selector, LabelSelector::default());
        assert_eq!(
            policy(json!({"podSelector": {}})).0.pod_selector,
            LabelSelector::default()
        );
    }

    #[test]
    fn rules_stay_as_written() {
        let (policy, entry) = policy(json!({
            "podSelector": {"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "k", "operator": "Like", "values": null}]},
            "ingress": [{}, {"from": [
                {"podSelector": {}}, {"namespaceSelector": {}, "ipBlock": {"cidr": "10.0.0.0/99", "except": ["x"]}}, {},
            ]}],
            "egress": [{"to": null, "ports": [
                {"port": 70000, "endPort": -1}, {"port": "http", "protocol": "ICMP"}, {"protocol": "UDP"},
            ]}],
        }));
        assert_eq!(codes(&entry), [], "these checks are the compiler's");
        assert_eq!(policy.key.to_string(), "shop/p");
        assert_eq!(policy.pod_selector.match_expressions[0].operator, "Like");
        assert_eq!(policy.ingress[0], Rule::default());
        let peers = &policy.ingress[1].peers;
        assert_eq!(peers[0].pod_selector, Some(LabelSelector::default()));
        assert!(peers[0].namespace_selector.is_none() && peers[0].ip_block.is_none());
        assert!(peers[1].namespace_selector.is_some());
        assert_eq!(
            peers[1]
                .ip_block
                .as_ref()
                .map(|b| (b.cidr.as_str(), b.except.len())),
            Some(("10.0.0.0/99", 1))
        );
        assert_eq!(peers[2], Peer::default());
        let ports = &policy.egress[0].ports;
        assert_eq!(
            (ports[0].port.clone(), ports[0].end_port),
            (Some(PortName::Number(70000)), Some(-1))
        );
        assert_eq!(ports[1].port, Some(PortName::Name("http".into())));
        assert_eq!(ports[1].protocol.as_deref(), Some("ICMP"));
        assert_eq!(
            (ports[2].port.clone(), ports[2].protocol.as_deref()),
            (None, Some("UDP"))
        );
    }
}
