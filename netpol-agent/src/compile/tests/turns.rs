// SPDX-License-Identifier: Apache-2.0
//! Many selector peers and many pods that are told apart: what a turn costs is counted, not timed
//! (rule L2).

use proptest::prelude::*;

use super::{
    super::{Compiled, Compiler, compile},
    build::*,
};
use crate::{
    compile::{active::ALIKE, named_ports::HELD},
    model::*,
};

const SETS: usize = 40;

/// `shop/web` and as many pods of another namespace as told, each with a label set of its own.
fn pods_of(count: usize) -> Vec<Pod> {
    let one = |nth: usize| {
        let address = format!("10.9.{}.{}", nth / 256, nth % 256);
        named(
            pod("jobs", &format!("j{nth}"), &format!("job=j{nth}"), &address),
            "http",
            80,
        )
    };
    (0..count).map(one).chain([web()]).collect()
}

fn everywhere(key: &str, operator: &str, values: Vec<String>) -> Peer {
    let expression = LabelExpression {
        key: key.to_owned(),
        operator: operator.to_owned(),
        values,
    };
    Peer {
        namespace_selector: Some(LabelSelector::default()),
        pod_selector: Some(LabelSelector {
            match_expressions: vec![expression],
            ..LabelSelector::default()
        }),
        ..Peer::default()
    }
}

/// Peers that tell all pods apart: by each binary digit of their number.
fn digits() -> Vec<Peer> {
    let digits = 0..usize::BITS - SETS.leading_zeros();
    let peer = |digit| {
        let with = (0..SETS).filter(|nth| nth >> digit & 1 == 1);
        everywhere("job", "In", with.map(|nth| format!("j{nth}")).collect())
    };
    digits.map(peer).collect()
}

/// Peers that all pods match.
fn same(from: usize, to: usize) -> Vec<Peer> {
    let peer = |nth| everywhere(&format!("k{nth}"), "DoesNotExist", Vec::new());
    (from..to).map(peer).collect()
}

fn to(name: &str, peers: Vec<Peer>, ports: Vec<PolicyPort>) -> NetworkPolicy {
    let mut policy = policy("app=web", vec![], vec![rule(peers, ports)]);
    policy.key.name = name.into();
    policy.policy_types = Some(vec![Direction::Egress]);
    policy
}

/// Compiles one turn. Returns how often it was made out what a profile says.
fn turn(compiler: &mut Compiler, pods: usize, policies: Vec<NetworkPolicy>) -> (Compiled, usize) {
    let before = compiler.profiles.made;
    let compiled = compiler.compile(&snapshot(pods_of(pods), policies), &node());
    (compiled, compiler.profiles.made - before)
}

/// What each set of pods that are alike matches is made once a turn, however many peers come, go,
/// or reach it by other ports.
#[test]
fn l2_a_turn_makes_what_pods_match_once_however_many_peers_come_and_go() {
    let mut compiler = Compiler::default();
    let mut count = |policies| turn(&mut compiler, SETS, policies).1;
    count(vec![]);
    let all: Vec<Peer> = digits().into_iter().chain(same(0, 300)).collect();
    let come = count(vec![to("a", all.clone(), vec![])]);
    let other = count(vec![to("a", same(300, 600), vec![])]);
    let back = count(vec![to("a", all.clone(), vec![]), to("b", same(0, 200), vec![])]);
    let ports = count(vec![
        to("a", all, vec![port_name("http")]),
        to("b", same(0, 200), vec![]),
    ]);
    let gone = count(vec![]);
    for (what, made) in [
        ("come", come),
        ("other", other),
        ("back", back),
        ("ports", ports),
        ("gone", gone),
    ] {
        assert!(
            made > 0 && made <= 2 * SETS,
            "{what}: {made} times for {SETS} sets of pods"
        );
    }
}

