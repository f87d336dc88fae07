// SPDX-License-Identifier: Apache-2.0
//! The policies in force on this node: those that select at least one of its endpoints, with their rules and peers.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Range,
};

use super::{
    RuleRef,
    check::{CheckedPolicy, CheckedRule},
    fault::{Fault, Findings},
    peer::PeerSpec,
    ports::{PortKey, Ports},
};
use crate::model::{Direction, Pod};

/// Index of a peer in [`Force::peers`].
pub(super) type PeerId = usize;

/// All that is in force.
#[derive(Debug)]
pub(super) struct Force<'a> {
    /// The distinct peers of all rules, sorted by canonical text.
    pub(super) peers: Vec<(String, &'a PeerSpec)>,
    /// All rules, sorted by reference.
    pub(super) rules: Vec<ForceRule<'a>>,
    /// For each endpoint, in the order given: where the rules of the policies that isolate it are in `rules`. `None` where
    /// no policy does (rule I1).
    ingress: Vec<Option<Vec<Range<usize>>>>,
    /// The same for egress.
    egress: Vec<Option<Vec<Range<usize>>>>,
}

/// A rule in force.
#[derive(Debug)]
pub(super) struct ForceRule<'a> {
    /// Where it stands.
    pub(super) reference: RuleRef,
    /// Its peers; `None` is everyone (rule P1).
    pub(super) peers: Option<BTreeSet<PeerId>>,
    /// Its ports.
    pub(super) ports: &'a Ports,
}

impl<'a> Force<'a> {
    /// Finds what is in force on `endpoints`. `policies` are sorted by key.
    pub(super) fn new(policies: &'a [CheckedPolicy<'a>], endpoints: &[&Pod]) -> Self {
        let mut of_namespace: HashMap<&str, Vec<usize>> = HashMap::new();
        for (index, policy) in policies.iter().enumerate() {
            of_namespace.entry(&policy.key.namespace).or_default().push(index);
        }
        let selecting: Vec<Vec<usize>> = endpoints
            .iter()
            .map(|pod| {
                let candidates = of_namespace.get(pod.key.namespace.as_str()).into_iter().flatten();
                candidates
                    .copied()
                    .filter(|&index| policies[index].selects(pod))
                    .collect()
            })
            .collect();
        let in_force: BTreeSet<usize> = selecting.iter().flatten().copied().collect();

        let mut lists = Vec::new();
        for &index in &in_force {
            for direction in [Direction::Ingress, Direction::Egress] {
                if let Some(rules) = policies[index].rules(direction) {
                    lists.push((index, direction, rules));
                }
            }
        }
        let peers = distinct_peers(lists.iter().flat_map(|(_, _, rules)| *rules));
        let ids: HashMap<&str, PeerId> = peers
            .iter()
            .enumerate()
            .map(|(id, (text, _))| (text.as_str(), id))
            .collect();
        let mut rules = Vec::new();
        let mut ranges = BTreeMap::new();
        for (policy, direction, list) in lists {
            let start = rules.len();
            for (index, rule) in list.iter().enumerate() {
                let id = |spec: &PeerSpec| ids.get(spec.to_string().as_str()).copied();
                rules.push(ForceRule {
                    reference: RuleRef {
                        policy: policies[policy].key.clone(),
                        direction,
                        index,
                    },
                    peers: rule
                        .peers
                        .as_ref()
                        .map(|specs| specs.iter().filter_map(id).collect()),
                    ports: &rule.ports,
                });
            }
            ranges.insert((policy, direction), start..rules.len());
        }
        let isolation = |direction| {
            let of_endpoint = |selected: &Vec<usize>| {
                let lists = selected
                    .iter()
                    .filter_map(|&policy| ranges.get(&(policy, direction)).cloned());
                Some(lists.collect::<Vec<_>>()).filter(|lists| !lists.is_empty())
            };
            selecting.iter().map(of_endpoint).collect()
        };
        Self {
            ingress: isolation(Direction::Ingress),
            egress: isolation(Direction::Egress),
            peers,
            rules,
        }
    }

    /// The lists of rules that isolate each endpoint for a direction.
    pub(super) fn isolation(&self, direction: Direction) -> &[Option<Vec<Range<usize>>>] {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }

    /// A number for each rule: never 0, and the same in every compilation unless two rules in force hash alike.
    pub(super) fn number_rules(&self) -> Vec<u32> {
        let mut taken = BTreeSet::from([0]);
        let number = |rule: &ForceRule<'_>| {
            let RuleRef {
                policy,
                direction,
                index,
            } = &rule.reference;
            let mut number = fnv1a(format!("{direction} {policy} {index}").as_bytes());
            while !taken.insert(number) {
                number = number.wrapping_add(1);
            }
            number
        };
        self.rules.iter().map(number).collect()
    }

    /// Reports the named ports of ingress rules that no endpoint gives which the rule's policy selects (rule T4).
    pub(super) fn report_unresolved_ingress(&self, endpoints: &[&Pod], findings: &mut Findings) {
        let mut selected: Vec<Vec<&Pod>> = vec![Vec::new(); self.rules.len()];
        for (pod, lists) in endpoints.iter().zip(&self.ingress) {
            for rule in lists.iter().flatten().cloned().flatten() {
                selected[rule].push(pod);
            }
        }
        for (rule, pods) in self.rules.iter().zip(selected) {
            if rule.reference.direction != Direction::Ingress {
                continue;
            }
            for (index, port) in rule.ports.named() {
                if !pods.iter().any(|pod| port.resolve(pod).is_some()) {
                    rule.report_unresolved(
                        *index,
                        port,
                        "no pod of this node that the policy selects",
                        findings,
                    );
                }
            }
        }
    }
}

impl ForceRule<'_> {
    /// Reports a named port that `nobody` has.
    pub(super) fn report_unresolved(
        &self,
        index: usize,
        port: &PortKey,
        nobody: &str,
        findings: &mut Findings,
    ) {
        let RuleRef {
            policy,
            direction,
            index: rule,
        } = &self.reference;
        let field = format!("spec.{direction}[{rule}].ports[{index}].port");
        let message = format!("{nobody} has a port {port}; this entry matches nothing here");
        findings.add(
            "NetworkPolicy",
            policy,
            Fault::new("named-port-unresolved", field, message),
        );
    }
}

fn distinct_peers<'a>(rules: impl Iterator<Item = &'a CheckedRule>) -> Vec<(String, &'a PeerSpec)> {
    let specs = rules.filter_map(|rule| rule.peers.as_ref()).flatten();
    specs
        .map(|spec| (spec.to_string(), spec))
        .collect::<BTreeMap<_, _>>()
        .into_iter()
        .collect()
}

/// The 32-bit FNV-1a hash.
pub(super) fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, &byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}
