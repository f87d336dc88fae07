// SPDX-License-Identifier: Apache-2.0
//! Faults of the API server and of the way to it.

use std::{fs, path::PathBuf, time::Instant};

use netpol_tests::{
    agent::Agent,
    apiserver::faulty::{
        Asked::{self, List, Watch},
        Fault::{self, Cut, Empty, Expired, Garbage, Garbled, Refused, Slow},
        Faulty,
    },
    cluster::{Cluster, DEADLINE},
    deploy::Deployment,
    privilege::can_use_api_server,
    probe::Outcome::{Reached, Silent},
};
use serde_json::{Value, json};
use tempfile::TempDir;

const SUITE: &str = "faults";
/// The service account of the manifest.
pub const NAMESPACE: &str = "kube-system";
pub const ACCOUNT: &str = "netpol";

/// A cluster in which only pod b reaches pod a, and an agent that meets the API server on a way
/// with faults.
pub struct World {
    pub agent: Agent,
    way: Faulty,
    folder: TempDir,
    pub deployment: Deployment,
    pub cluster: Cluster,
}

/// Pods with this label reach pod a.
pub fn policy(app: &str) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"namespace": "shop", "name": "a"},
        "spec": {
            "podSelector": {"matchLabels": {"app": "a"}},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": app}}}]}],
        },
    })
}

impl World {
    pub fn new() -> Option<Self> {
        let world = Self::launched(&[], &[])?;
        world.agent.wait_for_revision_after(0).unwrap();
        world.only("b");
        Some(world)
    }

