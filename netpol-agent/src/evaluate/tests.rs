// SPDX-License-Identifier: Apache-2.0
//! Tests what the cases' manifests cannot express: two claimants of an address, and the text of
//! CIDRs.

use std::sync::Arc;

use super::*;
use crate::model::{IpBlock, LabelSelector, NamedPort, Peer, PolicyPort, PortName, Protocol};

fn block(cidr: &str, except: &[&str]) -> IpBlock {
    IpBlock {
        cidr: cidr.to_owned(),
        except: except.iter().map(|&text| text.to_owned()).collect(),
    }
}

fn holds(cidr: &str, except: &[&str], address: &str) -> bool {
    peer::block_holds(&block(cidr, except), address.parse().unwrap())
}

#[test]
fn p5_cidrs() {
    assert!(holds("10.1.2.3/16", &[], "10.1.255.255"), "host bits are masked");
    assert!(!holds("10.1.2.3/16", &[], "10.2.0.0"));
    assert!(holds("0.0.0.0/0", &[], "255.255.255.255"));
    assert!(holds("::/0", &[], "2001:db8::1"));
    assert!(!holds("::/0", &[], "10.0.0.1"), "families never match each other");
    assert!(!holds("0.0.0.0/0", &[], "::1"));
    assert!(
        !holds("::ffff:10.0.0.0/104", &[], "10.0.0.1"),
        "a mapped CIDR is an IPv6 CIDR"
    );
    assert!(holds("2001:db8::5/128", &[], "2001:db8::5"));
    for refused in [
        "10.0.0.0",
        "10.0.0.0/",
        "10.0.0.0/33",
        "10.0.0.0/+8",
        "10.0.0/8",
        "2001:db8::/129",
        "",
        "/8",
        "a/8",
    ] {
        assert!(!holds(refused, &[], "10.0.0.0"), "{refused:?} holds nothing");
    }
}

#[test]
fn p5_exceptions() {
    assert!(!holds("10.0.0.0/8", &["10.1.0.0/16"], "10.1.0.0"));
    assert!(!holds(
        "10.0.0.0/8",
        &["10.1.0.0/16", "10.3.0.0/16"],
        "10.3.255.255"
    ));
    assert!(holds("10.0.0.0/8", &["10.1.0.0/16"], "10.2.0.0"));
    assert!(
        !holds("10.0.0.0/8", &["10.0.0.0/8"], "10.2.0.0"),
        "an equal exception leaves nothing"
    );
    for outside in [
        "11.0.0.0/16",
        "10.0.0.0/7",
        "0.0.0.0/0",
        "2001:db8::/32",
        "10.1.0.0/33",
        "word",
    ] {
        assert!(
            !holds("10.0.0.0/8", &[outside], "10.2.0.0"),
            "{outside:?} makes the peer match nothing"
        );
    }
}

fn pod(name: &str, app: &str, address: &str, number: u16) -> Arc<Pod> {
    Arc::new(Pod {
        key: ObjectKey::new("shop", name),
        uid: String::new(),
        labels: [("app".to_owned(), app.to_owned())].into(),
        node: Some("node-a".into()),
        host_network: false,
        terminal: false,
        terminating: false,
        static_uid: None,
        addresses: vec![address.parse().unwrap()],
        named_ports: vec![NamedPort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            number,
        }],
        host_ports: Vec::new(),
    })
}

fn selects_app(app: &str) -> LabelSelector {
    LabelSelector {
        match_labels: [("app".to_owned(), app.to_owned())].into(),
        match_expressions: Vec::new(),
    }
}

/// `web` lets in `client` only. A second pod claims an address that a first pod has.
fn claimed(first: Arc<Pod>, second: Arc<Pod>, policy: NetworkPolicy) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for pod in [
        first,
        second,
        pod("web", "web", "10.244.0.1", 80),
        pod("other", "other", "10.244.0.3", 80),
    ] {
        snapshot.pods.insert(pod.key.clone(), pod);
    }
    snapshot.policies.insert(policy.key.clone(), Arc::new(policy));
    snapshot
}

fn ingress_from(subject: &str, peer: &str) -> NetworkPolicy {
    let from = Peer {
        pod_selector: Some(selects_app(peer)),
        ..Peer::default()
    };
    NetworkPolicy {
        key: ObjectKey::new("shop", "policy"),
        pod_selector: selects_app(subject),
        policy_types: None,
        ingress: vec![Rule {
            peers: vec![from],
            ports: Vec::new(),
        }],
        egress: Vec::new(),
    }
}

