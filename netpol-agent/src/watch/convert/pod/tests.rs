// SPDX-License-Identifier: Apache-2.0
//! What becomes of namespaces and pods, and what is reported of them.

use serde_json::{Value, json};

use super::*;
use crate::{
    model::Protocol,
    watch::convert::{codes, converted},
};

fn pod(value: Value) -> (Pod, Entry) {
    let entry = converted::<wire::Pod>(value);
    match &entry.object {
        Object::Pod(pod) => (Pod::clone(pod), entry.clone()),
        other => panic!("not a pod: {other:?}"),
    }
}

fn namespace(value: Value) -> Namespace {
    match converted::<wire::Namespace>(value).object {
        Object::Namespace(namespace) => Namespace::clone(&namespace),
        other => panic!("not a namespace: {other:?}"),
    }
}

#[test]
fn p4_a_namespace_has_its_name_as_a_label() {
    let shop = namespace(json!({"metadata": {"name": "shop", "labels": {"team": "a"}}}));
    assert_eq!(&shop.labels[NAME_LABEL], "shop");
    assert_eq!(&shop.labels["team"], "a");
    let given = namespace(json!({"metadata": {"name": "shop", "labels": {NAME_LABEL: "other"}}}));
    assert_eq!(
        &given.labels[NAME_LABEL], "other",
        "what an API server says is not changed"
    );
}

#[test]
fn p6_all_addresses_count_and_pod_ip_is_the_fallback() {
    let meta = json!({"name": "a", "namespace": "shop", "uid": "u"});
    let status = json!({"podIP": "10.0.0.9", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]});
    let (both, entry) = pod(json!({"metadata": meta, "status": status}));
    assert_eq!(
        both.addresses,
        [
            "10.0.0.1".parse::<std::net::IpAddr>().unwrap(),
            "fd00::1".parse().unwrap()
        ]
    );
    assert_eq!((both.uid.as_str(), entry.diagnostics.len()), ("u", 0));
    let (old, _) = pod(json!({"metadata": meta, "status": {"podIP": "10.0.0.9"}}));
    assert_eq!(old.addresses, ["10.0.0.9".parse::<std::net::IpAddr>().unwrap()]);
    let (mapped, _) = pod(json!({"metadata": meta, "status": {"podIP": "::ffff:10.0.0.9"}}));
    assert_eq!(mapped.addresses, old.addresses);
}

#[test]
fn a8_what_tells_a_pods_interface_is_read() {
    let meta = json!({"name": "a", "namespace": "shop", "uid": "u", "deletionTimestamp": "2026-11-29T00:00:00Z",
        "annotations": {"kubernetes.io/config.hash": "h", "kubernetes.io/config.mirror": "h", "x": "y"}});
    let (mirror, _) = pod(json!({ "metadata": meta }));
    assert!(mirror.terminating);
    assert_eq!(mirror.static_uid.as_deref(), Some("h"));
    // Anyone may annotate a pod; without the mark it is no mirror.
    let annotations = json!({"kubernetes.io/config.hash": "h"});
    let (plain, _) = pod(json!({"metadata": {"name": "a", "annotations": annotations}}));
    assert_eq!((plain.terminating, plain.static_uid), (false, None));
}

