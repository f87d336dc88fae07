// SPDX-License-Identifier: Apache-2.0
//! No object costs everybody (rule L2): what is over budget is isolated and reported once, and all
//! others stay as they are.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use proptest::prelude::*;

use super::{
    super::{
        ClassId, Compiled, Compiler,
        budget::{Budget, Weight},
        policy::BUILT,
        weight,
    },
    build::*,
};
use crate::{compile::active::Cost, model::*};

/// A policy that lets one pod in, in another namespace than the objects that are too large.
fn honest(snapshot: &mut Snapshot) {
    let mut policy = policy(
        "app=db",
        vec![rule(vec![pods(selector("app=db"))], vec![])],
        vec![],
    );
    policy.key = ObjectKey::new("other", "honest");
    snapshot.policies.insert(policy.key.clone(), Arc::new(policy));
    let pod = other();
    snapshot.pods.insert(pod.key.clone(), Arc::new(pod));
}

/// What the first compilation of a policy for `shop/web` comes to; the other namespace has what it
/// has alone.
fn isolates(policy: NetworkPolicy) {
    let mut snapshot = snapshot(vec![web(), db()], vec![policy]);
    honest(&mut snapshot);
    let mut compiler = Compiler::default();
    let compiled = compiler.compile(&snapshot, &node());
    assert_eq!(codes(&compiled), [("policy-over-budget", "spec")]);
    assert!(!ingress(&compiled, B, 80) && !ingress(&compiled, "192.0.2.1", 80));
    assert!(compiled.classes.len() < 10, "{}", compiled.classes.len());
    let other = ObjectKey::new("other", "db");
    let policy = compiled.endpoints[&other].ingress.expect("isolated");
    assert!(!compiled.entries(policy, class_of(&compiled, C)).is_empty());
    // And once it is as small as others.
    let mut small = NetworkPolicy::clone(snapshot.policies.get(&ObjectKey::new("shop", "p")).unwrap());
    small.ingress = vec![rule(vec![], vec![port(80, None)])];
    snapshot.policies.insert(small.key.clone(), Arc::new(small));
    let compiled = compiler.compile(&snapshot, &node());
    assert!(compiled.diagnostics.is_empty() && ingress(&compiled, B, 80) && !ingress(&compiled, B, 81));
}

fn address(nth: usize) -> String {
    format!("10.{}.{}.{}", nth >> 16, nth >> 8 & 255, nth & 255)
}

#[test]
fn l2_a_policy_of_peers_times_ports_is_counted_before_it_is_built() {
    let peers = (0..9000).map(|nth| block(&format!("{}/32", address(nth)), &[]));
    let ports = (1..9000).map(|number| port(2 * number, None));
    isolates(policy(
        "app=web",
        vec![rule(peers.collect(), ports.collect())],
        vec![],
    ));
}

#[test]
fn l2_ranges_count_as_the_blocks_that_they_come_to() {
    let peers = (0..900).map(|nth| block(&format!("{}/32", address(nth)), &[]));
    let ports = (1..1000).map(|nth| port(60 * nth + 1, Some(60 * nth + 58)));
    isolates(policy(
        "app=web",
        vec![rule(peers.collect(), ports.collect())],
        vec![],
    ));
}

#[test]
fn l2_everything_but_one_address_six_thousand_times() {
    let peers = (0..6000).map(|nth| block("0.0.0.0/0", &[&format!("{}/32", address(nth))]));
    isolates(policy("app=web", vec![rule(peers.collect(), vec![])], vec![]));
    // In rules of their own, and with other ports.
    let rules = (0..6000).map(|nth| {
        let peer = block("0.0.0.0/0", &[&format!("{}/32", address(nth))]);
        rule(vec![peer], vec![port(1 + nth as i32, None)])
    });
    isolates(policy("app=web", rules.collect(), vec![]));
}