fn tcp(source: &str, destination: &str, port: u16) -> Packet {
    Packet {
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
        protocol: 6,
        port: Some(port),
    }
}

#[test]
fn a_peer_address_claimed_twice_matches_what_all_claimants_match() {
    let policy = || ingress_from("web", "client");
    let packet = tcp("10.244.0.2", "10.244.0.1", 80);
    for (second_app, expected) in [("client", true), ("stranger", false)] {
        let snapshot = claimed(
            pod("a", "client", "10.244.0.2", 1),
            pod("b", second_app, "10.244.0.2", 1),
            policy(),
        );
        assert_eq!(
            evaluate(&snapshot, &[], &packet).allowed(),
            expected,
            "{second_app}"
        );
    }
}

#[test]
fn a_subject_address_claimed_twice_is_allowed_what_each_claimant_is() {
    let packet = tcp("10.244.0.3", "10.244.0.2", 80);
    for (second_app, expected) in [("client", true), ("restricted", false)] {
        let snapshot = claimed(
            pod("a", "client", "10.244.0.2", 1),
            pod("b", second_app, "10.244.0.2", 1),
            ingress_from("restricted", "nobody"),
        );
        assert_eq!(
            evaluate(&snapshot, &[], &packet).allowed(),
            expected,
            "{second_app}"
        );
    }
}

#[test]
fn a_named_port_of_an_address_claimed_twice_means_one_number_in_both() {
    let http = PolicyPort {
        port: Some(PortName::Name("http".to_owned())),
        ..PolicyPort::default()
    };
    let policy = || NetworkPolicy {
        key: ObjectKey::new("shop", "policy"),
        pod_selector: selects_app("web"),
        policy_types: None,
        ingress: Vec::new(),
        egress: vec![Rule {
            peers: Vec::new(),
            ports: vec![http.clone()],
        }],
    };
    for (second_number, expected) in [(8080, true), (9090, false)] {
        let snapshot = claimed(
            pod("a", "client", "10.244.0.2", 8080),
            pod("b", "client", "10.244.0.2", second_number),
            policy(),
        );
        let evaluation = evaluate(&snapshot, &[], &tcp("10.244.0.1", "10.244.0.2", 8080));
        assert_eq!(evaluation.egress.allowed, expected, "{second_number}");
    }
}

#[test]
fn reasons_name_the_rule_or_the_policies() {
    let snapshot = claimed(
        pod("a", "client", "10.244.0.2", 1),
        pod("b", "client", "10.244.0.4", 1),
        ingress_from("web", "client"),
    );
    let policy = ObjectKey::new("shop", "policy");
    let evaluation = evaluate(&snapshot, &[], &tcp("10.244.0.2", "10.244.0.1", 80));
    assert_eq!(evaluation.egress.why, Why::NotIsolated);
    assert_eq!(
        evaluation.ingress.why,
        Why::AllowedBy {
            policy: policy.clone(),
            rule: 0
        }
    );
    let evaluation = evaluate(&snapshot, &[], &tcp("198.51.100.1", "10.244.0.1", 80));
    assert_eq!(evaluation.egress.why, Why::NotEnforced);
    assert_eq!(
        evaluation.ingress,
        Side {
            allowed: false,
            why: Why::DeniedBy {
                policies: vec![policy]
            }
        }
    );
    let own = evaluate(&snapshot, &[], &tcp("10.244.0.1", "10.244.0.1", 80));
    assert_eq!((own.egress.why, own.ingress.why), (Why::SamePod, Why::SamePod));
    let node = Node {
        name: "node-a".to_owned(),
        addresses: ["198.51.100.1".parse().unwrap()].into(),
        ..Node::default()
    };
    let probe = evaluate(&snapshot, &[node], &tcp("198.51.100.1", "10.244.0.1", 80));
    assert_eq!(probe.ingress.why, Why::Node);
}

#[test]
fn a8_an_address_that_a_pod_being_deleted_gave_back_is_the_live_pods() {
    let going = |app: &str| {
        Arc::new(Pod {
            terminating: true,
            ..Pod::clone(&pod("going", app, "10.244.0.2", 80))
        })
    };
    let live = |app: &str| pod("live", app, "10.244.0.2", 80);
    let allowed = |snapshot: &Snapshot| {
        let packet = tcp("10.244.0.2", "10.244.0.1", 80);
        evaluate(snapshot, &[], &packet).ingress.allowed
    };
    let policy = || ingress_from("web", "client");
    assert!(allowed(&claimed(going("other"), live("client"), policy())));
    assert!(!allowed(&claimed(going("client"), live("other"), policy())));
}
