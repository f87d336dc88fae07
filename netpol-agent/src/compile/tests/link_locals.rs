// SPDX-License-Identifier: Apache-2.0
//! A pod that is met under its link-local address is that pod (rule A9).

use std::net::IpAddr;

use super::*;
use crate::{
    compile::{Compiled, Compiler, compile},
    evaluate::{Packet, evaluate},
};

const WEB6: &str = "fd00::1";
const ONE6: &str = "fd00::2";
const LINK_ONE: &str = "fe80::2";
const LINK_TWO: &str = "fe80::3";
const STRANGER: &str = "fe80::99";

fn bind(node: &mut Node, name: &str, address: &str) {
    let key = ObjectKey::new("shop", name);
    let address = address.parse().unwrap();
    node.link_locals.entry(key).or_default().insert(address);
}

fn bound() -> Node {
    let mut node = node();
    bind(&mut node, "one", LINK_ONE);
    bind(&mut node, "two", LINK_TWO);
    node
}

/// `shop/one` has both families, `shop/two` IPv4 only.
fn peers() -> Vec<Pod> {
    let both = |name, text, v4, v6: &str| {
        let mut pod = pod("shop", name, text, v4);
        pod.addresses.push(v6.parse().unwrap());
        pod
    };
    vec![
        both("web", "app=web", A, WEB6),
        both("one", "app=db,own=one", B, ONE6),
        pod("shop", "two", "app=db,own=two", C),
    ]
}

fn from(peers: Vec<Peer>) -> NetworkPolicy {
    policy(
        "app=web",
        vec![rule(peers.clone(), vec![])],
        vec![rule(peers, vec![])],
    )
}

fn evaluated(snapshot: &Snapshot, node: &Node, source: &str, destination: &str) -> [bool; 2] {
    let packet = Packet {
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
        protocol: 6,
        port: Some(80),
    };
    let found = evaluate(snapshot, std::slice::from_ref(node), &packet);
    [found.egress.allowed, found.ingress.allowed]
}

/// Whether `shop/web` exchanges packets with an address, as compiled; the evaluator says the same.
fn exchanges(snapshot: &Snapshot, node: &Node, compiled: &Compiled, peer: &str) -> bool {
    let allowed = ingress(compiled, peer, 80);
    assert_eq!(
        allowed,
        egress(compiled, peer, 80),
        "{peer}: the rules are the same"
    );
    assert_eq!(evaluated(snapshot, node, peer, WEB6)[1], allowed, "from {peer}");
    assert_eq!(evaluated(snapshot, node, WEB6, peer)[0], allowed, "to {peer}");
    allowed
}

/// Each kind of peer that holds or does not hold a pod or its link-local address.
fn kinds() -> Vec<(Vec<Peer>, [bool; 3])> {
    let own = |name: &str| pods(selector(&format!("own={name}")));
    vec![
        // What is said of `one`, `two` and a stranger.
        (vec![], [true, true, true]),
        (vec![pods(selector("app=db"))], [true, true, false]),
        (vec![own("one")], [true, false, false]),
        (vec![own("nobody")], [false, false, false]),
        (vec![block("::/0", &[])], [true, false, true]),
        (vec![block("::/0", &["fd00::/16"])], [false, false, true]),
        (vec![block("::/0", &["fe80::/10"])], [true, false, false]),
        (vec![block("fe80::/10", &[])], [false, false, true]),
        (vec![block("fd00::2/128", &[])], [true, false, false]),
        (vec![block("0.0.0.0/0", &[])], [false, false, false]),
        (vec![block("fe80::/10", &[]), own("two")], [false, true, true]),
    ]
}

#[test]
fn a9_a_pod_under_its_link_local_address_is_that_pod() {
    let node = bound();
    for (kind, expected) in kinds() {
        let snapshot = snapshot(peers(), vec![from(kind.clone())]);
        let compiled = compile(&snapshot, &node);
        let found =
            [LINK_ONE, LINK_TWO, STRANGER].map(|address| exchanges(&snapshot, &node, &compiled, address));
        assert_eq!(found, expected, "{kind:?}");
    }
}

