// SPDX-License-Identifier: Apache-2.0
//! Changes after which something that was compiled before must not stay.

use super::{super::Compiler, build::*};

/// An address of two pods matches what both match. When a peer leaves force that only both together
/// had, it is what others are.
#[test]
fn p6_an_address_of_two_pods_follows_when_a_peer_leaves_force() {
    let labelled = |name, text, address| pod("shop", name, text, address);
    let pods_of_shop = || {
        vec![
            labelled("web", "role=web", A),
            labelled("one", "app=x,tier=y,own=1", B),
            labelled("two", "app=x,tier=y,own=2", B),
            labelled("like", "app=x", C),
        ]
    };
    let from = |selectors: &[&str]| {
        let peers = selectors.iter().map(|text| pods(selector(text)));
        let rules = vec![rule(peers.collect(), vec![])];
        snapshot(pods_of_shop(), vec![policy("role=web", rules, vec![])])
    };
    let mut compiler = Compiler::default();
    let before = compiler.compile(&from(&["app=x", "tier=y", "own=1", "own=2"]), &node());
    assert_ne!(class_of(&before, B), class_of(&before, C));
    let after = compiler.compile(&from(&["app=x", "own=1", "own=2"]), &node());
    assert_eq!(class_of(&after, B), class_of(&after, C));
    let none = compiler.compile(&from(&["own=1", "own=2"]), &node());
    assert!(ingress(&after, B, 80) && !ingress(&none, B, 80));
}
