// SPDX-License-Identifier: Apache-2.0
//! The compiler against the rules of the contract, one test a rule.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use proptest::prelude::*;

use super::{Compiled, compile, ports};
use crate::model::*;

const A: &str = "10.0.0.1";
const B: &str = "10.0.0.2";
const C: &str = "10.0.0.3";

fn labels(text: &str) -> Labels {
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    pairs
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

fn selector(text: &str) -> LabelSelector {
    LabelSelector {
        match_labels: labels(text),
        ..Default::default()
    }
}

fn expression(operator: &str, values: &[&str]) -> LabelSelector {
    LabelSelector {
        match_expressions: vec![LabelExpression {
            key: "app".into(),
            operator: operator.into(),
            values: values.iter().map(|value| (*value).to_owned()).collect(),
        }],
        ..Default::default()
    }
}

fn pod(namespace: &str, name: &str, text: &str, address: &str) -> Pod {
    Pod {
        key: ObjectKey::new(namespace, name),
        uid: String::new(),
        labels: labels(text),
        node: Some("n1".into()),
        host_network: false,
        terminal: false,
        addresses: vec![address.parse().unwrap()],
        named_ports: Vec::new(),
    }
}

fn named(mut pod: Pod, name: &str, number: u16) -> Pod {
    pod.named_ports.push(NamedPort {
        name: name.into(),
        protocol: Protocol::Tcp,
        number,
    });
    pod
}

fn policy(text: &str, ingress: Vec<Rule>, egress: Vec<Rule>) -> NetworkPolicy {
    NetworkPolicy {
        key: ObjectKey::new("shop", "p"),
        pod_selector: selector(text),
        policy_types: None,
        ingress,
        egress,
    }
}

fn rule(peers: Vec<Peer>, ports: Vec<PolicyPort>) -> Rule {
    Rule { peers, ports }
}

fn pods(selector: LabelSelector) -> Peer {
    Peer {
        pod_selector: Some(selector),
        ..Default::default()
    }
}

fn namespaces(selector: LabelSelector) -> Peer {
    Peer {
        namespace_selector: Some(selector),
        ..Default::default()
    }
}

fn block(cidr: &str, except: &[&str]) -> Peer {
    Peer {
        ip_block: Some(IpBlock {
            cidr: cidr.into(),
            except: except.iter().map(|net| (*net).to_owned()).collect(),
        }),
        ..Default::default()
    }
}

fn port(number: i32, end_port: Option<i32>) -> PolicyPort {
    PolicyPort {
        port: Some(PortName::Number(number)),
        end_port,
        ..Default::default()
    }
}

fn port_name(name: &str) -> PolicyPort {
    PolicyPort {
        port: Some(PortName::Name(name.into())),
        ..Default::default()
    }
}

fn compiled(pods: Vec<Pod>, policies: Vec<NetworkPolicy>) -> Compiled {
    let snapshot = Snapshot {
        pods: pods
            .into_iter()
            .map(|pod| (pod.key.clone(), Arc::new(pod)))
            .collect(),
        policies: policies
            .into_iter()
            .map(|policy| (policy.key.clone(), Arc::new(policy)))
            .collect(),
        ..Default::default()
    };
    let node = Node {
        name: "n1".into(),
        addresses: BTreeSet::from(["192.168.0.1".parse().unwrap()]),
    };
    let first = compile(&snapshot, &node);
    assert_eq!(first, compile(&snapshot, &node), "compiling twice gives the same");
    for address in first.addresses.values() {
        assert!(address.class < first.classes.len());
    }
    first
}

fn class_of(compiled: &Compiled, address: &str) -> usize {
    let address: IpAddr = address.parse().unwrap();
    let covering = compiled
        .addresses
        .iter()
        .filter(|(net, _)| net.contains(&address));
    covering
        .max_by_key(|(net, _)| net.prefix_len())
        .map_or(0, |(_, found)| found.class)
}

/// Whether endpoint `shop/name` allows the packet in this direction, looked up as the kernel does.
fn allows(
    compiled: &Compiled,
    direction: Direction,
    name: &str,
    peer: &str,
    protocol: u8,
    port: u16,
) -> bool {
    let endpoint = &compiled.endpoints[&ObjectKey::new("shop", name)];
    let index = match direction {
        Direction::Ingress => endpoint.ingress,
        Direction::Egress => endpoint.egress,
    };
    let Some(index) = index else { return true };
    let class = class_of(compiled, peer);
    compiled.policies[index].entries.iter().any(|(entry, number)| {
        assert!(compiled.rules.contains_key(number));
        entry.class == class
            && entry.protocol.is_none_or(|found| {
                let mask = u16::MAX
                    .checked_shl(16 - u32::from(found.prefix_len))
                    .unwrap_or(0);
                found.protocol == protocol && port & mask == found.port
            })
    })
}

fn ingress(compiled: &Compiled, peer: &str, port: u16) -> bool {
    allows(compiled, Direction::Ingress, "web", peer, 6, port)
}

fn egress(compiled: &Compiled, peer: &str, port: u16) -> bool {
    allows(compiled, Direction::Egress, "web", peer, 6, port)
}

fn codes(compiled: &Compiled) -> Vec<(&'static str, &str)> {
    compiled
        .diagnostics
        .iter()
        .map(|found| (found.code, found.field.as_str()))
        .collect()
}

fn web() -> Pod {
    pod("shop", "web", "app=web", A)
}

fn db() -> Pod {
    pod("shop", "db", "app=db", B)
}

fn other() -> Pod {
    pod("other", "db", "app=db", C)
}

#[test]
fn i1_only_selected_pods_are_isolated() {
    let compiled = compiled(
        vec![web(), db(), other()],
        vec![policy("app=web", vec![], vec![])],
    );
    assert!(!ingress(&compiled, B, 80));
    assert!(egress(&compiled, B, 80));
    assert_eq!(compiled.endpoints[&ObjectKey::new("shop", "db")].ingress, None);
    assert_eq!(compiled.endpoints[&ObjectKey::new("other", "db")].ingress, None);
}

#[test]
fn i2_policy_types_absent_means_egress_only_with_a_rule() {
    let with = compiled(vec![web()], vec![policy("", vec![], vec![Rule::default()])]);
    let web_with = &with.endpoints[&ObjectKey::new("shop", "web")];
    assert!(web_with.egress.is_some() && web_with.ingress.is_some());
    let mut only = policy("", vec![Rule::default()], vec![]);
    only.policy_types = Some(vec![Direction::Egress]);
    let only = compiled(vec![web()], vec![only]);
    let web_only = &only.endpoints[&ObjectKey::new("shop", "web")];
    assert!(web_only.ingress.is_none() && !egress(&only, B, 1));
}

#[test]
fn i3_invalid_selectors_select_nothing() {
    for bad in [
        expression("In", &[]),
        expression("Near", &["x"]),
        expression("Exists", &["x"]),
    ] {
        let mut broken = policy("", vec![], vec![]);
        broken.pod_selector = bad.clone();
        let open = compiled(vec![web()], vec![broken]);
        assert_eq!(open.endpoints[&ObjectKey::new("shop", "web")].ingress, None);
        assert_eq!(open.diagnostics[0].code, "selector-invalid");
        assert!(
            open.diagnostics[0]
                .field
                .starts_with("spec.podSelector.matchExpressions[0].")
        );
        let peer = compiled(
            vec![web(), db()],
            vec![policy("", vec![rule(vec![pods(bad)], vec![])], vec![])],
        );
        assert!(!ingress(&peer, B, 80));
        assert!(
            peer.diagnostics[0]
                .field
                .starts_with("spec.ingress[0].from[0].podSelector.")
        );
    }
}

#[test]
fn i4_policies_add_up() {
    let mut second = policy(
        "",
        vec![rule(vec![pods(selector("app=db"))], vec![port(81, None)])],
        vec![],
    );
    second.key.name = "q".into();
    let first = policy(
        "",
        vec![rule(vec![pods(selector("app=db"))], vec![port(80, None)])],
        vec![],
    );
    let compiled = compiled(vec![web(), db()], vec![first, second]);
    assert!(ingress(&compiled, B, 80) && ingress(&compiled, B, 81) && !ingress(&compiled, B, 82));
    let (web, db) = (ObjectKey::new("shop", "web"), ObjectKey::new("shop", "db"));
    assert_eq!(
        compiled.endpoints[&web],
        Endpointish::with_addresses(&compiled, &db, A)
    );
    assert_eq!(compiled.policies.len(), 1);
}

struct Endpointish;

impl Endpointish {
    fn with_addresses(compiled: &Compiled, key: &ObjectKey, address: &str) -> super::Endpoint {
        super::Endpoint {
            addresses: vec![address.parse().unwrap()],
            ..compiled.endpoints[key].clone()
        }
    }
}

#[test]
fn i6_host_network_pods_and_the_node_match_ip_blocks_only() {
    let mut host = pod("shop", "host", "app=db", "192.168.0.9");
    host.host_network = true;
    let rules = vec![rule(
        vec![pods(selector("")), block("192.168.0.8/29", &[])],
        vec![],
    )];
    let compiled = compiled(vec![web(), host, db()], vec![policy("", rules, vec![])]);
    assert!(!compiled.endpoints.contains_key(&ObjectKey::new("shop", "host")));
    assert!(ingress(&compiled, "192.168.0.9", 1) && ingress(&compiled, B, 1));
    let node = compiled.addresses[&"192.168.0.1/32".parse().unwrap()];
    assert!(node.node && node.class == 0);
    assert!(!ingress(&compiled, "192.168.0.1", 1));
}

#[test]
fn i7_terminal_pods_are_neither_endpoints_nor_peers() {
    let mut gone = db();
    gone.terminal = true;
    let compiled = compiled(
        vec![web(), gone],
        vec![policy("", vec![rule(vec![pods(selector(""))], vec![])], vec![])],
    );
    assert!(!ingress(&compiled, B, 80));
    assert_eq!(compiled.endpoints.len(), 1);
}

#[test]
fn p1_no_peers_is_everyone() {
    let compiled = compiled(
        vec![web(), db()],
        vec![policy("", vec![rule(vec![], vec![port(80, None)])], vec![])],
    );
    assert!(
        ingress(&compiled, B, 80) && ingress(&compiled, "8.8.8.8", 80) && ingress(&compiled, "2001::1", 80)
    );
    assert!(!ingress(&compiled, B, 81));
}

#[test]
fn p2_pod_and_namespace_selectors() {
    let own = rule(vec![pods(selector("app=db"))], vec![port(1, None)]);
    let all = rule(vec![namespaces(selector(""))], vec![port(2, None)]);
    let named = rule(
        vec![namespaces(selector("kubernetes.io/metadata.name=other"))],
        vec![port(3, None)],
    );
    let both = Peer {
        pod_selector: Some(selector("app=web")),
        ..namespaces(selector("kubernetes.io/metadata.name=other"))
    };
    let both = rule(vec![both], vec![port(4, None)]);
    let compiled = compiled(
        vec![web(), db(), other()],
        vec![policy("app=web", vec![own, all, named, both], vec![])],
    );
    assert!(ingress(&compiled, B, 1) && !ingress(&compiled, C, 1) && !ingress(&compiled, A, 1));
    assert!(ingress(&compiled, B, 2) && ingress(&compiled, C, 2) && !ingress(&compiled, "8.8.8.8", 2));
    assert!(!ingress(&compiled, B, 3) && ingress(&compiled, C, 3));
    assert!(!ingress(&compiled, C, 4) && !ingress(&compiled, A, 4));
}

#[test]
fn p3_operators_on_absent_keys() {
    let plain = pod("shop", "plain", "", C);
    let cases = [
        (expression("NotIn", &["db"]), false, true),
        (expression("DoesNotExist", &[]), false, true),
        (expression("Exists", &[]), true, false),
        (expression("In", &["db", "x"]), true, false),
    ];
    for (selector, on_db, on_plain) in cases {
        let policy = policy("app=web", vec![rule(vec![pods(selector)], vec![])], vec![]);
        let compiled = compiled(vec![web(), db(), plain.clone()], vec![policy]);
        assert_eq!(
            (ingress(&compiled, B, 1), ingress(&compiled, C, 1)),
            (on_db, on_plain)
        );
    }
}

#[test]
fn p5_invalid_blocks_match_nothing_and_do_not_become_everyone() {
    let cases = [
        (block("10.0.0.0/33", &[]), "cidr-invalid", ".ipBlock.cidr"),
        (block("::ffff:10.0.0.0/104", &[]), "cidr-invalid", ".ipBlock.cidr"),
        (block("10.0.0.0/8", &["x"]), "cidr-invalid", ".ipBlock.except[0]"),
        (
            block("10.0.0.0/8", &["11.0.0.0/24"]),
            "except-outside-cidr",
            ".ipBlock.except[0]",
        ),
        (
            block("10.0.0.0/8", &["10.9.0.0/8"]),
            "except-outside-cidr",
            ".ipBlock.except[0]",
        ),
        (
            block("10.0.0.0/8", &["fd00::/64"]),
            "except-outside-cidr",
            ".ipBlock.except[0]",
        ),
        (Peer::default(), "peer-empty", ""),
        (
            Peer {
                pod_selector: Some(selector("")),
                ..block("10.0.0.0/8", &[])
            },
            "peer-conflict",
            "",
        ),
    ];
    for (peer, code, field) in cases {
        let compiled = compiled(
            vec![web()],
            vec![policy("", vec![rule(vec![peer], vec![])], vec![])],
        );
        assert!(!ingress(&compiled, B, 80) && !ingress(&compiled, "8.8.8.8", 80));
        assert_eq!(
            codes(&compiled),
            [(code, format!("spec.ingress[0].from[0]{field}").as_str())]
        );
    }
}

#[test]
fn t1_t2_invalid_ports_do_not_become_every_port() {
    let unknown = PolicyPort {
        protocol: Some("ICMP".into()),
        ..Default::default()
    };
    let nameless = PolicyPort {
        end_port: Some(9),
        ..Default::default()
    };
    let cases = [
        (port(0, None), "port-invalid", ".port"),
        (port(65536, None), "port-invalid", ".port"),
        (unknown, "protocol-invalid", ".protocol"),
        (nameless, "end-port-invalid", ".endPort"),
        (port(9, Some(8)), "end-port-invalid", ".endPort"),
        (port(9, Some(70000)), "end-port-invalid", ".endPort"),
        (port_name("http"), "named-port-unresolved", ".port"),
    ];
    for (entry, code, field) in cases {
        let compiled = compiled(
            vec![web()],
            vec![policy("", vec![rule(vec![], vec![entry])], vec![])],
        );
        assert!(compiled.policies[0].entries.is_empty());
        assert_eq!(
            codes(&compiled),
            [(code, format!("spec.ingress[0].ports[0]{field}").as_str())]
        );
    }
}

#[test]
fn t4_named_ports_resolve_on_the_destination() {
    let (low, high) = (
        named(db(), "http", 80),
        named(pod("shop", "d2", "app=db", C), "http", 90),
    );
    let out = rule(
        vec![pods(selector("app=db")), block("0.0.0.0/0", &[])],
        vec![port_name("http")],
    );
    let inward = rule(vec![], vec![port_name("http")]);
    let compiled = compiled(
        vec![named(web(), "http", 8080), low, high],
        vec![policy("app=web", vec![inward], vec![out])],
    );
    assert!(egress(&compiled, B, 80) && !egress(&compiled, B, 90));
    assert!(egress(&compiled, C, 90) && !egress(&compiled, C, 80));
    assert!(!egress(&compiled, "8.8.8.8", 80) && !egress(&compiled, A, 8080));
    assert!(ingress(&compiled, B, 8080) && !ingress(&compiled, B, 80));
    assert_eq!(compiled.diagnostics, []);
}

#[test]
fn t4_named_port_without_to_resolves_on_every_pod() {
    let out = rule(vec![], vec![port_name("http")]);
    let compiled = compiled(
        vec![web(), named(other(), "http", 90)],
        vec![policy("", vec![], vec![out])],
    );
    assert!(egress(&compiled, C, 90) && !egress(&compiled, "8.8.8.8", 90));
}

#[test]
fn p6_an_address_of_two_pods_matches_what_both_match() {
    let twin = pod("shop", "twin", "app=web", B);
    let rules = vec![rule(vec![pods(selector("app=db"))], vec![])];
    let compiled = compiled(vec![web(), db(), twin], vec![policy("app=web", rules, vec![])]);
    assert!(!ingress(&compiled, B, 80));
    assert_eq!(codes(&compiled), [("address-conflict", "status.podIPs")]);
}

proptest! {
    #[test]
    fn t3_blocks_cover_the_range_exactly(a in any::<u16>(), b in any::<u16>()) {
        let (first, last) = (a.min(b), a.max(b));
        let mut next = u32::from(first);
        for (port, prefix_len) in ports::aligned(first, last) {
            let size = 1u32 << (16 - prefix_len);
            prop_assert_eq!(u32::from(port), next);
            prop_assert_eq!(next % size, 0);
            next += size;
        }
        prop_assert_eq!(next, u32::from(last) + 1);
    }

    #[test]
    fn t3_merged_ranges_hold_the_same_ports(ranges in prop::collection::vec((0u16..60, 0u16..9), 0..9)) {
        let ranges: Vec<_> = ranges.into_iter().map(|(first, more)| (first, first + more)).collect();
        let held = |ranges: &[(u16, u16)], port| ranges.iter().any(|&(first, last)| (first..=last).contains(&port));
        let merged = ports::merge(ranges.clone());
        for port in 0..80 {
            prop_assert_eq!(held(&ranges, port), held(&merged, port));
        }
        prop_assert!(merged.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0));
    }

    #[test]
    fn p5_every_address_has_the_blocks_that_hold_it(
        blocks in prop::collection::vec((0u8..=255, 24u8..=32, prop::collection::vec((0u8..=255, 1u8..=4), 0..3)), 1..8)
    ) {
        let mut expected = BTreeMap::new();
        let mut rules = Vec::new();
        for (index, (host, length, excepts)) in blocks.iter().enumerate() {
            let cidr: ipnet::IpNet = format!("10.0.0.{host}/{length}").parse().unwrap();
            let cidr = cidr.trunc();
            let excepts: Vec<ipnet::IpNet> = excepts
                .iter()
                .filter(|(_, more)| length + more <= 32)
                .map(|(host, more)| {
                    let inner = host & 255u8.checked_shr(u32::from(length - 24)).unwrap_or(0);
                    let IpAddr::V4(base) = cidr.addr() else { unreachable!() };
                    let text = format!("10.0.0.{}/{}", base.octets()[3] | inner, length + more);
                    text.parse::<ipnet::IpNet>().unwrap().trunc()
                })
                .collect();
            let texts: Vec<String> = excepts.iter().map(ToString::to_string).collect();
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let number = index as i32 + 1;
            rules.push(rule(vec![block(&cidr.to_string(), &texts)], vec![port(number, None)]));
            expected.insert(number as u16, (cidr, excepts));
        }
        let compiled = compiled(vec![web(), db()], vec![policy("", rules, vec![])]);
        prop_assert_eq!(&compiled.diagnostics, &vec![]);
        for host in 0..=255u8 {
            let address: IpAddr = format!("10.0.0.{host}").parse().unwrap();
            for (port, (cidr, excepts)) in &expected {
                let matches = cidr.contains(&address) && !excepts.iter().any(|net| net.contains(&address));
                prop_assert_eq!(ingress(&compiled, &address.to_string(), *port), matches);
            }
        }
    }
}
