// SPDX-License-Identifier: Apache-2.0
//! Service and EndpointSlice.

use std::{net::IpAddr, sync::Arc};

use crate::model::{EndpointPort, EndpointSlice, Service, ServicePort, SliceEndpoint};

use super::{Faults, taken};
use crate::watch::{
    object::{Entry, Kind, Object},
    wire::{self, Wire},
};

/// The label by which a slice names its Service.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

fn addresses(faults: &mut Faults, field: &str, texts: &[String]) -> Vec<IpAddr> {
    let given = texts
        .iter()
        .enumerate()
        .filter(|(_, text)| !text.is_empty() && text.as_str() != "None");
    given
        .filter_map(|(index, text)| faults.address(|| format!("{field}[{index}]"), text))
        .collect()
}

impl Wire for wire::Service {
    const KIND: Kind = Kind::Service;

    fn convert(self) -> Entry {
        let (id, _, _) = taken(Self::KIND, self.metadata);
        let mut faults = Faults::of(&id);
        let spec = self.spec.unwrap_or_default();

        let cluster_ips = match spec.cluster_ips.filter(|ips| !ips.is_empty()) {
            Some(ips) => addresses(&mut faults, "spec.clusterIPs", &ips),
            None => addresses(&mut faults, "spec.clusterIP", spec.cluster_ip.as_slice()),
        };
        let external_ips = addresses(
            &mut faults,
            "spec.externalIPs",
            &spec.external_ips.unwrap_or_default(),
        );
        let balancers = self
            .status
            .and_then(|status| status.load_balancer)
            .and_then(|balancer| balancer.ingress);
        let balancers: Vec<String> = balancers
            .unwrap_or_default()
            .into_iter()
            .map(|ingress| ingress.ip.unwrap_or_default())
            .collect();
        let load_balancer_ips = addresses(&mut faults, "status.loadBalancer.ingress", &balancers);

        let mut ports = Vec::new();
        for (index, port) in spec.ports.unwrap_or_default().into_iter().enumerate() {
            let field = |name: &str| format!("spec.ports[{index}].{name}");
            let number = faults.port(|| field("port"), port.port);
            let protocol = faults.protocol(|| field("protocol"), port.protocol.as_deref());
            let node_port = match port.node_port {
                None | Some(0) => None,
                given => faults.port(|| field("nodePort"), given),
            };
            if let (Some(number), Some(protocol)) = (number, protocol) {
                ports.push(ServicePort {
                    name: port.name.unwrap_or_default(),
                    protocol,
                    port: number,
                    node_port,
                });
            }
        }

        let service = Service {
            key: id.key,
            cluster_ips,
            external_ips,
            load_balancer_ips,
            ports,
        };
        Entry {
            object: Object::Service(Arc::new(service)),
            diagnostics: faults.found,
        }
    }
}

impl Wire for wire::EndpointSlice {
    const KIND: Kind = Kind::EndpointSlice;

