// SPDX-License-Identifier: Apache-2.0
//! An object of a known kind, read as strictly as Kubernetes would: fields that do not exist are
//! refused, names and labels that it would not take are reported.

use serde_json::Value;

use super::fault;
use crate::{
    model::{Diagnostic, syntax},
    watch::{
        kinds::{ByKind, Kind},
        object::{Entry, Id},
        wire::{Refusal, Wire},
    },
};

/// The fields that every object may have.
const OBJECT_FIELDS: [&str; 3] = ["apiVersion", "kind", "metadata"];
/// The fields of `metadata`.
const METADATA_FIELDS: [&str; 16] = [
    "annotations",
    "clusterName",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "managedFields",
    "name",
    "namespace",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// Reads the object that `value` is.
///
/// # Errors
/// What Kubernetes would refuse it for.
pub(super) fn read(kind: Kind, id: &Id, value: &Value) -> Result<Entry, Refusal> {
    let mut entry = kind.with(Decode(value))?;
    let faults = metadata_faults(id, value);
    entry.diagnostics.extend(faults);
    Ok(entry)
}

struct Decode<'a>(&'a Value);

impl ByKind for Decode<'_> {
    type Output = Result<Entry, Refusal>;

    fn visit<T: Wire>(self) -> Self::Output {
        let object = decode::<T>(self.0)?;
        object.refusal().map_or_else(|| Ok(object.convert()), Err)
    }
}

fn decode<T: Wire>(value: &Value) -> Result<T, Refusal> {
    let mut unknown = Vec::new();
    let mut ignored = |path: serde_ignored::Path<'_>| unknown.push(field(&path.to_string()));
    let deserializer = serde_ignored::Deserializer::new(value, &mut ignored);
    let decoded = serde_path_to_error::deserialize::<_, T>(deserializer);
    let decoded = decoded.map_err(|error| {
        let path = error.path().to_string();
        (
            "field-type",
            if path == "." { String::new() } else { path },
            error.into_inner().to_string(),
        )
    })?;
    let facts = T::KIND.facts();
    let unknown = unknown.into_iter().find(|path| match path.split_once('.') {
        Some(("metadata", name)) => !METADATA_FIELDS.contains(&name),
        Some(("spec", _)) => facts.is_policy,
        Some(_) => false,
        None => ![&OBJECT_FIELDS[..], facts.fields]
            .concat()
            .contains(&path.as_str()),
    });
    match unknown {
        Some(path) => Err((
            "field-unknown",
            path,
            format!("{} has no such field", T::KIND.name()),
        )),
        None => Ok(decoded),
    }
}

/// `spec.?.ingress.?.0.from` as `spec.ingress[0].from`.
fn field(path: &str) -> String {
    let mut field = String::new();
    for part in path.split('.').filter(|part| *part != "?") {
        if part.bytes().all(|b| b.is_ascii_digit()) {
            field += &format!("[{part}]");
        } else {
            if !field.is_empty() {
                field.push('.');
            }
            field += part;
        }
    }
    field
}

/// What Kubernetes would refuse of names and labels; the object goes on as written.
fn metadata_faults(id: &Id, value: &Value) -> Vec<Diagnostic> {
    let mut faults = Vec::new();
    let mut report = |code, field: String, reason: String| {
        faults.push(fault(
            code,
            id.to_string(),
            field,
            format!("{reason}; it is used as written"),
        ));
    };
    let name = &id.key.name;
    if !(id.kind.facts().is_name)(name) {
        report(
            "name-invalid",
            "metadata.name".to_owned(),
            format!("`{name}` is not a name that Kubernetes accepts"),
        );
    }
    let namespace = &id.key.namespace;
    if !id.kind.is_cluster_wide() && !syntax::is_dns_label(namespace) {
        let message = format!("`{namespace}` is not a name that Kubernetes accepts");
        report("name-invalid", "metadata.namespace".to_owned(), message);
    }
    if id.kind.facts().is_selected {
        let labels = value.pointer("/metadata/labels").and_then(Value::as_object);
        let labels = labels.into_iter().flatten();
        let labels = labels.map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned()));
        for (field, reason) in syntax::label_faults(&labels.collect()) {
            report("label-invalid", field, reason);
        }
    }
    faults
}
