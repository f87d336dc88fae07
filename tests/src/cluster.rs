// SPDX-License-Identifier: Apache-2.0
//! A one-node cluster with a real API server. Objects go through the API server and packets between
//! pods are real. The test plays kubelet, CNI plugin and controller manager.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::{
    agent::Agent,
    apiserver::ApiServer,
    deploy::Deployment,
    lab::SERVICES,
    node::{Node, Plan, Site, member},
    probe::{Outcome, PATIENCE, Probe, Prober, Service},
    server::Servers,
};

/// Time limit for what waits until the agent asks the API server again: its pause between attempts
/// grows to 30 s.
pub const DEADLINE: Duration = Duration::from_secs(90);

/// The cluster. A started agent must be dropped first; the node is dropped last.
#[derive(Debug)]
pub struct Cluster {
    /// The API server.
    pub api: ApiServer,
    /// Makes the probes.
    pub prober: Prober,
    /// The node.
    pub node: Node,
    servers: Servers,
    next: u16,
}

impl Cluster {
    /// Makes a node without pods and an API server without objects.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn new() -> Result<Self> {
        let node = Node::new(Plan::first("node-a"))?;
        let servers = Servers::new()?;
        servers.add(&node.site(), &SERVICES)?;
        let api = ApiServer::start(&node)?;
        Ok(Self {
            api,
            prober: Prober::new()?,
            node,
            servers,
            next: 10,
        })
    }

    /// Makes pods `shop/a`, `shop/b` and `other/c`, labelled `app: a` to `app: c`, in namespaces
    /// with `team: shop` and `team: other`.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn with_pods() -> Result<Self> {
        let mut cluster = Self::new()?;
        for name in ["shop", "other"] {
            cluster.namespace(name, &json!({"team": name}))?;
        }
        for (name, app) in [("shop/a", "a"), ("shop/b", "b"), ("other/c", "c")] {
            cluster.add_pod(name, &json!({"app": app}))?;
        }
        Ok(cluster)
    }

    /// Makes or relabels a namespace.
    ///
    /// # Errors
    /// If the server refuses it.
    pub fn namespace(&self, name: &str, labels: &Value) -> Result<Value> {
        self.api.apply(&json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels},
        }))
    }

    /// Makes a pod (`namespace/name`) with unused addresses: first its interface, then its object.
    ///
    /// # Errors
    /// If the name is taken, or the server refuses it.
    pub fn add_pod(&mut self, name: &str, labels: &Value) -> Result<Site> {
        let addresses: Vec<IpAddr> = self
            .node
            .plan()
            .pod_networks()
            .map(|net| member(net, self.next).addr())
            .to_vec();
        self.next += 1;
        self.add_pod_at(name, labels, &addresses)
    }

    /// Like [`Cluster::add_pod`], with given addresses.
    ///
    /// # Errors
    /// As [`Cluster::add_pod`].
    pub fn add_pod_at(&mut self, name: &str, labels: &Value, addresses: &[IpAddr]) -> Result<Site> {
        let site = self.node.add_pod(name, addresses)?;
        self.servers.add(&site, &SERVICES)?;
        self.label(name, labels)?;
        Ok(site)
    }

    /// Gives a pod these labels.
    ///
    /// # Errors
    /// If there is none of that name, or the server refuses it.
    pub fn label(&self, name: &str, labels: &Value) -> Result<()> {
        let mut pod = pod(name)?;
        let addresses = self.node.pod(name)?.addresses;
        let ips: Vec<Value> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
        pod["metadata"]["labels"] = labels.clone();
        pod["spec"] = json!({
            "nodeName": self.node.plan().name,
            "containers": [{"name": "main", "image": "example"}],
        });
        pod["status"] = json!({"phase": "Running", "podIP": addresses[0], "podIPs": ips});
        let stored = self.api.apply(&pod)?;
        let kept = stored["status"]["podIPs"].as_array().map_or(0, Vec::len);
        anyhow::ensure!(kept == ips.len(), "the server kept {kept} addresses of {name}");
        Ok(())
    }

    /// Sets a pod's phase, as a kubelet does.
    ///
    /// # Errors
    /// If the server refuses it.
    pub fn phase(&self, name: &str, phase: &str) -> Result<()> {
        let mut pod = pod(name)?;
        pod["status"] = json!({"phase": phase});
        self.api.merge_status(&pod).map(|_| ())
    }

    /// Removes a pod: first its interface, then its object.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn remove_pod(&mut self, name: &str) -> Result<()> {
        self.node.remove_pod(name)?;
        self.api.delete(&pod(name)?)
    }

    /// Applies the manifest, starts the agent as [`Cluster::launch`] does, and waits for its first
    /// revision.
    ///
    /// # Errors
    /// If the server refuses the manifest, or the revision does not come.
    pub fn enforce(&self, deployment: &Deployment) -> Result<Agent> {
        for object in &deployment.objects {
            self.api.apply(object)?;
        }
        let agent = self.launch(deployment)?;
        agent.wait_for_revision_after(0)?;
        Ok(agent)
    }

    /// Starts the agent as a kubelet starts the DaemonSet's container: arguments, environment,
    /// capabilities, read-only root, and its service account's token. Does not wait.
    ///
    /// # Errors
    /// If the account does not exist, or the agent cannot be started.
    pub fn launch(&self, deployment: &Deployment) -> Result<Agent> {
        let mut launch = deployment.launch(&self.node.plan().name)?;
        let (namespace, token) = self.token(deployment)?;
        launch.environment.extend(self.api.environment());
        launch.service_account = Some(self.api.service_account(&namespace, &token)?);
        Ok(Agent::launch(&self.node, launch)?.with_deadline(DEADLINE))
    }

    /// Like [`Cluster::launch`], for an agent outside of the cluster: with the token in a
    /// kubeconfig.
    ///
    /// # Errors
    /// As [`Cluster::launch`].
    pub fn launch_outside(&self, deployment: &Deployment) -> Result<Agent> {
        let mut launch = deployment.launch(&self.node.plan().name)?;
        let (_, token) = self.token(deployment)?;
        launch.arguments.extend([
            "--kubeconfig".into(),
            self.api.kubeconfig("agent", &token)?.into(),
        ]);
        Ok(Agent::launch(&self.node, launch)?.with_deadline(DEADLINE))
    }

    fn token(&self, deployment: &Deployment) -> Result<(String, String)> {
        let account = &deployment.object("ServiceAccount")?["metadata"];
        let text = |field: &str| account[field].as_str().context("the service account has no name");
        let namespace = text("namespace")?;
        Ok((namespace.to_owned(), self.api.token(namespace, text("name")?)?))
    }

    /// Returns the status code of a path that the agent serves on the node's loopback.
    ///
    /// # Errors
    /// If nobody answers.
    pub fn health(&self, path: &str) -> Result<u16> {
        self.get(path).map(|(code, _)| code)
    }

    /// Returns the status code and text of a path that the agent serves on the node's loopback.
    ///
    /// # Errors
    /// If nobody answers.
    pub fn get(&self, path: &str) -> Result<(u16, String)> {
        let answer = self.node.netns().run(|| {
            let mut stream = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], 9600)))?;
            write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        })?;
        let code = answer.split(' ').nth(1).context("no status line")?;
        let code = code.parse().with_context(|| format!("status code {code:?}"))?;
        let (_, text) = answer.split_once("\r\n\r\n").context("no end of the head")?;
        Ok((code, text.to_owned()))
    }

    /// Waits until all services in both families, from one site to another, have `outcome`. Then
    /// asserts it.
    ///
    /// # Panics
    /// If that does not happen in time.
    #[track_caller]
    pub fn becomes(&self, from: &str, to: &str, outcome: &Outcome) {
        let probes = self.probes(from, to, &SERVICES);
        let until = Instant::now() + DEADLINE;
        while Instant::now() < until && !self.wrong(&probes, outcome, Some(PATIENCE)).is_empty() {}
        self.expect(from, to, outcome);
    }

    /// Asserts that all services in both families, from one site to another, have `outcome`.
    ///
    /// # Panics
    /// If one has another.
    #[track_caller]
    pub fn expect(&self, from: &str, to: &str, outcome: &Outcome) {
        self.expect_services(from, to, &SERVICES, outcome);
    }

    /// Asserts that these services, in both families, have `outcome`.
    ///
    /// # Panics
    /// If one has another.
    #[track_caller]
    pub fn expect_services(&self, from: &str, to: &str, services: &[Service], outcome: &Outcome) {
        let wrong = self.wrong(&self.probes(from, to, services), outcome, None);
        assert!(
            wrong.is_empty(),
            "{from} -> {to}: expected {outcome:?}, but\n{}",
            wrong.join("\n")
        );
    }

    fn probes(&self, from: &str, to: &str, services: &[Service]) -> Vec<Probe> {
        let site = |name: &str| match name {
            "node" => self.node.site(),
            pod => self.node.pod(pod).expect("the pod exists"),
        };
        let (from, to) = (site(from), site(to));
        let probes: Vec<_> = services
            .iter()
            .flat_map(|&service| Probe::all(&from, &to, service))
            .collect();
        assert!(!probes.is_empty(), "nothing to ask");
        probes
    }

    fn wrong(&self, probes: &[Probe], outcome: &Outcome, once: Option<Duration>) -> Vec<String> {
        let outcomes = match once {
            Some(patience) => self.prober.probe_once(probes, patience),
            None => self.prober.probe(probes),
        };
        let outcomes = outcomes.expect("probes can be made");
        let both = probes
            .iter()
            .zip(&outcomes)
            .filter(|(_, found)| *found != outcome);
        both.map(|(probe, found)| format!("  {probe}: {found:?}"))
            .collect()
    }
}

/// Returns kind and name of a pod.
fn pod(name: &str) -> Result<Value> {
    let (namespace, name) = name
        .split_once('/')
        .with_context(|| format!("pod {name} has no namespace"))?;
    Ok(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": namespace, "name": name}}))
}
