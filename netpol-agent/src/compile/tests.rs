// SPDX-License-Identifier: Apache-2.0
//! The compiler against the rules of the contract, one test a rule.

use self::build::*;
use crate::model::*;

mod backends;
mod budgets;
mod build;
mod changes;
mod claims;
mod codes;
mod link_locals;
mod odd;
mod precedence;
mod properties;
mod restricted;
mod turns;

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
        assert_eq!(first(&open).code, "selector-invalid");
        assert!(
            first(&open)
                .field
                .starts_with("spec.podSelector.matchExpressions[0].")
        );
        let peer = compiled(
            vec![web(), db()],
            vec![policy("", vec![rule(vec![pods(bad)], vec![])], vec![])],
        );
        assert!(!ingress(&peer, B, 80));
        assert!(
            first(&peer)
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
    let of = |name| &compiled.endpoints[&ObjectKey::new("shop", name)];
    assert_eq!(
        (of("web").ingress, of("db").ingress),
        (Some(0), Some(0)),
        "equal policies are one"
    );
    assert_eq!(compiled.policies.len(), 1);
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
        assert!(entries(&compiled).is_empty());
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
    assert!(compiled.diagnostics.is_empty());
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

#[test]
fn a8_an_address_that_a_pod_being_deleted_gave_back_is_the_live_pods() {
    let rules = || vec![rule(vec![pods(selector("app=db"))], vec![])];
    let twin = |terminating, name: &str, app: &str| Pod {
        terminating,
        ..pod("shop", name, app, B)
    };
    // Whichever name sorts first.
    for old in ["aa", "zz"] {
        for (old_app, new_app, allowed) in [("app=web", "app=db", true), ("app=db", "app=web", false)] {
            let pods = vec![web(), twin(true, old, old_app), twin(false, "new", new_app)];
            let compiled = compiled(pods, vec![policy("app=web", rules(), vec![])]);
            assert_eq!(ingress(&compiled, B, 80), allowed, "{old}: {old_app}");
            assert!(codes(&compiled).is_empty());
        }
    }
    // Two that both go, or both live, are no more than both.
    for terminating in [true, false] {
        let pods = vec![
            web(),
            twin(terminating, "one", "app=db"),
            twin(terminating, "two", "app=web"),
        ];
        let compiled = compiled(pods, vec![policy("app=web", rules(), vec![])]);
        assert!(!ingress(&compiled, B, 80));
        assert_eq!(codes(&compiled), [("address-conflict", "status.podIPs")]);
    }
}

#[test]
fn p5_ip_blocks_do_not_cross_address_families() {
    let rules = vec![rule(vec![block("0.0.0.0/0", &[])], vec![])];
    let compiled = compiled(vec![web(), db()], vec![policy("", rules, vec![])]);
    assert!(ingress(&compiled, B, 1) && !ingress(&compiled, "2001:db8::1", 1));
}

#[test]
fn redundant_entries_and_prefixes_are_left_out() {
    let all_tcp = PolicyPort::default();
    let ports = vec![port(80, None), port(81, Some(90)), all_tcp];
    let rules = vec![rule(vec![block("10.0.0.0/8", &[])], ports)];
    let compiled = compiled(vec![web(), db()], vec![policy("", rules, vec![])]);
    assert_eq!(entries(&compiled).len(), 1);
    let prefixes: Vec<String> = compiled.addresses.keys().map(ToString::to_string).collect();
    assert_eq!(prefixes, ["10.0.0.0/8", "192.168.0.1/32"]);
}

#[test]
fn ten_thousand_pods_and_a_thousand_policies() {
    let at = |index: usize| format!("10.{}.{}.{}", index >> 16, index >> 8 & 255, index & 255);
    let pods_of = |index: usize| {
        let mut pod = pod(
            &format!("ns{}", index % 50),
            &format!("p{index}"),
            &format!("app=a{},id={index}", index % 97),
            &at(index),
        );
        pod.node = Some(format!("n{}", index / 100).into());
        pod
    };
    let policy_of = |index: usize| {
        let peers = vec![
            pods(selector(&format!("app=a{}", index % 97))),
            namespaces(selector(&format!("team=t{index}"))),
        ];
        let rules = vec![rule(peers, vec![port(1, Some(1000))])];
        let mut policy = policy(&format!("app=a{}", index % 97), rules.clone(), rules);
        policy.key = ObjectKey::new(format!("ns{}", index % 50), format!("p{index}"));
        policy
    };
    let compiled = compiled(
        (0..10_000).map(pods_of).collect(),
        (0..1_000).map(policy_of).collect(),
    );
    assert_eq!(compiled.endpoints.len(), 100);
    assert!(compiled.diagnostics.is_empty());
}

#[test]
fn rule_numbers_do_not_depend_on_other_policies() {
    let open = || policy("app=web", vec![Rule::default()], vec![]);
    let mut second = open();
    second.key.name = "a".into();
    let alone = compiled(vec![web()], vec![open()]);
    let both = compiled(vec![web()], vec![second, open()]);
    assert!(
        alone
            .rules
            .iter()
            .all(|(number, rule)| both.rules.get(number) == Some(rule))
    );
    assert_eq!((alone.rules.len(), both.rules.len()), (1, 2));
    assert!(
        entries(&both)
            .into_iter()
            .all(|(_, entry)| both.rules[&entry.rule].policy.name == "a")
    );
}

#[test]
fn fnv1a_gives_the_published_values() {
    use super::active::fnv1a;
    assert_eq!(
        (fnv1a(b""), fnv1a(b"a"), fnv1a(b"foobar")),
        (0x811c_9dc5, 0xe40c_292c, 0xbf9c_f968)
    );
}
