// SPDX-License-Identifier: Apache-2.0
//! Services that claim the addresses of pods and nodes (rule A9).

use std::{net::IpAddr, sync::Arc};

use super::{
    super::{Compiled, Compiler, Passage},
    build::*,
};
use crate::model::*;

const OUTSIDE: &str = "203.0.113.9";

fn claim(external: &str) -> Arc<Service> {
    Arc::new(Service {
        key: ObjectKey::new("shop", "claim"),
        cluster_ips: vec!["10.96.0.1".parse().unwrap()],
        external_ips: vec![external.parse().unwrap()],
        load_balancer_ips: Vec::new(),
        ports: vec![ServicePort {
            name: String::new(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: None,
        }],
    })
}

fn frontends(compiled: &Compiled) -> Vec<String> {
    compiled
        .frontends
        .keys()
        .map(|frontend| frontend.address.to_string())
        .collect()
}

/// A pod comes and goes under an address that a Service has: the pod has it as long as it is there.
#[test]
fn a9_an_address_is_its_pods_as_long_as_there_is_one() {
    let service = claim(OUTSIDE);
    let mut snapshot = snapshot(vec![web()], vec![]);
    snapshot.services.insert(service.key.clone(), service);
    let mut compiler = Compiler::default();
    let free = compiler.compile(&snapshot, &node());
    assert_eq!(frontends(&free), ["10.96.0.1", OUTSIDE]);
    assert!(free.diagnostics.is_empty());

    let owner = Arc::new(pod("shop", "owner", "", OUTSIDE));
    snapshot.pods.insert(owner.key.clone(), owner.clone());
    let claimed = compiler.compile(&snapshot, &node());
    assert_eq!(frontends(&claimed), ["10.96.0.1"]);
    assert_eq!(codes(&claimed), [("frontend-refused", "spec.externalIPs")]);
    assert!(first(&claimed).message.contains("pod shop/owner"));

    snapshot.pods.remove(&owner.key);
    let again = compiler.compile(&snapshot, &node());
    assert_eq!(frontends(&again), ["10.96.0.1", OUTSIDE]);
    assert!(again.diagnostics.is_empty());
}

/// A Service with a port of a number, which leads to one backend.
fn add(snapshot: &mut Snapshot, name: &str, external: Option<IpAddr>, node_port: Option<u16>, backend: &str) {
    let key = ObjectKey::new("shop", name);
    let service = Service {
        key: key.clone(),
        cluster_ips: vec![
            format!("10.96.0.{}", snapshot.services.len() + 1)
                .parse()
                .unwrap(),
        ],
        external_ips: external.into_iter().collect(),
        load_balancer_ips: Vec::new(),
        ports: vec![ServicePort {
            name: String::new(),
            protocol: Protocol::Tcp,
            port: 30_080,
            node_port,
        }],
    };
    let slice = EndpointSlice {
        key: key.clone(),
        service: Some(key.name.to_string()),
        ports: vec![EndpointPort {
            name: String::new(),
            protocol: Protocol::Tcp,
            number: Some(80),
        }],
        endpoints: vec![SliceEndpoint {
            addresses: vec![backend.parse().unwrap()],
            ready: true,
            serving: true,
            terminating: false,
        }],
    };
    snapshot.services.insert(key.clone(), Arc::new(service));
    snapshot.endpoint_slices.insert(key, Arc::new(slice));
}

/// What `shop/web` may do by the frontend at an address.
fn said(compiled: &Compiled, address: IpAddr) -> Option<Passage> {
    let frontend = Frontend {
        address,
        protocol: Protocol::Tcp.number(),
        port: 30_080,
    };
    let policy = compiled.endpoints[&ObjectKey::new("shop", "web")].egress;
    compiled.passage(policy.expect("isolated"), compiled.frontends[&frontend])
}

/// Backends that policy denies close no way to the frontend's own address.
#[test]
fn a9_what_is_allowed_without_the_service_stays_open_with_it() {
    let outside: IpAddr = OUTSIDE.parse().unwrap();
    let to = |cidr| policy("app=web", vec![], vec![rule(vec![block(cidr, &[])], vec![])]);
    let mut compiler = Compiler::default();
    let mut snapshot = snapshot(vec![web()], vec![to("203.0.113.0/24")]);
    add(&mut snapshot, "claim", Some(outside), None, "198.51.100.1");
    let compiled = compiler.compile(&snapshot, &node());
    assert_eq!(said(&compiled, outside), Some(Passage::Defer));
    assert_eq!(said(&compiled, "10.96.0.1".parse().unwrap()), None);
    // The address is another class now.
    let narrow = Arc::new(to("203.0.113.0/30"));
    snapshot.policies.insert(narrow.key.clone(), narrow);
    assert_eq!(said(&compiler.compile(&snapshot, &node()), outside), None);
}

/// At the node's address, a NodePort of the same number is what there is without the Service.
#[test]
fn a9_a_service_at_the_nodes_address_is_beside_a_node_port() {
    let own: IpAddr = "10.0.0.254".parse().unwrap();
    let everywhere: IpAddr = "0.0.0.0".parse().unwrap();
    let mut node = node();
    node.addresses.insert(own);
    let rules = vec![rule(vec![block("192.0.2.1/32", &[])], vec![])];
    let mut snapshot = snapshot(vec![web()], vec![policy("app=web", vec![], rules)]);
    add(&mut snapshot, "claim", Some(own), None, "198.51.100.1");
    let mut compiler = Compiler::default();
    assert_eq!(
        said(&compiler.compile(&snapshot, &node), own),
        Some(Passage::Defer),
        "the node is open (rule A2)"
    );
    for (backend, of_port, beside) in [
        ("198.51.100.2", None, None),
        ("192.0.2.1", Some(true), Some(Passage::Defer)),
        ("198.51.100.3", None, None),
    ] {
        add(&mut snapshot, "ports", None, Some(30_080), backend);
        let compiled = compiler.compile(&snapshot, &node);
        let is_accepted = said(&compiled, everywhere).map(|passage| matches!(passage, Passage::Accept(_)));
        assert_eq!(is_accepted, of_port, "{backend}");
        assert_eq!(said(&compiled, own), beside, "{backend}");
    }
    snapshot.services.remove(&ObjectKey::new("shop", "ports"));
    let compiled = compiler.compile(&snapshot, &node);
    assert_eq!(said(&compiled, own), Some(Passage::Defer));
    // The node gives the address back.
    node.addresses.remove(&own);
    assert_eq!(said(&compiler.compile(&snapshot, &node), own), None);
}

/// A NodePort that is closed, since restricting its backends is over budget, is not open beside
/// another Service (rule L2).
#[test]
fn a9_l2_a_closed_node_port_is_closed_beside_another_service() {
    let own: IpAddr = "10.0.0.254".parse().unwrap();
    let mut node = node();
    node.addresses.insert(own);
    let rules = vec![rule(vec![block("192.0.2.0/24", &[])], vec![])];
    let mut snapshot = snapshot(vec![web()], vec![policy("app=web", vec![], rules)]);
    snapshot.limits.restricted = Limit {
        object: 2,
        namespace: 10,
        all: 10,
    };
    add(&mut snapshot, "claim", Some(own), None, "198.51.100.1");
    add(&mut snapshot, "ports", None, Some(30_080), "192.0.2.1");
    let mut compiler = Compiler::default();
    compiler.compile(&snapshot, &node);
    let key = ObjectKey::new("shop", "ports");
    let mut slice = EndpointSlice::clone(&snapshot.endpoint_slices[&key]);
    let denied: [IpAddr; 2] = ["198.51.100.2", "198.51.100.3"].map(|address| address.parse().unwrap());
    slice.endpoints[0].addresses.extend(denied);
    snapshot
        .endpoint_slices
        .insert(key.clone(), Arc::new(slice.clone()));
    let compiled = compiler.compile(&snapshot, &node);
    assert_eq!(
        said(&compiled, "0.0.0.0".parse().unwrap()),
        None,
        "{:?}",
        compiled.diagnostics
    );
    assert_eq!(said(&compiled, own), None);
    // With room again, both are open in part.
    slice.endpoints[0].addresses.pop();
    snapshot.endpoint_slices.insert(key, Arc::new(slice));
    let compiled = compiler.compile(&snapshot, &node);
    for address in [own, "0.0.0.0".parse().unwrap()] {
        assert_eq!(said(&compiled, address), Some(Passage::Defer));
    }
}