#[test]
fn l2_selectors_with_thousands_of_requirements() {
    let expressions = (0..9000).map(|nth| LabelExpression {
        key: format!("key-{nth}"),
        operator: "DoesNotExist".into(),
        values: Vec::new(),
    });
    let selector = LabelSelector {
        match_expressions: expressions.collect(),
        ..LabelSelector::default()
    };
    isolates(policy(
        "app=web",
        vec![rule(vec![namespaces(selector)], vec![])],
        vec![],
    ));
}

#[test]
fn l2_many_small_rules_are_counted() {
    let rules = (0..5000).map(|_| rule(vec![pods(LabelSelector::default())], vec![]));
    isolates(policy("app=web", rules.collect(), vec![]));
}

#[test]
fn l2_a_requirement_counts_as_its_values() {
    let mut selector = expression("In", &[]);
    selector.match_expressions[0].values = (0..9000).map(|nth| format!("v{nth}")).collect();
    isolates(policy(
        "app=web",
        vec![rule(vec![namespaces(selector)], vec![])],
        vec![],
    ));
}

#[test]
fn l2_policies_of_one_namespace_cost_that_namespace_only() {
    let many = (0..200).map(|nth| {
        let peer = block("0.0.0.0/0", &[&format!("{}/32", address(nth))]);
        let mut policy = policy("app=web", vec![rule(vec![peer], vec![port(80, None)])], vec![]);
        policy.key = ObjectKey::new("shop", format!("p-{nth:03}"));
        policy
    });
    let mut snapshot = snapshot(vec![web(), db()], many.collect());
    honest(&mut snapshot);
    let compiled = super::super::compile(&snapshot, &node());
    let objects: BTreeSet<&str> = compiled.diagnostics.keys().map(|found| &*found.object).collect();
    assert_eq!((objects.len(), compiled.diagnostics.len()), (72, 72), "128 fit");
    assert!(objects.contains("NetworkPolicy shop/p-128") && !objects.contains("NetworkPolicy shop/p-127"));
    assert!(
        compiled.endpoints[&ObjectKey::new("other", "db")]
            .ingress
            .is_some()
    );
}

/// A snapshot whose policy for `shop/web` names thousands of ports, and pods that have thousands.
#[test]
fn l2_named_ports_times_pods_are_looked_up_and_not_searched() {
    let names: Vec<String> = (0..30_000).map(|nth| format!("p{nth}")).collect();
    let ports: Vec<PolicyPort> = names.iter().map(|name| port_name(name)).collect();
    let any = || rule(vec![namespaces(LabelSelector::default())], ports.clone());
    let mut many = db();
    for (nth, name) in names.iter().enumerate().take(1024) {
        many = named(many, name, nth as u16 + 1);
    }
    let compiled = compiled(
        vec![web(), many],
        vec![policy("app=web", vec![any()], vec![any()])],
    );
    assert!(egress(&compiled, B, 1024) && !egress(&compiled, B, 1025));
    assert!(!ingress(&compiled, B, 1024));
    let unresolved = compiled.diagnostics.keys();
    let unresolved = unresolved.filter(|found| found.code == "named-port-unresolved");
    assert_eq!(unresolved.count(), 20, "and not 60,000");
}

