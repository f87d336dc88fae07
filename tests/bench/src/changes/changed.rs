// SPDX-License-Identifier: Apache-2.0
//! The objects that are changed while changes are timed, and the requests that change them.

use std::net::IpAddr;

use anyhow::{Context, Result};
use k8s_openapi::api::{core::v1 as core, networking::v1::NetworkPolicy};
use kube::{
    Client,
    api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, PostParams},
    core::ApiResource,
};
use serde_json::{Value, json};

use super::crowd::{self, APPS, LOCAL, Pod};

/// A request to the API server about an object.
#[derive(Debug, Clone)]
pub enum Request {
    /// Create it, without its status.
    Create(Value),
    /// Change the given fields.
    Merge(Value),
    /// Set its status.
    Status(Value),
    /// Delete it at once.
    Delete(Value),
}

impl Request {
    /// Sends it, and waits for the response.
    ///
    /// # Errors
    /// If the server refuses.
    pub async fn send(self, client: Client) -> Result<()> {
        let (Self::Create(object) | Self::Merge(object) | Self::Status(object) | Self::Delete(object)) =
            &self;
        let (api, name) = (api(client, object), name(object));
        let what = PatchParams::default();
        let done = match &self {
            Self::Create(object) => {
                let object: DynamicObject = serde_json::from_value(object.clone())?;
                api.create(&PostParams::default(), &object).await.map(drop)
            }
            Self::Merge(object) => api.patch(&name, &what, &Patch::Merge(object)).await.map(drop),
            Self::Status(object) => {
                let status = json!({"status": object["status"]});
                api.patch_status(&name, &what, &Patch::Merge(&status))
                    .await
                    .map(drop)
            }
            Self::Delete(_) => api
                .delete(&name, &DeleteParams::default().grace_period(0))
                .await
                .map(drop),
        };
        done.with_context(|| format!("changing {name}"))
    }
}

/// Returns an object's name.
pub fn name(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}

/// Returns the API for a pod, a namespace, a node or a policy.
pub fn api(client: Client, object: &Value) -> Api<DynamicObject> {
    let resource = match object["kind"].as_str() {
        Some("Pod") => ApiResource::erase::<core::Pod>(&()),
        Some("Namespace") => ApiResource::erase::<core::Namespace>(&()),
        Some("Node") => ApiResource::erase::<core::Node>(&()),
        _ => ApiResource::erase::<NetworkPolicy>(&()),
    };
    match object["metadata"]["namespace"].as_str() {
        Some(namespace) => Api::namespaced_with(client, namespace, &resource),
        None => Api::all_with(client, &resource),
    }
}

/// Makes a policy for the first app of the first namespace, which has a local pod.
pub fn policy(name: &str, number: usize, changed: bool) -> Value {
    let app = |app: usize| json!({"matchLabels": {"app": crowd::app_name(app)}});
    let port = 7000 + number % 1000 + usize::from(changed) * 1000;
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": crowd::near_name(0), "name": name},
        "spec": {
            "podSelector": app(0), "policyTypes": ["Ingress"],
            "ingress": [{
                "from": [
                    {"podSelector": app(7)},
                    {"namespaceSelector": {"matchLabels": {"team": crowd::team(3)}}, "podSelector": app(8)},
                ],
                "ports": [{"protocol": "TCP", "port": port}, {"protocol": "TCP", "port": "metrics"}],
            }],
        },
    })
}

/// Makes a pod that the policies of the first namespace name as a peer.
pub fn pod_elsewhere(number: usize) -> Value {
    crowd::pod(&Pod {
        namespace: crowd::near_name(0),
        name: format!("bench-{number}"),
        app: 2,
        node: "node-other".to_owned(),
        address: crowd::address(LOCAL + 200_000 + number),
    })
}

/// Makes a new pod of the node that a policy of the first namespace isolates. Its interface exists
/// already; the agent does not know it.
pub fn newcomer(number: usize) -> Value {
    crowd::pod(&Pod {
        namespace: crowd::near_name(0),
        name: format!("new-{number}"),
        app: number % APPS,
        node: super::NODE.to_owned(),
        address: IpAddr::from([10, 244, 0, 130 + number as u8]),
    })
}

/// Returns the change that gives a pod another app.
pub fn relabelled(pod: &Value, app: usize) -> Value {
    let metadata = &pod["metadata"];
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "namespace": metadata["namespace"], "name": metadata["name"], "labels": crowd::labels(app % APPS),
        },
    })
}
