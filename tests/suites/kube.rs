// SPDX-License-Identifier: Apache-2.0
//! The production path: the agent follows a real API server, with the service account of
//! `deploy/netpol.yaml` and only the capabilities of its DaemonSet, and is checked by packets
//! between pods. Each test names the rules that it proves.

#[path = "kube/pods.rs"]
mod pods;

use std::time::Instant;

use netpol_tests::{
    agent::{Agent, DEADLINE},
    apiserver::etcd,
    cluster::Cluster,
    deploy::Deployment,
    privilege::can_use_api_server,
    probe::{
        Outcome::{Reached, Refused, Silent},
        Service,
    },
};
use serde_json::{Value, json};

/// The service account of the manifest.
const ACCOUNT: &str = "kube-system:netpol";
const NETWORKING: &str = "networking.k8s.io";

fn cluster() -> Option<(Cluster, Deployment)> {
    can_use_api_server("kube").then(|| (Cluster::with_pods().unwrap(), Deployment::load().unwrap()))
}

/// Makes an ingress policy in namespace `shop` for the pods with `app: a`.
fn policy(ingress: &Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"namespace": "shop", "name": "a"},
        "spec": {"podSelector": {"matchLabels": {"app": "a"}}, "policyTypes": ["Ingress"], "ingress": ingress},
    })
}

/// Removes verbs on a resource from the ClusterRole, and waits until the server refuses them.
fn forbid(cluster: &Cluster, deployment: &Deployment, verbs: &[&str], group: &str, resource: &str) {
    let mut role = deployment.object("ClusterRole").unwrap().clone();
    let mut rules = Vec::new();
    for rule in role["rules"].as_array().unwrap() {
        for name in rule["resources"].as_array().unwrap() {
            let mut rule = rule.clone();
            rule["resources"] = json!([name]);
            let given = rule["verbs"].as_array_mut().unwrap();
            given.retain(|verb| name != resource || !verbs.iter().any(|forbidden| verb == forbidden));
            if !given.is_empty() {
                rules.push(rule);
            }
        }
    }
    role["rules"] = rules.into();
    cluster.api.apply(&role).unwrap();
    for verb in verbs {
        cluster
            .api
            .wait_for_access(ACCOUNT, verb, group, resource, false)
            .unwrap();
    }
}

/// Applies the manifest's ClusterRole.
fn allow(cluster: &Cluster, deployment: &Deployment) {
    cluster
        .api
        .apply(deployment.object("ClusterRole").unwrap())
        .unwrap();
}

/// Waits for the log line that names the forbidden verb and resource.
fn wait_until_forbidden(agent: &Agent, seen: usize, verb: &str, resource: &str) {
    let line = agent
        .wait_for_line(
            seen,
            &format!("allow `{verb}` on `{resource}` in the ClusterRole"),
        )
        .unwrap();
    let fields = &serde_json::from_str::<Value>(&line).unwrap()["fields"];
    assert_eq!(
        (fields["verb"].as_str(), fields["resource"].as_str()),
        (Some(verb), Some(resource)),
        "{line}"
    );
}

