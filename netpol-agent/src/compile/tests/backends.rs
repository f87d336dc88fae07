// SPDX-License-Identifier: Apache-2.0
//! What policies say of frontends costs what it costs for the classes of their backends, not for
//! each backend (rules A5, L2). It is counted, not timed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use proptest::prelude::*;

use super::{
    super::{Compiled, Compiler, Matches, Passage, Target},
    build::*,
};
use crate::{
    compile::matches::{GONE_OVER, MATCHED},
    model::*,
    sync::{Desired, Memory, State, plan},
};

const PORTS: usize = 100;
const EACH: usize = 8;
const BACKENDS: usize = PORTS * EACH;
const RULES: usize = 64;

/// A Service with many ports, each of which leads to other ports of one pod.
fn add_service(snapshot: &mut Snapshot, backend: &str) {
    let key = ObjectKey::new("shop", "many");
    let name = |nth: usize| format!("p{nth}");
    let service = Service {
        key: key.clone(),
        cluster_ips: vec!["10.96.0.1".parse().unwrap()],
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        ports: (0..PORTS)
            .map(|nth| ServicePort {
                name: name(nth),
                protocol: Protocol::Tcp,
                port: nth as u16 + 1,
                node_port: None,
            })
            .collect(),
    };
    for slice in 0..EACH {
        let ports = (0..PORTS).map(|nth| EndpointPort {
            name: name(nth),
            protocol: Protocol::Tcp,
            number: Some((slice * PORTS + nth) as u16 + 1),
        });
        let slice = EndpointSlice {
            key: ObjectKey::new("shop", format!("many-{slice}")),
            service: Some(key.name.to_string()),
            ports: ports.collect(),
            endpoints: vec![SliceEndpoint {
                addresses: vec![backend.parse().unwrap()],
                ready: true,
                serving: true,
                terminating: false,
            }],
        };
        let key = slice.key.clone();
        snapshot.endpoint_slices.insert(key, Arc::new(slice));
    }
    snapshot.services.insert(key, Arc::new(service));
}

/// `shop/web` may send where these rules allow it; a Service leads to `shop/db`. Entries are
/// counted (rule L2), and there is room for them.
fn world(rules: Vec<Rule>) -> Snapshot {
    let mut snapshot = snapshot(
        vec![web(), named(db(), "http", 7)],
        vec![policy("app=web", vec![], rules)],
    );
    add_service(&mut snapshot, B);
    snapshot.limits.entries = Limit {
        object: 2000,
        namespace: 2000,
        all: 2000,
    };
    snapshot
}

/// Compiles and plans from nothing. Returns how often rules were held against a class of backends,
/// and the rules and ports that were gone over.
fn work(snapshot: &Snapshot) -> (Compiled, [usize; 2]) {
    MATCHED.set(0);
    GONE_OVER.set(0);
    let compiled = Compiler::default().compile(snapshot, &node());
    let pods = compiled.endpoints.keys().cloned();
    let pods: BTreeMap<u32, ObjectKey> = (100..).zip(pods).collect();
    let desired = Desired {
        compiled: &compiled,
        pods: &pods,
        present: &pods.keys().copied().collect(),
        devices: &BTreeSet::new(),
        closed: &BTreeSet::new(),
        bridges: &BTreeMap::new(),
        links: &BTreeMap::new(),
        settings: crate::sync::Settings::default(),
    };
    plan(&State::default(), &Memory::default(), desired);
    (compiled, [MATCHED.get(), GONE_OVER.get()])
}

/// What `shop/web` may do by the frontends: accepted, in part, not at all.
fn said(compiled: &Compiled) -> [usize; 3] {
    let policy = compiled.endpoints[&ObjectKey::new("shop", "web")].egress;
    let mut said = [0; 3];
    for (_, class) in &compiled.frontends {
        match compiled.passage(policy.expect("isolated"), *class) {
            Some(Passage::Accept(_)) => said[0] += 1,
            Some(Passage::Defer) => said[1] += 1,
            None => said[2] += 1,
        }
    }
    said
}