/// A peer that matches a single pod costs nothing for the others.
#[test]
fn l2_a_peer_of_one_pod_makes_what_that_pod_matches() {
    let mut compiler = Compiler::default();
    let policies = |more: Vec<Peer>| {
        let all: Vec<Peer> = digits().into_iter().chain(same(0, 100)).collect();
        vec![to("a", all, vec![]), to("b", more, vec![])]
    };
    let none = everywhere("job", "In", vec!["nobody".to_owned()]);
    let (before, _) = turn(&mut compiler, SETS, policies(vec![none.clone()]));
    let one = everywhere("job", "In", vec!["j7".to_owned()]);
    let (after, made) = turn(&mut compiler, SETS, policies(vec![none, one]));
    assert_eq!(made, 1);
    assert!(
        before.addresses.is_same(&after.addresses),
        "its profile has no other pods"
    );
    assert_eq!(before.classes.diff(&after.classes).len(), 1);
}

/// Peers that all pods match touch no address, and those that only some match move the fewer.
#[test]
fn l2_pods_that_go_the_same_way_keep_their_numbers() {
    let mut compiler = Compiler::default();
    let group = |count: usize, peer: Vec<Peer>| (count, vec![to("a", peer, vec![])]);
    let (pods, first) = group(SETS, same(0, 1));
    let (before, _) = turn(&mut compiler, pods, first);
    let (pods, second) = group(SETS, same(1, 50));
    let (after, _) = turn(&mut compiler, pods, second);
    assert!(before.addresses.is_same(&after.addresses));
    let few: Vec<String> = (0..3).map(|nth| format!("j{nth}")).collect();
    let only = everywhere("job", "In", few);
    let peers: Vec<Peer> = same(50, 90).into_iter().chain([only]).collect();
    let (pods, third) = group(SETS, peers);
    let (last, _) = turn(&mut compiler, pods, third);
    assert_eq!(after.addresses.diff(&last.addresses).len(), 3);
}

/// There is one copy of the peers that pods match, which their class has too.
#[test]
fn l2_classes_without_blocks_have_no_peers_of_their_own() {
    let mut compiler = Compiler::default();
    let (compiled, _) = turn(&mut compiler, SETS, vec![to("a", digits(), vec![])]);
    let mut shared = 0;
    for class in compiled.classes.values().filter(|class| !class.peers.is_empty()) {
        assert!(compiler.profiles.has(&class.peers));
        shared += 1;
    }
    assert_eq!(shared, SETS - 1, "one pod has no digit");
}

/// Policies that name ports which nobody has are not held against all classes each time that
/// someone else changes something; nor those that name what the pods have which they do not reach.
#[test]
fn l2_named_ports_that_nobody_has_cost_no_change_of_others() {
    const POLICIES: usize = 20;
    let ports: Vec<PolicyPort> = std::iter::once("http".to_owned())
        .chain((0..20).map(|nth| format!("x{nth}")))
        .map(|name| port_name(&name))
        .collect();
    let one = |nth| {
        let nobody = vec![pods(selector("z=none"))];
        to(&format!("n{nth}"), nobody, ports.clone())
    };
    let named: Vec<NetworkPolicy> = (0..POLICIES).map(one).collect();
    let policies = |more: Vec<NetworkPolicy>| {
        let all = std::iter::once(to("a", digits(), vec![port_name("http")])).chain(named.clone());
        all.chain(more).collect::<Vec<_>>()
    };
    let mut compiler = Compiler::default();
    let mut held = |pods: Vec<Pod>, policies| {
        let snapshot = snapshot(pods, policies);
        HELD.set(0);
        let diagnostics = compiler.compile(&snapshot, &node()).diagnostics;
        let held = HELD.get();
        assert_eq!(diagnostics, compile(&snapshot, &node()).diagnostics);
        // Of each 20, and that there are more.
        assert_eq!(diagnostics.len(), POLICIES * 21);
        held
    };
    let few = || pods_of(SETS - 1);
    let with = |pod: Pod| few().into_iter().chain([pod]).collect();
    let first = held(few(), policies(vec![]));
    assert_eq!(
        held(with(other()), policies(vec![])),
        0,
        "a pod of this node comes"
    );
    let more = to("m", same(0, 70), vec![]);
    assert_eq!(held(few(), policies(vec![more])), 0, "a policy comes, a pod goes");
    assert_eq!(held(few(), policies(vec![])), 0, "a policy goes");
    assert_eq!(
        held(pods_of(SETS), policies(vec![])),
        POLICIES,
        "one class has come"
    );
    assert_eq!(held(few(), policies(vec![])), 0, "a class goes");
    assert!(first <= (POLICIES + 1) * SETS, "{first}: those without the port");
}

