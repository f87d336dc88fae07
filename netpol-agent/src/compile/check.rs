// SPDX-License-Identifier: Apache-2.0
//! NetworkPolicies in normal form, and what is wrong with them. An invalid part matches nothing: it
//! never widens access.

use super::{
    fault::{Fault, diagnostic},
    peer::PeerSpec,
    rule::Ports,
    selector::Selector,
};
use crate::model::{Diagnostic, Direction, Labels, NetworkPolicy, Rule};

/// A checked policy.
#[derive(Debug)]
pub(super) struct CheckedPolicy {
    /// The pods that it isolates; `None` if the selector is invalid and isolates nothing (rule I3).
    selector: Option<Selector>,
    /// Rules, if it applies to ingress (rule I2).
    pub(super) ingress: Option<Vec<CheckedRule>>,
    /// Rules, if it applies to egress (rule I2).
    pub(super) egress: Option<Vec<CheckedRule>>,
}

/// A checked rule.
#[derive(Debug)]
pub(super) struct CheckedRule {
    /// Valid peers; `None` is everyone (rule P1). The list is empty if no peer was valid: it is no
    /// one.
    pub(super) peers: Option<Vec<PeerSpec>>,
    /// Ports.
    pub(super) ports: Ports,
}

/// The pods that a policy isolates, or what is wrong with the selector. An invalid one isolates
/// nothing (rule I3).
pub(super) fn selector(policy: &NetworkPolicy) -> Result<Selector, Vec<Fault>> {
    Selector::parse(&policy.pod_selector, "this policy isolates nothing")
}

impl CheckedPolicy {
    /// Checks a policy. Returns what is wrong with it, too.
    pub(super) fn new(policy: &NetworkPolicy) -> (Self, Vec<Diagnostic>) {
        let mut faults = Vec::new();
        let selector = selector(policy)
            .map_err(|found| faults.extend(found.into_iter().map(|fault| fault.below("spec.podSelector"))))
            .ok();
        let remarks = selector
            .iter()
            .flat_map(|parsed| parsed.remarks(&policy.pod_selector));
        faults.extend(remarks.map(|fault| fault.below("spec.podSelector")));
        faults.extend(check_types(policy));
        let namespace = &policy.key.namespace;
        let ingress = check_rules(&policy.ingress, namespace, ("spec.ingress", "from"), &mut faults);
        let egress = check_rules(&policy.egress, namespace, ("spec.egress", "to"), &mut faults);
        let found = faults
            .into_iter()
            .map(|fault| diagnostic("NetworkPolicy", &policy.key, fault));
        let found = found.collect();
        let checked = Self {
            selector,
            ingress: applies(policy, Direction::Ingress).then_some(ingress),
            egress: applies(policy, Direction::Egress).then_some(egress),
        };
        (checked, found)
    }

    /// Whether it selects a pod of its own namespace with these labels (rules I1, I3).
    pub(super) fn selects(&self, labels: &Labels) -> bool {
        self.selector
            .as_ref()
            .is_some_and(|selector| selector.matches(labels))
    }
}

/// Whether a policy applies to a direction (rule I2).
pub(super) fn applies(policy: &NetworkPolicy, direction: Direction) -> bool {
    match &policy.policy_types {
        Some(types) if !types.is_empty() => types.contains(&direction),
        _ => direction == Direction::Ingress || !policy.egress.is_empty(),
    }
}

/// Finds rules for a direction that the policy does not apply to, and directions that Kubernetes
/// would refuse.
fn check_types(policy: &NetworkPolicy) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (direction, rules) in [
        (Direction::Ingress, &policy.ingress),
        (Direction::Egress, &policy.egress),
    ] {
        if !rules.is_empty() && !applies(policy, direction) {
            let message = format!(
                "spec.policyTypes does not name this direction; these rules allow nothing, and nothing is isolated for {direction}"
            );
            faults.push(Fault::new(
                "rules-not-in-force",
                format!("spec.{direction}"),
                message,
            ));
        }
    }
    if policy.policy_types.as_ref().is_some_and(|types| types.len() > 2) {
        let message = "more than two directions; each that is named counts once";
        faults.push(Fault::new("policy-types-excess", "spec.policyTypes", message));
    }
    faults
}

fn check_rules(
    rules: &[Rule],
    namespace: &str,
    (list, peers): (&str, &str),
    faults: &mut Vec<Fault>,
) -> Vec<CheckedRule> {
    let check = |(index, rule): (usize, &Rule)| {
        let mut specs = Vec::with_capacity(rule.peers.len());
        for (nth, peer) in rule.peers.iter().enumerate() {
            let (spec, found) = PeerSpec::parse(peer, namespace);
            let place = |fault: Fault| fault.below(&format!("{list}[{index}].{peers}[{nth}]"));
            faults.extend(found.into_iter().map(place));
            specs.extend(spec);
        }
        let (ports, found) = Ports::parse(&rule.ports);
        faults.extend(
            found
                .into_iter()
                .map(|fault| fault.below(&format!("{list}[{index}]"))),
        );
        CheckedRule {
            peers: (!rule.peers.is_empty()).then_some(specs),
            ports,
        }
    };
    rules.iter().enumerate().map(check).collect()
}
