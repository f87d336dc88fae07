// SPDX-License-Identifier: Apache-2.0
//! Each value of the chart, and what it makes of a rendering.

use netpol_tests::chart::{Rendering, Tools};
use serde_json::{Value, json};

use super::shared::{arguments, object, pod, tools};

/// The DaemonSet of the agents.
pub const AGENT: &str = "DaemonSet/netpol";
/// The DaemonSet that cleans nodes.
pub const CLEANUP: &str = "DaemonSet/netpol-cleanup";
/// The Job that waits for it.
pub const WAIT: &str = "Job/netpol-cleanup";

/// Something that a rendering has.
#[derive(Debug, Clone, Copy)]
pub enum Has {
    /// The agent has this argument.
    Flag(&'static str),
    /// This object (`Kind/name`) has at this place, below the spec of its pod, this JSON.
    Pod(&'static str, &'static str, &'static str),
    /// The same, in the whole object.
    Object(&'static str, &'static str, &'static str),
    /// There is no such object.
    No(&'static str),
}

use Has::{Flag, No, Object, Pod};

/// Values as YAML, and what comes of them. Together they set each value.
pub const CASES: &[(&str, &[Has])] = &[
    (
        "image: {repository: registry.example/netpol, tag: '1.2', pullPolicy: Always}",
        &[
            Pod(AGENT, "/containers/0/image", "\"registry.example/netpol:1.2\""),
            Pod(AGENT, "/containers/0/imagePullPolicy", "\"Always\""),
            Pod(
                CLEANUP,
                "/initContainers/0/image",
                "\"registry.example/netpol:1.2\"",
            ),
            Pod(WAIT, "/containers/0/imagePullPolicy", "\"Always\""),
        ],
    ),
    (
        "image: {digest: 'sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef'}",
        &[Pod(
            AGENT,
            "/containers/0/image",
            "\"netpol@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\"",
        )],
    ),
    (
        "imagePullSecrets: [{name: registry}]",
        &[
            Pod(AGENT, "/imagePullSecrets", "[{\"name\":\"registry\"}]"),
            Pod(CLEANUP, "/imagePullSecrets", "[{\"name\":\"registry\"}]"),
            Pod(WAIT, "/imagePullSecrets", "[{\"name\":\"registry\"}]"),
        ],
    ),
    (
        "apiServer: {host: 192.0.2.1, port: 6443}",
        &[
            Pod(AGENT, "/containers/0/env/1/name", "\"KUBERNETES_SERVICE_HOST\""),
            Pod(AGENT, "/containers/0/env/1/value", "\"192.0.2.1\""),
            Pod(AGENT, "/containers/0/env/2/name", "\"KUBERNETES_SERVICE_PORT\""),
            Pod(AGENT, "/containers/0/env/2/value", "\"6443\""),
            Pod(WAIT, "/containers/0/env/0/value", "\"192.0.2.1\""),
        ],
    ),
    (
        "listen: {enabled: false}",
        &[
            Flag("--listen=none"),
            Pod(AGENT, "/containers/0/startupProbe", "null"),
            Pod(AGENT, "/containers/0/livenessProbe", "null"),
            Pod(AGENT, "/containers/0/readinessProbe", "null"),
        ],
    ),
    (
        "listen: {address: '::', port: 9700}",
        &[
            Flag("--listen=[::]:9700"),
            Pod(AGENT, "/containers/0/readinessProbe/httpGet/host", "\"::1\""),
            Pod(AGENT, "/containers/0/livenessProbe/httpGet/port", "9700"),
            Pod(AGENT, "/containers/0/startupProbe/httpGet/port", "9700"),
        ],
    ),
    (
        "log: {format: json, filter: 'info,netpol_agent::sync=debug'}",
        &[
            Flag("--log-format=json"),
            Flag("--log=info,netpol_agent::sync=debug"),
        ],
    ),
    ("startupMode: strict", &[Flag("--startup-mode=strict")]),
    (
        "agent: {podCIDRs: [10.244.0.0/16, 'fd00:10::/48']}",
        &[Flag("--pod-cidr=10.244.0.0/16"), Flag("--pod-cidr=fd00:10::/48")],
    ),
    ("agent: {attach: clsact}", &[Flag("--attach=clsact")]),
    (
        "agent: {pinPath: /sys/fs/bpf/other}",
        &[
            Flag("--pin-path=/sys/fs/bpf/other"),
            Pod(
                CLEANUP,
                "/initContainers/0/args",
                "[\"cleanup\",\"--pin-path=/sys/fs/bpf/other\"]",
            ),
            Pod(
                CLEANUP,
                "/containers/0/args",
                "[\"cleanup\",\"--stay\",\"--pin-path=/sys/fs/bpf/other\"]",
            ),
        ],
    ),
    (
        "agent: {cniResults: /run/cni/results}",
        &[
            Flag("--cni-results=/run/cni/results"),
            Pod(AGENT, "/volumes/1/hostPath/path", "\"/run/cni/results\""),
            Pod(
                AGENT,
                "/containers/0/volumeMounts/1/mountPath",
                "\"/run/cni/results\"",
            ),
        ],
    ),
    ("agent: {socket: none}", &[Flag("--socket=none")]),
    (
        "agent: {flowCapacity: 1048576}",
        &[Flag("--flow-capacity=1048576")],
    ),
    (
        "agent: {flowLifetimes: {tcp-opening: 1, tcp-established: 8640000, tcp-closing: 3, tcp-closed: 4, \
         udp-opening: 5, udp-established: 6, sctp-opening: 7, sctp-established: 8, icmp: 9, other: 10}}",
        &[
            Flag("--flow-lifetime=tcp-established=8640000"),
            Flag("--flow-lifetime=other=10"),
        ],
    ),
    ("agent: {eventsPerSecond: 0}", &[Flag("--events-per-second=0")]),
    ("agent: {resync: 5}", &[Flag("--resync=5")]),
    ("agent: {programLog: debug}", &[Flag("--program-log=debug")]),
    (
        "extraEnv: [{name: RUST_BACKTRACE, value: '1'}]",
        &[Pod(
            AGENT,
            "/containers/0/env/1",
            "{\"name\":\"RUST_BACKTRACE\",\"value\":\"1\"}",
        )],
    ),
    (
        "bpffs: {mount: true}",
        &[Pod(
            AGENT,
            "/initContainers/0/args",
            "[\"mount-bpffs\",\"--mount-namespace=/node/proc/1/ns/mnt\"]",
        )],
    ),
    (
        "resources: {requests: {cpu: 100m}, limits: {memory: 1Gi}}",
        &[Pod(
            AGENT,
            "/containers/0/resources",
            "{\"limits\":{\"memory\":\"1Gi\"},\"requests\":{\"cpu\":\"100m\",\"memory\":\"64Mi\"}}",
        )],
    ),
    // What was given programs once is cleaned, whatever its taints and labels are now.
    (
        "tolerations: []",
        &[
            Pod(AGENT, "/tolerations", "null"),
            Pod(CLEANUP, "/tolerations", "[{\"operator\":\"Exists\"}]"),
            Pod(WAIT, "/tolerations", "[{\"operator\":\"Exists\"}]"),
        ],
    ),
    (
        "nodeSelector: {pool: a}",
        &[
            Pod(
                AGENT,
                "/nodeSelector",
                "{\"kubernetes.io/os\":\"linux\",\"pool\":\"a\"}",
            ),
            Pod(CLEANUP, "/nodeSelector", "{\"kubernetes.io/os\":\"linux\"}"),
            Pod(WAIT, "/nodeSelector", "{\"kubernetes.io/os\":\"linux\"}"),
        ],
    ),
    (
        "priorityClassName: null",
        &[Pod(AGENT, "/priorityClassName", "null")],
    ),
    (
        "seccompProfile: {type: Localhost, localhostProfile: netpol.json}",
        &[Pod(
            AGENT,
            "/securityContext/seccompProfile",
            "{\"localhostProfile\":\"netpol.json\",\"type\":\"Localhost\"}",
        )],
    ),
    (
        "updateStrategy: {maxUnavailable: 25%}",
        &[Object(
            AGENT,
            "/spec/updateStrategy/rollingUpdate/maxUnavailable",
            "\"25%\"",
        )],
    ),
    (
        "podAnnotations: {example.com/owner: network}",
        &[Object(
            AGENT,
            "/spec/template/metadata/annotations",
            "{\"example.com/owner\":\"network\"}",
        )],
    ),
    (
        "{podMonitor: {enabled: true, labels: {release: prometheus}, interval: 15s}, listen: {address: 0.0.0.0}}",
        &[
            Flag("--listen=0.0.0.0:9600"),
            Object("PodMonitor/netpol", "/metadata/labels/release", "\"prometheus\""),
            Object(
                "PodMonitor/netpol",
                "/spec/podMetricsEndpoints",
                "[{\"interval\":\"15s\",\"port\":\"metrics\"}]",
            ),
            Pod(
                AGENT,
                "/containers/0/ports",
                "[{\"containerPort\":9600,\"name\":\"metrics\"}]",
            ),
            Pod(
                AGENT,
                "/containers/0/readinessProbe/httpGet/host",
                "\"127.0.0.1\"",
            ),
        ],
    ),
    (
        "cleanup: {timeout: 60}",
        &[Pod(
            WAIT,
            "/containers/0/args",
            "[\"rollout\",\"kube-system/netpol-cleanup\",\"--timeout=60\"]",
        )],
    ),
    (
        "cleanup: {enabled: false}",
        &[
            No(CLEANUP),
            No(WAIT),
            No("Role/netpol-cleanup"),
            No("ServiceAccount/netpol-cleanup"),
        ],
    ),
];

/// Renders the chart for each of [`CASES`], and without values.
pub fn renderings(tools: &Tools) -> Vec<(&'static str, Rendering)> {
    let cases = CASES.iter().map(|(values, _)| *values);
    std::iter::once("{}")
        .chain(cases)
        .map(|values| {
            let rendering = tools.render(values);
            (
                values,
                rendering.unwrap_or_else(|error| panic!("{values}: {error:#}")),
            )
        })
        .collect()
}

fn assert_has(values: &str, rendering: &Rendering, has: Has) {
    let at = |value: &Value, pointer: &str| value.pointer(pointer).cloned().unwrap_or_default();
    let (found, json) = match has {
        Flag(flag) => {
            let arguments = arguments(&pod(rendering, AGENT)["containers"][0]);
            assert!(
                arguments.iter().any(|argument| argument == flag),
                "{values}: {arguments:?}"
            );
            return;
        }
        No(name) => return assert!(object(rendering, name).is_none(), "{values}: {name}"),
        Pod(name, pointer, json) => (at(pod(rendering, name), pointer), json),
        Object(name, pointer, json) => (at(object(rendering, name).unwrap(), pointer), json),
    };
    let expected: Value = serde_json::from_str(json).unwrap();
    assert_eq!(found, expected, "{values}: {has:?}");
}

#[test]
fn each_value_does_what_it_says() {
    let Some(tools) = tools() else { return };
    for ((values, has), (_, rendering)) in CASES.iter().zip(&renderings(&tools)[1..]) {
        for has in *has {
            assert_has(values, rendering, *has);
        }
    }
}

#[test]
fn the_kinds_of_the_default_rendering() {
    let Some(tools) = tools() else { return };
    let rendering = tools.render("{}").unwrap();
    let names = |objects: &[Value]| -> Vec<String> {
        let name = |object: &Value| json!([object["kind"], object["metadata"]["name"]]).to_string();
        let mut names: Vec<_> = objects.iter().map(name).collect();
        names.sort();
        names
    };
    assert_eq!(
        names(&rendering.installed.objects),
        [
            "[\"ClusterRole\",\"netpol\"]",
            "[\"ClusterRoleBinding\",\"netpol\"]",
            "[\"DaemonSet\",\"netpol\"]",
            "[\"ServiceAccount\",\"netpol\"]"
        ]
    );
    assert_eq!(
        names(&rendering.hooks.objects),
        [
            "[\"DaemonSet\",\"netpol-cleanup\"]",
            "[\"Job\",\"netpol-cleanup\"]",
            "[\"Role\",\"netpol-cleanup\"]",
            "[\"RoleBinding\",\"netpol-cleanup\"]",
            "[\"ServiceAccount\",\"netpol-cleanup\"]"
        ]
    );
}