/// What both match from now on: no pod moves, as each matches it beside what it did.
#[test]
fn a9_a_link_local_address_of_two_follows_when_a_peer_comes_in_force() {
    let mut node = node();
    bind(&mut node, "one", LINK_ONE);
    bind(&mut node, "two", LINK_ONE);
    let of = |texts: &[&str]| {
        let peers = texts.iter().map(|text| pods(selector(text))).collect();
        snapshot(self::peers(), vec![from(peers)])
    };
    let mut compiler = Compiler::default();
    let (each, both) = (of(&["own=one", "own=two"]), of(&["own=one", "own=two", "app=db"]));
    for (snapshot, expected) in [(&each, false), (&both, true), (&each, false)] {
        let compiled = compiler.compile(snapshot, &node);
        assert_eq!(exchanges(snapshot, &node, &compiled, LINK_ONE), expected);
    }
}

#[test]
fn a9_link_local_addresses_follow_changes() {
    let mut compiler = Compiler::default();
    let mut node = bound();
    let all = kinds();
    for (turn, (kind, expected)) in all.iter().chain(all.iter().rev()).enumerate() {
        // A pod is bound late, bound anew, relabelled, gone, and the same with other policies.
        let (mut pods_now, policies) = (peers(), vec![from(kind.clone())]);
        let mut wanted = *expected;
        match turn % 4 {
            1 => {
                node.link_locals.clear();
                wanted = [expected[2]; 3];
            }
            2 => {
                pods_now.retain(|pod| &*pod.key.name != "one");
                node = bound();
                wanted[0] = expected[2];
            }
            _ => node = bound(),
        }
        let snapshot = snapshot(pods_now, policies);
        let compiled = compiler.compile(&snapshot, &node);
        let found =
            [LINK_ONE, LINK_TWO, STRANGER].map(|address| exchanges(&snapshot, &node, &compiled, address));
        assert_eq!(found, wanted, "turn {turn}: {kind:?}");
        let whole = compile(&snapshot, &node);
        assert_eq!(whole.diagnostics, compiled.diagnostics);
        for address in [A, B, C, WEB6, ONE6, LINK_ONE, LINK_TWO, STRANGER] {
            let same = ingress(&whole, address, 80) == ingress(&compiled, address, 80);
            assert!(same, "turn {turn}: {address}");
        }
    }
}

/// Neither opens the other, nor does the node.
#[test]
fn a9_a_link_local_address_of_two_is_what_both_are() {
    let mut node = bound();
    bind(&mut node, "two", LINK_ONE);
    for (kind, expected) in [
        (vec![pods(selector("app=db"))], true),
        (vec![pods(selector("own=one"))], false),
        (vec![pods(selector("own=two"))], false),
        (vec![block("::/0", &[])], false),
        (vec![], true),
    ] {
        let snapshot = snapshot(peers(), vec![from(kind.clone())]);
        let compiled = compile(&snapshot, &node);
        assert_eq!(
            exchanges(&snapshot, &node, &compiled, LINK_ONE),
            expected,
            "{kind:?}"
        );
        assert_eq!(first(&compiled).code, "address-conflict");
    }
    let mut node = bound();
    node.addresses.insert(LINK_ONE.parse().unwrap());
    let snapshot = snapshot(peers(), vec![from(vec![pods(selector("own=one"))])]);
    let compiled = compile(&snapshot, &node);
    assert!(!ingress(&compiled, LINK_ONE, 80));
    let address: IpAddr = LINK_ONE.parse().unwrap();
    assert!(compiled.addresses[&address.into()].node, "A2");
    assert_eq!(first(&compiled).code, "address-conflict");
}

/// What has given its addresses back is nothing under its link-local address.
#[test]
fn a9_a_pod_that_gave_its_addresses_back_is_nobody() {
    let (mut node, mut all) = (bound(), peers());
    all[2].terminating = true;
    let mut next = pod("shop", "next", "app=new", C);
    next.uid = "next".into();
    all.push(next);
    bind(&mut node, "next", "fe80::4");
    let snapshot = snapshot(
        all,
        vec![from(vec![pods(selector("app=db")), pods(selector("app=new"))])],
    );
    let compiled = compile(&snapshot, &node);
    assert!(!exchanges(&snapshot, &node, &compiled, LINK_TWO));
    assert!(exchanges(&snapshot, &node, &compiled, "fe80::4"));
}
