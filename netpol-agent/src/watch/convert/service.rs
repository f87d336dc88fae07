// SPDX-License-Identifier: Apache-2.0
//! Service and EndpointSlice.

use std::{net::IpAddr, sync::Arc};

use crate::model::{EndpointPort, EndpointSlice, Service, ServicePort, SliceEndpoint};

use super::{Faults, taken};
use crate::watch::{
    kinds::OfKind as _,
    object::{Entry, Object},
    wire::{self, Wire},
};

/// The label by which a slice names its Service.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";
/// The label that hands a Service to another proxy, whatever its value
/// (`noProxyName` in kube-proxy's `server.go`).
const PROXY_LABEL: &str = "service.kubernetes.io/service-proxy-name";
/// The label of slices that are for DNS only, whatever its value (`noHeadlessEndpoints` there).
const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

fn addresses(faults: &mut Faults, field: &str, texts: &[String]) -> Vec<IpAddr> {
    let given = texts
        .iter()
        .enumerate()
        .filter(|(_, text)| !text.is_empty() && text.as_str() != "None");
    given
        .filter_map(|(index, text)| {
            let field = || format!("{field}[{index}]");
            faults.address(field, text).filter(|address| {
                let usable = can_be_reached(*address);
                if !usable {
                    let message = format!("{address} is nobody's alone; it is left out");
                    faults.report("address-invalid", field(), message);
                }
                usable
            })
        })
        .collect()
}

/// Whether an address can be a frontend or a backend. The API refuses the others in most fields
/// (`ValidateNonSpecialIP`), but not in the status of a Service, which many write.
fn can_be_reached(address: IpAddr) -> bool {
    let special = match address {
        IpAddr::V4(v4) => v4.octets()[0] == 0 || v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unspecified() || v6.is_unicast_link_local(),
    };
    !special && !address.is_loopback() && !address.is_multicast()
}

/// The virtual addresses of a Service, for a Service that kube-proxy serves: one for each of its
/// families (`GetClusterIPByFamily`). None for a headless one, and for a name
/// (`ShouldSkipService`).
fn cluster_ips(faults: &mut Faults, spec: &wire::ServiceSpec) -> Vec<IpAddr> {
    let (field, texts) = match &spec.cluster_ips {
        Some(all) if !all.is_empty() => ("spec.clusterIPs", all.as_slice()),
        _ => ("spec.clusterIP", spec.cluster_ip.as_slice()),
    };
    let first = spec.cluster_ip.as_ref().or(texts.first());
    if first.is_some_and(|first| first == "None") || spec.kind.as_deref() == Some("ExternalName") {
        return Vec::new();
    }
    let found = addresses(faults, field, texts);
    match &spec.ip_families {
        Some(families) if !families.is_empty() => {
            let of_family = |address: &IpAddr| {
                let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
                families.iter().any(|known| known == family)
            };
            found.into_iter().filter(of_family).collect()
        }
        _ => found,
    }
}

