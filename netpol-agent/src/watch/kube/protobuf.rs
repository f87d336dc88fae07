// SPDX-License-Identifier: Apache-2.0
//! Pages of Pods in the API server's binary encoding, which costs the server and the agent a
//! fraction of what JSON costs: there may be a hundred thousand Pods. A page becomes the JSON of
//! the fields that are read, so that everything after it has one form.
//!
//! The messages are those of `k8s.io/api/core/v1/generated.proto` and of
//! `k8s.io/apimachinery/pkg/apis/meta/v1/generated.proto`, cut to these fields. Every other field
//! is passed over. The envelope is described at
//! <https://kubernetes.io/docs/reference/using-api/api-concepts/#protobuf-encoding>.

use std::collections::BTreeMap;

use hyper::{
    HeaderMap,
    body::Bytes,
    header::{CONTENT_TYPE, HeaderValue},
};
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use prost::Message;
use serde::{Serialize, Serializer};

use crate::watch::wire::ANNOTATIONS;

/// `Accept` of a request that a server may answer so, or in JSON.
pub(super) const ACCEPTED: &str = "application/vnd.kubernetes.protobuf, application/json;q=0.9";

const MEDIA_TYPE: &[u8] = b"application/vnd.kubernetes.protobuf";

/// What such an answer begins with.
const MAGIC: &[u8] = b"k8s\0";

/// Why a page cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("the answer does not begin as one in Kubernetes' binary encoding")]
    Magic,
    #[error("a page of Pods in Kubernetes' binary encoding cannot be read")]
    Message(#[from] prost::DecodeError),
    #[error("a page of Pods cannot be written as JSON")]
    Json(#[from] serde_json::Error),
}

/// Returns true if an answer's headers say that it is in this encoding.
pub(super) fn is_of(headers: &HeaderMap) -> bool {
    let media_type = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    media_type.is_some_and(|media_type| media_type.starts_with(MEDIA_TYPE))
}

/// A page of Pods.
#[derive(Debug)]
pub(super) struct Page {
    token: String,
    list: Bytes,
}

impl Page {
    /// Reads the envelope and the list's metadata. The objects are not looked through.
    pub(super) fn open(body: &Bytes) -> Result<Self, Unreadable> {
        if !body.starts_with(MAGIC) {
            return Err(Unreadable::Magic);
        }
        let list = Envelope::decode(body.slice(MAGIC.len()..))?.raw;
        let token = Head::decode(list.clone())?.metadata.unwrap_or_default().token;
        Ok(Self { token, list })
    }

    /// The token of the next page, if there is one.
    pub(super) fn token(&self) -> Option<&str> {
        Some(self.token.as_str()).filter(|token| !token.is_empty())
    }

    /// The page as JSON, with the fields that are read.
    pub(super) fn into_json(self) -> Result<Vec<u8>, Unreadable> {
        Ok(serde_json::to_vec(&PodList::decode(self.list)?)?)
    }
}

/// `runtime.Unknown`.
#[derive(Message)]
struct Envelope {
    #[prost(bytes = "bytes", tag = "2")]
    raw: Bytes,
}

/// `PodList` without its items.
#[derive(Message)]
struct Head {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ListMeta>,
}

#[derive(Message, Serialize)]
struct PodList {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ListMeta>,
    #[prost(message, repeated, tag = "2")]
    items: Vec<Pod>,
}

#[derive(Message, Serialize)]
#[serde(rename_all = "camelCase")]
struct ListMeta {
    #[prost(string, tag = "2")]
    resource_version: String,
    #[prost(string, tag = "3")]
    #[serde(rename = "continue")]
    token: String,
    #[prost(int64, optional, tag = "4")]
    remaining_item_count: Option<i64>,
}

#[derive(Message, Serialize)]
struct Pod {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ObjectMeta>,
    #[prost(message, optional, tag = "2")]
    spec: Option<PodSpec>,
    #[prost(message, optional, tag = "3")]
    status: Option<PodStatus>,
}

#[derive(Message, Serialize)]
#[serde(rename_all = "camelCase")]
struct ObjectMeta {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "3")]
    namespace: String,
    #[prost(string, tag = "5")]
    uid: String,
    #[prost(string, tag = "6")]
    resource_version: String,
    #[prost(message, optional, tag = "9")]
    #[serde(serialize_with = "time")]
    deletion_timestamp: Option<Moment>,
    #[prost(btree_map = "string, string", tag = "11")]
    labels: BTreeMap<String, String>,
    #[prost(btree_map = "string, string", tag = "12")]
    #[serde(serialize_with = "few")]
    annotations: BTreeMap<String, String>,
}

/// `Time`.
#[derive(Message)]
struct Moment {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

#[derive(Message, Serialize)]
#[serde(rename_all = "camelCase")]
struct PodSpec {
    #[prost(message, repeated, tag = "2")]
    containers: Vec<Container>,
    #[prost(string, tag = "10")]
    node_name: String,
    #[prost(bool, tag = "11")]
    host_network: bool,
    #[prost(message, repeated, tag = "20")]
    init_containers: Vec<Container>,
}

#[derive(Message, Serialize)]
#[serde(rename_all = "camelCase")]
struct Container {
    #[prost(message, repeated, tag = "6")]
    ports: Vec<ContainerPort>,
    #[prost(string, optional, tag = "24")]
    restart_policy: Option<String>,
}

#[derive(Message, Serialize)]
#[serde(rename_all = "camelCase")]
struct ContainerPort {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(int32, tag = "2")]
    host_port: i32,
    #[prost(int32, tag = "3")]
    container_port: i32,
    #[prost(string, tag = "4")]
    #[serde(skip_serializing_if = "String::is_empty")]
    protocol: String,
    #[prost(string, tag = "5")]
    #[serde(rename = "hostIP")]
    host_ip: String,
}

