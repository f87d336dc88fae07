// SPDX-License-Identifier: Apache-2.0
//! `values.schema.json` and `values.yaml`: Helm refuses what is not there, and says where.

use std::collections::BTreeSet;

use netpol_tests::chart::{chart, file, output};
use serde_json::Value;

use super::{shared::tools, values::CASES};

/// Wrong values, and what Helm's message says of them.
const REFUSED: &[(&str, &str)] = &[
    (
        "startupmode: strict",
        "additional properties 'startupmode' not allowed",
    ),
    (
        "image: {tga: '1'}",
        "at '/image': additional properties 'tga' not allowed",
    ),
    (
        "image: {tag: 1}",
        "at '/image/tag': got number, want null or string",
    ),
    (
        "image: {digest: abc}",
        "at '/image/digest': 'abc' does not match pattern",
    ),
    (
        "imagePullSecrets: [registry]",
        "at '/imagePullSecrets/0': got string, want object",
    ),
    (
        "apiServer: {host: 192.0.2.1}",
        "at '/apiServer': missing property 'port'",
    ),
    (
        "apiServer: {port: 6443}",
        "at '/apiServer/port': got number, want null",
    ),
    ("listen: {address: localhost}", "at '/listen/address'"),
    ("listen: {port: 65536}", "at '/listen/port': maximum"),
    ("log: {format: xml}", "at '/log/format': value must be one of"),
    ("startupMode: closed", "at '/startupMode': value must be one of"),
    (
        "agent: {podCIDRs: 10.0.0.0/8}",
        "at '/agent/podCIDRs': got string, want array",
    ),
    ("agent: {podCIDRs: [10.0.0.0]}", "at '/agent/podCIDRs/0'"),
    ("agent: {pinPath: /run/pins}", "at '/agent/pinPath'"),
    ("agent: {socket: /tmp/a.sock}", "at '/agent/socket'"),
    ("agent: {flowCapacity: 1}", "at '/agent/flowCapacity': minimum"),
    (
        "agent: {flowLifetimes: {tcp: 5}}",
        "at '/agent/flowLifetimes': additional properties 'tcp' not allowed",
    ),
    (
        "agent: {eventsPerSecond: '5'}",
        "at '/agent/eventsPerSecond': got string, want null or integer",
    ),
    ("agent: {resync: 0}", "at '/agent/resync': minimum"),
    ("extraEnv: [{name: NODE_NAME, value: a}]", "at '/extraEnv/0/name'"),
    // What the chart mounts and cleans has values of its own.
    (
        "extraEnv: [{name: NETPOL_PIN_PATH, value: /a}]",
        "at '/extraEnv/0/name'",
    ),
    ("extraEnv: {A: b}", "at '/extraEnv': got object, want array"),
    (
        "bpffs: {mount: 'yes'}",
        "at '/bpffs/mount': got string, want boolean",
    ),
    (
        "resources: {request: {}}",
        "at '/resources': additional properties 'request' not allowed",
    ),
    (
        "tolerations: [{operater: Exists}]",
        "at '/tolerations/0': additional properties 'operater' not allowed",
    ),
    ("tolerations: null", "missing property 'tolerations'"),
    ("seccompProfile: {type: Off}", "at '/seccompProfile/type'"),
    (
        "updateStrategy: {maxUnavailable: 0}",
        "at '/updateStrategy/maxUnavailable'",
    ),
    (
        "podMonitor: {enabled: true}",
        "podMonitor.enabled: Prometheus cannot reach the agent",
    ),
    ("podMonitor: {interval: soon}", "at '/podMonitor/interval'"),
    ("cleanup: {timeout: 0}", "at '/cleanup/timeout': minimum"),
];

#[test]
fn wrong_values_are_refused_by_name() {
    let Some(tools) = tools() else { return };
    for (values, says) in REFUSED {
        match tools.render(values) {
            Ok(_) => panic!("{values} is accepted"),
            Err(error) => {
                let said = format!("{error:#}");
                assert!(said.contains(says), "{values}: {said}");
            }
        }
    }
}

#[test]
fn helm_lints_it() {
    let Some(tools) = tools() else { return };
    let said = output(tools.helm().args(["lint", "--strict"]).arg(chart())).unwrap();
    assert!(said.contains("0 chart(s) failed"), "{said}");
}

#[test]
fn its_versions_are_those_of_the_agent() {
    let of_chart: Value = serde_saphyr::from_str(&file("Chart.yaml").unwrap()).unwrap();
    assert_eq!(of_chart["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(of_chart["appVersion"], env!("CARGO_PKG_VERSION"));
}

/// Adds the paths of the values that the schema names.
fn of_schema(schema: &Value, path: &str, found: &mut BTreeSet<String>) {
    match schema["properties"].as_object() {
        Some(properties) => {
            assert_eq!(schema["additionalProperties"], false, "{path} takes anything");
            for (name, schema) in properties {
                of_schema(schema, &format!("{path}/{name}"), found);
            }
        }
        None => {
            found.insert(path.to_owned());
        }
    }
}

/// Returns which of `paths` are in `values`.
fn given(values: &str, paths: &BTreeSet<String>) -> BTreeSet<String> {
    let values: Value = serde_saphyr::from_str(values).unwrap();
    let is_given = |path: &&String| values.pointer(path).is_some();
    paths.iter().filter(is_given).cloned().collect()
}

/// Helm's own, and what has no default.
const WITHOUT_DEFAULT: [&str; 3] = ["/global", "/resources/limits", "/seccompProfile/localhostProfile"];

#[test]
fn every_value_has_its_default_written_and_a_case() {
    let schema: Value = serde_json::from_str(&file("values.schema.json").unwrap()).unwrap();
    let mut paths = BTreeSet::new();
    of_schema(&schema, "", &mut paths);
    let defaults = given(&file("values.yaml").unwrap(), &paths);
    let without: Vec<_> = paths
        .difference(&defaults)
        .filter(|path| !path.starts_with("/agent/flowLifetimes/"))
        .collect();
    assert_eq!(without, WITHOUT_DEFAULT);
    let tested = CASES
        .iter()
        .flat_map(|(values, _)| given(values, &paths))
        .collect();
    let untested: Vec<_> = paths.difference(&tested).collect();
    assert_eq!(untested, ["/global"]);
}