impl Wire for wire::Service {
    /// A Service that kube-proxy does not serve has no virtual addresses.
    fn convert(self) -> Entry {
        let (id, _, labels) = taken(Self::KIND, self.metadata);
        let mut faults = Faults::of(&id);
        let spec = self.spec.unwrap_or_default();

        let served = !labels.contains_key(PROXY_LABEL);
        let mut cluster_ips = cluster_ips(&mut faults, &spec);
        let external_ips = addresses(
            &mut faults,
            "spec.externalIPs",
            &spec.external_ips.unwrap_or_default(),
        );
        let balancers = self
            .status
            .and_then(|status| status.load_balancer)
            .and_then(|balancer| balancer.ingress);
        // Those that are to reach the load balancer itself are left alone (`IsVIPMode`).
        let translated =
            |ingress: &wire::LoadBalancerIngress| ingress.ip_mode.as_deref().is_none_or(|mode| mode == "VIP");
        let balancers: Vec<String> = balancers
            .unwrap_or_default()
            .into_iter()
            .map(|ingress| if translated(&ingress) { ingress.ip } else { None })
            .map(Option::unwrap_or_default)
            .collect();
        let load_balancer_ips = addresses(&mut faults, "status.loadBalancer.ingress", &balancers);
        if !served {
            cluster_ips.clear();
        }

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

        // kube-proxy reads a slice for the family of its type. Host names are nothing that a packet
        // shows.
        let kind = self.address_type.as_deref();
        let by_name = !matches!(kind, None | Some("IPv4" | "IPv6"));
        let of_type = |address: &IpAddr| match kind {
            Some("IPv4") => address.is_ipv4(),
            Some("IPv6") => address.is_ipv6(),
            _ => true,
        };
        let mut endpoints = Vec::new();
        for (index, endpoint) in self.endpoints.unwrap_or_default().into_iter().enumerate() {
            let texts = endpoint.addresses.filter(|_| !by_name).unwrap_or_default();
            let found = addresses(&mut faults, &format!("endpoints[{index}].addresses"), &texts);
            let conditions = endpoint.conditions.unwrap_or_default();
            let ready = conditions.ready.unwrap_or(true);
            endpoints.push(SliceEndpoint {
                addresses: found.into_iter().filter(of_type).collect(),
                ready,
                serving: conditions.serving.unwrap_or(ready),
                terminating: conditions.terminating.unwrap_or_default(),
            });
        }

        let slice = EndpointSlice {
            key: id.key,
            service: labels
                .get(SERVICE_LABEL)
                .filter(|_| !labels.contains_key(HEADLESS_LABEL))
                .map(str::to_owned),
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

    /// By field, what kube-proxy makes of it: `cmd/kube-proxy/app/server.go`,
    /// `pkg/proxy/serviceport.go`, `servicechangetracker.go` and `pkg/proxy/util/utils.go` of
    /// Kubernetes 1.34.
    #[expect(clippy::too_many_lines, reason = "a table of cases")]
    #[test]
    fn a5_a9_virtual_addresses_are_those_that_kube_proxy_serves() {
        let base = json!({
            "metadata": {"name": "web", "namespace": "shop", "labels": {}},
            "spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.1",
                     "clusterIPs": ["10.96.0.1", "fd00:96::1"], "ipFamilies": ["IPv4", "IPv6"],
                     "externalIPs": ["203.0.113.1", "2001:db8:2::1"],
                     "ports": [{"port": 80, "nodePort": 30080}]},
            "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}, {"ip": "2001:db8:3::1"}]}},
        });
        let all = ["10.96.0.1", "fd00:96::1"];
        let balancers = ["192.0.2.1", "2001:db8:3::1"];
        let proxy_name = "/metadata/labels/service.kubernetes.io~1service-proxy-name";
        let headless = "/metadata/labels/service.kubernetes.io~1headless";
        let ingress = "/status/loadBalancer/ingress/0";
        type Case<'a> = (&'a str, serde_json::Value, &'a [&'a str], &'a [&'a str]);
        let cases: [Case<'_>; 22] = [
            ("/metadata/name", json!("web"), &all, &balancers),
            (proxy_name, json!("other"), &[], &balancers),
            (proxy_name, json!(""), &[], &balancers),
            // On a Service it means nothing to kube-proxy of today, and an older one would only
            // serve less.
            (headless, json!(""), &all, &balancers),
            ("/spec/type", json!("ExternalName"), &[], &balancers),
            ("/spec/type", json!("ClusterIP"), &all, &balancers),
            ("/spec/type", json!("NodePort"), &all, &balancers),
            ("/spec/type", json!(null), &all, &balancers),
            ("/spec/clusterIP", json!("None"), &[], &balancers),
            ("/spec/clusterIPs", json!(["None"]), &all[..0], &balancers),
            ("/spec/clusterIPs", json!(["10.96.0.1"]), &all[..1], &balancers),
            ("/spec/clusterIPs", json!(null), &all[..1], &balancers),
            ("/spec/ipFamilies", json!(["IPv4"]), &all[..1], &balancers),
            ("/spec/ipFamilies", json!(["IPv6"]), &all[1..], &balancers),
            ("/spec/ipFamilies", json!(null), &all, &balancers),
            ("/spec/externalTrafficPolicy", json!("Local"), &all, &balancers),
            ("/spec/internalTrafficPolicy", json!("Local"), &all, &balancers),
            (
                "/spec/loadBalancerClass",
                json!("example.com/other"),
                &all,
                &balancers,
            ),
            (
                ingress,
                json!({"ip": "192.0.2.1", "ipMode": "VIP"}),
                &all,
                &balancers,
            ),
            (
                ingress,
                json!({"ip": "192.0.2.1", "ipMode": "Proxy"}),
                &all,
                &balancers[1..],
            ),
            (
                ingress,
                json!({"ip": "192.0.2.1", "ipMode": "x"}),
                &all,
                &balancers[1..],
            ),
            (ingress, json!({"hostname": "lb.example"}), &all, &balancers[1..]),
        ];
        for (field, value, cluster_ips, load_balancer_ips) in cases {
            let mut object = base.clone();
            let (parent, name) = field.rsplit_once('/').unwrap();
            let parent = object.pointer_mut(parent).unwrap();
            match parent.as_array_mut() {
                Some(list) => list[name.parse::<usize>().unwrap()] = value.clone(),
                None => parent[name.replace("~1", "/")] = value.clone(),
            }
            if field == "/spec/clusterIPs" && value == json!(["None"]) {
                object["spec"]["clusterIP"] = json!(null);
            }
            let entry = converted::<wire::Service>(object);
            let Object::Service(service) = &entry.object else {
                panic!("not a service")
            };
            let texts = |all: &[IpAddr]| all.iter().map(ToString::to_string).collect::<Vec<_>>();
            assert_eq!(texts(&service.cluster_ips), cluster_ips, "{field}: {value}");
            assert_eq!(
                texts(&service.load_balancer_ips),
                load_balancer_ips,
                "{field}: {value}"
            );
            assert_eq!(codes(&entry), [], "{field}: {value}");
        }
    }

    /// The unspecified address stands for node ports, and the node has the others itself.
    #[test]
    fn a9_special_addresses_are_no_frontends_and_no_backends() {
        let special = [
            "0.0.0.0",
            "0.0.0.7",
            "127.0.0.1",
            "127.8.0.1",
            "169.254.169.254",
            "224.0.0.1",
            "239.1.1.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:0.0.0.0",
        ];
        let ingress: Vec<_> = special.iter().map(|ip| json!({"ip": ip})).collect();
        let entry = converted::<wire::Service>(json!({
            "metadata": {"name": "web"},
            "spec": {"clusterIPs": special, "externalIPs": special, "ports": [{"port": 80}]},
            "status": {"loadBalancer": {"ingress": ingress}},
        }));
        let Object::Service(service) = &entry.object else {
            panic!("not a service")
        };
        let virtual_ips = [
            &service.cluster_ips,
            &service.external_ips,
            &service.load_balancer_ips,
        ];
        assert!(virtual_ips.into_iter().all(Vec::is_empty), "{virtual_ips:?}");
        let found = codes(&entry);
        assert_eq!(found.len(), 3 * special.len());
        assert!(found.iter().all(|(code, _)| *code == "address-invalid"));

        let entry = converted::<wire::EndpointSlice>(json!({
            "metadata": {"name": "web-1"},
            "endpoints": [{"addresses": special}],
        }));
        let Object::EndpointSlice(slice) = &entry.object else {
            panic!("not a slice")
        };
        assert!(slice.endpoints[0].addresses.is_empty());
        assert_eq!(codes(&entry).len(), special.len());
    }

    /// `cmd/kube-proxy/app/server.go`, `pkg/proxy/metaproxier/meta_proxier.go`,
    /// `endpointslicecache.go`.
    #[test]
    fn a5_a9_slices_are_those_that_kube_proxy_reads() {
        for (labels, kind, service, addresses) in [
            (json!({}), json!("IPv4"), true, 1),
            (json!({}), json!("IPv6"), true, 1),
            (json!({}), json!("FQDN"), true, 0),
            (json!({}), json!("ipv4"), true, 0),
            (json!({HEADLESS_LABEL: ""}), json!("IPv4"), false, 1),
            (json!({HEADLESS_LABEL: "false"}), json!("IPv4"), false, 1),
            (json!({PROXY_LABEL: "other"}), json!("IPv4"), true, 1),
        ] {
            let mut labels = labels;
            labels[SERVICE_LABEL] = json!("web");
            let entry = converted::<wire::EndpointSlice>(json!({
                "metadata": {"name": "web-1", "labels": labels}, "addressType": kind,
                "endpoints": [{"addresses": ["10.0.0.1"]}, {"addresses": ["fd00::1"]}],
            }));
            let Object::EndpointSlice(slice) = &entry.object else {
                panic!("not a slice")
            };
            let found = slice.endpoints.iter().map(|endpoint| endpoint.addresses.len());
            assert_eq!(
                (slice.service.is_some(), found.sum::<usize>()),
                (service, addresses),
                "{labels} {kind}"
            );
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
