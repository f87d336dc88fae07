// SPDX-License-Identifier: Apache-2.0
//! Policies whose rules have different actions: the first rule that matches decides, and what no
//! rule matches gets the default action.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use proptest::prelude::*;

use super::super::{
    Action, Class, ClassId, Entry, Matches, Passage, Policy, PolicyKind, Ports, Rule, RuleRef, Target, ports,
};
use crate::model::{Direction, Map, ObjectKey, ProtocolMatch};

const TCP: u8 = 6;

/// A rule for everyone and for these ports; `None`: for all.
fn rule(place: usize, action: Action, range: Option<(u16, u16)>) -> Arc<Rule> {
    let block = |(port, prefix_len)| ProtocolMatch {
        protocol: TCP,
        port,
        prefix_len,
    };
    Arc::new(Rule {
        reference: RuleRef {
            kind: PolicyKind::NetworkPolicy,
            policy: ObjectKey::new("shop", "web"),
            direction: Direction::Egress,
            index: place,
        },
        number: place as u32 + 1,
        action,
        peers: None,
        selectors: BTreeSet::new().into_iter().collect(),
        ports: range.map_or(Ports::All, |(first, last)| Ports::Listed {
            blocks: ports::aligned(first, last).map(block).collect(),
            named: Vec::new(),
        }),
    })
}

type Ranges = Vec<(bool, Option<(u16, u16)>)>;

fn action(accepts: bool) -> Action {
    if accepts { Action::Accept } else { Action::Deny }
}

fn policy(accepts: bool, rules: &Ranges) -> Policy {
    let rules = rules.iter().enumerate();
    let rules = rules.map(|(place, (accepts, range))| rule(place, action(*accepts), *range));
    Policy::new(
        Direction::Egress,
        action(accepts),
        rules.collect(),
        BTreeMap::new(),
    )
}

fn target(port: u16) -> Target {
    Target {
        class: 1,
        node: false,
        protocol: TCP,
        port,
    }
}

fn classes() -> Map<ClassId, Arc<Class>> {
    [(1, Arc::default())].into_iter().collect()
}

#[test]
fn denials_of_a_pod_that_is_not_isolated_are_entries_beside_one_for_all() {
    let policy = policy(true, &vec![(false, Some((80, 80)))]);
    let denied = ProtocolMatch {
        protocol: TCP,
        port: 80,
        prefix_len: 16,
    };
    let (accept, deny) = (Action::Accept, Action::Deny);
    let expected = [
        (
            None,
            Entry {
                action: accept,
                rule: 0,
            },
        ),
        (
            Some(denied),
            Entry {
                action: deny,
                rule: 1,
            },
        ),
    ];
    assert_eq!(policy.entries(&Class::default()), BTreeMap::from(expected));
    assert_eq!(policy.peers(), None, "it has entries for everyone");
    let classes = classes();
    let passage = |ports: &[u16]| {
        let targets = ports.iter().map(|port| target(*port)).collect();
        policy.passage_over(&targets, &Matches::among(&classes))
    };
    assert_eq!(passage(&[81]), Some(Passage::Accept(0)));
    assert_eq!(passage(&[80, 81]), Some(Passage::Defer));
    assert_eq!(passage(&[80]), None);
}

#[test]
fn a_rule_for_everything_behind_a_denial_is_not_all_that_a_policy_says() {
    let targets = BTreeSet::from([target(80)]);
    let classes = classes();
    let passage = |rules| policy(false, &rules).passage_over(&targets, &Matches::among(&classes));
    assert_eq!(passage(vec![(false, Some((80, 80))), (true, None)]), None);
    assert_eq!(
        passage(vec![(true, None), (false, Some((80, 80)))]),
        Some(Passage::Accept(1))
    );
}

proptest! {
    /// Entries, and what is said of a backend, are what the first rule that matches says.
    #[test]
    fn the_first_rule_that_matches_decides(
        default: bool,
        rules in prop::collection::vec((any::<bool>(), prop::option::weighted(0.9, (0..40_u16, 0..12_u16))), 0..8),
    ) {
        let rules: Ranges = rules
            .into_iter()
            .map(|(accepts, range)| (accepts, range.map(|(first, more)| (first, first + more))))
            .collect();
        let policy = policy(default, &rules);
        let entries = policy.entries(&Class::default());
        let classes = classes();
        let matches = Matches::among(&classes);
        for port in 0..56 {
            let has = |range: &(u16, u16)| (range.0..=range.1).contains(&port);
            let first = rules.iter().find(|(_, range)| range.as_ref().is_none_or(has));
            let expected = action(first.map_or(default, |(accepts, _)| *accepts));
            let around = entries.iter().filter(|(matched, _)| matched.is_none_or(|block| {
                (u32::from(port) ^ u32::from(block.port)) >> (16 - block.prefix_len) == 0
            }));
            let longest = around.max_by_key(|(matched, _)| matched.map(|block| block.prefix_len));
            let found = longest.map_or(Action::Deny, |(_, entry)| entry.action);
            prop_assert_eq!(found, expected, "port {} of {:?}", port, entries);
            // Asked more often than it costs to make the entries.
            for _ in 0..12 {
                prop_assert_eq!(matches.entry_for(&policy, &target(port)).action, expected, "{}", port);
            }
        }
    }
}
