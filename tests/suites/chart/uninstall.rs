// SPDX-License-Identifier: Apache-2.0
//! `helm install` and `helm uninstall` on a real API server. The test is the controllers, the
//! scheduler and the kubelet: it starts what the objects say, and reports it.

use std::{
    process::{Child, Command, Output, Stdio},
    time::Instant,
};

use netpol_tests::{
    agent::{Agent, Launch, inside},
    chart::{NAMESPACE, Tools, chart, output},
    cluster::{Cluster, DEADLINE},
    deploy::launch,
    privilege::binary,
    probe::Outcome::{Reached, Silent},
};
use serde_json::{Value, json};

use super::shared::tools_and_api_server;

fn helm(tools: &Tools, cluster: &Cluster, words: &[&str]) -> Command {
    let mut helm = tools.helm();
    helm.args(words)
        .args(["netpol", "--namespace", NAMESPACE, "--kubeconfig"]);
    helm.arg(cluster.api.administrators_kubeconfig().unwrap());
    inside(&mut helm, cluster.node.netns());
    helm
}

fn named(version: &str, kind: &str, name: &str) -> Value {
    let metadata = json!({"namespace": NAMESPACE, "name": name});
    json!({"apiVersion": version, "kind": kind, "metadata": metadata})
}

/// Waits until Helm has made an object, and returns it.
fn made(cluster: &Cluster, helm: &mut Child, object: &Value) -> Value {
    let until = Instant::now() + DEADLINE;
    loop {
        match cluster.api.get(object) {
            Ok(found) => return found,
            Err(error) => assert!(Instant::now() < until, "{error:#}"),
        }
        let ended = helm.try_wait().unwrap();
        assert!(ended.is_none(), "helm ended ({ended:?}) before it made {object}");
    }
}

fn run(cluster: &Cluster, launch: &Launch) -> Output {
    let mut command = launch.command(&binary().unwrap());
    inside(&mut command, cluster.node.netns()).output().unwrap()
}

/// Reports a number of ready pods of the hook's DaemonSet, as its controller does.
fn report(cluster: &Cluster, daemon_set: &Value, ready: u32) {
    let mut object = named("apps/v1", "DaemonSet", "netpol-cleanup");
    object["status"] = json!({
        "observedGeneration": daemon_set["metadata"]["generation"],
        "desiredNumberScheduled": 1, "currentNumberScheduled": 1, "numberMisscheduled": 0,
        "updatedNumberScheduled": 1, "numberReady": ready,
    });
    cluster.api.merge_status(&object).unwrap();
}

/// Installs the chart on a node with pods, starts its agent, and isolates `shop`.
fn installed(tools: &Tools) -> (Agent, Cluster) {
    let cluster = Cluster::with_pods().unwrap();
    let mut install = helm(tools, &cluster, &["install"]);
    output(install.arg(chart())).unwrap();
    let policy = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": "shop", "name": "a"},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"]},
    });
    cluster.api.apply(&policy).unwrap();
    let agent = cluster.launch(&tools.render("{}").unwrap().installed).unwrap();
    agent.wait_for_revision_after(0).unwrap();
    cluster.expect("shop/b", "shop/a", &Silent);
    (agent, cluster)
}

/// Starts `helm uninstall`.
fn uninstall(tools: &Tools, cluster: &Cluster) -> Child {
    let mut helm = helm(tools, cluster, &["uninstall"]);
    helm.stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    helm.spawn().unwrap()
}

/// Runs the container of the hook's Job, with another timeout, under its service account.
fn wait_for_rollout(cluster: &Cluster, job: &Value, seconds: u32) -> Output {
    let pod = &job["spec"]["template"]["spec"];
    assert_eq!(pod["serviceAccountName"], "netpol-cleanup");
    let mut wait = launch(&pod["containers"][0], "node-a").unwrap();
    let token = cluster.api.token(NAMESPACE, "netpol-cleanup").unwrap();
    wait.service_account = Some(cluster.api.service_account(NAMESPACE, &token).unwrap());
    wait.environment.extend(cluster.api.environment());
    wait.arguments.pop();
    wait.arguments.push(format!("--timeout={seconds}").into());
    run(cluster, &wait)
}

