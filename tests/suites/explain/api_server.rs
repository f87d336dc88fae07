// SPDX-License-Identifier: Apache-2.0
//! Tests a cluster that is listed from its API server.

use std::process::Command;

use netpol_tests::{
    agent::inside,
    cluster::Cluster,
    deploy::Deployment,
    privilege::{binary, can_use_api_server},
};
use serde_json::{Value, json};

use crate::shared::{self, stderr};

#[test]
fn a_cluster_is_listed_once_and_judged() {
    if !can_use_api_server("explain") {
        return;
    }
    let mut cluster = Cluster::new().unwrap();
    cluster.namespace("shop", &json!({"team": "shop"})).unwrap();
    for name in ["shop/a", "shop/b"] {
        cluster.add_pod(name, &json!({"app": &name[5..]})).unwrap();
    }
    let deny = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"namespace": "shop", "name": "deny"},
        "spec": {"podSelector": {"matchLabels": {"app": "a"}}},
    });
    cluster.api.apply(&deny).unwrap();
    for object in &Deployment::load().unwrap().objects {
        cluster.api.apply(object).unwrap();
    }
    let token = cluster.api.token("kube-system", "netpol").unwrap();
    let file = cluster.api.kubeconfig("explain", &token).unwrap();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(binary().unwrap());
        command.args(arguments).arg("--kubeconfig").arg(&file);
        inside(&mut command, cluster.node.netns()).output().unwrap()
    };
    let explain = ["explain", "--source", "kube", "-o", "json"];
    let output = run(&[&explain[..], &["shop/b", "shop/a", "80/TCP"]].concat());
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let answer = shared::json(&output);
    assert_eq!(
        answer["verdicts"][0]["ingress"]["isolating"][0]["policy"],
        "shop/deny"
    );
    let output = run(&[&explain[..], &["shop/a", "shop/b", "80/TCP"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let pairs = shared::json(&run(&["matrix", "--source", "kube", "-o", "json"]));
    let allowed = |pair: &Value| pair["allowed"].as_bool().unwrap();
    let of = |to: &str| {
        pairs
            .as_array()
            .unwrap()
            .iter()
            .filter(|pair| pair["to"] == *to)
            .map(allowed)
            .collect::<Vec<_>>()
    };
    assert_eq!((of("shop/a"), of("shop/b")), (vec![false; 2], vec![true; 2]));
}
