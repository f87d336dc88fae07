// SPDX-License-Identifier: Apache-2.0
//! Requests that tests make to the API server, as its administrator.

use std::{os::fd::AsFd, sync::Arc, time::Instant};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
    core::v1::ServiceAccount,
};
use kube::{
    Api, Client, Config,
    api::{DeleteParams, DynamicObject, GetParams, Patch, PatchParams, PostParams, Request},
    config::{KubeConfigOptions, Kubeconfig},
    core::GroupVersionKind,
    discovery::{Scope, pinned_kind},
};
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};

use super::ApiServer;
use crate::{
    agent::DEADLINE,
    netns::{self, NetNs},
};

/// The field manager of applied objects.
const MANAGER: &str = "netpol-tests";

/// Makes a runtime whose threads, and so their sockets, are in the namespace.
pub(super) fn runtime(netns: &Arc<NetNs>) -> Result<Runtime> {
    let netns = Arc::clone(netns);
    Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("apiserver-client")
        .on_thread_start(move || {
            netns::enter(netns.as_fd()).expect("root enters the node's network namespace")
        })
        .enable_all()
        .build()
        .context("starting the API server's client")
}

impl ApiServer {
    /// Checks that the server is ready. Makes the client when it answers for the first time.
    pub(super) fn ask(&mut self) -> Result<()> {
        let config: Kubeconfig = serde_json::from_value(self.config(&self.admin))?;
        let client = self.run(async move {
            let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
            let client = Client::try_from(config)?;
            client
                .request_text(Request::new("").get("readyz", &GetParams::default())?)
                .await?;
            Ok(client)
        })?;
        self.client = Some(client);
        Ok(())
    }

    /// Creates or changes an object by server-side apply, and returns the server's version of it.
    /// Applies its status too, if it has one.
    ///
    /// # Errors
    /// If the server refuses it.
    pub fn apply(&self, object: &Value) -> Result<Value> {
        let (object, client) = (object.clone(), self.client()?);
        self.run(async move {
            let (api, name) = resource(client, &object).await?;
            let how = PatchParams::apply(MANAGER).force();
            let applied = api.patch(&name, &how, &Patch::Apply(&object)).await;
            let mut applied = applied.with_context(|| format!("applying {name}"))?;
            if object.get("status").is_some() {
                let status = serde_json::json!({"status": object["status"]});
                let patched = api
                    .patch_status(&name, &PatchParams::default(), &Patch::Merge(&status))
                    .await;
                applied = patched.with_context(|| format!("patching the status of {name}"))?;
            }
            Ok(serde_json::to_value(applied)?)
        })
    }

    /// Changes an object by a JSON merge patch; `object` names it and contains the change. An old
    /// server drops unknown fields.
    ///
    /// # Errors
    /// If the server refuses it.
    pub fn merge(&self, object: &Value) -> Result<Value> {
        let (object, client) = (object.clone(), self.client()?);
        self.run(async move {
            let (api, name) = resource(client, &object).await?;
            let patched = api
                .patch(&name, &PatchParams::default(), &Patch::Merge(&object))
                .await;
            Ok(serde_json::to_value(
                patched.with_context(|| format!("patching {name}"))?,
            )?)
        })
    }

    /// Changes an object's status by a JSON merge patch; `object` names it and contains the change.
    ///
    /// # Errors
    /// If the server refuses it.
    pub fn merge_status(&self, object: &Value) -> Result<Value> {
        let (object, client) = (object.clone(), self.client()?);
        self.run(async move {
            let (api, name) = resource(client, &object).await?;
            let patched = api
                .patch_status(&name, &PatchParams::default(), &Patch::Merge(&object))
                .await;
            Ok(serde_json::to_value(
                patched.with_context(|| format!("patching the status of {name}"))?,
            )?)
        })
    }

    /// Reads an object.
    ///
    /// # Errors
    /// If there is none of that kind and name.
    pub fn get(&self, object: &Value) -> Result<Value> {
        let (object, client) = (object.clone(), self.client()?);
        self.run(async move {
            let (api, name) = resource(client, &object).await?;
            Ok(serde_json::to_value(
                api.get(&name).await.with_context(|| format!("reading {name}"))?,
            )?)
        })
    }

