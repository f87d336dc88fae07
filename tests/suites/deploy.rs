// SPDX-License-Identifier: Apache-2.0
//! `deploy/netpol.yaml` on a real API server: it is accepted whole, and grants exactly what the
//! agent needs.

use netpol_tests::{
    cluster::Cluster,
    deploy::{CAPABILITIES, Deployment, assert_kept},
    privilege::can_use_api_server,
    probe::Outcome::Reached,
};
use serde_json::{Value, json};

#[test]
fn the_manifest_is_accepted_whole_and_grants_what_is_read() {
    if !can_use_api_server("deploy") {
        return;
    }
    let (cluster, deployment) = (Cluster::with_pods().unwrap(), Deployment::load().unwrap());
    for object in &deployment.objects {
        let stored = cluster.api.apply(object).unwrap();
        assert_kept(object["kind"].as_str().unwrap(), object, &stored);
    }
    let kinds: Vec<_> = deployment
        .objects
        .iter()
        .map(|object| object["kind"].as_str().unwrap())
        .collect();
    assert_eq!(
        kinds,
        ["ServiceAccount", "ClusterRole", "ClusterRoleBinding", "DaemonSet"]
    );
    let mut granted = Vec::new();
    let list = |value: &Value| serde_json::from_value::<Vec<String>>(value.clone()).unwrap();
    for rule in deployment.object("ClusterRole").unwrap()["rules"]
        .as_array()
        .unwrap()
    {
        assert_eq!(rule["verbs"], json!(["list", "watch"]), "{rule}");
        for group in list(&rule["apiGroups"]) {
            let resources = list(&rule["resources"]);
            granted.extend(resources.iter().map(|resource| format!("{group}/{resource}")));
        }
    }
    granted.sort();
    let read = [
        "/namespaces",
        "/nodes",
        "/pods",
        "/services",
        "discovery.k8s.io/endpointslices",
        "networking.k8s.io/networkpolicies",
    ];
    assert_eq!(granted, read);

    // The pod that the DaemonSet's controller would make is accepted too.
    let mut spec = deployment.object("DaemonSet").unwrap()["spec"]["template"]["spec"].clone();
    spec["nodeName"] = json!("node-a");
    let metadata = json!({"namespace": "kube-system", "name": "netpol-x"});
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec});
    let stored = cluster.api.apply(&pod).unwrap();
    assert_eq!(stored["spec"]["priority"], 2_000_001_000, "{stored}");

    let agent = cluster.enforce(&deployment).unwrap();
    assert!(!agent.log().contains("forbids"), "{}", agent.log());
    assert!(!agent.log().contains("CAP_"), "{}", agent.log());
    assert_eq!(
        (
            cluster.health("/healthz").unwrap(),
            cluster.health("/readyz").unwrap()
        ),
        (200, 200)
    );
    cluster.expect("shop/b", "shop/a", &Reached);
}

#[test]
fn each_capability_is_needed_and_no_other() {
    if !can_use_api_server("deploy") {
        return;
    }
    let (cluster, deployment) = (Cluster::with_pods().unwrap(), Deployment::load().unwrap());
    drop(cluster.enforce(&deployment).unwrap());
    let all = deployment.launch("node-a").unwrap().capabilities.unwrap();
    let without = [
        ("BPF", "without CAP_BPF:"),
        ("PERFMON", "without CAP_PERFMON:"),
        ("NET_ADMIN", "without CAP_NET_ADMIN:"),
        ("NET_BROADCAST", "CAP_NET_BROADCAST"),
    ];
    assert_eq!(all, CAPABILITIES);
    assert_eq!(without.map(|(capability, _)| capability), CAPABILITIES);
    for (capability, says) in without {
        let less = deployment.without_capability(capability).unwrap();
        let agent = cluster.launch(&less).unwrap();
        agent.wait_for_line(0, says).unwrap();
    }
}