/// Where classes times rules are too much, those are closed who come to the most.
#[test]
fn l2_entries_for_the_peers_that_there_are_have_a_budget() {
    let mut pods = vec![web(), db(), other()];
    for nth in 0..40 {
        let mut peer = pod(
            "peers",
            &format!("p{nth}"),
            &format!("l{nth}=x"),
            &address(nth + 7),
        );
        peer.node = Some("n2".into());
        pods.push(peer);
    }
    // 40 classes, each of which the large policy allows 50 ports.
    let selectors = (0..40).map(|nth| rule(vec![namespaces_and(&format!("l{nth}=x"))], vec![]));
    let apart = NetworkPolicy {
        key: ObjectKey::new("other", "apart"),
        ..policy("app=db", selectors.collect(), vec![])
    };
    let ports = (0..50).map(|nth| port(2 * nth + 1, None)).collect();
    let large = policy(
        "app=web",
        vec![rule(vec![namespaces(LabelSelector::default())], ports)],
        vec![],
    );
    let mut snapshot = snapshot(pods, vec![apart, large]);
    let mut compiler = Compiler::default();
    let free = compiler.compile(&snapshot, &node());
    assert!(free.diagnostics.is_empty() && ingress(&free, &address(7), 1));
    snapshot.limits.entries = Limit {
        object: 1000,
        namespace: 1000,
        all: 1500,
    };
    let tight = compiler.compile(&snapshot, &node());
    assert_eq!(codes(&tight), [("pod-over-budget", "")]);
    assert_eq!(
        tight.endpoints[&ObjectKey::new("shop", "web")].ingress,
        Some(super::super::CLOSED)
    );
    assert!(!ingress(&tight, &address(7), 1));
    let other = tight.endpoints[&ObjectKey::new("other", "db")]
        .ingress
        .expect("isolated");
    assert!(!tight.entries(other, class_of(&tight, &address(7))).is_empty());
    // As pods go, and with them what the policy comes to.
    for nth in 10..40 {
        snapshot.pods.remove(&ObjectKey::new("peers", format!("p{nth}")));
    }
    let again = compiler.compile(&snapshot, &node());
    assert!(again.diagnostics.is_empty() && ingress(&again, &address(7), 1));
}

/// A rule for everyone has its entries in each policy of an endpoint that it is a part of: pods
/// that other policies tell apart make them more.
#[test]
fn l2_entries_for_everyone_count_for_each_set_of_policies() {
    let everyones = Everyones {
        most: 40,
        least: 0,
        each: 10,
    };
    let limits = Limits {
        everyones,
        ..Limits::default()
    };
    let [wide, other, blocks] = [("team", "wide"), ("team", "other"), ("prefixes", "many")]
        .map(|(at, name)| ObjectKey::new(at, name));
    let mut cost = Cost::new(&limits);
    let ports = [80, 443].map(|number| port(number, None)).to_vec();
    let everyone = policy("", vec![rule(vec![], ports)], vec![]);
    let twelve = (0..12).map(|nth| block(&format!("10.0.{nth}.0/24"), &[]));
    let twelve = policy("", vec![rule(twelve.collect(), vec![])], vec![]);
    cost.set(&wide, Some(&Arc::new(everyone)));
    cost.set(&blocks, Some(&Arc::new(twelve)));
    let sets = [vec![&wide], vec![&wide, &other], vec![&blocks]];
    let sets = sets.map(|keys| keys.into_iter().cloned().collect::<BTreeSet<_>>());
    // 12 times 2, in one set however many pods have it; then 12 times 4.
    for (together, refused) in [([0, 0, 2], false), ([0, 1, 2], true), ([1, 1, 2], false)] {
        cost.settle(together.iter().map(|nth: &usize| &sets[*nth]));
        assert_eq!(cost.refusal(&blocks).is_some(), refused, "{together:?}");
        assert!(cost.refusal(&wide).is_none());
    }
}

/// Web from everywhere, and the internet.
fn team_policy() -> NetworkPolicy {
    let internet = block("0.0.0.0/0", &["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"]);
    let web = [80, 443, 8080].map(|number| port(number, None));
    let ingress = vec![rule(vec![], web.to_vec())];
    policy("app=web", ingress, vec![rule(vec![internet], vec![])])
}

/// A namespace with one pod, under one policy.
fn add_team(snapshot: &mut Snapshot, number: usize, mut policy: NetworkPolicy) {
    let namespace = format!("team{number:03}");
    let pod = pod(&namespace, "web", "app=web", &address((11 << 16) + number));
    policy.key = ObjectKey::new(namespace.as_str(), "web");
    snapshot.policies.insert(policy.key.clone(), Arc::new(policy));
    snapshot.pods.insert(pod.key.clone(), Arc::new(pod));
}

