// SPDX-License-Identifier: Apache-2.0
//! Changes of the attach mechanism, and remains of an agent of another version (rules B3, C6).

use std::fs;

use netpol_agent::datapath::pin_folder;
use netpol_tests::{pair::End, privilege::can_enforce, proxy::Mode};

use super::{MESSAGES, SEEDED, SUITE, World, seeds_nothing};

/// Part of the log line about removed pins of another version.
const SWEPT: &str = "removed what another version of netpol left";

/// A filter replaces a TCX link: open connections continue, also over a gap; a restart seeds
/// nothing.
#[test]
fn c6_open_connections_go_on_with_filters_of_clsact() {
    if !can_enforce(SUITE) {
        return;
    }
    let world = World::with_rules(Mode::Iptables, true);
    let mut pairs = world.open_allowed();
    let before = world.retransmissions();
    let mut agent = world.start_attached("clsact");
    agent.wait_for_line(0, SEEDED).unwrap();
    let veth = world.node.veth("shop/a").unwrap().to_owned();
    world.filters_are(&veth, 2);
    for pair in &mut pairs {
        pair.goes_on(End::Opened, MESSAGES);
    }
    agent.stop().unwrap();
    agent.cleanup().unwrap();
    world.filters_are(&veth, 0);
    pairs.extend(world.open("shop/a", "other/c"));
    agent.restart().unwrap();
    agent.wait_for_line(0, SEEDED).unwrap();
    for pair in &mut pairs {
        pair.goes_on(End::Opened, MESSAGES);
    }
    assert_eq!(
        world.retransmissions(),
        before,
        "segments were lost and sent again"
    );
    world.is_enforced();
    seeds_nothing(&mut agent);
}

/// An agent with other layouts finds the programs of an earlier one, and none of its maps.
fn other_version(attach: &str) {
    if !can_enforce(SUITE) {
        return;
    }
    let world = World::with_rules(Mode::Iptables, true);
    let mut agent = world.start_attached(attach);
    let mut pairs = world.open_allowed();
    agent.stop().unwrap();
    let other = agent.pin_path().join("v1");
    fs::rename(pin_folder(agent.pin_path()), &other).unwrap();
    world.is_enforced();
    pairs.extend(world.open("shop/a", "other/c"));
    let before = world.retransmissions();
    agent.restart().unwrap();
    agent.wait_for_line(0, SEEDED).unwrap();
    agent.wait_for_line(0, SWEPT).unwrap();
    assert!(!other.exists());
    for pair in &mut pairs {
        pair.goes_on(End::Opened, MESSAGES);
    }
    assert_eq!(
        world.retransmissions(),
        before,
        "segments were lost and sent again"
    );
    world.is_enforced();
}

#[test]
fn b3_c6_an_upgrade_to_other_layouts_keeps_connections_with_tcx() {
    other_version("tcx");
}

#[test]
fn b3_c6_an_upgrade_to_other_layouts_keeps_connections_with_clsact() {
    other_version("clsact");
}
