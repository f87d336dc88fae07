// SPDX-License-Identifier: Apache-2.0
//! Services that claim the addresses of pods and nodes (rule A9).

use std::sync::Arc;

use super::{super::Compiler, build::*};
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

fn frontends(compiled: &super::super::Compiled) -> Vec<String> {
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
