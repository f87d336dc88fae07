// SPDX-License-Identifier: Apache-2.0
//! Backends that some pods may not reach have a budget (rules A5, L2): who is over it is closed
//! where it would be open in part, and nobody else is.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    super::{Compiled, Compiler, Passage},
    build::*,
};
use crate::model::{Frontend, *};

/// How many backends of Services may be restricted: one Service, one namespace, all.
const FEW: Limit = Limit {
    object: 4,
    namespace: 6,
    all: 10,
};
const PORT: u16 = 80;

/// The address of a Service by its number.
fn virtual_ip(number: usize) -> std::net::IpAddr {
    format!("10.96.0.{number}").parse().unwrap()
}

/// Adds a Service with so many backends outside, the first of them at an address that policy
/// allows.
fn add(snapshot: &mut Snapshot, namespace: &str, number: usize, backends: usize) {
    let key = ObjectKey::new(namespace, format!("s{number}"));
    let service = Service {
        key: key.clone(),
        cluster_ips: vec![virtual_ip(number)],
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        ports: vec![ServicePort {
            name: String::new(),
            protocol: Protocol::Tcp,
            port: PORT,
            node_port: None,
        }],
    };
    let address = |nth: usize| match nth {
        0 => format!("192.0.2.{number}"),
        _ => format!("198.51.{number}.{nth}"),
    };
    let endpoint = |nth| SliceEndpoint {
        addresses: vec![address(nth).parse().unwrap()],
        ready: true,
        serving: true,
        terminating: false,
    };
    let slice = EndpointSlice {
        key: key.clone(),
        service: Some(key.name.to_string()),
        ports: vec![EndpointPort {
            name: String::new(),
            protocol: Protocol::Tcp,
            number: Some(PORT),
        }],
        endpoints: (0..backends).map(endpoint).collect(),
    };
    snapshot.services.insert(key.clone(), Arc::new(service));
    snapshot.endpoint_slices.insert(key, Arc::new(slice));
}

/// `shop/web` may send to the first backend of each Service, and `shop/db` to all of them.
fn world() -> Snapshot {
    let to = |app: &str, name: &str, blocks: &[&str]| {
        let peers = blocks.iter().map(|cidr| block(cidr, &[])).collect();
        let mut policy = policy(&format!("app={app}"), vec![], vec![rule(peers, vec![])]);
        policy.key.name = name.into();
        policy
    };
    let mut snapshot = snapshot(
        vec![web(), db()],
        vec![
            to("web", "part", &["192.0.2.0/24"]),
            to("db", "all", &["192.0.2.0/24", "198.51.0.0/16"]),
        ],
    );
    snapshot.limits.restricted = FEW;
    snapshot
}

/// What a pod of `shop` may do by the Service of a number.
fn said(compiled: &Compiled, pod: &str, number: usize) -> &'static str {
    said_of(compiled, pod, virtual_ip(number))
}

/// What a pod of `shop` may do by an address.
fn said_of(compiled: &Compiled, pod: &str, address: std::net::IpAddr) -> &'static str {
    let frontend = Frontend {
        address,
        protocol: Protocol::Tcp.number(),
        port: PORT,
    };
    let policy = compiled.endpoints[&ObjectKey::new("shop", pod)].egress;
    match compiled.passage(policy.expect("isolated"), compiled.frontends[&frontend]) {
        Some(Passage::Accept(_)) => "accept",
        Some(Passage::Defer) => "defer",
        None => "deny",
    }
}

/// The Services that are over budget.
fn over(compiled: &Compiled) -> BTreeSet<&str> {
    let found = compiled.diagnostics.keys();
    let found = found.filter(|found| found.code == "restricted-backends-over-budget");
    found.map(|found| found.object.as_str()).collect()
}

