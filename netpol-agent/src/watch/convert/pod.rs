// SPDX-License-Identifier: Apache-2.0
//! Namespace and Pod.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::model::{NamedPort, Namespace, Pod};

use super::{Faults, taken};
use crate::watch::{
    object::{Entry, Kind, Object},
    syntax,
    wire::{self, Container, Wire},
};

/// The label that every namespace has (rule P4).
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

impl Wire for wire::Namespace {
    const KIND: Kind = Kind::Namespace;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn convert(self) -> Entry {
        let (id, _, mut labels) = taken(Self::KIND, self.metadata);
        labels
            .entry(NAME_LABEL.to_owned())
            .or_insert_with(|| id.key.name.clone());
        let namespace = Namespace {
            name: id.key.name,
            labels,
        };
        Entry {
            object: Object::Namespace(Arc::new(namespace)),
            diagnostics: Vec::new(),
        }
    }
}

impl Wire for wire::Pod {
    const KIND: Kind = Kind::Pod;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn convert(self) -> Entry {
        let (id, uid, labels) = taken(Self::KIND, self.metadata);
        let mut faults = Faults::of(&id);
        let spec = self.spec.unwrap_or_default();
        let status = self.status.unwrap_or_default();

        let mut named_ports = Vec::new();
        for (index, container) in spec.containers.unwrap_or_default().iter().enumerate() {
            add_ports(
                &mut named_ports,
                &mut faults,
                &format!("spec.containers[{index}]"),
                container,
            );
        }
        for (index, container) in spec.init_containers.unwrap_or_default().iter().enumerate() {
            if container.restart_policy.as_deref() == Some("Always") {
                add_ports(
                    &mut named_ports,
                    &mut faults,
                    &format!("spec.initContainers[{index}]"),
                    container,
                );
            }
        }

        let phase = status.phase.as_deref().unwrap_or_default();
        let terminal = matches!(phase, "Succeeded" | "Failed");
        let host_network = spec.host_network.unwrap_or_default();
        let addresses = addresses(&mut faults, &status);
        if addresses.is_empty() && !terminal && !host_network && phase != "Pending" {
            faults.report(
                "pod-without-address",
                "status.podIPs",
                "no address, and the pod is not Pending; nothing is enforced on it and it is no peer until it has one",
            );
        }

        let pod = Pod {
            key: id.key,
            uid,
            labels,
            node: spec.node_name.filter(|node| !node.is_empty()),
            host_network,
            terminal,
            addresses,
            named_ports,
        };
        Entry {
            object: Object::Pod(Arc::new(pod)),
            diagnostics: faults.found,
        }
    }
}

/// Adds the named ports of a container (rule T4).
fn add_ports(ports: &mut Vec<NamedPort>, faults: &mut Faults, at: &str, container: &Container) {
    for (index, port) in container.ports.iter().flatten().enumerate() {
        let field = |name: &str| format!("{at}.ports[{index}].{name}");
        let number = faults.port(|| field("containerPort"), port.container_port);
        let protocol = faults.protocol(|| field("protocol"), port.protocol.as_deref());
        let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) else {
            continue;
        };
        if !syntax::is_port_name(name) {
            let message = format!(
                "`{name}` is not a port name that Kubernetes accepts (at most 15 lower case letters, digits and \
                 single `-`, with a letter); it is used as written"
            );
            faults.report("port-name-invalid", field("name"), message);
        }
        if let (Some(number), Some(protocol)) = (number, protocol) {
            ports.push(NamedPort {
                name: name.to_owned(),
                protocol,
                number,
            });
        }
    }
}

/// `status.podIPs`, or `status.podIP` where the former is absent; each address once (rule P6).
fn addresses(faults: &mut Faults, status: &wire::PodStatus) -> Vec<std::net::IpAddr> {
    let mut addresses = Vec::new();
    let listed = status.pod_ips.as_deref().unwrap_or_default();
    for (index, pod_ip) in listed.iter().enumerate() {
        let field = || format!("status.podIPs[{index}].ip");
        let Some(address) = faults.address(field, pod_ip.ip.as_deref().unwrap_or_default()) else {
            continue;
        };
        if addresses.contains(&address) {
            continue;
        }
        if addresses
            .iter()
            .any(|other: &std::net::IpAddr| other.is_ipv4() == address.is_ipv4())
        {
            let message = format!("{address} is a second address of its family; both count");
            faults.report("address-family-duplicate", field(), message);
        }
        addresses.push(address);
    }
    if listed.is_empty()
        && let Some(text) = status.pod_ip.as_deref().filter(|text| !text.is_empty())
    {
        addresses.extend(faults.address(|| "status.podIP".to_owned(), text));
    }
    addresses
}

#[cfg(test)]
mod tests {
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
        assert_eq!(shop.labels[NAME_LABEL], "shop");
        assert_eq!(shop.labels["team"], "a");
        let given = namespace(json!({"metadata": {"name": "shop", "labels": {NAME_LABEL: "other"}}}));
        assert_eq!(
            given.labels[NAME_LABEL], "other",
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
}
