// SPDX-License-Identifier: Apache-2.0
//! What the API server says in its binary encoding: the envelope, a list and a refusal. The
//! encoding costs the server and the agent a fraction of what JSON costs.
//!
//! The envelope is described at
//! <https://kubernetes.io/docs/reference/using-api/api-concepts/#protobuf-encoding>. The messages
//! are those of `k8s.io/apimachinery/pkg/apis/meta/v1/generated.proto` and
//! `k8s.io/apimachinery/pkg/runtime/generated.proto`, cut to the fields that are read. Every other
//! field is passed over.

use hyper::{
    HeaderMap,
    body::Bytes,
    header::{CONTENT_TYPE, HeaderValue},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use kube::core::Status;
use prost::{DecodeError, Message};

use crate::watch::wire::Wire;

/// `Accept` of a request that a server may answer so, or in JSON.
pub(super) const ACCEPTED: HeaderValue =
    HeaderValue::from_static("application/vnd.kubernetes.protobuf, application/json;q=0.9");

const MEDIA_TYPE: &[u8] = b"application/vnd.kubernetes.protobuf";

/// What such an answer begins with.
const MAGIC: &[u8] = b"k8s\0";

/// Why an answer cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("the answer does not begin as one in Kubernetes' binary encoding")]
    Magic,
    #[error("the answer is a `{0}`")]
    Kind(String),
    #[error("the answer in Kubernetes' binary encoding cannot be read")]
    Message(#[from] DecodeError),
}

/// Returns true if an answer's headers say that it is in this encoding.
pub(super) fn is_of(headers: &HeaderMap) -> bool {
    let media_type = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    media_type.is_some_and(|media_type| media_type.starts_with(MEDIA_TYPE))
}

/// A page of a list, its objects not yet read.
#[derive(Debug)]
pub(super) struct List {
    pub metadata: meta::ListMeta,
    pub items: Vec<Bytes>,
}

impl List {
    /// Reads a page of objects of a kind.
    pub(super) fn open<T: Wire>(body: Bytes) -> Result<Self, Unreadable> {
        let list = ListMessage::decode(open(body, &format!("{}List", T::KIND.name()))?)?;
        let metadata = list.metadata.unwrap_or_default();
        Ok(Self {
            metadata: meta::ListMeta {
                resource_version: Some(metadata.resource_version),
                continue_: Some(metadata.token),
                ..meta::ListMeta::default()
            },
            items: list.items,
        })
    }
}

/// Reads why a request was refused.
pub(super) fn status(body: Bytes) -> Result<Status, Unreadable> {
    let status = StatusMessage::decode(open(body, "Status")?)?;
    Ok(Status {
        message: status.message,
        reason: status.reason,
        ..Status::default()
    })
}

/// Takes a message of a kind out of its envelope.
fn open(mut body: Bytes, kind: &str) -> Result<Bytes, Unreadable> {
    if !body.starts_with(MAGIC) {
        return Err(Unreadable::Magic);
    }
    let envelope = Envelope::decode(body.split_off(MAGIC.len()))?;
    let found = envelope.type_meta.unwrap_or_default().kind;
    if found == kind {
        Ok(envelope.raw)
    } else {
        Err(Unreadable::Kind(found))
    }
}

/// `runtime.Unknown`.
#[derive(Message)]
struct Envelope {
    #[prost(message, optional, tag = "1")]
    type_meta: Option<TypeMeta>,
    #[prost(bytes = "bytes", tag = "2")]
    raw: Bytes,
}

/// `runtime.TypeMeta`.
#[derive(Message)]
struct TypeMeta {
    #[prost(string, tag = "2")]
    kind: String,
}

/// A list of any kind.
#[derive(Message)]
struct ListMessage {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ListMeta>,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    items: Vec<Bytes>,
}

/// `meta/v1.ListMeta`.
#[derive(Message)]
struct ListMeta {
    #[prost(string, tag = "2")]
    resource_version: String,
    #[prost(string, tag = "3")]
    token: String,
}

/// `meta/v1.Status`.
#[derive(Message)]
struct StatusMessage {
    #[prost(string, tag = "3")]
    message: String,
    #[prost(string, tag = "4")]
    reason: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::wire::Pod;

    /// A page with these objects, as the server sends it.
    fn page(kind: &str, token: &str, items: &[&'static [u8]]) -> Vec<u8> {
        let list = ListMessage {
            metadata: Some(ListMeta {
                resource_version: "7".to_owned(),
                token: token.to_owned(),
            }),
            items: items.iter().copied().map(Bytes::from_static).collect(),
        };
        let envelope = Envelope {
            type_meta: Some(TypeMeta {
                kind: kind.to_owned(),
            }),
            raw: list.encode_to_vec().into(),
        };
        [MAGIC, &envelope.encode_to_vec()].concat()
    }

    #[test]
    fn a_list_is_read_and_its_objects_are_left_as_they_are() {
        let list = List::open::<Pod>(page("PodList", "next", &[b"a", b""]).into()).unwrap();
        assert_eq!(list.metadata.continue_.as_deref(), Some("next"));
        assert_eq!(list.metadata.resource_version.as_deref(), Some("7"));
        assert_eq!(list.items, [b"a" as &[u8], b""]);
    }

    #[test]
    fn a_list_of_another_kind_is_not_taken_for_one() {
        let read = List::open::<Pod>(page("NodeList", "", &[]).into());
        assert!(matches!(read, Err(Unreadable::Kind(kind)) if kind == "NodeList"));
        let read = List::open::<Pod>(Bytes::from_static(b"{}"));
        assert!(matches!(read, Err(Unreadable::Magic)));
    }

    /// Else the rest of the objects would be gone (rule B3).
    #[test]
    fn b3_a_list_that_is_cut_anywhere_is_no_list() {
        let whole = page("PodList", "", &[b"first", b"second", b"third"]);
        for length in 0..whole.len() {
            let read = List::open::<Pod>(Bytes::copy_from_slice(&whole[..length]));
            let is_list = read.is_ok_and(|list| list.metadata.resource_version.as_deref() == Some("7"));
            assert!(!is_list, "{length} of {} bytes", whole.len());
        }
    }

    #[test]
    fn a_refusal_is_read() {
        let status = StatusMessage {
            message: "no".to_owned(),
            reason: "Forbidden".to_owned(),
        };
        let envelope = Envelope {
            type_meta: Some(TypeMeta {
                kind: "Status".to_owned(),
            }),
            raw: status.encode_to_vec().into(),
        };
        let status = super::status([MAGIC, &envelope.encode_to_vec()].concat().into()).unwrap();
        assert_eq!(
            (status.message.as_str(), status.reason.as_str()),
            ("no", "Forbidden")
        );
    }
}