#[test]
fn l2_a_service_with_too_many_restricted_backends_is_closed_in_part_and_nobody_else_is() {
    /// Namespace and number of backends of each Service, in order; which of them are over budget.
    type Row = (&'static [(&'static str, usize)], &'static [usize]);
    let table: [Row; 6] = [
        (&[("a", 4), ("b", 4)], &[]),
        (&[("a", 5), ("b", 4)], &[1]),
        // A namespace costs itself only, in the order of names.
        (&[("a", 4), ("a", 3), ("a", 2), ("b", 4)], &[2]),
        // Where all ask for too much, who asks for little loses nothing.
        (&[("a", 4), ("b", 4), ("c", 4), ("d", 1)], &[1, 2, 3]),
        (&[("a", 4), ("a", 2), ("b", 3), ("c", 3)], &[2]),
        (&[("a", 4), ("b", 6), ("c", 2)], &[2]),
    ];
    for (services, refused) in table {
        let mut snapshot = world();
        for (nth, (namespace, backends)) in services.iter().enumerate() {
            add(&mut snapshot, namespace, nth + 1, *backends);
        }
        let compiled = super::super::compile(&snapshot, &node());
        let names: Vec<String> = refused
            .iter()
            .map(|number| format!("Service {}/s{number}", services[number - 1].0))
            .collect();
        assert!(
            over(&compiled).into_iter().eq(names.iter().map(String::as_str)),
            "{services:?}: {:?}",
            compiled.diagnostics
        );
        let mut restricted = 0;
        for (nth, (_, backends)) in services.iter().enumerate() {
            let number = nth + 1;
            let expected = match (refused.contains(&number), backends) {
                (true, _) => "deny",
                (false, 1) => "accept",
                (false, _) => "defer",
            };
            assert_eq!(said(&compiled, "web", number), expected, "{services:?}, {number}");
            assert_eq!(said(&compiled, "db", number), "accept", "{services:?}, {number}");
            restricted += if expected == "defer" { *backends } else { 0 };
        }
        assert_eq!(compiled.restricted.len(), restricted, "{services:?}");
        assert!(restricted <= FEW.all);
    }
}

#[test]
fn l2_what_is_closed_opens_when_there_is_room_and_is_what_a_fresh_start_makes_of_it() {
    let mut snapshot = world();
    let mut compiler = Compiler::default();
    for number in 1..4 {
        add(&mut snapshot, "a", number, 3);
    }
    let compiled = compiler.compile(&snapshot, &node());
    assert_eq!(over(&compiled), BTreeSet::from(["Service a/s3"]));
    // A backend that all may reach is not restricted; then the third has room.
    add(&mut snapshot, "a", 2, 1);
    let compiled = compiler.compile(&snapshot, &node());
    assert_eq!(over(&compiled), BTreeSet::new());
    assert_eq!(
        [1, 2, 3].map(|number| said(&compiled, "web", number)),
        ["defer", "accept", "defer"]
    );
    assert_eq!(compiled.restricted.len(), 6);
    // It has more backends while it is closed, and others have more, and it goes.
    add(&mut snapshot, "a", 2, 3);
    add(&mut snapshot, "a", 3, 4);
    let compiled = compiler.compile(&snapshot, &node());
    assert_eq!(said(&compiled, "web", 3), "deny");
    add(&mut snapshot, "a", 3, 2);
    let compiled = compiler.compile(&snapshot, &node());
    assert_eq!(said(&compiled, "web", 3), "deny");
    let classes = compiled.classes.len();
    snapshot.services.remove(&ObjectKey::new("a", "s3"));
    let compiled = compiler.compile(&snapshot, &node());
    assert_eq!(over(&compiled), BTreeSet::new());
    assert_eq!(compiled.classes.len(), classes - 1);
    assert_eq!(
        compiled.classes.len(),
        super::super::compile(&snapshot, &node()).classes.len()
    );
    // Nobody may reach a part: nothing is restricted.
    snapshot.policies.remove(&ObjectKey::new("shop", "part"));
    assert!(compiler.compile(&snapshot, &node()).restricted.is_empty());
}

/// A Service over budget claims the address of one that is not, and the node's.
#[test]
fn l2_a2_who_is_over_budget_closes_neither_anothers_address_nor_the_nodes() {
    let own: std::net::IpAddr = "10.0.0.254".parse().unwrap();
    let mut node = node();
    node.addresses.insert(own);
    let mut snapshot = world();
    add(&mut snapshot, "a", 1, 2);
    add(&mut snapshot, "evil", 9, 5);
    let claim = ObjectKey::new("evil", "s9");
    let mut service = Service::clone(&snapshot.services.remove(&claim).unwrap());
    service.external_ips = vec![virtual_ip(1), own];
    snapshot.services.insert(claim, Arc::new(service));
    let mut compiler = Compiler::default();
    let compiled = compiler.compile(&snapshot, &node);
    assert_eq!(over(&compiled), BTreeSet::from(["Service evil/s9"]));
    assert_eq!(said(&compiled, "web", 1), "defer");
    assert_eq!(said(&compiled, "web", 9), "deny", "its own");
    assert_eq!(said_of(&compiled, "web", own), "defer", "the node's");
    // Of the Service within the budget both backends are restricted, of the other none.
    assert_eq!(compiled.restricted.len(), 2);
    // What it closed alone, it closes no more once another has it.
    add(&mut snapshot, "b", 9, 2);
    let compiled = compiler.compile(&snapshot, &node);
    assert_eq!(said(&compiled, "web", 9), "defer");
}
