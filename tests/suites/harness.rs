// SPDX-License-Identifier: Apache-2.0
//! The harness without an agent: with nothing enforced, everything reaches everything, and silence
//! is detected.

use std::{collections::BTreeMap, net::IpAddr, time::Instant};

use netpol_tests::{
    netns,
    node::{Node, Plan, member},
    privilege::can_make_nodes,
    probe::{Outcome, Probe, Prober, Service},
    server::Servers,
};

const SERVICES: [Service; 3] = [Service::Tcp(8080), Service::Udp(5353), Service::Echo];

fn addresses(plan: &Plan, host: u16) -> Vec<IpAddr> {
    plan.pod_networks().map(|net| member(net, host).addr()).to_vec()
}

#[test]
fn without_an_agent_everything_reaches_everything() {
    if !can_make_nodes("harness") {
        return;
    }
    let start = Instant::now();
    let mut node = Node::new(Plan::first("node-a")).unwrap();
    let plan = node.plan().clone();
    let pods: Vec<_> = (0..12)
        .map(|n| (format!("shop/pod-{n}"), addresses(&plan, 10 + n)))
        .collect();
    node.add_pods(&pods).unwrap();
    node.add_external("203.0.113.7".parse().unwrap()).unwrap();
    println!("12 pods in {:?}", start.elapsed());

    let servers = Servers::new().unwrap();
    let mut sites = node.pods();
    sites.extend([node.site(), node.outside()]);
    for site in &sites {
        servers.add(site, &SERVICES).unwrap();
    }
    let mut probes = Vec::new();
    for from in &sites {
        for to in sites.iter().filter(|to| to.name != from.name) {
            probes.extend(SERVICES.iter().flat_map(|&service| Probe::all(from, to, service)));
        }
    }
    let prober = Prober::new().unwrap();
    let start = Instant::now();
    let outcomes = prober.probe(&probes).unwrap();
    println!("{} probes in {:?}", probes.len(), start.elapsed());
    let failed: Vec<_> = probes
        .iter()
        .zip(&outcomes)
        .filter(|(_, outcome)| **outcome != Outcome::Reached)
        .collect();
    assert!(
        failed.is_empty(),
        "{} of {} failed: {:#?}",
        failed.len(),
        probes.len(),
        &failed[..failed.len().min(20)]
    );

    let closed = Probe::all(&sites[0], &sites[1], Service::Tcp(9));
    assert_eq!(
        prober.probe(&closed).unwrap(),
        [Outcome::Refused, Outcome::Refused]
    );
}

#[test]
fn a_link_that_carries_nothing_is_silent_and_a_wrong_responder_is_odd() {
    if !can_make_nodes("harness") {
        return;
    }
    let mut node = Node::new(Plan::first("node-a")).unwrap();
    let plan = node.plan().clone();
    let a = node.add_pod("shop/a", &addresses(&plan, 10)).unwrap();
    let b = node.add_pod("shop/b", &addresses(&plan, 11)).unwrap();
    let servers = Servers::new().unwrap();
    servers.add(&b, &SERVICES).unwrap();
    let prober = Prober::new().unwrap();

    let mut open = prober.converse(&Probe::all(&a, &b, SERVICES[0])[0]).unwrap();
    assert_eq!(open.ask(netpol_tests::probe::PATIENCE), Outcome::Reached);

    let mut renamed = b.clone();
    renamed.name = "shop/other".to_owned();
    let outcomes = prober.probe(&Probe::all(&a, &renamed, SERVICES[0])).unwrap();
    assert!(
        outcomes.iter().all(|outcome| outcome.allowed().is_none()),
        "{outcomes:?}"
    );

    for pod in ["shop/a", "shop/b"] {
        node.netns()
            .ip(&format!(
                "link set {} type bridge_slave isolated on\n",
                node.veth(pod).unwrap()
            ))
            .unwrap();
    }
    let probes: Vec<_> = SERVICES
        .iter()
        .flat_map(|&service| Probe::all(&a, &b, service))
        .collect();
    let outcomes = prober.probe(&probes).unwrap();
    assert!(
        outcomes.iter().all(|outcome| *outcome == Outcome::Silent),
        "{outcomes:?}"
    );
    assert_eq!(open.ask(netpol_tests::probe::PATIENCE), Outcome::Silent);
}

#[test]
fn namespaces_go_with_what_made_them() {
    if !can_make_nodes("harness") {
        return;
    }
    let mut node = Node::new(Plan::first("node-a")).unwrap();
    let plan = node.plan().clone();
    node.add_pod("shop/a", &addresses(&plan, 10)).unwrap();
    let prefix = node.prefix().to_owned();
    assert_eq!(netns::names(&prefix).len(), 3);
    let inside: BTreeMap<_, _> = node
        .pods()
        .into_iter()
        .map(|pod| (pod.name, pod.addresses))
        .collect();
    assert_eq!(inside["shop/a"], addresses(&plan, 10));
    node.remove_pod("shop/a").unwrap();
    assert_eq!(netns::names(&prefix).len(), 2);
    drop(node);
    assert_eq!(netns::names(&prefix), Vec::<String>::new());
}
