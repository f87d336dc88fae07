// SPDX-License-Identifier: Apache-2.0
//! Tests which packets pass while nothing changes.

use netpol_tests::{
    lab::DENY_ALL,
    pair::{End, Pair, Transport, Way},
    probe::{Outcome, PATIENCE, Service},
};

use crate::shared::{TCP, TO_B, lab, policy_of_a};

#[test]
fn c1_replies_of_an_allowed_connection_pass_the_denied_direction() {
    let Some(lab) = lab(&[("a.yaml", &policy_of_a(TO_B))]) else {
        return;
    };
    lab.expect("shop/a", "shop/b", &Outcome::Reached);
    lab.expect("shop/b", "shop/a", &Outcome::Silent);
    lab.expect("shop/a", "other/c", &Outcome::Silent);
    lab.expect("outside", "shop/a", &Outcome::Silent);
    for probe in lab.probes("shop/a", "shop/b", &TCP).unwrap() {
        let mut open = lab.prober.converse(&probe).unwrap();
        for _ in 0..20 {
            assert_eq!(open.ask(PATIENCE), Outcome::Reached, "{probe}");
        }
    }
}

#[test]
fn a2_node_and_pod_reach_each_other_under_deny_all() {
    let Some(lab) = lab(&[("deny.yaml", DENY_ALL)]) else {
        return;
    };
    lab.expect("shop/b", "shop/a", &Outcome::Silent);
    lab.expect("node", "shop/a", &Outcome::Reached);
    lab.expect("shop/a", "node", &Outcome::Reached);
}

/// The node's connection tracking knows who opened a connection, and connections that the node
/// opened stay open.
#[test]
fn a2_node_and_pod_talk_under_deny_all_where_connections_are_tracked() {
    let Some(lab) = lab(&[]) else {
        return;
    };
    lab.track().unwrap();
    let ends = |from: &str, to: &str| (lab.site(from).unwrap(), lab.site(to).unwrap());
    let mut talks = Vec::new();
    for (from, to) in [("node", "shop/a"), ("shop/a", "node")] {
        let (from, to) = ends(from, to);
        for address in &to.addresses {
            for transport in [Transport::Tcp, Transport::Udp] {
                talks.push(Pair::open(&from, &to, Way::direct(*address), transport).unwrap());
            }
        }
    }
    lab.apply("deny.yaml", DENY_ALL).unwrap();
    lab.expect("shop/b", "shop/a", &Outcome::Silent);
    lab.expect("node", "shop/a", &Outcome::Reached);
    lab.expect("shop/a", "node", &Outcome::Reached);
    for (from, to) in [("node", "shop/b"), ("shop/b", "node")] {
        let (from, to) = ends(from, to);
        for address in &to.addresses {
            for transport in [Transport::Tcp, Transport::Udp] {
                talks.push(Pair::open(&from, &to, Way::direct(*address), transport).unwrap());
            }
        }
    }
    for talk in &mut talks {
        talk.goes_on(End::Opener, 3);
        talk.goes_on(End::Opened, 3);
    }
}

#[test]
fn a7_denial_is_silence_on_open_and_closed_ports() {
    let Some(lab) = lab(&[("deny.yaml", DENY_ALL)]) else {
        return;
    };
    lab.expect("shop/a", "outside", &Outcome::Silent);
    lab.expect("outside", "shop/a", &Outcome::Silent);
    let closed = [Service::Tcp(9), Service::Udp(9)];
    for (from, to, expected) in [
        ("other/c", "shop/a", Outcome::Silent),
        ("shop/a", "shop/b", Outcome::Silent),
        ("node", "shop/a", Outcome::Refused),
    ] {
        let probes = lab.probes(from, to, &closed).unwrap();
        for (probe, outcome) in probes.iter().zip(lab.prober.probe(&probes).unwrap()) {
            assert_eq!(outcome, expected, "{probe}");
        }
    }
}

#[test]
fn f1_neighbours_are_resolved_under_deny_all() {
    let Some(lab) = lab(&[("deny.yaml", DENY_ALL)]) else {
        return;
    };
    for (from, to) in [("node", "shop/a"), ("shop/a", "node")] {
        lab.node.netns().ip("neigh flush dev cni0\n").unwrap();
        lab.node
            .pod("shop/a")
            .unwrap()
            .netns
            .ip("neigh flush dev eth0\n")
            .unwrap();
        lab.expect(from, to, &Outcome::Reached);
    }
}