#[test]
fn b1_nothing_changes_before_the_first_complete_list_and_what_is_missing_is_named() {
    let Some((cluster, deployment)) = cluster() else {
        return;
    };
    cluster.api.apply(&policy(&json!([]))).unwrap();
    for object in &deployment.objects {
        cluster.api.apply(object).unwrap();
    }
    forbid(
        &cluster,
        &deployment,
        &["list", "watch"],
        NETWORKING,
        "networkpolicies",
    );

    // Nothing is enforced yet: everything stays open, and the agent is not ready.
    let mut agent = cluster.launch(&deployment).unwrap();
    wait_until_forbidden(&agent, 0, "list", "networkpolicies");
    agent.wait_for_line(0, "serving metrics and health").unwrap();
    cluster.expect("other/c", "shop/a", &Reached);
    assert_eq!((agent.revision(), cluster.health("/readyz").unwrap()), (0, 503));
    // The order of the others depends on the server.
    let named = "waiting for the first complete list of objects, not there yet: NetworkPolicy\n";
    let until = Instant::now() + DEADLINE;
    while cluster.get("/readyz").unwrap().1 != named {
        assert!(Instant::now() < until, "{:?}", cluster.get("/readyz"));
    }
    allow(&cluster, &deployment);
    agent.wait_for_revision_after(0).unwrap();
    cluster.expect("other/c", "shop/a", &Silent);
    cluster.expect("shop/b", "shop/a", &Silent);
    cluster.expect("shop/a", "other/c", &Reached);
    cluster.expect("node", "shop/a", &Reached);
    assert_eq!(cluster.health("/readyz").unwrap(), 200);

    // What an earlier run enforced stays enforced.
    agent.kill().unwrap();
    forbid(&cluster, &deployment, &["list", "watch"], "", "pods");
    agent.relaunch().unwrap();
    wait_until_forbidden(&agent, 0, "list", "pods");
    agent.wait_for_line(0, "serving metrics and health").unwrap();
    cluster.expect("other/c", "shop/a", &Silent);
    cluster.expect("shop/a", "other/c", &Reached);
    assert_eq!((agent.revision(), cluster.health("/readyz").unwrap()), (0, 503));

    // A list is enough to enforce. Changes are only seen once the watch is allowed.
    agent.kill().unwrap();
    forbid(&cluster, &deployment, &["watch"], NETWORKING, "networkpolicies");
    agent.relaunch().unwrap();
    agent.wait_for_revision_after(0).unwrap();
    wait_until_forbidden(&agent, 0, "watch", "networkpolicies");
    cluster.expect("other/c", "shop/a", &Silent);
    allow(&cluster, &deployment);
    cluster.api.delete(&policy(&json!([]))).unwrap();
    cluster.becomes("other/c", "shop/a", &Reached);
}

/// Policies on all pages of a list, with a partial last page, isolate what they select.
#[test]
fn b1_a_list_of_many_pages_is_read_to_its_end() {
    let Some((cluster, deployment)) = cluster() else {
        return;
    };
    // The server lists by name, and the agent requests 500 at a time.
    let isolates = |number: usize| match number {
        0 => "b",
        1233 => "a",
        _ => "nobody",
    };
    let policies = (0..1234).map(|number| {
        let name = format!("p-{number:04}");
        let mut policy = policy(&json!([]));
        policy["metadata"]["name"] = json!(name);
        policy["metadata"]["uid"] = json!(name);
        policy["spec"]["podSelector"]["matchLabels"]["app"] = json!(isolates(number));
        (format!("/registry/networkpolicies/shop/{name}"), policy)
    });
    etcd::put(&cluster.api, policies).unwrap();
    let _agent = cluster.enforce(&deployment).unwrap();
    cluster.expect("other/c", "shop/a", &Silent);
    cluster.expect("other/c", "shop/b", &Silent);
    cluster.expect("shop/a", "other/c", &Reached);
}