    /// Starts the agent with these arguments, and these faults from the start.
    fn launched(arguments: &[&str], faults: &[(Asked, &'static str, Fault)]) -> Option<Self> {
        can_use_api_server(SUITE).then(|| {
            let cluster = Cluster::with_pods().unwrap();
            let deployment = Deployment::load().unwrap();
            for object in &deployment.objects {
                cluster.api.apply(object).unwrap();
            }
            cluster.api.apply(&policy("b")).unwrap();
            let token = cluster.api.token(NAMESPACE, ACCOUNT).unwrap();
            let way = cluster.api.faulty(&token).unwrap();
            let folder = TempDir::new().unwrap();
            let path = folder.path().join("kubeconfig");
            fs::write(&path, way.kubeconfig().to_string()).unwrap();
            let mut launch = deployment.launch(&cluster.node.plan().name).unwrap();
            launch.arguments.extend(["--kubeconfig".into(), path.into()]);
            launch.arguments.extend(arguments.iter().map(Into::into));
            way.set(faults);
            let agent = Agent::launch(&cluster.node, launch)
                .unwrap()
                .with_deadline(DEADLINE);
            Self {
                agent,
                way,
                folder,
                deployment,
                cluster,
            }
        })
    }

    /// Stops the agent, and has it read its token from a file. Returns that file.
    pub fn read_token_from_file(&mut self) -> PathBuf {
        let token = self.folder.path().join("token");
        let api = &self.cluster.api;
        fs::write(&token, api.token(NAMESPACE, ACCOUNT).unwrap()).unwrap();
        let path = api.kubeconfig("file", "").unwrap();
        let mut config: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        config["users"][0]["user"] = json!({"tokenFile": token});
        fs::write(&path, config.to_string()).unwrap();
        self.agent.stop().unwrap();
        self.agent.set_argument("--kubeconfig", path.to_str().unwrap());
        token
    }

    /// Ends the token, and all watches.
    pub fn end_token(&mut self) {
        // A token is bound to the account that it was made for.
        let account = self.deployment.object("ServiceAccount").unwrap();
        self.cluster.api.delete(account).unwrap();
        self.cluster.api.apply(account).unwrap();
        self.cluster.api.kill().unwrap();
        self.cluster.api.restart().unwrap();
    }

    /// Of pods b and c, only pods with this label reach pod a.
    #[track_caller]
    pub fn only(&self, app: &str) {
        let outcome = |of| if of == app { Reached } else { Silent };
        self.cluster.expect("shop/b", "shop/a", &outcome("b"));
        self.cluster.expect("other/c", "shop/a", &Silent);
        self.cluster.expect("shop/a", "other/c", &Reached);
    }

    /// Waits until readiness says this of what is listed and watched.
    #[track_caller]
    pub fn wait_until_told(&self, text: &str) {
        // The token's file is read once a minute, and then the pauses are at their longest.
        let until = Instant::now() + 2 * DEADLINE;
        loop {
            let (_, ready) = self.cluster.get("/readyz?verbose").unwrap();
            if ready.contains(text) {
                return;
            }
            assert!(Instant::now() < until, "not told: {text}\n{ready}");
        }
    }

    /// Waits until so many answers failed.
    #[track_caller]
    fn wait_until_failed(&self, count: usize) {
        let until = Instant::now() + DEADLINE;
        while self.way.failed() < count {
            assert!(Instant::now() < until, "{} answers failed", self.way.failed());
            std::thread::yield_now();
        }
    }

    /// These faults change no verdict, and readiness names them if they last. A change that was
    /// made meanwhile is enforced when they are over.
    #[track_caller]
    fn survives(&self, faults: &[(Asked, &'static str, Fault)], told: Option<&str>) {
        let seen = self.agent.log_length();
        self.way.set(faults);
        if let Some(told) = told {
            self.wait_until_told(told);
        }
        self.only("b");
        self.cluster.api.apply(&policy("nobody")).unwrap();
        match faults {
            // Late, and complete.
            [(Watch, _, Slow(_)), ..] => self.cluster.becomes("shop/b", "shop/a", &Silent),
            // The first failed before the change, or with it; the next comes after it.
            _ => {
                self.wait_until_failed(self.way.failed() + 1);
                self.only("b");
            }
        }
        self.way.set(&[]);
        self.cluster.becomes("shop/b", "shop/a", &Silent);
        self.only("nobody");
        self.cluster.api.apply(&policy("b")).unwrap();
        self.cluster.becomes("shop/b", "shop/a", &Reached);
        self.only("b");
        self.wait_until_told("[+]source-readable ok");
        let log = self.agent.log_since(seen);
        assert!(!log.contains("panicked"), "{log}");
    }
}

/// Readiness, for policies that cannot be read.
const UNREAD: &str = "[-]source-readable failed: networkpolicies cannot be read since ";

#[test]
fn b3_refused_and_broken_watches_change_no_verdict() {
    let Some(world) = World::new() else { return };
    let of = |fault| (Watch, "networkpolicies", fault);
    for code in [429, 500] {
        world.survives(&[of(Refused(code))], Some(&format!("({code} ")));
    }
    world.survives(&[of(Garbage)], Some(UNREAD));
    // A watch that ends in order is only asked for again.
    world.survives(&[of(Empty)], None);
    // Each event is cut, and so is the next.
    world.survives(&[of(Cut(10))], None);
    world.survives(&[of(Slow(50))], None);
}

#[test]
fn b3_b1_lists_that_fail_half_way_take_nothing_away() {
    let Some(world) = World::new() else { return };
    // History does not reach back: everything is listed again.
    let again = |fault| {
        [
            (Watch, "networkpolicies", Expired),
            (List, "networkpolicies", fault),
            (Watch, "pods", Expired),
            (List, "pods", fault),
        ]
    };
    for fault in [Refused(429), Cut(300), Garbage, Empty] {
        world.survives(&again(fault), Some(UNREAD));
    }
    world.survives(&again(Refused(410)), None);
    // The list is slow, and so what changed comes late.
    world.way.set(&[
        (List, "networkpolicies", Slow(20)),
        (Watch, "networkpolicies", Expired),
    ]);
    world.wait_until_failed(2);
    world.only("b");
}

/// A change that cannot be read is not a change that was not made.
#[test]
fn b3_an_event_that_cannot_be_read_is_made_up_for_by_a_list() {
    let Some(world) = World::new() else { return };
    world.way.set(&[(Watch, "networkpolicies", Garbled)]);
    world.wait_until_failed(1);
    world.cluster.api.apply(&policy("nobody")).unwrap();
    // The next event can be read, and is behind the one that cannot.
    let mut other = policy("nobody");
    other["metadata"]["name"] = json!("other");
    world.cluster.api.apply(&other).unwrap();
    world.cluster.becomes("shop/b", "shop/a", &Silent);
}

/// What was listed is served, whatever a watch is told. Nothing is taken away.
#[test]
fn b3_a_watch_that_finds_nothing_takes_nothing_away() {
    let Some(world) = World::new() else { return };
    let seen = world.agent.log_length();
    world.way.set(&[(Watch, "nodes", Refused(404))]);
    world.wait_until_told("[-]source-readable failed: nodes cannot be read since ");
    let log = world.agent.log_since(seen);
    assert!(!log.contains("does not serve this kind"), "{log}");
    world.way.set(&[]);
    world.wait_until_told("[+]source-readable ok");
}

/// Rights are asked for at each request: those for a watch that is open are taken away when it
/// ends.
#[test]
fn b3_rights_that_are_taken_away_are_named_and_what_they_bring_back_is_followed() {
    let Some(world) = World::new() else { return };
    let role = world.deployment.object("ClusterRole").unwrap();
    let mut none = role.clone();
    none["rules"] = json!([]);
    let access = |may| {
        let account = format!("{NAMESPACE}:{ACCOUNT}");
        let api = &world.cluster.api;
        api.wait_for_access(&account, "watch", "", "pods", may).unwrap();
    };
    world.cluster.api.apply(&none).unwrap();
    access(false);
    world.way.set(&[]);
    world.wait_until_told("the API server forbids `watch`");
    world.only("b");
    world.cluster.api.apply(&policy("nobody")).unwrap();
    world.only("b");
    world.cluster.api.apply(role).unwrap();
    access(true);
    world.cluster.becomes("shop/b", "shop/a", &Silent);
    world.wait_until_told("[+]source-readable ok");
}

/// The token is refused. The kubelet writes another one in its place.
#[test]
fn b3_a_token_that_is_refused_is_named_and_a_new_one_is_taken() {
    let Some(mut world) = World::new() else { return };
    let token = world.read_token_from_file();
    world.agent.restart().unwrap();
    world.only("b");

    world.end_token();
    world.wait_until_told("Unauthorized");
    world.only("b");
    let api = &world.cluster.api;
    api.apply(&policy("nobody")).unwrap();
    world.only("b");
    fs::write(&token, api.token(NAMESPACE, ACCOUNT).unwrap()).unwrap();
    world.wait_until_told("[+]source-readable ok");
    world.cluster.becomes("shop/b", "shop/a", &Silent);
}

/// In strict mode a new pod's interface is closed as soon as the Node's ranges are known: they are
/// asked for until they are told, also while the lists are not complete.
#[test]
fn b2_strict_closes_new_pods_though_the_nodes_ranges_were_refused_at_first() {
    let refused = |kind| (List, kind, Refused(503));
    let strict = ["--startup-mode=strict"];
    let faults = [refused("nodes"), refused("pods")];
    let Some(mut world) = World::launched(&strict, &faults) else {
        return;
    };
    let ranges = world
        .cluster
        .node
        .plan()
        .pod_networks()
        .map(|range| range.to_string());
    let node = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": world.cluster.node.plan().name},
        "spec": {"podCIDR": ranges[0], "podCIDRs": ranges},
    });
    world.cluster.api.apply(&node).unwrap();
    let told = "the node's pod ranges are not told";
    world.agent.wait_for_line(0, told).unwrap();
    world.way.set(&faults[1..]);
    world.agent.wait_for_line(0, "datapath open").unwrap();
    world.cluster.becomes("other/c", "shop/a", &Silent);
    assert_eq!(world.agent.revision(), 0, "the lists are complete");
    world.cluster.add_pod("shop/new", &json!({"app": "new"})).unwrap();
    world.cluster.expect("other/c", "shop/new", &Silent);
}