#[test]
fn a_bad_address_is_reported_and_the_others_stay() {
    let ips = json!([{"ip": "10.0.0.300"}, {"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}, {"ip": "10.0.0.1"}]);
    let (pod, entry) = pod(json!({"metadata": {"name": "a"}, "status": {"podIPs": ips}}));
    assert_eq!(pod.addresses.len(), 2);
    assert_eq!(
        codes(&entry),
        [
            ("address-invalid", "status.podIPs[0].ip"),
            ("address-family-duplicate", "status.podIPs[2].ip")
        ]
    );
    assert_eq!(entry.diagnostics[0].object, "Pod default/a");
}

#[test]
fn a_pod_without_address_is_reported_unless_that_is_right() {
    for (phase, host_network, reported) in [
        ("Running", false, true),
        ("", false, true),
        ("Pending", false, false),
        ("Failed", false, false),
        ("Running", true, false),
    ] {
        let spec = json!({"hostNetwork": host_network});
        let value = json!({"metadata": {"name": "a"}, "spec": spec, "status": {"phase": phase}});
        let (_, entry) = pod(value);
        let found = codes(&entry);
        assert_eq!(
            found == [("pod-without-address", "status.podIPs")],
            reported,
            "{phase} {found:?}"
        );
    }
}

#[test]
fn i6_i7_host_network_and_terminal_phases() {
    for (phase, terminal) in [
        ("Succeeded", true),
        ("Failed", true),
        ("Running", false),
        ("Unknown", false),
    ] {
        let value = json!({"metadata": {"name": "a"}, "spec": {"hostNetwork": true, "nodeName": "n1"},
                           "status": {"phase": phase, "podIP": "10.0.0.1"}});
        let (pod, _) = pod(value);
        assert_eq!(
            (pod.terminal, pod.host_network, pod.node.as_deref()),
            (terminal, true, Some("n1"))
        );
    }
}

#[test]
fn t4_named_ports_of_containers_and_restartable_init_containers() {
    let (pod, entry) = pod(json!({
        "metadata": {"name": "a"}, "status": {"podIP": "10.0.0.1"},
        "spec": {
            "containers": [{"ports": [
                {"name": "http", "containerPort": 80},
                {"name": "dns", "containerPort": 53, "protocol": "UDP"},
                {"containerPort": 9},
            ]}],
            "initContainers": [
                {"ports": [{"name": "once", "containerPort": 1}]},
                {"restartPolicy": "Always", "ports": [{"name": "side", "containerPort": 2}]},
            ],
        },
    }));
    let ports: Vec<_> = pod
        .named_ports
        .iter()
        .map(|p| (p.name.as_str(), p.protocol, p.number))
        .collect();
    assert_eq!(
        ports,
        [
            ("http", Protocol::Tcp, 80),
            ("dns", Protocol::Udp, 53),
            ("side", Protocol::Tcp, 2)
        ]
    );
    assert_eq!(codes(&entry), []);
}

#[test]
fn bad_container_ports_are_left_out_and_reported() {
    let (pod, entry) = pod(json!({
        "metadata": {"name": "a"}, "status": {"podIP": "10.0.0.1"},
        "spec": {"containers": [{"ports": [
            {"name": "a", "containerPort": 65536}, {"name": "b", "containerPort": 0}, {"name": "c"},
            {"name": "d", "containerPort": 1, "protocol": "tcp"}, {"name": "E", "containerPort": 2},
        ]}]},
    }));
    assert_eq!(pod.named_ports.len(), 1);
    let at = |index: usize, name: &str| format!("spec.containers[0].ports[{index}].{name}");
    let expected = [
        ("port-number-invalid", at(0, "containerPort")),
        ("port-number-invalid", at(1, "containerPort")),
        ("port-number-invalid", at(2, "containerPort")),
        ("port-protocol-invalid", at(3, "protocol")),
        ("port-name-invalid", at(4, "name")),
    ];
    let found: Vec<_> = entry
        .diagnostics
        .iter()
        .map(|d| (d.code, d.field.clone()))
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn a5_host_ports_are_those_of_containers_that_run_on_a_network_of_their_own() {
    let containers = json!([{"ports": [
        {"containerPort": 80, "hostPort": 8080},
        {"containerPort": 53, "hostPort": 53, "protocol": "UDP", "hostIP": "192.0.2.1"},
        {"containerPort": 443, "hostPort": 443, "hostIP": "0.0.0.0"},
        {"containerPort": 81, "hostPort": 0},
        {"containerPort": 82, "hostPort": 70000},
        {"containerPort": 83, "hostPort": 83, "hostIP": "x"},
    ]}]);
    let ports = json!([{"containerPort": 90, "hostPort": 90}]);
    let sidecar = json!([{"restartPolicy": "Always", "ports": ports}, {"ports": ports}]);
    let of = |host_network: bool| {
        let spec = json!({"hostNetwork": host_network, "containers": containers, "initContainers": sidecar});
        pod(
            json!({"metadata": {"namespace": "shop", "name": "web"}, "spec": spec, "status": {"phase": "Pending"}}),
        )
    };
    let (found, entry) = of(false);
    let port = |address: Option<&str>, protocol, number, container_port| HostPort {
        address: address.map(|text| text.parse().unwrap()),
        protocol,
        number,
        container_port,
    };
    let expected = [
        port(None, Protocol::Tcp, 8080, 80),
        port(Some("192.0.2.1"), Protocol::Udp, 53, 53),
        port(None, Protocol::Tcp, 443, 443),
        port(None, Protocol::Tcp, 90, 90),
    ];
    assert_eq!(found.host_ports, expected);
    assert_eq!(
        codes(&entry),
        [
            ("port-number-invalid", "spec.containers[0].ports[4].hostPort"),
            ("address-invalid", "spec.containers[0].ports[5].hostIP")
        ]
    );
    assert_eq!(of(true).0.host_ports, []);
}

#[test]
fn l2_named_ports_count_up_to_a_number() {
    let port = |nth: u16| json!({"name": format!("p{nth}"), "containerPort": nth});
    let ports: Vec<Value> = (1..=3000).map(port).collect();
    let (pod, entry) = pod(json!({
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"containers": [{"name": "c", "ports": ports}]}, "status": {"phase": "Pending"},
    }));
    assert_eq!(pod.named_ports.len(), NAMED_PORTS);
    assert_eq!(codes(&entry), [("named-ports-excess", "spec.containers")]);
}
