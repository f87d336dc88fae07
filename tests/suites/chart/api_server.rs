// SPDX-License-Identifier: Apache-2.0
//! Renderings on a real API server.

use netpol_tests::{
    apiserver::ApiServer,
    chart::Rendering,
    cluster::Cluster,
    deploy::{Deployment, assert_kept},
    probe::Outcome::{Reached, Silent},
};
use serde_json::{Value, json};

use super::{
    kustomization::{PLATFORMS, of_chart},
    shared::{object, tools, tools_and_api_server},
    values::renderings,
};

/// Left out: a server knows this kind from Prometheus' operator. The one that
/// `tests/apiserver/build.sh` makes crashes when it stores any object of a kind that was defined
/// later, so the kind cannot be defined here either. [`a_pod_monitor_is_what_the_operator_reads`]
/// holds the whole object.
const NOT_APPLIED: &str = "PodMonitor";

/// Applies all objects, and a pod of each template, as controllers make them. Then deletes them.
fn assert_accepted(api: &ApiServer, name: &str, rendering: &Rendering) {
    let objects = || rendering.objects().filter(|object| object["kind"] != NOT_APPLIED);
    for object in objects() {
        let path = format!("{name}: {} ", object["kind"].as_str().unwrap());
        let stored = api
            .apply(object)
            .unwrap_or_else(|error| panic!("{path}: {error:#}"));
        assert_kept(&path, object, &stored);
        let template = &object["spec"]["template"];
        if template.is_null() {
            continue;
        }
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod", "spec": template["spec"],
            "metadata": {"namespace": "kube-system", "name": "of-template"},
        });
        pod["spec"]["nodeName"] = json!("node-a");
        let stored = api
            .apply(&pod)
            .unwrap_or_else(|error| panic!("{path}: {error:#}"));
        assert_kept(&path, &pod, &stored);
        api.delete(&pod).unwrap();
    }
    for object in objects() {
        api.delete(object).unwrap();
        if object["kind"] == "Job" {
            // It waits for a controller to let go of its pods.
            let mut without = object.clone();
            without["metadata"]["finalizers"] = Value::Null;
            api.merge(&without).unwrap();
        }
    }
}

#[test]
fn each_rendering_is_accepted_whole() {
    let Some(tools) = tools_and_api_server() else {
        return;
    };
    let cluster = Cluster::new().unwrap();
    for (values, rendering) in renderings(&tools) {
        assert_accepted(&cluster.api, values, &rendering);
    }
    for platform in PLATFORMS {
        let rendering = of_chart(&tools, platform);
        assert_accepted(&cluster.api, platform, &rendering);
        let overlay = tools.kustomize(&format!("overlays/{platform}")).unwrap();
        assert_accepted(&cluster.api, platform, &overlay);
    }
    let cleanup = tools.kustomize("cleanup").unwrap();
    assert_accepted(&cluster.api, "cleanup", &cleanup);
}

#[test]
fn a_pod_monitor_is_what_the_operator_reads() {
    let Some(tools) = tools() else { return };
    let values = "{podMonitor: {enabled: true, labels: {release: prometheus}}, listen: {address: 0.0.0.0}}";
    let rendering = tools.render(values).unwrap();
    let labels = json!({"app.kubernetes.io/name": "netpol", "release": "prometheus"});
    let pod_monitor = json!({
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": {"name": "netpol", "namespace": "kube-system", "labels": labels},
        "spec": {
            "selector": {"matchLabels": {"app.kubernetes.io/name": "netpol"}},
            "podMetricsEndpoints": [{"port": "metrics", "interval": "30s"}],
        },
    });
    assert_eq!(object(&rendering, "PodMonitor/netpol"), Some(&pod_monitor));
}

#[test]
fn each_rendering_grants_what_is_proven() {
    let Some(tools) = tools() else { return };
    // Suite `deploy` holds these against what the agent reads.
    let proven = Deployment::load().unwrap();
    for (values, rendering) in renderings(&tools) {
        for kind in ["ServiceAccount", "ClusterRole", "ClusterRoleBinding"] {
            let rendered = rendering.installed.object(kind).unwrap();
            assert_eq!(rendered, proven.object(kind).unwrap(), "{values}");
        }
        let roles: Vec<_> = rendering
            .objects()
            .filter(|object| object["kind"] == "Role")
            .collect();
        for role in &roles {
            let rules = json!([{
                "apiGroups": ["apps"],
                "resources": ["daemonsets"],
                "resourceNames": ["netpol-cleanup"],
                "verbs": ["list", "watch"],
            }]);
            assert_eq!(role["rules"], rules, "{values}");
        }
        assert_eq!(roles.is_empty(), values == "cleanup: {enabled: false}");
        let binding = object(&rendering, "RoleBinding/netpol-cleanup");
        assert!(binding.is_none_or(|binding| binding["roleRef"]["kind"] == "Role"));
    }
}

#[test]
fn an_agent_with_many_values_enforces() {
    let Some(tools) = tools_and_api_server() else {
        return;
    };
    // Not pinPath, socket and log.format, which the harness gives.
    let values = "
        {apiServer: {host: 127.0.0.1, port: 6443}, log: {filter: debug}, startupMode: strict,
         extraEnv: [{name: RUST_BACKTRACE, value: '1'}],
         agent: {podCIDRs: [198.18.0.0/16], attach: clsact, cniResults: /run/none, flowCapacity: 32768,
                 flowLifetimes: {icmp: 5}, eventsPerSecond: 0, resync: 5, programLog: info}}";
    let rendering = tools.render(values).unwrap();
    let cluster = Cluster::with_pods().unwrap();
    let agent = cluster.enforce(&rendering.installed).unwrap();
    cluster.expect("shop/b", "shop/a", &Reached);
    let revision = agent.revision();
    let policy = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": "shop", "name": "a"},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"]},
    });
    cluster.api.apply(&policy).unwrap();
    agent.wait_for_revision_after(revision).unwrap();
    cluster.expect("shop/b", "shop/a", &Silent);
}
