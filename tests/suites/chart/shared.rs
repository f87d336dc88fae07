// SPDX-License-Identifier: Apache-2.0
//! What the tests of the chart share.

use netpol_tests::{
    chart::{Rendering, Tools},
    privilege::{can_enforce, can_use_api_server, settle},
};
use serde_json::Value;

const SUITE: &str = "chart";

/// Returns Helm and kubectl, where they are.
pub fn tools() -> Option<Tools> {
    let found = Tools::find();
    settle(SUITE, found.as_ref().err().cloned()).then(|| found.unwrap())
}

/// The same, where there is an API server, too.
pub fn tools_and_api_server() -> Option<Tools> {
    tools().filter(|_| can_use_api_server(SUITE))
}

/// The same, where an agent can enforce.
pub fn tools_and_nodes() -> Option<Tools> {
    tools().filter(|_| can_enforce(SUITE))
}

/// Returns an object of a rendering by `Kind/name`.
pub fn object<'a>(rendering: &'a Rendering, name: &str) -> Option<&'a Value> {
    let (kind, name) = name.split_once('/').unwrap();
    rendering
        .objects()
        .find(|object| object["kind"] == kind && object["metadata"]["name"] == name)
}

/// Returns the pod of an object, by `Kind/name`.
pub fn pod<'a>(rendering: &'a Rendering, name: &str) -> &'a Value {
    &object(rendering, name).unwrap()["spec"]["template"]["spec"]
}

/// Returns the arguments of a container.
pub fn arguments(container: &Value) -> Vec<String> {
    serde_json::from_value(container["args"].clone()).unwrap()
}
