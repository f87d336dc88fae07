// SPDX-License-Identifier: Apache-2.0
//! Renderings on a real API server.

use std::time::Instant;

use netpol_tests::{
    apiserver::ApiServer,
    cluster::{Cluster, DEADLINE},
    deploy::{Deployment, assert_kept},
    probe::Outcome::{Reached, Silent},
};
use serde_json::{Value, json};

use super::{
    kustomization::{PLATFORMS, of_chart},
    shared::{object, tools, tools_and_api_server},
    values::renderings,
};

/// Makes the server know PodMonitors, with the fields that Prometheus' operator documents for what
/// the chart writes. A server drops fields that a kind does not have.
fn define_pod_monitors(api: &ApiServer) {
    let text = json!({"type": "string"});
    let labels = json!({"type": "object", "additionalProperties": text});
    let endpoint = json!({"type": "object", "properties": {"port": text, "interval": text}});
    let spec = json!({"type": "object", "properties": {
        "selector": {"type": "object", "properties": {"matchLabels": labels}},
        "podMetricsEndpoints": {"type": "array", "items": endpoint},
    }});
    let schema = json!({"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}});
    let names = json!({"kind": "PodMonitor", "plural": "podmonitors", "singular": "podmonitor"});
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "podmonitors.monitoring.coreos.com"},
        "spec": {
            "group": "monitoring.coreos.com",
            "scope": "Namespaced",
            "names": names,
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": schema}],
        },
    });
    api.apply(&definition).unwrap();
    let until = Instant::now() + DEADLINE;
    let trial = json!({
        "apiVersion": "monitoring.coreos.com/v1", "kind": "PodMonitor",
        "metadata": {"namespace": "default", "name": "trial"}, "spec": {},
    });
    while let Err(error) = api.apply(&trial) {
        assert!(Instant::now() < until, "{error:#}");
    }
}

/// Applies all objects, and a pod of each template, as controllers make them. Then deletes them.
fn assert_accepted(api: &ApiServer, name: &str, objects: &[&Value]) {
    for object in objects {
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
    for object in objects {
        api.delete(object).unwrap();
    }
}

#[test]
fn each_rendering_is_accepted_whole() {
    let Some(tools) = tools_and_api_server() else {
        return;
    };
    let cluster = Cluster::new().unwrap();
    define_pod_monitors(&cluster.api);
    for (values, rendering) in renderings(&tools) {
        assert_accepted(&cluster.api, values, &rendering.objects().collect::<Vec<_>>());
    }
    for platform in PLATFORMS {
        let rendering = of_chart(&tools, platform);
        assert_accepted(&cluster.api, platform, &rendering.objects().collect::<Vec<_>>());
        let overlay = tools.kustomize(&format!("overlays/{platform}")).unwrap();
        assert_accepted(&cluster.api, platform, &overlay.objects().collect::<Vec<_>>());
    }
    let cleanup = tools.kustomize("cleanup").unwrap();
    assert_accepted(&cluster.api, "cleanup", &cleanup.objects().collect::<Vec<_>>());
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
