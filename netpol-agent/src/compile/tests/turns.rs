// SPDX-License-Identifier: Apache-2.0
//! Many selector peers and many pods that are told apart: what a turn costs is counted, not timed
//! (rule L2).

use super::{
    super::{Compiled, Compiler},
    build::*,
};
use crate::model::*;

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
