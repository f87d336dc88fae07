// SPDX-License-Identifier: Apache-2.0
//! The judgement of one end of a connection by the evaluator, in words.

use super::{
    answer::{MissingShown, PolicyShown, RuleShown, SideShown, Told},
    ends::Candidate,
    held::{Enforcement, Standing, World},
};
use crate::{
    evaluate::{
        Missing, Packet, Side, Unmatched, Why, evaluate, evaluate_translated, pods_at, unmatched,
        unmatched_by_service,
    },
    model::{Direction, ObjectKey, Pod},
};

/// The judgement of one end's policies.
#[derive(Debug, Clone)]
pub(super) struct Judged {
    pub(super) told: Told,
    pub(super) reason: &'static str,
    text: String,
    rule: Option<(String, String)>,
    isolating: Vec<PolicyShown>,
    /// True if policies isolate the end.
    pub(super) isolated: bool,
}

impl Judged {
    pub(super) fn plain(told: Told, reason: &'static str, text: String) -> Self {
        Self {
            told,
            reason,
            text,
            rule: None,
            isolating: Vec::new(),
            isolated: false,
        }
    }

    /// Judges by the policies of `own`. If several pods claim the address, the verdict is what
    /// holds for all of them.
    pub(super) fn of(
        world: World<'_>,
        packet: &Packet,
        direction: Direction,
        translated: bool,
        own: &Candidate,
        other: &Candidate,
    ) -> Self {
        let whole = Self::by_objects(world, packet, direction, translated, own, other);
        for address in [packet.source, packet.destination] {
            let pods = pods_at(world.snapshot, world.nodes, address);
            let claimed: Vec<ObjectKey> = pods.into_iter().map(|pod| pod.key.clone()).collect();
            let alone = |kept: &ObjectKey| {
                let mut snapshot = world.snapshot.clone();
                for key in claimed.iter().filter(|key| *key != kept) {
                    snapshot.pods.remove(key);
                }
                let world = World {
                    snapshot: &snapshot,
                    ..world
                };
                Self::by_objects(world, packet, direction, translated, own, other).told
            };
            if claimed.len() > 1 && claimed.iter().any(|key| alone(key) != whole.told) {
                let names: Vec<String> = claimed.iter().map(ToString::to_string).collect();
                let names = names.join(" and ");
                let text =
                    format!("{address} is claimed by {names}, and it is not the same for each of them");
                return whole.in_doubt("address-claimed-twice", &text);
            }
        }
        whole
    }

    fn by_objects(
        world: World<'_>,
        packet: &Packet,
        direction: Direction,
        translated: bool,
        own: &Candidate,
        other: &Candidate,
    ) -> Self {
        let World { snapshot, nodes, .. } = world;
        let evaluation = match translated {
            false => evaluate(snapshot, nodes, packet),
            true => evaluate_translated(snapshot, nodes, packet),
        };
        let side = match direction {
            Direction::Egress => evaluation.egress,
            Direction::Ingress => evaluation.ingress,
        };
        let isolating = match translated {
            _ if side.allowed => Vec::new(),
            false => unmatched(snapshot, nodes, packet, direction),
            true => unmatched_by_service(snapshot, nodes, packet, direction),
        };
        let (reason, text) = reason(world, &side, direction, own, other);
        let shown = |policy| policy_shown(policy, direction);
        Self {
            told: if side.allowed { Told::Allowed } else { Told::Denied },
            reason,
            text,
            rule: match &side.why {
                Why::AllowedBy { policy, rule } => Some((policy.to_string(), rule_field(direction, *rule))),
                _ => None,
            },
            isolating: isolating.into_iter().map(shown).collect(),
            isolated: matches!(side.why, Why::AllowedBy { .. } | Why::DeniedBy { .. }),
        }
    }

    pub(super) fn in_doubt(self, reason: &'static str, why: &str) -> Self {
        Self {
            told: Told::CannotTell,
            reason,
            text: why.to_owned(),
            rule: None,
            ..self
        }
    }