/// Many teams with what everyone has come to much together, of both. That is no reason to refuse
/// any of them, whatever another asks for beside.
#[test]
fn l2_teams_with_ordinary_policies_lose_nothing_however_many_they_are() {
    for others in [0, 700, 9000] {
        let mut snapshot = snapshot(vec![web()], vec![]);
        for nth in 0..400 {
            add_team(&mut snapshot, nth, team_policy());
        }
        let blocks = (0..others).map(|nth| block(&format!("{}/32", address(2 * nth)), &[]));
        let ports = (0..200).map(|nth| port(2 * nth + 1, None));
        let rules = vec![rule(blocks.collect(), vec![]), rule(vec![], ports.collect())];
        let evil = policy("app=web", vec![], rules);
        snapshot.policies.insert(evil.key.clone(), Arc::new(evil));
        let compiled = super::super::compile(&snapshot, &node());
        let is_team = |found: &&Diagnostic| found.object.contains("team");
        assert_eq!(compiled.diagnostics.keys().find(is_team), None, "{others}");
    }
}

/// A frontend of which a policy says nothing is no entry of it, whoever makes it.
#[test]
fn l2_frontends_of_others_close_no_policy_that_says_nothing_of_them() {
    let mut snapshot = snapshot(vec![web(), db()], vec![]);
    for nth in 0..30 {
        let dns = rule(vec![], vec![port(53, None)]);
        add_team(&mut snapshot, nth, policy("app=web", vec![], vec![dns]));
    }
    let service = service("shop", "many", 1, 100);
    let slice = slice(&service, B);
    snapshot.services.insert(service.key.clone(), Arc::new(service));
    snapshot
        .endpoint_slices
        .insert(slice.key.clone(), Arc::new(slice));
    snapshot.limits.entries = Limit {
        object: 200,
        namespace: 200,
        all: 400,
    };
    let compiled = super::super::compile(&snapshot, &node());
    assert!(
        compiled.classes.len() > 100 && compiled.diagnostics.is_empty(),
        "{}",
        first(&compiled)
    );
}

/// A slice of a Service with one backend for all its ports.
fn slice(service: &Service, backend: &str) -> EndpointSlice {
    let port = |port: &ServicePort| EndpointPort {
        name: port.name.clone(),
        protocol: port.protocol,
        number: Some(port.port),
    };
    EndpointSlice {
        key: service.key.clone(),
        service: Some(service.key.name.to_string()),
        ports: service.ports.iter().map(port).collect(),
        endpoints: vec![SliceEndpoint {
            addresses: vec![backend.parse().unwrap()],
            ready: true,
            serving: true,
            terminating: false,
        }],
    }
}

/// 30 teams with wide rules, and one namespace with as many prefixes as it may have.
#[test]
fn l2_prefixes_of_one_namespace_do_not_close_the_wide_rules_of_others() {
    let mut snapshot = snapshot(vec![web()], vec![]);
    for nth in 0..30 {
        add_team(&mut snapshot, nth, team_policy());
    }
    let many = (0..4).map(|part| {
        let prefix = |nth: usize| block(&format!("{}/32", address((part << 18) + 2 * nth)), &[]);
        let blocks = (0..1 << 13).map(prefix);
        policy("app=web", vec![], vec![rule(blocks.collect(), vec![])])
    });
    let bad = pod("evil", "web", "app=web", &address(11 << 15));
    snapshot.pods.insert(bad.key.clone(), Arc::new(bad));
    for (nth, mut policy) in many.enumerate() {
        policy.key = ObjectKey::new("evil", format!("p{nth}"));
        snapshot.policies.insert(policy.key.clone(), Arc::new(policy));
    }
    let mut compiler = Compiler::default();
    let compiled = compiler.compile(&snapshot, &node());
    let refused: Vec<&str> = compiled.diagnostics.keys().map(|found| &*found.object).collect();
    // 120 entries for everyone's addresses leave room for 13,107 prefixes, of which each has 8,192.
    assert_eq!(
        refused,
        ["p1", "p2", "p3"].map(|name| format!("NetworkPolicy evil/{name}"))
    );
    let closed = |compiled: &Compiled| {
        let both = compiled.endpoints.values().flat_map(|of| [of.ingress, of.egress]);
        both.filter(|policy| *policy == Some(super::super::CLOSED))
            .count()
    };
    assert_eq!(closed(&compiled), 0);
    let most = compiled.policies.iter().map(|(id, _)| {
        let of_class = |class: &ClassId| compiled.entries(*id, *class).len();
        compiled.classes.keys().map(of_class).sum::<usize>()
    });
    assert!(most.sum::<usize>() < Limits::default().entries.all);
}

