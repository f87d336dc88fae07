// SPDX-License-Identifier: Apache-2.0
//! Converts the corpus' manifests to the agent's own types, without the agent's `watch` stage:
//! cases contain only well-formed objects.

mod service;

use std::{net::IpAddr, sync::Arc};

use anyhow::{Context, Result, bail};
use k8s_openapi::{
    api::{core::v1 as core, networking::v1 as networking},
    apimachinery::pkg::{apis::meta::v1 as meta, util::intstr::IntOrString},
};
use netpol_agent::model::{
    Direction, FORWARDS, HostPort, IpBlock, LabelExpression, LabelSelector, Labels, NamedPort, Namespace,
    NetworkPolicy, ObjectKey, Peer, Pod, PolicyPort, PortName, Protocol, Rule, Snapshot,
};
use serde_json::Value;

/// Returns kind, namespace and name, as in `Pod shop/web` or `Namespace shop`.
pub(crate) fn title(object: &Value) -> String {
    let text = |pointer: &str| {
        object
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    match text("/metadata/namespace") {
        "" => format!("{} {}", text("/kind"), text("/metadata/name")),
        namespace => format!("{} {namespace}/{}", text("/kind"), text("/metadata/name")),
    }
}

/// Converts manifests of Namespaces, Pods, NetworkPolicies, Services and EndpointSlices.
///
/// # Errors
/// An object of another kind, or one that does not decode.
pub fn snapshot(objects: &[Value]) -> Result<Snapshot> {
    let mut snapshot = Snapshot {
        revision: 1,
        ..Snapshot::default()
    };
    for object in objects {
        add(&mut snapshot, object).with_context(|| title(object))?;
    }
    Ok(snapshot)
}

fn add(snapshot: &mut Snapshot, object: &Value) -> Result<()> {
    match object["kind"].as_str() {
        Some("Namespace") => {
            let metadata = serde_json::from_value::<core::Namespace>(object.clone())?.metadata;
            let name = metadata.name.context("no name")?;
            let mut annotations = metadata.annotations.unwrap_or_default();
            let forwards = annotations.remove(FORWARDS).map(Into::into);
            let mut labels = Labels::from(metadata.labels.unwrap_or_default());
            labels.insert("kubernetes.io/metadata.name", name.as_str());
            snapshot.namespaces.insert(
                name.clone(),
                Arc::new(Namespace {
                    name,
                    labels,
                    forwards,
                }),
            );
        }
        Some("Pod") => {
            let pod = pod(serde_json::from_value(object.clone())?)?;
            snapshot.pods.insert(pod.key.clone(), Arc::new(pod));
        }
        Some("NetworkPolicy") => {
            let policy = policy(serde_json::from_value(object.clone())?)?;
            snapshot.policies.insert(policy.key.clone(), Arc::new(policy));
        }
        Some("Service") => {
            let service = service::service(serde_json::from_value(object.clone())?)?;
            snapshot.services.insert(service.key.clone(), Arc::new(service));
        }
        Some("EndpointSlice") => {
            let slice = service::slice(serde_json::from_value(object.clone())?)?;
            snapshot
                .endpoint_slices
                .insert(slice.key.clone(), Arc::new(slice));
        }
        kind => bail!("a case cannot hold kind {kind:?}"),
    }
    Ok(())
}

fn key(metadata: &meta::ObjectMeta) -> Result<ObjectKey> {
    let namespace = metadata.namespace.as_ref().context("no namespace")?;
    Ok(ObjectKey::new(
        namespace,
        metadata.name.as_ref().context("no name")?,
    ))
}

fn pod(pod: core::Pod) -> Result<Pod> {
    let spec = pod.spec.context("no spec")?;
    let status = pod.status.context("no status")?;
    let restartable = spec.init_containers.unwrap_or_default().into_iter();
    let restartable = restartable.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let ports = spec
        .containers
        .into_iter()
        .chain(restartable)
        .flat_map(|container| container.ports.unwrap_or_default());
    let (mut named_ports, mut host_ports) = (Vec::new(), Vec::new());
    for port in ports {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let protocol = Protocol::from_kubernetes(protocol).context("unknown protocol")?;
        let number = u16::try_from(port.container_port)?;
        if let Some(host_port) = port.host_port.filter(|_| spec.host_network != Some(true)) {
            let address = port.host_ip.map(|ip| ip.parse()).transpose()?;
            host_ports.push(HostPort {
                address: address.filter(|address: &IpAddr| !address.is_unspecified()),
                protocol,
                number: u16::try_from(host_port)?,
                container_port: number,
            });
        }
        named_ports.extend(port.name.map(|name| NamedPort {
            name: name.into(),
            protocol,
            number,
        }));
    }
    let addresses = status.pod_ips.unwrap_or_default();
    Ok(Pod {
        key: key(&pod.metadata)?,
        uid: pod.metadata.uid.unwrap_or_default(),
        labels: pod.metadata.labels.unwrap_or_default().into(),
        node: spec.node_name.map(Into::into),
        host_network: spec.host_network == Some(true),
        terminal: matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")),
        terminating: pod.metadata.deletion_timestamp.is_some(),
        static_uid: None,
        addresses: addresses
            .iter()
            .map(|entry| Ok(entry.ip.parse()?))
            .collect::<Result<_>>()?,
        named_ports,
        host_ports,
    })
}

fn policy(policy: networking::NetworkPolicy) -> Result<NetworkPolicy> {
    let key = key(&policy.metadata)?;
    let spec = policy.spec.context("no spec")?;
    let direction = |word: &String| match word.as_str() {
        "Ingress" => Ok(Direction::Ingress),
        "Egress" => Ok(Direction::Egress),
        _ => bail!("policyTypes: {word:?}"),
    };
    let types = spec
        .policy_types
        .unwrap_or_default()
        .iter()
        .map(direction)
        .collect::<Result<Vec<_>>>()?;
    let ingress = spec.ingress.unwrap_or_default().into_iter();
    let egress = spec.egress.unwrap_or_default().into_iter();
    Ok(NetworkPolicy {
        key,
        pod_selector: spec.pod_selector.map(selector).unwrap_or_default(),
        policy_types: Some(types).filter(|types| !types.is_empty()),
        ingress: ingress.map(|entry| rule(entry.from, entry.ports)).collect(),
        egress: egress.map(|entry| rule(entry.to, entry.ports)).collect(),
    })
}

fn rule(
    peers: Option<Vec<networking::NetworkPolicyPeer>>,
    ports: Option<Vec<networking::NetworkPolicyPort>>,
) -> Rule {
    let peer = |peer: networking::NetworkPolicyPeer| Peer {
        pod_selector: peer.pod_selector.map(selector),
        namespace_selector: peer.namespace_selector.map(selector),
        ip_block: peer.ip_block.map(|block| IpBlock {
            cidr: block.cidr,
            except: block.except.unwrap_or_default(),
        }),
    };
    let port = |port: networking::NetworkPolicyPort| PolicyPort {
        protocol: port.protocol,
        port: port.port.map(|port| match port {
            IntOrString::Int(number) => PortName::Number(number),
            IntOrString::String(name) => PortName::Name(name),
        }),
        end_port: port.end_port,
    };
    Rule {
        peers: peers.unwrap_or_default().into_iter().map(peer).collect(),
        ports: ports.unwrap_or_default().into_iter().map(port).collect(),
    }
}

fn selector(selector: meta::LabelSelector) -> LabelSelector {
    let expression = |entry: meta::LabelSelectorRequirement| LabelExpression {
        key: entry.key,
        operator: entry.operator,
        values: entry.values.unwrap_or_default(),
    };
    let expressions: Vec<_> = selector.match_expressions.unwrap_or_default();
    LabelSelector {
        match_labels: selector.match_labels.unwrap_or_default().into(),
        match_expressions: expressions.into_iter().map(expression).collect(),
    }
}