#[derive(Message, Serialize)]
#[serde(rename_all = "camelCase")]
struct PodStatus {
    #[prost(string, tag = "1")]
    phase: String,
    #[prost(string, tag = "6")]
    #[serde(rename = "podIP")]
    pod_ip: String,
    #[prost(message, repeated, tag = "12")]
    #[serde(rename = "podIPs")]
    pod_ips: Vec<PodIp>,
}

#[derive(Message, Serialize)]
struct PodIp {
    #[prost(string, tag = "1")]
    ip: String,
}

/// A moment as JSON has it. One that no calendar has is the earliest.
fn time<S: Serializer>(moment: &Option<Moment>, serializer: S) -> Result<S::Ok, S::Error> {
    let moment = moment
        .as_ref()
        .map(|moment| Time(Timestamp::new(moment.seconds, moment.nanos).unwrap_or(Timestamp::MIN)));
    moment.serialize(serializer)
}

/// The annotations that are read.
fn few<S: Serializer>(all: &BTreeMap<String, String>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(all.iter().filter(|(key, _)| ANNOTATIONS.contains(&key.as_str())))
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A page without Pods that names the next.
    pub fn page_before(token: &str) -> Vec<u8> {
        let list = field(1, &field(3, token.as_bytes()));
        page(&list).to_vec()
    }

    /// A field of a message: its number, and a text or a message.
    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        // The numbers of the protocol: a length-delimited field has wire type 2. Numbers from 16 on
        // take two bytes.
        let key = u16::from(number) << 3 | 2;
        let key = if key < 0x80 {
            vec![key as u8]
        } else {
            vec![key as u8 | 0x80, (key >> 7) as u8]
        };
        [key, vec![u8::try_from(content.len()).unwrap()], content.to_vec()].concat()
    }

    /// A number as a field.
    fn number(field: u8, value: u8) -> Vec<u8> {
        vec![field << 3, value]
    }

    fn page(list: &[u8]) -> Bytes {
        [MAGIC, &field(1, b"what it is"), &field(2, list)].concat().into()
    }

    fn read(list: &[u8]) -> Value {
        let json = Page::open(&page(list)).unwrap().into_json().unwrap();
        serde_json::from_slice(&json).unwrap()
    }

    #[test]
    fn the_fields_that_are_read_are_written_and_others_are_passed_over() {
        let container = [field(1, b"c"), field(24, b"Always"), field(6, &number(3, 80))].concat();
        let meta = [
            field(1, b"a"),
            field(9, &number(1, 60)),
            field(11, &[field(1, b"app"), field(2, b"web")].concat()),
            field(12, &[field(1, b"other"), field(2, b"x")].concat()),
            field(17, b"managed"),
        ];
        let spec = [field(20, &container), number(11, 1), field(1, b"volume")];
        let pod = [field(1, &meta.concat()), field(2, &spec.concat())].concat();
        let pod = &read(&field(2, &pod))["items"][0];
        assert_eq!(pod["metadata"]["name"], "a");
        assert_eq!(pod["metadata"]["deletionTimestamp"], "1970-01-01T00:01:00Z");
        assert_eq!(pod["metadata"]["labels"], json!({"app": "web"}));
        assert_eq!(pod["metadata"]["annotations"], json!({}));
        assert_eq!(pod["spec"]["hostNetwork"], true);
        let container = &pod["spec"]["initContainers"][0];
        assert_eq!(container["restartPolicy"], "Always");
        assert_eq!(container["ports"][0]["containerPort"], 80);
        assert!(pod["status"].is_null());
    }

    #[test]
    fn the_token_is_that_of_the_list() {
        let token = |list: &[u8]| Page::open(&page(list)).unwrap().token().map(str::to_owned);
        let items = field(2, &field(1, &field(1, b"a")));
        let meta = |token: &[u8]| field(1, &[field(2, b"7"), field(3, token)].concat());
        assert_eq!(
            token(&[meta(b"next"), items.clone()].concat()).as_deref(),
            Some("next")
        );
        assert_eq!(token(&[meta(b""), items.clone()].concat()), None);
        assert_eq!(token(&items), None);
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        assert!(matches!(
            Page::open(&Bytes::from_static(b"{}")),
            Err(Unreadable::Magic)
        ));
        let whole = page(&field(2, &field(1, &field(1, b"a"))));
        for length in MAGIC.len() + 1..whole.len() {
            let read = Page::open(&whole.slice(..length)).and_then(Page::into_json);
            // What ends between two fields is a shorter message.
            let between = length == MAGIC.len() + field(1, b"what it is").len();
            assert_eq!(read.is_ok(), between, "{length}");
        }
    }
}
