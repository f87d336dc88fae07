// SPDX-License-Identifier: Apache-2.0
//! SYN floods, denied and allowed, and a flow table that is full of them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netpol_common::{abi::Direction, flow::State};
use netpol_tests::{
    capture,
    lab::Lab,
    probe::{Conversation, Outcome, PATIENCE},
};

use crate::shared::{
    FLOODER, Flood, NEIGHBOUR, VICTIM, converse, counted, flows, forget, lab, policy, restart_with, states,
};

/// The victim accepts everyone at port 8080 and opens no connection.
const OPEN: &str = "ingress: [{ports: [{port: 8080}]}], egress: []";
/// Capacity of a small flow table.
const CAPACITY: &str = "1024";

fn ask(conversations: &mut [Conversation<'_>], when: &str) {
    for conversation in conversations {
        assert_eq!(conversation.ask(PATIENCE), Outcome::Reached, "{when}");
    }
}

#[test]
fn c4_a_denied_syn_flood_makes_no_flows() {
    // The victim opens port 8080 and is flooded on another. In the second round the flooder is
    // isolated for egress, and denied there.
    let ingress = policy("victim", "Ingress, Egress", OPEN);
    let egress = policy("flooder", "Egress", "egress: [{ports: [{port: 8080}]}]");
    let Some(lab) = lab(&ingress) else { return };
    let mut open = converse(&lab, FLOODER, VICTIM);
    open.extend(converse(&lab, NEIGHBOUR, VICTIM));
    ask(&mut open, "before the flood");
    let flood = Flood::new(&lab, FLOODER, VICTIM);
    let created = |direction| counted(&lab, direction, |counters| counters.flows_created.packets);
    let dropped = |direction| counted(&lab, direction, |counters| counters.policy.packets);
    let spoofed = || counted(&lab, Direction::Egress, |counters| counters.spoofed.packets);
    for (round, direction) in [Direction::Ingress, Direction::Egress].into_iter().enumerate() {
        if round == 1 {
            lab.apply("flooder.yaml", &egress).unwrap();
        }
        let before = (created(direction), dropped(direction), spoofed());
        for number in 0..10_000u16 {
            flood.syn(
                flood.own[usize::from(number % 2)],
                1024 + number,
                1 + number % 8000,
            );
            flood.syn(
                Ipv4Addr::new(10, 244, 0, (number % 255) as u8 | 0x80).into(),
                number,
                8080,
            );
            flood.syn(
                Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 1, number).into(),
                number,
                8080,
            );
            if number % 1000 == 0 {
                ask(&mut open, "during the flood");
            }
        }
        ask(&mut open, "after the flood");
        let after = (created(direction), dropped(direction), spoofed());
        assert_eq!(after.0, before.0, "flows made for denied packets, {direction:?}");
        assert!(
            after.1 >= before.1 + 10_000,
            "{direction:?}: {before:?}, then {after:?}"
        );
        assert!(
            after.2 >= before.2 + 20_000,
            "{direction:?}: {before:?}, then {after:?}"
        );
    }
}

#[test]
fn c4_a_full_flow_table_ends_no_connection_and_opens_none() {
    let Some(mut lab) = lab(&policy("victim", "Ingress, Egress", OPEN)) else {
        return;
    };
    restart_with(&mut lab, "--flow-capacity", CAPACITY);
    let mut open = converse(&lab, FLOODER, VICTIM);
    open.extend(converse(&lab, NEIGHBOUR, VICTIM));
    ask(&mut open, "before the flood");
    let before = flows(&lab);
    let flood = Flood::new(&lab, FLOODER, VICTIM);
    for round in 0..4 {
        for number in 0..10_000u16 {
            flood.syn(flood.own[usize::from(number % 2)], 10_000 + number, 8080);
        }
        let now = flows(&lab);
        assert!(now.len() <= 1024, "{} flows", now.len());
        let kept = before.iter().filter(|key| now.contains(key)).count();
        println!(
            "round {round}: {kept} of {} earlier flows are still there",
            before.len()
        );
        ask(&mut open, "after a flood");
        // Denied packets stay out: replies that nobody requested, and new connections.
        lab.expect(VICTIM, NEIGHBOUR, &Outcome::Silent);
        flood.syn(flood.own[0], 9, 9090);
    }
    let to_closed = |key: &netpol_common::abi::FlowKey| key.local_port == 9090u16.to_be_bytes();
    let victim = flows(&lab)
        .into_iter()
        .find(|key| key.local_port == 8080u16.to_be_bytes());
    let victim = victim.expect("flows of the victim").endpoint;
    assert!(
        !flows(&lab)
            .iter()
            .any(|key| key.endpoint == victim && to_closed(key))
    );
}