    /// Deletes an object at once, as when a kubelet has reported a pod's end.
    ///
    /// # Errors
    /// If there is none.
    pub fn delete(&self, object: &Value) -> Result<()> {
        let (object, client) = (object.clone(), self.client()?);
        self.run(async move {
            let (api, name) = resource(client, &object).await?;
            let how = DeleteParams::default().grace_period(0);
            api.delete(&name, &how)
                .await
                .with_context(|| format!("deleting {name}"))?;
            Ok(())
        })
    }

    /// Waits until the server's authorizer allows, or denies, an account this verb on all objects
    /// of a resource: it follows changes of roles with a delay.
    ///
    /// # Errors
    /// If that does not happen in time.
    /// If it does not come there.
    pub fn wait_for_access(
        &self,
        account: &str,
        verb: &str,
        group: &str,
        resource: &str,
        may: bool,
    ) -> Result<()> {
        let reviews: Api<SubjectAccessReview> = Api::all(self.client()?);
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(format!("system:serviceaccount:{account}")),
                resource_attributes: Some(ResourceAttributes {
                    verb: Some(verb.to_owned()),
                    group: Some(group.to_owned()),
                    resource: Some(resource.to_owned()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let what = format!("{account} to {verb} {resource}: {may}");
        self.run(async move {
            let until = Instant::now() + DEADLINE;
            while Instant::now() < until {
                let answer = reviews.create(&PostParams::default(), &review).await?;
                if answer.status.is_some_and(|status| status.allowed == may) {
                    return Ok(());
                }
            }
            bail!("the API server does not come to allow {what}")
        })
    }

    /// Requests a token of a service account, as a kubelet does.
    ///
    /// # Errors
    /// If there is no such account.
    pub fn token(&self, namespace: &str, account: &str) -> Result<String> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client()?, namespace);
        let account = account.to_owned();
        self.run(async move {
            let request = TokenRequest {
                spec: Some(TokenRequestSpec::default()),
                ..TokenRequest::default()
            };
            let answer = accounts
                .create_token_request(&account, &PostParams::default(), &request)
                .await;
            let status = answer
                .with_context(|| format!("asking for a token of {account}"))?
                .status;
            status
                .and_then(|status| status.token)
                .context("the server gave no token")
        })
    }

    /// Returns a client with every right, for use within [`ApiServer::run`].
    ///
    /// # Errors
    /// If the server does not run.
    pub fn administrator(&self) -> Result<Client> {
        self.client()
    }

    fn client(&self) -> Result<Client> {
        self.client.clone().context("the API server does not run")
    }

    /// Runs work on a thread in the namespace until it ends or the server is dropped.
    pub fn follow(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(work);
    }

    /// Runs work on a thread in the namespace, where connections are made, and returns its result.
    ///
    /// # Errors
    /// Those of `work`.
    pub fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        match self.runtime.block_on(self.runtime.spawn(work)) {
            Ok(result) => result,
            Err(error) => bail!("a request panicked: {error}"),
        }
    }
}

/// Returns the API for objects of this kind and namespace, and the object's name.
async fn resource(client: Client, object: &Value) -> Result<(Api<DynamicObject>, String)> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
    let (version, kind) = (
        text("/apiVersion").context("no apiVersion")?,
        text("/kind").context("no kind")?,
    );
    let (group, version) = version.rsplit_once('/').unwrap_or(("", version));
    let found = pinned_kind(&client, &GroupVersionKind::gvk(group, version, kind)).await;
    let (resource, capabilities) =
        found.with_context(|| format!("looking for {kind} of {group}/{version}"))?;
    let name = text("/metadata/name").context("no name")?.to_owned();
    let api = match capabilities.scope {
        Scope::Cluster => Api::all_with(client, &resource),
        Scope::Namespaced => Api::namespaced_with(
            client,
            text("/metadata/namespace").unwrap_or("default"),
            &resource,
        ),
    };
    Ok((api, name))
}
