// SPDX-License-Identifier: Apache-2.0
//! From Kubernetes' objects to the model, once. What the model cannot hold is left out and
//! reported; the rest of the object goes on. Checks of selectors, CIDRs and ports of a policy
//! belong to [`crate::compile`].
//!
//! Codes: `address-invalid`, `address-family-duplicate`, `pod-without-address`,
//! `port-number-invalid`, `port-name-invalid`, `port-protocol-invalid`, `policy-type-unknown`.

use std::net::IpAddr;

use crate::model::{Diagnostic, Labels, ObjectKey, Protocol, Text, parse_address};

use super::{
    object::{Id, Kind},
    wire::{self, Metadata},
};

mod node;
mod pod;
mod policy;
mod service;

/// The namespace of an object that names none.
const DEFAULT_NAMESPACE: &str = "default";

/// The identity of an object. An absent name is empty: a source refuses such an object before it
/// gets here.
pub(super) fn id(kind: Kind, namespace: Text, name: Text) -> Id {
    let namespace = match kind {
        kind if kind.is_cluster_wide() => Text::default(),
        _ if namespace.is_empty() => DEFAULT_NAMESPACE.into(),
        _ => namespace,
    };
    Id {
        kind,
        key: ObjectKey { namespace, name },
    }
}

/// Takes the parts of the metadata that the model holds.
fn taken(kind: Kind, metadata: Metadata) -> (Id, String, Labels) {
    let id = id(kind, metadata.namespace, metadata.name);
    (id, metadata.uid, metadata.labels)
}

/// What only pods have of the metadata: whether it is being deleted, and of a static pod's mirror
/// the static pod's UID.
fn taken_of_pod(metadata: &Metadata) -> (bool, Option<Text>) {
    let annotations = &metadata.annotations;
    let static_uid = annotations
        .get(wire::MIRROR)
        .and_then(|_| annotations.get(wire::CONFIG_HASH))
        .filter(|hash| !hash.is_empty());
    (metadata.deletion_timestamp.is_some(), static_uid.map(Text::from))
}

/// Collects what is wrong with one object.
struct Faults {
    object: Id,
    found: Vec<Diagnostic>,
}

impl Faults {
    fn of(id: &Id) -> Self {
        Self {
            object: id.clone(),
            found: Vec::new(),
        }
    }

    fn report(&mut self, code: &'static str, field: impl Into<String>, message: impl Into<String>) {
        self.found.push(Diagnostic {
            code,
            object: self.object.to_string(),
            field: field.into(),
            message: message.into(),
        });
    }

    /// An address; an IPv4 address in IPv6 notation is the IPv4 address.
    fn address(&mut self, field: impl FnOnce() -> String, text: &str) -> Option<IpAddr> {
        match parse_address(text) {
            Some(address) => Some(address.to_canonical()),
            None => {
                self.report(
                    "address-invalid",
                    field(),
                    format!("`{text}` is not an IP address; it is left out"),
                );
                None
            }
        }
    }

    /// A port number of 1 to 65535.
    fn port(&mut self, field: impl FnOnce() -> String, number: Option<i64>) -> Option<u16> {
        match number.map(u16::try_from) {
            Some(Ok(port)) if port != 0 => Some(port),
            _ => {
                let given = number.map_or_else(|| "absent".to_owned(), |n| n.to_string());
                let message = format!("{given}, not a port number of 1 to 65535; this port is left out");
                self.report("port-number-invalid", field(), message);
                None
            }
        }
    }

    /// A protocol; TCP if absent (rule T2).
    fn protocol(&mut self, field: impl FnOnce() -> String, name: Option<&str>) -> Option<Protocol> {
        let name = name.filter(|n| !n.is_empty()).unwrap_or("TCP");
        let protocol = Protocol::from_kubernetes(name);
        if protocol.is_none() {
            let message = format!("`{name}` is none of TCP, UDP and SCTP; this port is left out");
            self.report("port-protocol-invalid", field(), message);
        }
        protocol
    }
}

#[cfg(test)]
fn converted<T: super::wire::Wire>(value: serde_json::Value) -> super::object::Entry {
    serde_json::from_value::<T>(value).expect("decodes").convert()
}

#[cfg(test)]
fn codes(entry: &super::object::Entry) -> Vec<(&'static str, &str)> {
    entry
        .diagnostics
        .iter()
        .map(|d| (d.code, d.field.as_str()))
        .collect()
}