/// Seen in practice: a pod that filled the table cost others their idle connections. It now gets
/// only the shared part: no other's flow is evicted, and their new connections find a place.
#[test]
fn c4_a_pod_that_fills_the_flow_table_fills_its_own_share() {
    let Some(mut lab) = lab(&policy("victim", "Ingress, Egress", OPEN)) else {
        return;
    };
    restart_with(&mut lab, "--flow-capacity", CAPACITY);
    let mut open = converse(&lab, NEIGHBOUR, VICTIM);
    ask(&mut open, "before the flood");
    let before = flows(&lab);
    // Through the node: frames for an unknown address on the bridge would go to all of its pods.
    let mut flood = Flood::new(&lab, FLOODER, "outside");
    flood.to(capture::mac(lab.node.netns(), "cni0").unwrap());
    for number in 0..20_000u16 {
        flood.syn(flood.own[usize::from(number % 2)], 10_000 + number, 8080);
    }
    let now = flows(&lab);
    assert!(
        before.iter().all(|key| now.contains(key)),
        "idle flows of others made room"
    );
    let of_others =
        |key: &&netpol_common::abi::FlowKey| before.iter().any(|old| old.endpoint == key.endpoint);
    let flooder = now.len() - now.iter().filter(of_others).count();
    // One of 16 shares in half of the table, and half of the shared part.
    assert!((280..300).contains(&flooder), "{flooder} flows of the flooder");
    // Idle all the time, and the victim could not open them again.
    ask(&mut open, "after the flood");
    let mut more = converse(&lab, NEIGHBOUR, VICTIM);
    ask(&mut more, "opened when the table is full of one pod's");
    let added = flows(&lab).len() - now.len();
    assert_eq!(added, 4, "each connection has a flow at each of its ends");
    ask(&mut open, "at last");
}

/// Keeps the flooder's kernel from rejecting unexpected replies.
fn say_nothing(lab: &Lab) {
    let (flooder, victim) = (lab.site(FLOODER).unwrap(), lab.site(VICTIM).unwrap());
    for to in &victim.addresses {
        flooder.netns.ip(&format!("route add blackhole {to}\n")).unwrap();
    }
}

/// Seen in practice: each SYN that the victim answered kept one of the victim's places for five
/// days.
#[test]
fn c4_what_its_opener_does_not_go_on_with_is_not_established() {
    let Some(lab) = lab(&policy("victim", "Ingress, Egress", OPEN)) else {
        return;
    };
    say_nothing(&lab);
    let flood = Flood::new(&lab, FLOODER, VICTIM);
    for number in 0..100u16 {
        for own in flood.own {
            flood.syn(own, 10_000 + number, 8080);
        }
    }
    let mut open = converse(&lab, NEIGHBOUR, VICTIM);
    ask(&mut open, "of who goes on");
    let states = states(&lab);
    let of = |state: State| states.iter().filter(|is| **is == state as u8).count();
    assert_eq!(of(State::Established), open.len());
    assert!(of(State::Answered) > 100, "{states:?}");
}

/// Seen in practice: 16 more SYNs, and another's open connection lost its flow.
#[test]
fn c4_who_only_asks_takes_no_place_of_who_goes_on() {
    let Some(mut lab) = lab(&policy("victim", "Ingress, Egress", OPEN)) else {
        return;
    };
    restart_with(&mut lab, "--flow-capacity", CAPACITY);
    say_nothing(&lab);
    let flood = Flood::new(&lab, FLOODER, VICTIM);
    let syns = |numbers: std::ops::Range<u16>| {
        for number in numbers {
            flood.syn(flood.own[usize::from(number % 2)], 10_000 + number, 8080);
        }
    };
    syns(0..4_000);
    // The victim's share is used up: new connections, and more SYNs, are in its ring.
    let mut open = converse(&lab, NEIGHBOUR, VICTIM);
    ask(&mut open, "opened in the flood");
    syns(5_000..7_000);
    ask(&mut open, "after more of it");
}

/// A pod that may not open connections continues one whose flow was evicted: connection tracking
/// knows who opened it. Packets of connections that nobody opened do not leave.
#[test]
fn c4_a_connection_whose_flow_is_gone_is_judged_again_from_its_opener() {
    let Some(lab) = lab(&policy("victim", "Ingress, Egress", OPEN)) else {
        return;
    };
    lab.track().unwrap();
    let mut open = converse(&lab, NEIGHBOUR, VICTIM);
    ask(&mut open, "before");
    for key in flows(&lab) {
        forget(&lab, &key);
    }
    let dropped = || counted(&lab, Direction::Egress, |counters| counters.policy.packets);
    let before = dropped();
    // The victim sends first, a segment that nobody requested.
    let reply = Flood::new(&lab, VICTIM, NEIGHBOUR);
    for own in reply.own {
        reply.syn_ack(own, 8080, 50_000);
    }
    assert_eq!(dropped(), before + 2, "a reply without a flow is not let out");
    assert!(flows(&lab).is_empty(), "nor does it open a connection");
    ask(&mut open, "after");
    let is_known = |address: IpAddr| {
        let remote = match address {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        };
        flows(&lab).iter().any(|key| key.remote.octets == remote.octets())
    };
    assert!(
        reply.target.into_iter().all(is_known),
        "the opener's packet makes the flow anew"
    );
}

/// Without connection tracking no end is believed: neither the peer's nor the pod's packets make a
/// flow, and the connection ends. New ones work as usual.
#[test]
fn c4_without_connection_tracking_a_connection_whose_flow_is_gone_is_closed() {
    let Some(lab) = lab(&policy("victim", "Ingress, Egress", OPEN)) else {
        return;
    };
    let mut open = converse(&lab, NEIGHBOUR, VICTIM);
    ask(&mut open, "before");
    for key in flows(&lab) {
        forget(&lab, &key);
    }
    for conversation in &mut open {
        assert_eq!(conversation.ask(PATIENCE), Outcome::Silent);
    }
    let at_victim = |key: &netpol_common::abi::FlowKey| key.local_port == 8080u16.to_be_bytes();
    let left: Vec<_> = flows(&lab).into_iter().filter(at_victim).collect();
    assert!(left.is_empty(), "{left:?}");
    ask(&mut converse(&lab, NEIGHBOUR, VICTIM), "opened anew");
}