    /// Denies everything but the node's traffic if the pod's policies are over budget, whatever
    /// they say (rules A2, L2).
    pub(super) fn over_budget(self, world: World<'_>, own: &Candidate, direction: Direction) -> Self {
        let pod = own.pod(world.snapshot);
        let closed = pod.is_some_and(|pod| world.is_over_budget(pod, direction));
        if !closed || matches!(self.reason, "node" | "same-pod") {
            return self;
        }
        let text = format!(
            "what its policies come to is over budget (pod-over-budget), so it is closed for {direction}; {}",
            self.says()
        );
        Self {
            told: Told::Denied,
            reason: "over-budget",
            text,
            rule: None,
            ..self
        }
    }

    /// Adds what the agent that answers holds about the end. The policies' verdict does not apply
    /// to packets where nothing is enforced.
    pub(super) fn shown(self, world: World<'_>, own: &Candidate) -> SideShown {
        let pod = own.pod(world.snapshot);
        let pod = pod.filter(|pod: &&Pod| !pod.host_network && !pod.terminal);
        let standing = pod.and_then(|pod| world.standing(pod));
        let (judged, enforced) = match (pod, standing) {
            (None, _) if self.reason == "closed-until-known" => (self, Enforcement::Here),
            (None, _) => (self, Enforcement::NoPod),
            (Some(_), None) => (self, Enforcement::CannotTell),
            (Some(_), Some(Standing::Enforced)) => (self, Enforcement::Here),
            (Some(_), Some(Standing::HeldBack(why))) => {
                let why = format!("{}; but {why}", self.says());
                (self.in_doubt("held-back", &why), Enforcement::CannotTell)
            }
            (Some(_), Some(Standing::Unknown(why))) => {
                let why = format!("not enforced here, because {why}; {}", self.says());
                (self.in_doubt("not-enforced-here", &why), Enforcement::NotHere)
            }
            (Some(_), Some(Standing::Open(why))) => {
                let text = format!("not enforced here, because {why}; {}", self.says());
                let judged = Self {
                    told: Told::Allowed,
                    reason: "not-enforced-here",
                    text,
                    rule: None,
                    ..self
                };
                (judged, Enforcement::NotHere)
            }
        };
        let (policy, field) = judged.rule.unzip();
        SideShown {
            allowed: judged.told == Told::Allowed,
            verdict: judged.told,
            reason: judged.reason.to_owned(),
            text: judged.text,
            policy,
            field,
            isolated: judged.isolated,
            isolating: judged.isolating,
            enforced,
        }
    }

    fn says(&self) -> String {
        format!("by its policies it is {}: {}", self.told.word(), self.text)
    }
}

fn rule_field(direction: Direction, index: usize) -> String {
    format!("spec.{direction}[{index}]")
}

fn policy_shown(unmatched: Unmatched, direction: Direction) -> PolicyShown {
    let missing = |missing: Missing| MissingShown {
        field: missing.field,
        message: missing.message,
    };
    let rules = unmatched.rules.into_iter().map(|rule| RuleShown {
        field: rule_field(direction, rule.index),
        missing: rule.missing.into_iter().map(missing).collect(),
    });
    PolicyShown {
        policy: unmatched.policy.to_string(),
        rules: rules.collect(),
    }
}

/// Returns the reason as a code and as a sentence.
fn reason(
    world: World<'_>,
    side: &Side,
    direction: Direction,
    own: &Candidate,
    other: &Candidate,
) -> (&'static str, String) {
    match &side.why {
        Why::NotEnforced => (
            "not-enforced",
            format!(
                "{}, and policies isolate pods only",
                own.why_not_enforced(world.snapshot)
            ),
        ),
        Why::SamePod => (
            "same-pod",
            "a pod that reaches its own address is not filtered".to_owned(),
        ),
        Why::Node => (
            "node",
            format!(
                "{} is an address of the node that the pod runs on, which is always allowed",
                other.address
            ),
        ),
        Why::NotIsolated => ("not-isolated", format!("no policy isolates it for {direction}")),
        Why::AllowedBy { policy, rule } => {
            let field = rule_field(direction, *rule);
            (
                "allowed-by-rule",
                format!("allowed by NetworkPolicy {policy}, {field}"),
            )
        }
        Why::DeniedBy { policies } => {
            let isolate = match policies.len() {
                1 => "1 policy isolates it".to_owned(),
                count => format!("{count} policies isolate it"),
            };
            let text = format!("{isolate} for {direction}, and no rule matches");
            ("no-rule-matches", text)
        }
    }
}