/// Rules are held against a class once in each of what goes over frontends: restricted backends,
/// room, plan.
#[test]
fn l2_rules_are_held_against_a_class_once_however_many_backends_have_it() {
    let peers = |nth: usize| (0..RULES).map(move |peer| pods(selector(&format!("z=z{nth}-{peer}"))));
    let rules = (0..RULES).map(|nth| rule(peers(nth).collect(), vec![]));
    let (compiled, [matched, _]) = work(&world(rules.collect()));
    assert_eq!(said(&compiled), [0, 0, PORTS]);
    // Two classes: that of the backends, and that of the frontends' own address.
    assert!((1..=8).contains(&matched), "{matched} for {BACKENDS} backends");
}

/// Where many backends have a class, what rules allow of it is put together once.
#[test]
fn l2_backends_of_a_class_times_rules_that_match_it_are_not_gone_over() {
    let to = |ports: Vec<PolicyPort>| rule(vec![pods(selector("app=db"))], ports);
    let odd = |nth: usize| vec![port(2 * nth as i32 + 1, None)];
    let names = || (0..RULES).map(|nth| port_name(&format!("n{nth}")));
    let table = [
        (
            (0..5 * RULES).map(|nth| to(odd(nth))).collect::<Vec<_>>(),
            // Of every other port, up to the 640th.
            [0, PORTS / 2, PORTS / 2],
        ),
        // Of its one named port, the backends have one frontend.
        (
            vec![to(names().chain([port_name("http")]).collect())],
            [0, 1, PORTS - 1],
        ),
    ];
    for (rules, expected) in table {
        let ports: usize = rules.iter().map(|rule| rule.ports.len()).sum();
        let (compiled, [_, gone_over]) = work(&world(rules));
        assert_eq!(said(&compiled), expected);
        assert!(
            (1..=8 * ports).contains(&gone_over),
            "{gone_over} for {ports} ports in all and {BACKENDS} backends"
        );
    }
}

proptest! {
    /// What is said of a backend is the entry for it, whether it is asked once or often.
    #[test]
    fn a5_a_backend_has_the_rule_of_the_entry_for_it(
        rules in prop::collection::vec((0..4_usize, prop::collection::vec((0..6_i32, 0..40_i32), 0..4)), 1..6),
        asked in prop::collection::vec(1..50_u16, 1..60),
    ) {
        let rules = rules.into_iter().map(|(peer, ports)| {
            let peers = [vec![], vec![pods(selector("app=db"))], vec![pods(selector("z=none"))], vec![block("10.0.0.0/8", &[])]];
            let ports = ports.into_iter().map(|(more, first)| match more {
                0 => port_name("http"),
                more => port(first + 1, Some(first + more)),
            });
            let mut ports: Vec<PolicyPort> = ports.collect();
            if peer == 0 {
                // What allows everything of everyone is told first.
                ports.push(port(50, None));
            }
            rule(peers[peer].clone(), ports)
        });
        let compiled = compiled(
            vec![web(), named(db(), "http", 7)],
            vec![policy("app=web", vec![], rules.collect())],
        );
        let id = compiled.endpoints[&ObjectKey::new("shop", "web")].egress.expect("isolated");
        let policy = &compiled.policies.get(&id).expect("there");
        let often = Matches::among(&compiled.classes);
        for number in asked {
            for class in [class_of(&compiled, B), class_of(&compiled, "192.0.2.1")] {
                let target = Target { class, node: false, protocol: Protocol::Tcp.number(), port: number };
                let targets = BTreeSet::from([target]);
                let once = Matches::among(&compiled.classes);
                let said = policy.passage_over(&targets, &once);
                prop_assert_eq!(said, policy.passage_over(&targets, &often));
                let entries = compiled.entries(id, class);
                let around = entries.iter().find(|(key, _)| key.is_none_or(|key| {
                    let shift = 16 - u32::from(key.prefix_len);
                    key.protocol == target.protocol && u32::from(key.port) >> shift == u32::from(number) >> shift
                }));
                prop_assert_eq!(said, around.map(|(_, entry)| Passage::Accept(entry.rule)));
            }
        }
    }
}
