// SPDX-License-Identifier: Apache-2.0
//! Pods are listed in the API server's binary encoding and followed in JSON: both say the same.

use std::time::Duration;

use netpol_agent::watch::{self, Source, directory};
use netpol_tests::{agent::DEADLINE, apiserver::etcd};
use serde_json::{Value, json};

/// More than the first page.
const PODS: usize = 1 << 10;

/// Makes a pod in which each bit of its number decides about some fields.
fn pod(number: usize) -> Value {
    let has = |bit: usize| number & (1 << bit) != 0;
    let name = format!("p-{number:04}");
    let mut pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "namespace": (["shop", "other"][number % 2]), "name": name, "uid": name,
            "annotations": {"example.org/none": "of ours"},
            "managedFields": [{"manager": "somebody", "operation": "Update", "apiVersion": "v1"}],
        },
        "spec": {
            "containers": [{
                "name": "main", "image": "example",
                "ports": [{"containerPort": 8080}, {"name": "dns", "containerPort": 53, "protocol": "UDP"}],
                "env": [{"name": "A", "value": "b"}],
            }],
            "initContainers": [{"name": "first", "image": "example", "ports": [{"name": "early", "containerPort": 1}]}],
            "volumes": [{"name": "data", "emptyDir": {}}],
        },
        "status": {
            "phase": (["Pending", "Running", "Succeeded", "Failed", "Unknown"][number % 5]),
            "hostIP": "192.0.2.1",
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    });
    let address = format!("10.244.{}.{}", number / 250, number % 250 + 1);
    if has(1) {
        pod["spec"]["hostNetwork"] = json!(true);
    }
    if has(2) {
        pod["spec"]["nodeName"] = json!(format!("node-{}", number % 7));
    }
    if has(3) {
        pod["metadata"]["deletionTimestamp"] = json!("2026-11-30T01:02:03Z");
    }
    if has(4) {
        pod["metadata"]["labels"] = json!({"app": name, "empty": "", "example.org/tier": "web"});
    }
    if has(5) {
        let annotations = &mut pod["metadata"]["annotations"];
        annotations["kubernetes.io/config.mirror"] = json!("a");
        annotations["kubernetes.io/config.hash"] = json!("b");
    }
    if has(6) {
        pod["status"]["podIP"] = json!(address);
    }
    if has(7) {
        pod["status"]["podIPs"] = json!([{"ip": address}, {"ip": format!("fd00:10:244::{number:x}")}]);
    }
    if has(8) {
        let port = json!({"name": "web", "containerPort": 80, "hostPort": 8000, "hostIP": "192.0.2.1"});
        add(&mut pod["spec"]["containers"][0]["ports"], port);
    }
    if has(9) {
        let another = json!({"name": "more", "image": "example", "ports": [{"containerPort": 132, "protocol": "SCTP", "hostPort": 132}]});
        add(&mut pod["spec"]["containers"], another);
    }
    pod
}

fn add(list: &mut Value, item: Value) {
    list.as_array_mut().unwrap().push(item);
}

#[test]
fn p6_t4_pods_that_are_listed_in_binary_are_those_of_json() {
    let Some((cluster, deployment)) = super::cluster() else {
        return;
    };
    for object in &deployment.objects {
        cluster.api.apply(object).unwrap();
    }
    let pods = (0..PODS).map(|number| {
        let pod = pod(number);
        let (namespace, name) = (&pod["metadata"]["namespace"], &pod["metadata"]["name"]);
        let key = format!(
            "/registry/pods/{}/{}",
            namespace.as_str().unwrap(),
            name.as_str().unwrap()
        );
        (key, pod)
    });
    etcd::put(&cluster.api, pods).unwrap();
    let administrator = cluster.api.administrator().unwrap();
    let text = cluster.api.run(async move {
        loop {
            // The server's cache follows etcd.
            let request = kube::api::Request::new("/api/v1/pods").list(&Default::default())?;
            let text = administrator.request_text(request).await?;
            if text.contains(&format!("p-{:04}", PODS - 1)) {
                let request = kube::api::Request::new("/api/v1/pods").list(&Default::default())?;
                let mut request = request.map(kube::client::Body::from);
                // As the agent asks.
                let accept = "application/vnd.kubernetes.protobuf, application/json;q=0.9";
                request.headers_mut().insert("accept", accept.parse()?);
                let answer = administrator.send(request).await?;
                assert_eq!(
                    answer.headers()["content-type"],
                    "application/vnd.kubernetes.protobuf"
                );
                return Ok(text);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let in_json = directory::decode("pods.json", text.unwrap().as_bytes()).unwrap();
    let token = cluster.api.token("kube-system", "netpol").unwrap();
    let kubeconfig = cluster.api.kubeconfig("agent", &token).unwrap();
    let listed = cluster.api.run(async move {
        let source = Source::Kube {
            kubeconfig: Some(kubeconfig),
        };
        Ok(watch::load(source, DEADLINE).await?)
    });
    let listed = listed.unwrap();
    assert!(in_json.pods.len() >= PODS, "{}", in_json.pods.len());
    for (key, pod) in &in_json.pods {
        assert_eq!(listed.pods.get(key), Some(pod), "{key}");
    }
    assert_eq!(listed.pods.len(), in_json.pods.len());
}