/// Of these names, `egress shop/NAME 0` has one hash, and whoever writes policies can find as many.
#[test]
fn l2_rules_whose_places_hash_alike_get_their_numbers_at_once() {
    let names = "aaewk8hgg aaf881im2 aagy5qj4u aag06vewb aakdiqhf2 aarycsfke aauno9q21 aav07z6qo \
        aaws1mzbm aa09quu7l aa1jutdx7 aa2nfvn4c aa2up89xa aa2yvuwhf aa40m4wp7 abbs89wn1 \
        abewrl4xv abe176bl9 abfubagqt abh1t5394 abj1d54ey abmtuqulj abps5bczo abqo1gvym \
        absr1mwu3 abt05sxag abxoq9qhj abxqcltmc abx3tm43s ab15ltjl0 ab2majtnt ab3m2fjx2 \
        ab8wyjw8q acbot9ohp acb4v7fnr accxakfjl acda4ador acgshnazp ackjf98s2 aclzb579h";
    let policies: Vec<NetworkPolicy> = names
        .split_whitespace()
        .map(|name| to(name, vec![], vec![port(80, None)]))
        .collect();
    let count = policies.len();
    ALIKE.set(0);
    let compiled = compile(&snapshot(vec![web()], policies), &node());
    assert_eq!(compiled.rules.len(), count);
    // All but the first once.
    assert_eq!(ALIKE.get(), count - 1);
}

proptest! {
    /// What is told of named ports does not depend on what there was before.
    #[test]
    fn t4_named_ports_are_told_as_a_fresh_start_tells_them(
        steps in prop::collection::vec((0..3_usize, 0..4_usize, 0..4_usize, 0..4_usize), 1..20),
    ) {
        let mut now = snapshot(vec![web()], vec![]);
        let mut compiler = Compiler::default();
        for (what, nth, label, port) in steps {
            let ports = || (port > 0).then(|| format!("p{port}"));
            let key = ObjectKey::new("shop", format!("o{nth}"));
            let address = format!("10.9.0.{nth}");
            match what {
                // One that is here or elsewhere, with a port or without.
                0 => {
                    let mut pod = pod("shop", &key.name, &format!("app=web,l=l{label}"), &address);
                    pod.node = if nth < 2 { web().node } else { None };
                    if let Some(port) = ports() {
                        pod = named(pod, &port, 80);
                    }
                    now.pods.insert(key, pod.into());
                }
                1 => {
                    let rule = || {
                        let peers = vec![pods(selector(&format!("l=l{label}")))];
                        rule(peers, (0..=port).map(|port| port_name(&format!("p{port}"))).collect())
                    };
                    let mut policy = policy("app=web", vec![rule()], vec![rule(), rule()]);
                    policy.key = key.clone();
                    now.policies.insert(key, policy.into());
                }
                _ => {
                    now.pods.remove(&key);
                    if label == 0 {
                        now.policies.remove(&key);
                    }
                }
            }
            let diagnostics = compiler.compile(&now, &node()).diagnostics;
            prop_assert_eq!(diagnostics, compile(&now, &node()).diagnostics);
        }
    }
}
