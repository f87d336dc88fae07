// SPDX-License-Identifier: Apache-2.0
//! A Pod in the API server's binary encoding. Only of Pods there may be so many that a second
//! decoder pays.
//!
//! The messages are those of `k8s.io/api/core/v1/generated.proto` and
//! `k8s.io/apimachinery/pkg/apis/meta/v1/generated.proto`, cut to the fields that are read. Every
//! other field is passed over. Texts stay where they were received until they are taken over. A
//! field that is not set and one that is empty are the same to a Pod.

use std::borrow::Cow;

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

/// Reads a Pod.
pub(in crate::watch) fn pod(encoded: Bytes) -> Result<pod::Pod, DecodeError> {
    let Pod {
        metadata,
        spec,
        status,
    } = Pod::decode(encoded)?;
    Ok(pod::Pod {
        metadata: metadata.unwrap_or_default().read(),
        spec: spec.map(Spec::read),
        status: status.map(Status::read),
    })
}

/// A text. The server lets a client write bytes that are no UTF-8, and replaces them in JSON.
fn text(bytes: &Bytes) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

/// A text that other objects have too, if there is one.
fn common(bytes: &Bytes) -> Option<Text> {
    (!bytes.is_empty()).then(|| shared(&text(bytes)).into())
}

/// A text of this object, if there is one.
fn own(bytes: &Bytes) -> Option<String> {
    (!bytes.is_empty()).then(|| text(bytes).into_owned())
}

fn each<M, T>(messages: Vec<M>, read: impl FnMut(M) -> T) -> Option<Vec<T>> {
    Some(messages.into_iter().map(read).collect())
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
    fn read(self) -> Metadata {
        let mut annotations = Annotations::default();
        for Pair { key, value } in &self.annotations {
            annotations.insert(key, || text(value).into_owned());
        }
        let labels = self.labels.iter();
        let labels = labels.map(|Pair { key, value }| (shared(&text(key)), shared(&text(value))));
        Metadata {
            name: (&*text(&self.name)).into(),
            namespace: common(&self.namespace).unwrap_or_default(),
            uid: text(&self.uid).into_owned(),
            resource_version: own(&self.resource_version),
            labels: labels.collect(),
            deletion_timestamp: self.deletion_timestamp.as_ref().map(Moment::read),
            annotations,
        }
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
    fn read(self) -> PodSpec {
        PodSpec {
            node_name: common(&self.node_name),
            host_network: Some(self.host_network),
            containers: each(self.containers, Container::read),
            init_containers: each(self.init_containers, Container::read),
        }
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
    fn read(self) -> pod::Container {
        pod::Container {
            restart_policy: common(&self.restart_policy),
            ports: each(self.ports, Port::read),
        }
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
    fn read(self) -> ContainerPort {
        ContainerPort {
            name: common(&self.name),
            container_port: Some(self.container_port.into()),
            host_port: Some(self.host_port.into()),
            host_ip: own(&self.host_ip),
            protocol: common(&self.protocol),
        }
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
    fn read(self) -> PodStatus {
        PodStatus {
            phase: common(&self.phase),
            pod_ip: own(&self.pod_ip),
            pod_ips: each(self.pod_ips, |address| PodIp { ip: own(&address.ip) }),
        }
    }
}

/// `v1.PodIP`.
#[derive(Message)]
struct Address {
    #[prost(bytes = "bytes", tag = "1")]
    ip: Bytes,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(key: &'static [u8], value: &'static [u8]) -> Pair {
        Pair {
            key: Bytes::from_static(key),
            value: Bytes::from_static(value),
        }
    }

    /// One pod must not keep all others from being listed.
    #[test]
    fn l2_a_pod_with_bytes_that_are_no_text_is_read() {
        let written = Pod {
            metadata: Some(ObjectMeta {
                name: Bytes::from_static(b"a"),
                annotations: vec![
                    pair(b"example.org/\xff", b"\xff"),
                    pair(pod::MIRROR.as_bytes(), b"\xff"),
                ],
                labels: vec![pair(b"app", b"a\xffb")],
                ..ObjectMeta::default()
            }),
            status: Some(Status {
                phase: Bytes::from_static(b"\xff"),
                ..Status::default()
            }),
            spec: None,
        };
        let read = pod(written.encode_to_vec().into()).unwrap();
        assert_eq!(&*read.metadata.name, "a");
        assert_eq!(read.metadata.labels.get("app"), Some("a\u{fffd}b"));
        assert_eq!(read.metadata.annotations.get(pod::MIRROR), Some("\u{fffd}"));
        assert!(read.spec.is_none());
    }

    #[test]
    fn a_field_that_is_empty_is_not_set() {
        let written = Pod {
            metadata: None,
            spec: Some(Spec::default()),
            status: Some(Status::default()),
        };
        let read = pod(written.encode_to_vec().into()).unwrap();
        assert_eq!(read.spec.unwrap().node_name, None);
        let status = read.status.unwrap();
        assert_eq!((status.phase, status.pod_ip), (None, None));
        assert!(status.pod_ips.unwrap().is_empty());
    }
}