#[test]
fn p2_p7_i7_live_labels_flip_verdicts_and_addresses_change_hands() {
    let Some((mut cluster, deployment)) = cluster() else {
        return;
    };
    let agent = cluster.enforce(&deployment).unwrap();
    cluster.expect("other/c", "shop/a", &Reached);
    let from_clients = json!([{"from": [{
        "podSelector": {"matchLabels": {"app": "client"}},
        "namespaceSelector": {"matchLabels": {"team": "other"}},
    }]}]);
    cluster.api.apply(&policy(&from_clients)).unwrap();
    cluster.becomes("other/c", "shop/a", &Silent);

    cluster.label("other/c", &json!({"app": "client"})).unwrap();
    cluster.becomes("other/c", "shop/a", &Reached);
    cluster.label("shop/b", &json!({"app": "client"})).unwrap();
    cluster.namespace("other", &json!({"team": "nobody"})).unwrap();
    cluster.becomes("other/c", "shop/a", &Silent);
    cluster.expect("shop/b", "shop/a", &Silent);
    cluster.namespace("other", &json!({"team": "other"})).unwrap();
    cluster.becomes("other/c", "shop/a", &Reached);

    // C3: the address goes to another pod, which the policy does not select.
    let addresses = cluster.node.pod("other/c").unwrap().addresses;
    cluster.remove_pod("other/c").unwrap();
    cluster
        .add_pod_at("other/d", &json!({"app": "stranger"}), &addresses)
        .unwrap();
    cluster.becomes("other/d", "shop/a", &Silent);
    cluster.label("other/d", &json!({"app": "client"})).unwrap();
    cluster.becomes("other/d", "shop/a", &Reached);

    // I7: another pod with the address of a finished pod is not that pod.
    cluster.phase("other/d", "Succeeded").unwrap();
    cluster.becomes("other/d", "shop/a", &Silent);

    cluster.expect("shop/b", "shop/a", &Silent);
    cluster.api.delete(&policy(&json!([]))).unwrap();
    cluster.becomes("shop/b", "shop/a", &Reached);
    cluster.expect("other/d", "shop/a", &Reached);
    drop(agent);
}

#[test]
fn p4_t3_an_old_server_is_told_of_and_got_along_with() {
    let Some((cluster, deployment)) = cluster() else {
        return;
    };
    for object in &deployment.objects {
        cluster.api.apply(object).unwrap();
    }
    let agent = cluster.launch_outside(&deployment).unwrap();
    agent.wait_for_line(0, "drops `endPort`").unwrap();
    let missing = agent.wait_for_line(0, "does not serve this kind").unwrap();
    assert!(missing.contains(r#""resource":"endpointslices""#), "{missing}");

    // P4: the server does not label namespaces with their names; the agent does.
    let by_name = json!([{"from": [{
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "other"}},
    }]}]);
    cluster.api.apply(&policy(&by_name)).unwrap();
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "other"}});
    let labels = cluster.api.get(&namespace).unwrap()["metadata"]["labels"].clone();
    assert_eq!(
        labels,
        json!({"team": "other"}),
        "this server is not old enough for the test"
    );
    cluster.becomes("shop/b", "shop/a", &Silent);
    cluster.expect("other/c", "shop/a", &Reached);

    // T3: the server keeps only the first port of a range; nothing else opens.
    let range = json!([{"ports": [{"protocol": "TCP", "port": 8079, "endPort": 8081}]}]);
    let stored = cluster.api.merge(&policy(&range)).unwrap();
    assert!(
        stored.pointer("/spec/ingress/0/ports/0/endPort").is_none(),
        "{stored}"
    );
    cluster.becomes("other/c", "shop/a", &Silent);
    cluster.expect_services("other/c", "shop/a", &[Service::Tcp(8079)], &Refused);
    cluster.expect_services("other/c", "shop/a", &[Service::Tcp(8081)], &Silent);
}

#[test]
fn b3_losing_the_api_server_changes_no_verdict() {
    let Some((mut cluster, deployment)) = cluster() else {
        return;
    };
    let mut agent = cluster.enforce(&deployment).unwrap();
    let from_b = json!([{"from": [{"podSelector": {"matchLabels": {"app": "b"}}}]}]);
    cluster.api.apply(&policy(&from_b)).unwrap();
    cluster.becomes("other/c", "shop/a", &Silent);
    let seen = agent.log_length();
    cluster.api.kill().unwrap();
    agent.wait_for_line(seen, "cannot be watched").unwrap();
    cluster.expect("other/c", "shop/a", &Silent);
    cluster.expect("shop/b", "shop/a", &Reached);

    // An agent that starts meanwhile does not either.
    agent.kill().unwrap();
    agent.relaunch().unwrap();
    agent.wait_for_line(0, "cannot be watched").unwrap();
    agent.wait_for_line(0, "serving metrics and health").unwrap();
    cluster.expect("other/c", "shop/a", &Silent);
    cluster.expect("shop/b", "shop/a", &Reached);
    assert_eq!((agent.revision(), cluster.health("/readyz").unwrap()), (0, 503));

    cluster.api.restart().unwrap();
    agent.wait_for_revision_after(0).unwrap();
    cluster.label("shop/b", &json!({"app": "z"})).unwrap();
    cluster.becomes("shop/b", "shop/a", &Silent);

    // An agent that ran all the time follows changes again.
    let seen = agent.log_length();
    cluster.api.kill().unwrap();
    agent.wait_for_line(seen, "cannot be watched").unwrap();
    cluster.api.restart().unwrap();
    cluster.label("shop/b", &json!({"app": "b"})).unwrap();
    cluster.becomes("shop/b", "shop/a", &Reached);
    cluster.expect("other/c", "shop/a", &Silent);
}