fn namespaces_and(text: &str) -> Peer {
    Peer {
        pod_selector: Some(selector(text)),
        ..namespaces(LabelSelector::default())
    }
}

fn service(namespace: &str, name: &str, external: usize, ports: usize) -> Service {
    // No pod's, which would be refused.
    let address = |nth| address((9 << 16) + nth).parse::<IpAddr>().unwrap();
    Service {
        key: ObjectKey::new(namespace, name),
        cluster_ips: vec!["10.96.0.1".parse().unwrap()],
        external_ips: (0..external).map(address).collect(),
        load_balancer_ips: Vec::new(),
        ports: (1..=ports)
            .map(|nth| ServicePort {
                name: format!("p{nth}"),
                protocol: Protocol::Tcp,
                port: nth as u16,
                node_port: None,
            })
            .collect(),
    }
}

#[test]
fn l2_a_service_of_addresses_times_ports_is_counted_before_it_is_built() {
    let mut snapshot = snapshot(vec![web(), db()], vec![]);
    for service in [
        service("shop", "large", 2500, 2500),
        service("other", "small", 1, 2),
    ] {
        snapshot.services.insert(service.key.clone(), Arc::new(service));
    }
    let compiled = super::super::compile(&snapshot, &node());
    assert_eq!(compiled.frontends.len(), 4);
    assert_eq!(codes(&compiled), [("service-over-budget", "spec")]);
}

/// What a policy says of a frontend is looked up: its ports are not gone through for each, in
/// either what the map holds of it or what stands behind its backends.
#[test]
fn l2_frontends_times_ports_are_looked_up_and_not_built() {
    let ports = (0..1000).map(|nth| port(2 * nth + 1, None));
    let peers = vec![pods(selector("app=db"))];
    let policy = policy("app=web", vec![], vec![rule(peers, ports.collect())]);
    let mut snapshot = snapshot(vec![web(), db()], vec![policy]);
    let service = service("shop", "many", 80, 100);
    let slice = slice(&service, B);
    snapshot.services.insert(service.key.clone(), Arc::new(service));
    snapshot
        .endpoint_slices
        .insert(slice.key.clone(), Arc::new(slice));
    BUILT.set(0);
    let compiled = super::super::compile(&snapshot, &node());
    assert_eq!((compiled.frontends.len(), BUILT.get()), (8100, 0));
    let policy = compiled.endpoints[&ObjectKey::new("shop", "web")]
        .egress
        .expect("isolated");
    let classes: BTreeSet<ClassId> = compiled.frontends.iter().map(|(_, class)| *class).collect();
    let let_in = classes
        .iter()
        .filter(|class| compiled.passage(policy, **class).is_some());
    // Every other port of the hundred.
    assert_eq!((classes.len(), let_in.count(), BUILT.get()), (100, 50, 0));
}

