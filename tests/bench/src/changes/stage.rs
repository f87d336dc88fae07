// SPDX-License-Identifier: Apache-2.0
//! The stage for timed changes: a node with real pods, an API server with a whole cluster, and the
//! agent as its DaemonSet starts it.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use kube::{Client, api::GetParams};
use serde_json::Value;

use super::{
    NODE, changed,
    crowd::{Crowd, LOCAL},
    lists,
};
use netpol_tests::{
    agent::{Agent, Applied},
    apiserver::{ApiServer, etcd},
    deploy::Deployment,
    node::{Node, Plan},
};

/// Pods that come to the node while changes are timed: first their interfaces, then their objects.
pub const NEWCOMERS: usize = 20;

/// Time limit for the agent to enforce, or for the API server to know what was written; both need
/// far less.
const DEADLINE: Duration = Duration::from_secs(300);

/// The API server with its cluster, and the node. The API server is dropped first.
pub struct Stage {
    /// The API server.
    pub api: ApiServer,
    /// The node.
    pub node: Node,
    /// Content of the cluster.
    pub crowd: Crowd,
    deployment: Deployment,
}

/// An agent that has just begun to enforce.
pub struct Started {
    /// The agent.
    pub agent: Agent,
    /// From its start to the log line after which everything is enforced.
    pub enforced_after: Duration,
    /// That log line.
    pub applied: Applied,
}

impl Stage {
    /// Makes the node with its pods, the API server, and all objects.
    ///
    /// # Errors
    /// If something of it cannot be made.
    pub fn new(crowd: Crowd) -> Result<Self> {
        let mut node = Node::new(Plan::first(NODE))?;
        node.add_pods(&interfaces_of((0..LOCAL).map(|index| crowd.pod(index))))?;
        let api = ApiServer::start(&node)?;
        let deployment = Deployment::load()?;
        for object in &deployment.objects {
            api.apply(object)?;
        }
        api.apply(&own_node(&node))?;
        etcd::put(&api, crowd.objects())?;
        let stage = Self {
            api,
            node,
            crowd,
            deployment,
        };
        stage.wait_until_known()?;
        Ok(stage)
    }

    /// Gives the cluster the policies of a larger one, and restores changed pods of the node and
    /// namespaces. No agent may run meanwhile.
    ///
    /// # Errors
    /// If etcd refuses something.
    pub fn grow(&mut self, policies: usize) -> Result<()> {
        self.crowd.policies = policies;
        let here = self.crowd.pods().take(LOCAL);
        etcd::put(&self.api, self.crowd.setting().chain(here))?;
        self.wait_until_known()
    }

    /// Makes new interfaces for pods that will come to the node: a running agent sees each appear.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn bring_newcomers(&mut self) -> Result<()> {
        let pods = interfaces_of((0..NEWCOMERS).map(changed::newcomer));
        for (name, _) in &pods {
            if self.node.pod(name).is_ok() {
                self.node.remove_pod(name)?;
            }
        }
        self.node.add_pods(&pods)
    }

    /// Starts the agent as a kubelet does, and waits until everything is enforced.
    ///
    /// # Errors
    /// If that does not happen; with the agent's log.
    pub fn start_agent(&self) -> Result<Started> {
        let mut launch = self.deployment.launch(NODE)?;
        let account = &self.deployment.object("ServiceAccount")?["metadata"];
        let text = |field: &str| account[field].as_str().context("the service account has no name");
        let token = self.api.token(text("namespace")?, text("name")?)?;
        launch.environment.extend(self.api.environment());
        launch.service_account = Some(self.api.service_account(text("namespace")?, &token)?);
        let started = Instant::now();
        let agent = Agent::launch(&self.node, launch)?.with_deadline(DEADLINE);
        let applied = agent.wait_for_applied(0, 0, DEADLINE)?;
        let enforced_after = started.elapsed();
        Ok(Started {
            agent,
            enforced_after,
            applied,
        })
    }

    /// Name of pod `index` of the node, as the node knows it.
    pub fn local_pod(&self, index: usize) -> String {
        full_name(&self.crowd.pod(index))
    }

    /// Times how long the API server takes to list all pods and all policies at once, for a client
    /// that does nothing with them.
    ///
    /// # Errors
    /// If it refuses.
    pub fn bare_lists(&self, manner: lists::Manner) -> Result<Duration> {
        let client = self.api.administrator()?;
        self.api.run(async move {
            let started = Instant::now();
            lists::all(&client, manner).await?;
            Ok(started.elapsed())
        })
    }

    /// Waits until the API server's caches, one for each kind, have the last write.
    fn wait_until_known(&self) -> Result<()> {
        let mut last: BTreeMap<String, Value> = BTreeMap::new();
        let here = self.crowd.pods().take(LOCAL);
        let newest = self.crowd.pods().last();
        for (_, object) in self.crowd.setting().chain(here).chain(newest) {
            last.insert(object["kind"].to_string(), object);
        }
        for object in last.into_values() {
            let client = self.api.administrator()?;
            self.api.run(until_cached(client, object))?;
        }
        Ok(())
    }
}

/// Waits until the API server's cache has the object as etcd has it.
async fn until_cached(client: Client, object: Value) -> Result<()> {
    let (api, name) = (changed::api(client, &object), changed::name(&object));
    let stored = api.get(&name).await.with_context(|| format!("reading {name}"))?;
    let cached = GetParams {
        resource_version: Some("0".to_owned()),
    };
    let until = Instant::now() + DEADLINE;
    loop {
        match api.get_with(&name, &cached).await {
            Ok(found) if found.metadata.resource_version == stored.metadata.resource_version => return Ok(()),
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(error).with_context(|| format!("reading {name} from the cache")),
        }
        ensure!(
            Instant::now() < until,
            "the API server does not come to know {name}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Returns the object of the measured node.
fn own_node(node: &Node) -> Value {
    let cidrs = node.plan().pod_networks().map(|net| net.trunc().to_string());
    serde_json::json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}, "spec": {"podCIDR": cidrs[0], "podCIDRs": cidrs},
    })
}

/// Returns names and addresses of pods.
fn interfaces_of(pods: impl Iterator<Item = Value>) -> Vec<(String, Vec<IpAddr>)> {
    pods.map(|pod| {
        let address = pod["status"]["podIP"].as_str().and_then(|text| text.parse().ok());
        (full_name(&pod), address.into_iter().collect())
    })
    .collect()
}

fn full_name(pod: &Value) -> String {
    let part = |field: &str| pod["metadata"][field].as_str().unwrap_or_default();
    format!("{}/{}", part("namespace"), part("name"))
}
