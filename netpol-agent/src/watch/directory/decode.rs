// SPDX-License-Identifier: Apache-2.0
//! One document: is it a kind that is read, and would Kubernetes take it.

use serde_json::{Map, Value};

use crate::{
    model::Diagnostic,
    watch::{
        convert,
        object::{Entry, Id, Kind, Object},
        syntax,
        wire::{self, Wire},
    },
};

use super::manifest::{Item, Outcome};

/// The fields that every object may have.
const OBJECT_FIELDS: [&str; 5] = ["apiVersion", "kind", "metadata", "spec", "status"];
/// The fields of an EndpointSlice.
const SLICE_FIELDS: [&str; 6] = [
    "apiVersion",
    "kind",
    "metadata",
    "addressType",
    "endpoints",
    "ports",
];
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
    let id = convert::id(
        kind,
        &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
            name: Some(name.to_owned()),
            namespace: namespace.map(str::to_owned),
            ..Default::default()
        },
    );
    let outcome = if version == kind.api_version() {
        read(kind, &id, Value::Object(object))
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

/// Which kind it is, if it is read. A word that may be a misspelled kind is refused rather than skipped.
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

type Refusal = (&'static str, String, String);

fn read(kind: Kind, id: &Id, value: Value) -> Result<Entry, Refusal> {
    match kind {
        Kind::Node => decode::<wire::Node>(id, &value).map(Wire::convert),
        Kind::Namespace => decode::<wire::Namespace>(id, &value).map(Wire::convert),
        Kind::Pod => decode::<wire::Pod>(id, &value).map(Wire::convert),
        Kind::Service => decode::<wire::Service>(id, &value).map(Wire::convert),
        Kind::EndpointSlice => decode::<wire::EndpointSlice>(id, &value).map(Wire::convert),
        Kind::NetworkPolicy => {
            let policy = decode::<wire::NetworkPolicy>(id, &value)?;
            let words = policy
                .spec
                .iter()
                .flat_map(|spec| spec.policy_types.iter().flatten());
            for (index, word) in words.enumerate() {
                if convert::policy::direction(word).is_none() {
                    let message = format!("`{word}` is neither Ingress nor Egress");
                    return Err((
                        "policy-type-unknown",
                        format!("spec.policyTypes[{index}]"),
                        message,
                    ));
                }
            }
            Ok(policy.convert())
        }
    }
    .map(|mut entry| {
        entry
            .diagnostics
            .extend(metadata_faults(id, &entry.object, &value));
        entry
    })
}

fn decode<T: Wire>(_: &Id, value: &Value) -> Result<T, Refusal> {
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
    let known: &[&str] = if T::KIND == Kind::EndpointSlice {
        &SLICE_FIELDS
    } else {
        &OBJECT_FIELDS
    };
    let unknown = unknown.into_iter().find(|path| match path.split_once('.') {
        Some(("metadata", name)) => !METADATA_FIELDS.contains(&name),
        Some(("spec", _)) => T::KIND == Kind::NetworkPolicy,
        Some(_) => false,
        None => !known.contains(&path.as_str()),
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
fn metadata_faults(id: &Id, object: &Object, value: &Value) -> Vec<Diagnostic> {
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
    let good = match id.kind {
        Kind::Namespace | Kind::Service => syntax::is_dns_label(name),
        Kind::Node | Kind::Pod | Kind::NetworkPolicy | Kind::EndpointSlice => syntax::is_dns_subdomain(name),
    };
    if !good {
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
    if let Object::Namespace(_) | Object::Pod(_) = object {
        let labels = value.pointer("/metadata/labels").and_then(Value::as_object);
        let labels = labels.into_iter().flatten();
        let labels = labels.map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned()));
        for (field, reason) in syntax::label_faults(&labels.collect()) {
            report("label-invalid", field, reason);
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn one(value: Value) -> Result<Outcome, Diagnostic> {
        let mut items = Vec::new();
        document("f.yaml, document 1", value, &mut items)?;
        Ok(items.pop().expect("one object").outcome)
    }

    fn policy(spec: Value) -> Value {
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
               "metadata": {"name": "p", "namespace": "shop", "annotations": {"a": "b"}}, "spec": spec})
    }

    #[test]
    fn a_policy_with_a_field_that_kubernetes_refuses_is_refused() {
        for (spec, code, field) in [
            (json!({"podSelectr": {}}), "field-unknown", "spec.podSelectr"),
            (
                json!({"ingress": [{"from": [{"podSelectr": {}}]}]}),
                "field-unknown",
                "spec.ingress[0].from[0].podSelectr",
            ),
            (
                json!({"ingress": [{"to": []}]}),
                "field-unknown",
                "spec.ingress[0].to",
            ),
            (json!({"egress": {"to": []}}), "field-type", "spec.egress"),
            (json!({"ingress": [null]}), "field-type", "spec.ingress[0]"),
            (
                json!({"ingress": [{"from": [null]}]}),
                "field-type",
                "spec.ingress[0].from[0]",
            ),
            (
                json!({"ingress": [{"ports": [{"port": 1.5}]}]}),
                "field-type",
                "spec.ingress[0].ports[0].port",
            ),
            (
                json!({"ingress": [{"ports": [{"endPort": "80"}]}]}),
                "field-type",
                "spec.ingress[0].ports[0].endPort",
            ),
            (
                json!({"podSelector": {"matchLabels": {"a": 1}}}),
                "field-type",
                "spec.podSelector.matchLabels.a",
            ),
            (
                json!({"policyTypes": ["Ingress", "egress"]}),
                "policy-type-unknown",
                "spec.policyTypes[1]",
            ),
            (
                json!({"policyTypes": "Ingress"}),
                "field-type",
                "spec.policyTypes",
            ),
            (json!([]), "field-type", "spec"),
        ] {
            let Outcome::Refused(id, fault) = one(policy(spec.clone())).unwrap() else {
                panic!("{spec} is refused")
            };
            assert_eq!((fault.code, fault.field.as_str()), (code, field));
            assert_eq!(
                (id.to_string().as_str(), fault.object.as_str()),
                ("NetworkPolicy shop/p", "NetworkPolicy shop/p")
            );
            assert!(fault.message.contains("f.yaml, document 1"), "{fault}");
        }
    }

    #[test]
    fn a_good_policy_is_read() {
        let Outcome::Read(entry) =
            one(policy(json!({"podSelector": {}, "ingress": [{"from": null}]}))).unwrap()
        else {
            panic!("it is good");
        };
        assert_eq!(entry.diagnostics, []);
    }

    #[test]
    fn fields_beside_spec_are_checked_too() {
        let mut misplaced = policy(json!({}));
        misplaced["podSelector"] = json!({});
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "lables": {}}, "spec": {"any": 1}});
        for (value, expected) in [(misplaced, "podSelector"), (pod, "metadata.lables")] {
            let Outcome::Refused(_, fault) = one(value).unwrap() else {
                panic!("refused")
            };
            assert_eq!((fault.code, fault.field.as_str()), ("field-unknown", expected));
        }
    }

    #[test]
    fn what_cannot_be_told_apart_spoils_the_file() {
        for (value, code) in [
            (json!("text"), "manifest-not-object"),
            (json!([1]), "manifest-not-object"),
            (json!({"knid": "Pod", "apiVersion": "v1"}), "manifest-not-object"),
            (json!({"kind": "Pod"}), "manifest-not-object"),
            (
                json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"generateName": "a"}}),
                "name-missing",
            ),
            (
                json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": 7}}),
                "name-missing",
            ),
            (
                json!({"kind": "NetworkPolcy", "apiVersion": "networking.k8s.io/v1"}),
                "kind-unknown",
            ),
        ] {
            assert_eq!(one(value).unwrap_err().code, code);
        }
    }

    #[test]
    fn a_known_kind_of_an_unknown_version_is_refused_unless_it_is_known_to_be_another() {
        let of = |version: &str| json!({"kind": "NetworkPolicy", "apiVersion": version, "metadata": {"name": "p"}});
        for version in [
            "networking.k8s.io/v1beta1",
            "networking.k8.io/v1",
            "extensions/v1beta1",
            "v1",
        ] {
            let Outcome::Refused(_, fault) = one(of(version)).unwrap() else {
                panic!("{version} is refused")
            };
            assert_eq!(
                (fault.code, fault.field.as_str()),
                ("api-version-unknown", "apiVersion")
            );
        }
        let mut items = Vec::new();
        for other in [
            of("projectcalico.org/v3"),
            json!({"kind": "Deployment", "apiVersion": "apps/v1"}),
            json!({"kind": "ConfigMap", "apiVersion": "v1"}),
            json!({"kind": "Ingress", "apiVersion": "networking.k8s.io/v1"}),
        ] {
            document("f", other, &mut items).unwrap();
        }
        assert!(items.is_empty());
    }

    #[test]
    fn bad_names_and_labels_are_reported_and_used() {
        let value = json!({"kind": "Pod", "apiVersion": "v1", "status": {"podIP": "10.0.0.1"},
            "metadata": {"name": "A_b", "namespace": "No", "labels": {"a b": "c", "d": "e f", "g": "h"}}});
        let Outcome::Read(entry) = one(value).unwrap() else {
            panic!("it goes on")
        };
        let found: Vec<_> = entry
            .diagnostics
            .iter()
            .map(|d| (d.code, d.field.as_str()))
            .collect();
        assert_eq!(
            found,
            [
                ("name-invalid", "metadata.name"),
                ("name-invalid", "metadata.namespace"),
                ("label-invalid", "metadata.labels[a b]"),
                ("label-invalid", "metadata.labels[d]"),
            ]
        );
        let Object::Pod(pod) = &entry.object else {
            panic!("a pod")
        };
        assert_eq!(pod.labels.len(), 3);
    }
}
