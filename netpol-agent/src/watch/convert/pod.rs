// SPDX-License-Identifier: Apache-2.0
//! Namespace and Pod.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::model::{FORWARDS, HostPort, NamedPort, Namespace, Pod, Text, syntax};

use super::{Faults, taken, taken_of_pod};
use crate::watch::{
    kinds::OfKind as _,
    object::{Entry, Object},
    wire::{self, Container, FromBinary, Wire},
};

/// Named ports of a pod that count (rule L2): the first ones, as of those with one name.
const NAMED_PORTS: usize = 1024;

/// The label that every namespace has (rule P4).
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

impl Wire for wire::Namespace {
    fn convert(self) -> Entry {
        let forwards = self.metadata.annotations.get(FORWARDS).map(Text::from);
        let (id, _, mut labels) = taken(Self::KIND, self.metadata);
        if !labels.contains_key(NAME_LABEL) {
            labels.insert(NAME_LABEL, id.key.name.as_str());
        }
        let namespace = Namespace {
            name: id.key.name.to_string(),
            labels,
            forwards,
        };
        Entry {
            object: Object::Namespace(Arc::new(namespace)),
            diagnostics: Vec::new(),
        }
    }
}

impl Wire for wire::Pod {
    const FROM_BINARY: Option<FromBinary<Self>> = Some(wire::pod_from_binary);

    fn convert(self) -> Entry {
        let (terminating, static_uid) = taken_of_pod(&self.metadata);
        let (id, uid, labels) = taken(Self::KIND, self.metadata);
        let mut faults = Faults::of(&id);
        let spec = self.spec.unwrap_or_default();
        let status = self.status.unwrap_or_default();

        let (mut named_ports, mut host_ports) = (Vec::new(), Vec::new());
        for (index, container) in spec.containers.unwrap_or_default().iter().enumerate() {
            add_ports(
                &mut named_ports,
                &mut host_ports,
                &mut faults,
                &|| format!("spec.containers[{index}]"),
                container,
            );
        }
        for (index, container) in spec.init_containers.unwrap_or_default().iter().enumerate() {
            if container.restart_policy.as_deref() == Some("Always") {
                add_ports(
                    &mut named_ports,
                    &mut host_ports,
                    &mut faults,
                    &|| format!("spec.initContainers[{index}]"),
                    container,
                );
            }
        }

        if let Some(more) = named_ports
            .len()
            .checked_sub(NAMED_PORTS)
            .filter(|more| *more > 0)
        {
            named_ports.truncate(NAMED_PORTS);
            let message = format!(
                "{more} named ports more than the {NAMED_PORTS} that count; a rule that names one of them matches nothing here"
            );
            faults.report("named-ports-excess", "spec.containers", message);
        }

        let phase = status.phase.as_deref().unwrap_or_default();
        let terminal = matches!(phase, "Succeeded" | "Failed");
        let host_network = spec.host_network.unwrap_or_default();
        let mut addresses = addresses(&mut faults, &status);
        // There may be a hundred thousand of them.
        addresses.shrink_to_fit();
        named_ports.shrink_to_fit();
        host_ports.shrink_to_fit();
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
            terminating,
            static_uid,
            addresses,
            named_ports,
            // A pod on its node's network has its ports there itself.
            host_ports: if host_network { Vec::new() } else { host_ports },
        };
        Entry {
            object: Object::Pod(Arc::new(pod)),
            diagnostics: faults.found,
        }
    }
}

/// Adds the named ports of a container (rule T4), and those that lead to it from its node.
fn add_ports(
    ports: &mut Vec<NamedPort>,
    host_ports: &mut Vec<HostPort>,
    faults: &mut Faults,
    at: &dyn Fn() -> String,
    container: &Container,
) {
    for (index, port) in container.ports.iter().flatten().enumerate() {
        let field = |name: &str| format!("{}.ports[{index}].{name}", at());
        let number = faults.port(|| field("containerPort"), port.container_port);
        let protocol = faults.protocol(|| field("protocol"), port.protocol.as_deref());
        if let Some(given) = port.host_port.filter(|given| *given != 0)
            && let Some(host_port) = faults.port(|| field("hostPort"), Some(given))
            && let (Some(container_port), Some(protocol)) = (number, protocol)
        {
            let given = port.host_ip.as_deref().filter(|given| !given.is_empty());
            let address = given.map(|given| faults.address(|| field("hostIP"), given));
            if address != Some(None) {
                host_ports.push(HostPort {
                    address: address.flatten().filter(|address| !address.is_unspecified()),
                    protocol,
                    number: host_port,
                    container_port,
                });
            }
        }
        let Some(name) = port.name.as_ref().filter(|name| !name.is_empty()) else {
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
                name: name.clone(),
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
            let message = format!(
                "{address} is a second address of its family: it counts as a peer, but what the pod sends with it is dropped"
            );
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