#[test]
fn l2_services_of_one_namespace_leave_room_for_others() {
    let mut snapshot = snapshot(vec![web(), db()], vec![]);
    for nth in 0..100 {
        let service = service("shop", &format!("s{nth:02}"), 200, 40);
        snapshot.services.insert(service.key.clone(), Arc::new(service));
    }
    let small = service("zoo", "small", 1, 2);
    snapshot.services.insert(small.key.clone(), Arc::new(small));
    let compiled = super::super::compile(&snapshot, &node());
    let refused = compiled
        .diagnostics
        .keys()
        .filter(|found| found.code == "service-over-budget");
    let refused: BTreeSet<_> = refused.map(|found| found.object.clone()).collect();
    assert_eq!(refused.len(), 98);
    assert!(!refused.contains("Service zoo/small"));
}

#[test]
fn l2_two_services_at_the_same_places_are_a_line_each() {
    let mut snapshot = snapshot(vec![web(), db()], vec![]);
    for name in ["a", "b"] {
        let service = service("shop", name, 50, 100);
        snapshot.services.insert(service.key.clone(), Arc::new(service));
    }
    let mut compiler = Compiler::default();
    let compiled = compiler.compile(&snapshot, &node());
    assert_eq!(codes(&compiled), [("frontend-conflict", "spec.ports")]);
    assert!(
        first(&compiled).message.contains("5099 others"),
        "{}",
        first(&compiled)
    );
    snapshot.services.remove(&ObjectKey::new("shop", "a"));
    assert!(compiler.compile(&snapshot, &node()).diagnostics.is_empty());
}

#[test]
fn l2_a_namespace_that_asks_for_little_loses_nothing_to_many_that_ask_for_much() {
    let limit = Limit {
        object: 100,
        namespace: 100,
        all: 1000,
    };
    let mut budget = Budget::new([limit]);
    budget.set(&ObjectKey::new("kube-system", "dns"), Some([10]));
    for nth in 0..50 {
        budget.set(&ObjectKey::new(format!("tenant-{nth:02}"), "a"), Some([15]));
        budget.set(&ObjectKey::new(format!("tenant-{nth:02}"), "b"), Some([85]));
    }
    let refused = budget.settle();
    assert_eq!(refused.len(), 50, "each keeps its first");
    assert!(refused.iter().all(|key| &*key.name == "b"));
    (10..50).for_each(|nth| budget.set(&ObjectKey::new(format!("tenant-{nth:02}"), "b"), None));
    let changed = budget.settle();
    assert_eq!(changed.len(), 50, "those that are gone, and those that fit since");
    assert!(budget.refusal(&ObjectKey::new("tenant-00", "b")).is_some());
}

