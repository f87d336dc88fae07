// SPDX-License-Identifier: Apache-2.0
//! One document: which object it is, and whether its kind is read.

mod strict;
#[cfg(test)]
mod tests;

use serde_json::{Map, Value};

use crate::{
    model::Diagnostic,
    watch::{convert, object::Kind},
};

use super::manifest::{Item, Outcome};

/// Kinds of the API groups that are read, which policy does not need.
const OTHER_KINDS: [&str; 19] = [
    "Binding",
    "ComponentStatus",
    "ConfigMap",
    "Endpoints",
    "Event",
    "IPAddress",
    "Ingress",
    "IngressClass",
    "LimitRange",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "PodTemplate",
    "ReplicationController",
    "ResourceQuota",
    "Secret",
    "ServiceAccount",
    "ServiceCIDR",
    "Status",
    "Eviction",
];
/// Groups of others that use the name of a kind that is read.
const OTHER_GROUPS: [&str; 4] = [
    "projectcalico.org",
    "crd.projectcalico.org",
    "serving.knative.dev",
    "policy.networking.k8s.io",
];

fn fault(
    code: &'static str,
    object: impl Into<String>,
    field: impl Into<String>,
    message: String,
) -> Diagnostic {
    Diagnostic {
        code,
        object: object.into(),
        field: field.into(),
        message,
    }
}

fn text<'a>(object: &'a Map<String, Value>, field: &str) -> Option<&'a str> {
    object
        .get(field)
        .and_then(Value::as_str)
        .filter(|text| !text.is_empty())
}

/// Adds the objects of a document to `items`.
///
/// # Errors
/// If it cannot be told which object the document is.
pub fn document(place: &str, document: Value, items: &mut Vec<Item>) -> Result<(), Diagnostic> {
    let Value::Object(mut object) = document else {
        let message = "not a Kubernetes object; the objects that the file had stay in force".to_owned();
        return Err(fault("manifest-not-object", place, "", message));
    };
    let (Some(kind), Some(version)) = (text(&object, "kind"), text(&object, "apiVersion")) else {
        let message = "no `kind` or no `apiVersion`, so not a Kubernetes object; the objects that the file had stay in \
                       force. Files that are no manifests belong elsewhere"
            .to_owned();
        return Err(fault("manifest-not-object", place, "", message));
    };
    let (kind, version) = (kind.to_owned(), version.to_owned());

    if let Some(of) = kind.strip_suffix("List")
        && matches!(object.get("items"), Some(Value::Array(_) | Value::Null) | None)
    {
        let Some(Value::Array(list)) = object.remove("items") else {
            return Ok(());
        };
        for (index, mut item) in list.into_iter().enumerate() {
            // The items of a typed list need not say what they are.
            if let (Value::Object(item), false) = (&mut item, of.is_empty()) {
                item.entry("kind").or_insert_with(|| of.into());
                item.entry("apiVersion")
                    .or_insert_with(|| version.as_str().into());
            }
            self::document(&format!("{place}, item {}", index + 1), item, items)?;
        }
        return Ok(());
    }

    let Some(kind) = known(place, &kind, &version)? else {
        tracing::debug!(place, kind, api_version = version, "kind not needed, skipped");
        return Ok(());
    };
    let metadata = object.get("metadata").and_then(Value::as_object);
    let Some(name) = metadata.and_then(|metadata| text(metadata, "name")) else {
        let message = format!(
            "{} without a name; the objects that the file had stay in force",
            kind.name()
        );
        return Err(fault("name-missing", place, "metadata.name", message));
    };
    let namespace = metadata.and_then(|metadata| text(metadata, "namespace"));
    let id = convert::id(kind, namespace.unwrap_or_default().into(), name.into());
    let outcome = if version == kind.api_version() {
        strict::read(kind, &id, &Value::Object(object))
    } else {
        let message = format!("`{version}` is not {}", kind.api_version());
        Err(("api-version-unknown", "apiVersion".to_owned(), message))
    };
    let outcome = match outcome {
        Ok(entry) => Outcome::Read(Box::new(entry)),
        Err((code, field, reason)) => {
            let message = format!("{reason} ({place}); its last good version stays in force, if it had one");
            Outcome::Refused(id.clone(), fault(code, id.to_string(), field, message))
        }
    };
    items.push(Item {
        place: place.to_owned(),
        outcome,
    });
    Ok(())
}

/// Which kind it is, if it is read. A word that may be a misspelled kind is refused rather than
/// skipped.
fn known(place: &str, kind: &str, version: &str) -> Result<Option<Kind>, Diagnostic> {
    let group = version.split_once('/').map_or("", |(group, _)| group);
    if let Some(found) = Kind::ALL.into_iter().find(|known| known.name() == kind) {
        return Ok((!OTHER_GROUPS.contains(&group)).then_some(found));
    }
    let ours = Kind::ALL.into_iter().any(|known| known.api_version() == version);
    if ours && !OTHER_KINDS.contains(&kind) {
        let message = format!("{version} has no kind `{kind}`; the objects that the file had stay in force");
        return Err(fault("kind-unknown", place, "kind", message));
    }
    Ok(None)
}