/// Runs the init container of the hook's DaemonSet, on the agent's pins.
fn clean(cluster: &Cluster, daemon_set: &Value, agent: &Agent) -> Output {
    let container = &daemon_set["spec"]["template"]["spec"]["initContainers"][0];
    let mut clean = launch(container, "node-a").unwrap();
    let pins = agent.pin_path();
    clean.arguments.extend(["--pin-path".into(), pins.into()]);
    run(cluster, &clean)
}

/// Reports how a Job ended, as its controller does.
fn end(cluster: &Cluster, job: &Value, condition: &str) {
    let mut done = job.clone();
    done["status"] = json!({
        "startTime": "2026-01-01T00:00:00Z",
        "conditions": [{"type": condition, "status": "True"}],
    });
    if condition == "Complete" {
        done["status"]["succeeded"] = json!(1);
        done["status"]["completionTime"] = json!("2026-01-01T00:00:01Z");
    } else {
        done["status"]["failed"] = json!(1);
    }
    cluster.api.merge_status(&done).unwrap();
}

#[test]
fn uninstalling_cleans_the_node_and_leaves_nothing() {
    let Some(tools) = tools_and_api_server() else {
        return;
    };
    let (mut agent, cluster) = installed(&tools);
    let daemon_set = named("apps/v1", "DaemonSet", "netpol-cleanup");
    let job = named("batch/v1", "Job", "netpol-cleanup");
    cluster.api.get(&daemon_set).unwrap_err();

    let mut uninstall = uninstall(&tools, &cluster);
    let made_set = made(&cluster, &mut uninstall, &daemon_set);
    // The hook comes when the agents' DaemonSet is gone. Their pods go when a controller sees that.
    cluster
        .api
        .get(&named("apps/v1", "DaemonSet", "netpol"))
        .unwrap_err();
    agent.stop().unwrap();
    cluster.expect("shop/b", "shop/a", &Silent);
    report(&cluster, &made_set, 0);

    let made_job = made(&cluster, &mut uninstall, &job);
    let early = wait_for_rollout(&cluster, &made_job, 3);
    let said = String::from_utf8_lossy(&early.stderr);
    assert!(
        !early.status.success() && said.contains("ready on 0 of 1 nodes"),
        "{said}"
    );

    let cleaned = clean(&cluster, &made_set, &agent);
    assert!(
        cleaned.status.success(),
        "{}",
        String::from_utf8_lossy(&cleaned.stderr)
    );
    cluster.expect("shop/b", "shop/a", &Reached);
    report(&cluster, &made_set, 1);
    let waited = wait_for_rollout(&cluster, &made_job, 60);
    assert!(
        waited.status.success(),
        "{}",
        String::from_utf8_lossy(&waited.stderr)
    );
    assert!(
        uninstall.try_wait().unwrap().is_none(),
        "helm did not wait for the Job"
    );
    end(&cluster, &job, "Complete");

    let ended = uninstall.wait_with_output().unwrap();
    assert!(
        ended.status.success(),
        "{}",
        String::from_utf8_lossy(&ended.stderr)
    );
    let rendering = tools.render("{}").unwrap();
    for object in rendering.objects() {
        cluster.api.get(object).unwrap_err();
    }
}

#[test]
fn a_node_that_cannot_be_cleaned_is_an_error_and_only_the_job_stays() {
    let Some(tools) = tools_and_api_server() else {
        return;
    };
    let cluster = Cluster::new().unwrap();
    let mut install = helm(&tools, &cluster, &["install"]);
    output(install.arg(chart())).unwrap();
    let mut uninstall = uninstall(&tools, &cluster);
    let job = named("batch/v1", "Job", "netpol-cleanup");
    made(&cluster, &mut uninstall, &job);
    end(&cluster, &job, "Failed");
    let ended = uninstall.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(
        !ended.status.success() && said.contains("netpol-cleanup"),
        "{said}"
    );
    let rendering = tools.render("{}").unwrap();
    let left: Vec<_> = rendering
        .objects()
        .filter(|object| cluster.api.get(object).is_ok())
        .map(|object| object["kind"].as_str().unwrap())
        .collect();
    assert_eq!(left, ["Job"]);
}
