// SPDX-License-Identifier: Apache-2.0
//! Converts the corpus' Services and EndpointSlices.

use std::net::IpAddr;

use anyhow::{Context, Result};
use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use netpol_agent::model::{EndpointPort, EndpointSlice, Protocol, Service, ServicePort, SliceEndpoint};

use super::key;

fn protocol(word: Option<&str>) -> Result<Protocol> {
    Protocol::from_kubernetes(word.unwrap_or("TCP")).context("unknown protocol")
}

/// `None` is the address of a headless Service, and is left out.
fn addresses(texts: Vec<String>) -> Result<Vec<IpAddr>> {
    let given = texts.iter().filter(|text| *text != "None");
    given
        .map(|text| text.parse().with_context(|| format!("{text:?} is no address")))
        .collect()
}

pub(super) fn service(service: core::Service) -> Result<Service> {
    let key = key(&service.metadata)?;
    let spec = service.spec.context("no spec")?;
    let labels = service.metadata.labels.unwrap_or_default();
    let proxied = !labels.contains_key("service.kubernetes.io/service-proxy-name")
        && spec.type_.as_deref() != Some("ExternalName");
    let balancer = service.status.and_then(|status| status.load_balancer);
    let balanced = balancer.and_then(|balancer| balancer.ingress).unwrap_or_default();
    let port = |port: core::ServicePort| {
        Ok(ServicePort {
            name: port.name.unwrap_or_default(),
            protocol: protocol(port.protocol.as_deref())?,
            port: u16::try_from(port.port)?,
            node_port: port.node_port.map(u16::try_from).transpose()?,
        })
    };
    Ok(Service {
        key,
        cluster_ips: match spec.cluster_ips.context("no clusterIPs")? {
            ips if proxied => addresses(ips)?,
            _ => Vec::new(),
        },
        external_ips: addresses(spec.external_ips.unwrap_or_default())?,
        load_balancer_ips: addresses(
            balanced
                .into_iter()
                .filter(|entry| entry.ip_mode.as_deref() != Some("Proxy"))
                .filter_map(|entry| entry.ip)
                .collect(),
        )?,
        ports: spec
            .ports
            .unwrap_or_default()
            .into_iter()
            .map(port)
            .collect::<Result<_>>()?,
    })
}

pub(super) fn slice(slice: discovery::EndpointSlice) -> Result<EndpointSlice> {
    let labels = slice.metadata.labels.clone().unwrap_or_default();
    let port = |port: discovery::EndpointPort| {
        Ok(EndpointPort {
            name: port.name.unwrap_or_default(),
            protocol: protocol(port.protocol.as_deref())?,
            number: port.port.map(u16::try_from).transpose()?,
        })
    };
    let endpoint = |endpoint: discovery::Endpoint| {
        let conditions = endpoint.conditions.unwrap_or_default();
        let ready = conditions.ready.unwrap_or(true);
        Ok(SliceEndpoint {
            addresses: addresses(endpoint.addresses)?,
            ready,
            serving: conditions.serving.unwrap_or(ready),
            terminating: conditions.terminating.unwrap_or(false),
        })
    };
    let ports = slice.ports.unwrap_or_default().into_iter();
    let endpoints = slice.endpoints.unwrap_or_default().into_iter();
    Ok(EndpointSlice {
        key: key(&slice.metadata)?,
        service: match labels.contains_key("service.kubernetes.io/headless") {
            true => None,
            false => labels.get("kubernetes.io/service-name").cloned(),
        },
        ports: ports.map(port).collect::<Result<_>>()?,
        endpoints: endpoints.map(endpoint).collect::<Result<_>>()?,
    })
}