    fn convert(self) -> Entry {
        let (id, _, labels) = taken(Self::KIND, self.metadata);
        let mut faults = Faults::of(&id);

        let mut ports = Vec::new();
        for (index, port) in self.ports.unwrap_or_default().into_iter().enumerate() {
            let field = |name: &str| format!("ports[{index}].{name}");
            let number = match port.port {
                None => Some(None),
                given => faults.port(|| field("port"), given).map(Some),
            };
            let protocol = faults.protocol(|| field("protocol"), port.protocol.as_deref());
            if let (Some(number), Some(protocol)) = (number, protocol) {
                ports.push(EndpointPort {
                    name: port.name.unwrap_or_default(),
                    protocol,
                    number,
                });
            }
        }

        // Host names are nothing that a packet shows.
        let by_name = self.address_type.as_deref() == Some("FQDN");
        let mut endpoints = Vec::new();
        for (index, endpoint) in self.endpoints.unwrap_or_default().into_iter().enumerate() {
            let texts = endpoint.addresses.filter(|_| !by_name).unwrap_or_default();
            let conditions = endpoint.conditions.unwrap_or_default();
            let ready = conditions.ready.unwrap_or(true);
            endpoints.push(SliceEndpoint {
                addresses: addresses(&mut faults, &format!("endpoints[{index}].addresses"), &texts),
                ready,
                serving: conditions.serving.unwrap_or(ready),
                terminating: conditions.terminating.unwrap_or_default(),
            });
        }

        let slice = EndpointSlice {
            key: id.key,
            service: labels.get(SERVICE_LABEL).map(str::to_owned),
            ports,
            endpoints,
        };
        Entry {
            object: Object::EndpointSlice(Arc::new(slice)),
            diagnostics: faults.found,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        model::Protocol,
        watch::convert::{codes, converted},
    };

    #[test]
    fn services_with_every_kind_of_address() {
        let entry = converted::<wire::Service>(json!({
            "metadata": {"name": "web", "namespace": "shop"},
            "spec": {"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00:96::1"], "externalIPs": ["192.0.2.1", "x"],
                     "ports": [{"port": 80, "nodePort": 30080}, {"name": "dns", "port": 53, "protocol": "UDP"}, {"port": 0}]},
            "status": {"loadBalancer": {"ingress": [{"hostname": "lb.example"}, {"ip": "192.0.2.9"}]}},
        }));
        assert_eq!(
            codes(&entry),
            [
                ("address-invalid", "spec.externalIPs[1]"),
                ("port-number-invalid", "spec.ports[2].port")
            ]
        );
        let Object::Service(service) = &entry.object else {
            panic!("not a service")
        };
        assert_eq!(service.cluster_ips.len(), 2);
        assert_eq!(
            (service.external_ips.len(), service.load_balancer_ips.len()),
            (1, 1)
        );
        assert_eq!(
            (service.ports[0].port, service.ports[0].node_port),
            (80, Some(30080))
        );
        assert_eq!(
            (service.ports[1].protocol, service.ports[1].name.as_str()),
            (Protocol::Udp, "dns")
        );
    }

    #[test]
    fn a_headless_service_has_no_cluster_ip() {
        for spec in [
            json!({"clusterIP": "None", "clusterIPs": ["None"]}),
            json!({"clusterIP": "None"}),
            json!({"clusterIP": ""}),
        ] {
            let entry = converted::<wire::Service>(json!({"metadata": {"name": "web"}, "spec": spec}));
            let Object::Service(service) = &entry.object else {
                panic!("not a service")
            };
            assert!(service.cluster_ips.is_empty() && entry.diagnostics.is_empty());
        }
    }

    #[test]
    fn slices_and_the_defaults_of_their_conditions() {
        let entry = converted::<wire::EndpointSlice>(json!({
            "metadata": {"name": "web-1", "labels": {SERVICE_LABEL: "web"}}, "addressType": "IPv4",
            "ports": [{"port": 8080}, {"name": "all", "port": null}],
            "endpoints": [
                {"addresses": ["10.0.0.1"]},
                {"addresses": ["10.0.0.2"], "conditions": {"ready": false, "serving": true, "terminating": true}},
                {"addresses": ["10.0.0.3"], "conditions": {"ready": false}},
            ],
        }));
        assert_eq!(codes(&entry), []);
        let Object::EndpointSlice(slice) = &entry.object else {
            panic!("not a slice")
        };
        assert_eq!(slice.service.as_deref(), Some("web"));
        assert_eq!((slice.ports[0].number, slice.ports[1].number), (Some(8080), None));
        let conditions: Vec<_> = slice
            .endpoints
            .iter()
            .map(|e| (e.ready, e.serving, e.terminating))
            .collect();
        assert_eq!(
            conditions,
            [(true, true, false), (false, true, true), (false, false, false)]
        );
    }
}