proptest! {
    /// Step by step it comes to what it does at once, and never to more than the limits.
    #[test]
    fn l2_budgets_are_kept_and_do_not_depend_on_what_came_before(
        limits in (1usize..20, 1usize..20, 1usize..20),
        changes in prop::collection::vec((0u8..4, 0u8..5, prop::option::of((0usize..25, 0usize..8))), 1..40),
    ) {
        let limit = |object: usize| Limit { object, namespace: object + limits.1, all: object + limits.1 + limits.2 };
        let limits = [limit(limits.0), limit(limits.0 / 2)];
        let mut kept = Budget::new(limits);
        let mut all = std::collections::BTreeMap::new();
        for (namespace, name, weight) in changes {
            let key = ObjectKey::new(format!("n{namespace}"), format!("o{name}"));
            let weight: Option<Weight<2>> = weight.map(|(one, two)| [one, two]);
            kept.set(&key, weight);
            all.insert(key, weight);
            if name % 2 == 0 {
                kept.settle();
            }
        }
        kept.settle();
        let mut fresh = Budget::new(limits);
        all.iter().for_each(|(key, weight)| fresh.set(key, *weight));
        fresh.settle();
        let mut used = [0; 2];
        for (key, weight) in &all {
            prop_assert_eq!(kept.refusal(key), fresh.refusal(key), "{}", key);
            prop_assert!(weight.is_some() || kept.refusal(key).is_none());
            if let Some(weight) = weight.filter(|_| kept.refusal(key).is_none()) {
                (0..2).for_each(|nth| used[nth] += weight[nth]);
            }
        }
        prop_assert!((0..2).all(|nth| used[nth] <= limits[nth].all));
    }

    /// What is counted is no less than what is built.
    #[test]
    fn l2_a_policy_is_counted_as_no_less_than_it_comes_to(
        peers in prop::collection::vec((0u8..8, 20u8..32), 0..6),
        ports in prop::collection::vec((1i32..200, prop::option::of(0i32..90)), 0..5),
    ) {
        let blocks = peers.iter().map(|(host, length)| block(&format!("10.0.{host}.0/{length}"), &[]));
        let ports = ports.iter().map(|(first, more)| port(*first, more.map(|more| first + more)));
        let policy = policy("app=web", vec![rule(blocks.collect(), ports.collect())], vec![]);
        let [pairs, prefixes, depth, _, wide] = weight::policy(&policy);
        let compiled = compiled(vec![web()], vec![policy]);
        let of_class = |class: &ClassId| compiled.entries(0, *class).len();
        let most = compiled.classes.keys().map(of_class).max().unwrap_or(0);
        prop_assert!(most * prefixes.max(1) <= pairs.max(1), "{most} entries a class, {prefixes} prefixes, {pairs} pairs");
        let around = compiled.classes.values().map(|class| class.peers.len()).max().unwrap_or(0);
        prop_assert!(around <= depth, "{around} around, {depth} counted");
        // Of a class of one address somewhere in the blocks of more than 256.
        let is_wide = peers.iter().any(|(_, length)| *length < 24) || peers.is_empty();
        prop_assert_eq!(wide > 0, is_wide);
        prop_assert!(!is_wide || most <= wide, "{} entries, {} counted", most, wide);
    }

    /// Who asks for few prefixes has them, whatever others ask for; and all of them together are no
    /// more than fit beside the entries for everyone's addresses.
    #[test]
    fn l2_of_prefixes_beside_entries_for_everyone_who_asks_for_much_is_refused(
        most in 1usize..400,
        asked in prop::collection::vec((0usize..40, 0usize..40), 1..8),
    ) {
        let unlimited = Limit { object: 1 << 20, namespace: 1 << 20, all: 1 << 20 };
        let everyones = Everyones { most, least: 12, each: 5 };
        let limits = Limits { policies: [unlimited; 5], everyones, ..Limits::default() };
        let mut cost = Cost::new(&limits);
        let key = |nth: usize| ObjectKey::new(format!("n{nth}"), "p");
        let policies = asked.iter().enumerate().map(|(nth, (prefixes, ports))| {
            let blocks = (0..*prefixes).map(|host| block(&format!("10.{nth}.{host}.0/24"), &[]));
            let ports: Vec<_> = (0..*ports).map(|port_| port(port_ as i32 + 1, None)).collect();
            let mut rules = vec![rule(blocks.collect(), vec![])];
            rules.retain(|rule| !rule.peers.is_empty());
            if !ports.is_empty() {
                rules.push(rule(vec![], ports));
            }
            NetworkPolicy { key: key(nth), ..policy("", rules, vec![]) }
        });
        let policies: Vec<_> = policies.map(Arc::new).collect();
        for policy in &policies {
            cost.set(&policy.key, Some(policy));
        }
        cost.settle(std::iter::empty());
        let counted: usize = asked.iter().map(|of| of.1.min(5)).sum();
        let mut above = 0;
        for (nth, (prefixes, _)) in asked.iter().enumerate() {
            match cost.refusal(&key(nth)) {
                None if *prefixes > 5 => above += prefixes,
                None => {}
                Some(_) => prop_assert!(*prefixes > 5, "{prefixes} are each one's"),
            }
        }
        let fit = most / counted.max(1);
        let all: usize = asked.iter().map(|of| of.0).sum();
        prop_assert!(all * counted <= most || above <= fit.max(12), "{above} of {fit}");
    }
}
