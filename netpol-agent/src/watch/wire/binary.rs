// SPDX-License-Identifier: Apache-2.0
//! A Pod in the API server's binary encoding. Of no other kind there may be a hundred thousand.
//!
//! The messages are those of `k8s.io/api/core/v1/generated.proto` and
//! `k8s.io/apimachinery/pkg/apis/meta/v1/generated.proto`, cut to the fields that are read. Every
//! other field is passed over. Texts stay where they were received until they are taken over. A
//! field that is not set and one that is empty are the same to a Pod.

use std::str::Utf8Error;

use hyper::body::Bytes;
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use prost::{DecodeError, Message};

use super::{
    Metadata, PodIp, PodSpec, PodStatus,
    metadata::Annotations,
    pod::{self, ContainerPort},
    text::shared,
};
use crate::model::Text;

/// Why an object cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// It is no message of its kind.
    #[error("an object in Kubernetes' binary encoding cannot be read")]
    Message(#[from] DecodeError),
    /// A text is none.
    #[error("a text in Kubernetes' binary encoding is not UTF-8")]
    Text(#[from] Utf8Error),
}

type Read<T> = Result<T, Unreadable>;

/// Reads a Pod.
pub(in crate::watch) fn pod(encoded: Bytes) -> Read<pod::Pod> {
    let Pod {
        metadata,
        spec,
        status,
    } = Pod::decode(encoded)?;
    Ok(pod::Pod {
        metadata: metadata.unwrap_or_default().read()?,
        spec: spec.map(Spec::read).transpose()?,
        status: status.map(Status::read).transpose()?,
    })
}

fn text(bytes: &Bytes) -> Read<&str> {
    Ok(std::str::from_utf8(bytes)?)
}

/// A text that other objects have too, if there is one.
fn common(bytes: &Bytes) -> Read<Option<Text>> {
    let text = text(bytes)?;
    Ok((!text.is_empty()).then(|| shared(text).into()))
}

/// A text of this object, if there is one.
fn own(bytes: &Bytes) -> Read<Option<String>> {
    let text = text(bytes)?;
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

fn each<M, T>(messages: Vec<M>, read: impl FnMut(M) -> Read<T>) -> Read<Option<Vec<T>>> {
    messages.into_iter().map(read).collect::<Read<_>>().map(Some)
}

/// `v1.Pod`.
#[derive(Message)]
struct Pod {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ObjectMeta>,
    #[prost(message, optional, tag = "2")]
    spec: Option<Spec>,
    #[prost(message, optional, tag = "3")]
    status: Option<Status>,
}

/// `meta/v1.ObjectMeta`.
#[derive(Message)]
struct ObjectMeta {
    #[prost(bytes = "bytes", tag = "1")]
    name: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    namespace: Bytes,
    #[prost(bytes = "bytes", tag = "5")]
    uid: Bytes,
    #[prost(bytes = "bytes", tag = "6")]
    resource_version: Bytes,
    #[prost(message, optional, tag = "9")]
    deletion_timestamp: Option<Moment>,
    #[prost(message, repeated, tag = "11")]
    labels: Vec<Pair>,
    #[prost(message, repeated, tag = "12")]
    annotations: Vec<Pair>,
}

impl ObjectMeta {
    fn read(self) -> Read<Metadata> {
        let mut annotations = Annotations::default();
        for Pair { key, value } in &self.annotations {
            annotations.insert(text(key)?, text(value)?);
        }
        let mut labels = Vec::with_capacity(self.labels.len());
        for Pair { key, value } in &self.labels {
            labels.push((shared(text(key)?), shared(text(value)?)));
        }
        Ok(Metadata {
            name: text(&self.name)?.into(),
            namespace: common(&self.namespace)?.unwrap_or_default(),
            uid: text(&self.uid)?.to_owned(),
            resource_version: own(&self.resource_version)?,
            labels: labels.into_iter().collect(),
            deletion_timestamp: self.deletion_timestamp.as_ref().map(Moment::read),
            annotations,
        })
    }
}

/// An entry of a map of texts.
#[derive(Message)]
struct Pair {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

/// `meta/v1.Time`.
#[derive(Message)]
struct Moment {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

impl Moment {
    /// One that no calendar has is the earliest: what counts is that there is one.
    fn read(&self) -> Time {
        Time(Timestamp::new(self.seconds, self.nanos).unwrap_or(Timestamp::MIN))
    }
}

/// `v1.PodSpec`.
#[derive(Message)]
struct Spec {
    #[prost(message, repeated, tag = "2")]
    containers: Vec<Container>,
    #[prost(bytes = "bytes", tag = "10")]
    node_name: Bytes,
    #[prost(bool, tag = "11")]
    host_network: bool,
    #[prost(message, repeated, tag = "20")]
    init_containers: Vec<Container>,
}

impl Spec {
    fn read(self) -> Read<PodSpec> {
        Ok(PodSpec {
            node_name: common(&self.node_name)?,
            host_network: Some(self.host_network),
            containers: each(self.containers, Container::read)?,
            init_containers: each(self.init_containers, Container::read)?,
        })
    }
}

/// `v1.Container`.
#[derive(Message)]
struct Container {
    #[prost(message, repeated, tag = "6")]
    ports: Vec<Port>,
    #[prost(bytes = "bytes", tag = "24")]
    restart_policy: Bytes,
}

impl Container {
    fn read(self) -> Read<pod::Container> {
        Ok(pod::Container {
            restart_policy: common(&self.restart_policy)?,
            ports: each(self.ports, Port::read)?,
        })
    }
}

/// `v1.ContainerPort`.
#[derive(Message)]
struct Port {
    #[prost(bytes = "bytes", tag = "1")]
    name: Bytes,
    #[prost(int32, tag = "2")]
    host_port: i32,
    #[prost(int32, tag = "3")]
    container_port: i32,
    #[prost(bytes = "bytes", tag = "4")]
    protocol: Bytes,
    #[prost(bytes = "bytes", tag = "5")]
    host_ip: Bytes,
}

impl Port {
    fn read(self) -> Read<ContainerPort> {
        Ok(ContainerPort {
            name: common(&self.name)?,
            container_port: Some(self.container_port.into()),
            host_port: Some(self.host_port.into()),
            host_ip: own(&self.host_ip)?,
            protocol: common(&self.protocol)?,
        })
    }
}

/// `v1.PodStatus`.
#[derive(Message)]
struct Status {
    #[prost(bytes = "bytes", tag = "1")]
    phase: Bytes,
    #[prost(bytes = "bytes", tag = "6")]
    pod_ip: Bytes,
    #[prost(message, repeated, tag = "12")]
    pod_ips: Vec<Address>,
}

impl Status {
    fn read(self) -> Read<PodStatus> {
        let address = |address: Address| {
            Ok(PodIp {
                ip: own(&address.ip)?,
            })
        };
        Ok(PodStatus {
            phase: common(&self.phase)?,
            pod_ip: own(&self.pod_ip)?,
            pod_ips: each(self.pod_ips, address)?,
        })
    }
}

/// `v1.PodIP`.
#[derive(Message)]
struct Address {
    #[prost(bytes = "bytes", tag = "1")]
    ip: Bytes,
}