/// With objects as large as an API server accepts, others' policies still change as usual.
#[test]
fn l2_what_one_namespace_writes_costs_the_others_nothing() {
    let Some((cluster, deployment)) = cluster() else {
        return;
    };
    let agent = cluster.enforce(&deployment).unwrap();
    let address = |nth: usize| format!("203.{}.{}.{}", nth >> 16, nth >> 8 & 255, nth & 255);
    let ports: Vec<Value> = (1..=2500)
        .map(|port| json!({"name": format!("p{port}"), "port": port, "protocol": "TCP"}))
        .collect();
    for name in ["large", "again"] {
        cluster
            .api
            .apply(&json!({
                "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "other", "name": name},
                "spec": {"ports": ports, "externalIPs": (0..2500).map(address).collect::<Vec<_>>()},
            }))
            .unwrap();
    }
    let blocks = |count: usize| -> Vec<Value> {
        let block = |nth| json!({"ipBlock": {"cidr": format!("{}/32", address(nth))}});
        (0..count).map(block).collect()
    };
    let around: Vec<Value> = (0..4000)
        .map(|nth| json!({"ipBlock": {"cidr": "0.0.0.0/0", "except": [format!("{}/32", address(nth))]}}))
        .collect();
    let numbers: Vec<Value> = (1..=4000).map(|nth| json!({"port": 2 * nth})).collect();
    let rules = [
        ("product", json!([{"from": blocks(6000), "ports": numbers}])),
        ("around", json!([{"from": around}])),
    ];
    for (name, ingress) in rules {
        cluster
            .api
            .apply(&json!({
                "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                "metadata": {"namespace": "other", "name": name},
                "spec": {"podSelector": {}, "ingress": ingress},
            }))
            .unwrap();
    }
    // The pods that they select are isolated, and no others.
    cluster.becomes("shop/a", "other/c", &Silent);
    cluster.expect("shop/b", "shop/a", &Reached);
    cluster.api.apply(&policy(&json!([]))).unwrap();
    cluster.becomes("shop/b", "shop/a", &Silent);
    let from_b = json!([{"from": [{"podSelector": {"matchLabels": {"app": "b"}}}]}]);
    cluster.api.apply(&policy(&from_b)).unwrap();
    cluster.becomes("shop/b", "shop/a", &Reached);
    cluster.expect("other/c", "shop/a", &Silent);
    cluster.api.apply(&policy(&json!([]))).unwrap();
    cluster.becomes("shop/b", "shop/a", &Silent);
    let log = agent.log();
    for (object, code) in [
        ("Service other/large", "service-over-budget"),
        ("Service other/again", "service-over-budget"),
        ("NetworkPolicy other/product", "policy-over-budget"),
        ("NetworkPolicy other/around", "policy-over-budget"),
    ] {
        let lines = log.lines().filter(|line| line.contains(object));
        let lines: Vec<&str> = lines.collect();
        assert!(lines.len() == 1 && lines[0].contains(code), "{lines:#?}");
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.pid().unwrap())).unwrap();
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak < 200 << 10, "{peak} kB at most");
}
