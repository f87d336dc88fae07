// SPDX-License-Identifier: Apache-2.0
//! Service and EndpointSlice.

use serde::Deserialize;

use super::Metadata;

/// `v1` Service.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Service {
    /// Name and namespace.
    #[serde(default, deserialize_with = "super::or_default")]
    pub metadata: Metadata,
    /// Virtual addresses and ports.
    pub spec: Option<ServiceSpec>,
    /// Load balancer addresses.
    pub status: Option<ServiceStatus>,
}

/// `spec` of a Service.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceSpec {
    /// `ExternalName` for one that is a name only.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// The families of the virtual addresses, in their order.
    pub ip_families: Option<Vec<String>>,
    /// The first virtual address, `None` or empty.
    #[serde(rename = "clusterIP")]
    pub cluster_ip: Option<String>,
    /// All virtual addresses.
    #[serde(rename = "clusterIPs")]
    pub cluster_ips: Option<Vec<String>>,
    /// Addresses that others route to the nodes.
    #[serde(rename = "externalIPs")]
    pub external_ips: Option<Vec<String>>,
    /// Ports.
    pub ports: Option<Vec<ServicePort>>,
}

/// A port of a Service.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicePort {
    /// Its name.
    pub name: Option<String>,
    /// TCP if absent.
    pub protocol: Option<String>,
    /// On the virtual addresses.
    pub port: Option<i64>,
    /// On the nodes.
    pub node_port: Option<i64>,
}

/// `status` of a Service.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceStatus {
    /// Load balancer addresses.
    pub load_balancer: Option<LoadBalancerStatus>,
}

/// `status.loadBalancer` of a Service.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct LoadBalancerStatus {
    /// Load balancer addresses.
    pub ingress: Option<Vec<LoadBalancerIngress>>,
}

/// One load balancer address.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadBalancerIngress {
    /// The address, unless it is given by name.
    pub ip: Option<String>,
    /// `VIP`, also if absent, or `Proxy` for an address that the balancer itself must see.
    pub ip_mode: Option<String>,
}

/// `discovery.k8s.io/v1` EndpointSlice.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointSlice {
    /// Name, namespace and the label that names the Service.
    #[serde(default, deserialize_with = "super::or_default")]
    pub metadata: Metadata,
    /// `IPv4`, `IPv6` or `FQDN`.
    pub address_type: Option<String>,
    /// Addresses with their conditions.
    pub endpoints: Option<Vec<Endpoint>>,
    /// Ports that all of them have.
    pub ports: Option<Vec<EndpointPort>>,
}

/// One entry of `endpoints`.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Endpoint {
    /// Its addresses.
    pub addresses: Option<Vec<String>>,
    /// Whether traffic goes there.
    pub conditions: Option<EndpointConditions>,
}

/// `conditions` of an endpoint.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct EndpointConditions {
    /// Takes traffic; absent means so.
    pub ready: Option<bool>,
    /// Could take traffic, terminating or not; absent means as `ready`.
    pub serving: Option<bool>,
    /// Is going away.
    pub terminating: Option<bool>,
}

/// A port of a slice.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct EndpointPort {
    /// The name of the Service's port.
    pub name: Option<String>,
    /// TCP if absent.
    pub protocol: Option<String>,
    /// Its number; absent means every port.
    pub port: Option<i64>,
}
