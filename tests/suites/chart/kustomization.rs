// SPDX-License-Identifier: Apache-2.0
//! The kustomization and `deploy/netpol.yaml` are what the chart renders.

use std::fs;

use netpol_tests::{
    chart::{Rendering, Tools, deploy, file},
    deploy::Deployment,
};
use serde_json::Value;

use super::{
    shared::{object, tools},
    values::CLEANUP,
};

/// The overlays, which are the files of values in the chart's folder `platforms`.
pub const PLATFORMS: [&str; 3] = ["kind", "kubeadm", "k3s"];

/// Returns the chart's rendering for a platform.
pub fn of_chart(tools: &Tools, platform: &str) -> Rendering {
    tools
        .render(&file(&format!("platforms/{platform}.yaml")).unwrap())
        .unwrap()
}

/// Returns the objects in an order of their own, and in each the lists whose items have names.
fn sorted(objects: &[Value]) -> Vec<Value> {
    fn sort(value: &mut Value) {
        match value {
            Value::Object(fields) => fields.values_mut().for_each(sort),
            Value::Array(items) => {
                items.iter_mut().for_each(sort);
                if items.iter().all(|item| item["name"].is_string()) {
                    items.sort_by_key(|item| item["name"].to_string());
                }
            }
            _ => {}
        }
    }
    let mut objects = objects.to_vec();
    objects.iter_mut().for_each(sort);
    objects.sort_by_key(|object| object["kind"].to_string());
    objects
}

#[test]
fn an_overlay_is_what_the_chart_renders_for_its_platform() {
    let Some(tools) = tools() else { return };
    for platform in PLATFORMS {
        let overlay = tools.kustomize(&format!("overlays/{platform}")).unwrap();
        assert!(overlay.hooks.objects.is_empty(), "{platform}");
        assert_eq!(
            sorted(&overlay.installed.objects),
            sorted(&of_chart(&tools, platform).installed.objects),
            "{platform}: if the chart changed, `cargo xtask manifests` makes the base anew"
        );
    }
}

#[test]
fn the_manifest_is_the_overlay_for_kubeadm() {
    let Some(tools) = tools() else { return };
    let overlay = tools.kustomize("overlays/kubeadm").unwrap();
    assert_eq!(
        Deployment::load().unwrap().objects,
        overlay.installed.objects,
        "`cargo xtask manifests` makes deploy/netpol.yaml"
    );
}

#[test]
fn the_cleanup_is_the_hooks() {
    let Some(tools) = tools() else { return };
    let cleanup = tools.kustomize("cleanup").unwrap();
    let rendering = tools.render("{}").unwrap();
    let mut hook = object(&rendering, CLEANUP).unwrap().clone();
    hook["metadata"].as_object_mut().unwrap().remove("annotations");
    let pod = hook["spec"]["template"]["spec"].as_object_mut().unwrap();
    assert_eq!(pod.remove("serviceAccountName"), Some("netpol-cleanup".into()));
    assert_eq!(sorted(&cleanup.installed.objects), sorted(&[hook]));
}

/// As docs/install.md shows it, for an image from a registry.
#[test]
fn the_cleanup_takes_another_image() {
    let Some(tools) = tools() else { return };
    let folder = tempfile::tempdir().unwrap();
    let up = "../".repeat(folder.path().components().count() - 1);
    let cleanup = deploy().join("kustomize/cleanup");
    let cleanup = cleanup.strip_prefix("/").unwrap().display();
    let text = format!(
        "resources: [{up}{cleanup}]\n\
         images: [{{name: netpol, newName: registry.example/netpol, newTag: \"1.2.3\"}}]\n"
    );
    fs::write(folder.path().join("kustomization.yaml"), text).unwrap();
    let rendering = tools.kustomize(folder.path().to_str().unwrap()).unwrap();
    let pod = &rendering.installed.object("DaemonSet").unwrap()["spec"]["template"]["spec"];
    for container in ["/initContainers/0/image", "/containers/0/image"] {
        assert_eq!(pod.pointer(container).unwrap(), "registry.example/netpol:1.2.3");
    }
}
