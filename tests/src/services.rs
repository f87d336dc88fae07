// SPDX-License-Identifier: Apache-2.0
//! Services and their EndpointSlices as manifests, as users and a cluster's controllers write them.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use serde_json::{Value, json};

/// Networks of all ClusterIPs, IPv4 and IPv6: the API server's `--service-cluster-ip-range`.
pub const SERVICE_NETWORKS: [&str; 2] = ["10.96.0.0/12", "fd00:10:96::/112"];
/// TCP port on the virtual addresses. No pod listens on it.
pub const TCP_PORT: u16 = 80;
/// UDP port on the virtual addresses. No pod listens on it.
pub const UDP_PORT: u16 = 53;

/// A kind of address of a Service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frontend {
    /// `spec.clusterIPs`.
    ClusterIp,
    /// `spec.externalIPs`.
    ExternalIp,
    /// `status.loadBalancer.ingress[].ip`.
    LoadBalancerIp,
}

impl Frontend {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::ClusterIp, Self::ExternalIp, Self::LoadBalancerIp];
}

/// State of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// Takes traffic.
    Ready,
    /// Terminates, but still answers.
    Terminating,
    /// Does not answer.
    Unready,
}

/// One backend of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its TCP port.
    pub tcp: u16,
    /// Its UDP port.
    pub udp: u16,
    /// State.
    pub readiness: Readiness,
}

/// A Service in namespace `shop` with a TCP and a UDP port and every kind of frontend, in both
/// families.
#[derive(Debug, Clone)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Its number: the last part of its addresses and node ports.
    pub number: u8,
    /// `clusterIP: None`: no virtual address.
    pub headless: bool,
    /// True if its TCP port has a named `targetPort`, which means a different number in each
    /// backend.
    pub named_target: bool,
    /// Its backends.
    pub backends: Vec<Backend>,
    /// Maximum number of endpoints in a slice.
    pub slice_size: usize,
}

impl Service {
    /// Returns the virtual addresses of one kind, IPv4 and IPv6.
    pub fn addresses(&self, frontend: Frontend) -> [IpAddr; 2] {
        let number = u16::from(self.number);
        let (v4, v6) = match frontend {
            Frontend::ClusterIp => ([10, 96, 0, self.number], [0xfd00, 0x10, 0x96]),
            Frontend::ExternalIp => ([203, 0, 113, self.number], [0x2001, 0xdb8, 2]),
            Frontend::LoadBalancerIp => ([192, 0, 2, self.number], [0x2001, 0xdb8, 3]),
        };
        [
            Ipv4Addr::from(v4).into(),
            Ipv6Addr::new(v6[0], v6[1], v6[2], 0, 0, 0, 0, number).into(),
        ]
    }

    /// Returns its node ports, TCP and UDP.
    pub fn node_ports(&self) -> (u16, u16) {
        let number = u16::from(self.number);
        (30000 + number, 31000 + number)
    }

    /// Returns the Service and its slices. JSON is YAML.
    pub fn manifests(&self) -> Vec<Value> {
        let mut objects = vec![self.service()];
        let mut groups: BTreeMap<_, Vec<(&Backend, IpAddr)>> = BTreeMap::new();
        for backend in &self.backends {
            for &address in &backend.addresses {
                let group = (address.is_ipv6(), backend.tcp, backend.udp);
                groups.entry(group).or_default().push((backend, address));
            }
        }
        for ((ipv6, tcp, udp), endpoints) in groups {
            for part in endpoints.chunks(self.slice_size) {
                let name = format!("{}-{}", self.name, objects.len());
                objects.push(json!({
                    "apiVersion": "discovery.k8s.io/v1",
                    "kind": "EndpointSlice",
                    "metadata": {
                        "namespace": "shop",
                        "name": name,
                        "labels": {"kubernetes.io/service-name": self.name},
                    },
                    "addressType": if ipv6 { "IPv6" } else { "IPv4" },
                    "ports": [
                        {"name": "tcp", "protocol": "TCP", "port": tcp},
                        {"name": "udp", "protocol": "UDP", "port": udp},
                    ],
                    "endpoints": part.iter().map(|(backend, address)| endpoint(backend, *address)).collect::<Vec<_>>(),
                }));
            }
        }
        objects
    }

    fn service(&self) -> Value {
        let (tcp, udp) = self.node_ports();
        let target = if self.named_target {
            json!("http")
        } else {
            json!(8080)
        };
        let mut ports = json!([
            {"name": "tcp", "protocol": "TCP", "port": TCP_PORT, "targetPort": target},
            {"name": "udp", "protocol": "UDP", "port": UDP_PORT, "targetPort": 5353},
        ]);
        let metadata = json!({"namespace": "shop", "name": self.name});
        if self.headless {
            return json!({
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": metadata,
                "spec": {"type": "ClusterIP", "clusterIP": "None", "clusterIPs": ["None"], "ports": ports},
            });
        }
        ports[0]["nodePort"] = tcp.into();
        ports[1]["nodePort"] = udp.into();
        let cluster = self.addresses(Frontend::ClusterIp);
        let balanced = self.addresses(Frontend::LoadBalancerIp);
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata,
            "spec": {
                "type": "LoadBalancer",
                "clusterIP": cluster[0],
                "clusterIPs": cluster,
                "ipFamilies": ["IPv4", "IPv6"],
                "externalIPs": self.addresses(Frontend::ExternalIp),
                "externalTrafficPolicy": "Cluster",
                "ports": ports,
            },
            "status": {"loadBalancer": {"ingress": balanced.map(|ip| json!({"ip": ip}))}},
        })
    }
}

fn endpoint(backend: &Backend, address: IpAddr) -> Value {
    let (ready, serving, terminating) = match backend.readiness {
        Readiness::Ready => (true, true, false),
        Readiness::Terminating => (false, true, true),
        Readiness::Unready => (false, false, false),
    };
    json!({
        "addresses": [address],
        "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
    })
}
