// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask manifests`: the manifests that are made from the chart.
//!
//! The chart is the source. Its default rendering is the base of the kustomization, and the overlay
//! for kubeadm is `deploy/netpol.yaml`. Suite `chart` holds both against it.

use std::process::Command;

use anyhow::{Context as _, Result};

use crate::{
    kube_tools::{self, KubeTools},
    workspace::{Workspace, output, replace},
};

/// The chart.
const CHART: &str = "deploy/helm/netpol";
/// Its default rendering.
const BASE: &str = "deploy/kustomize/base/netpol.yaml";
/// The overlay that is published as one file.
const OVERLAY: &str = "deploy/kustomize/overlays/kubeadm";
/// That file.
const MANIFEST: &str = "deploy/netpol.yaml";

const BASE_HEADER: &str = "\
# SPDX-License-Identifier: Apache-2.0
#
# Made by `cargo xtask manifests` from deploy/helm/netpol: change the chart.
";

const HEADER: &str = "\
# SPDX-License-Identifier: Apache-2.0
#
# netpol on every node: kubectl apply -f deploy/netpol.yaml
#
# Made by `cargo xtask manifests` from deploy/kustomize/overlays/kubeadm. Why a line is there, the
# templates in deploy/helm/netpol say.
#
# The image is what `cargo xtask image` writes. Bring it to the nodes (ctr --namespace k8s.io image
# import FILE), or push it to a registry and change `image` below.
#
# To stop enforcing: delete the DaemonSet, then run `netpol cleanup` on each node. Deleting alone
# changes no verdict. docs/install.md has both, and other ways to install.
#
# It lives in kube-system, as node agents do: the priority class system-node-critical belongs there,
# and clusters that hold other namespaces to a Pod Security level leave that one alone.
---
";

/// Writes them.
///
/// # Errors
/// If helm or kubectl cannot be had, or refuse the chart or the kustomization.
pub fn run(workspace: &Workspace) -> Result<()> {
    let KubeTools { helm, kubectl } = kube_tools::prepare(workspace)?;
    let mut template = Command::new(helm);
    template
        .args([
            "template",
            "netpol",
            CHART,
            "--namespace=kube-system",
            "--no-hooks",
        ])
        .current_dir(&workspace.root);
    let base = output(&mut template).context("rendering the chart")?;
    write(workspace, BASE, BASE_HEADER, &tidy(&base))?;
    let mut kustomize = Command::new(kubectl);
    kustomize
        .args(["kustomize", OVERLAY])
        .current_dir(&workspace.root);
    let manifest = output(&mut kustomize).context("building the kustomization")?;
    write(workspace, MANIFEST, HEADER, &manifest)
}

fn write(workspace: &Workspace, name: &str, header: &str, text: &str) -> Result<()> {
    replace(&workspace.root.join(name), &format!("{header}{text}"))?;
    println!("manifests: wrote {name}");
    Ok(())
}

/// Leaves out empty lines, and the comments that helm adds and the templates' licence.
fn tidy(rendering: &str) -> String {
    let is_kept = |line: &&str| {
        let line = line.trim();
        !line.is_empty() && !line.starts_with("# Source: ") && !line.starts_with("# SPDX-")
    };
    rendering
        .lines()
        .filter(is_kept)
        .flat_map(|line| [line, "\n"])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::tidy;

    #[test]
    fn what_helm_adds_is_left_out() {
        let rendering = "---\n# Source: a/b.yaml\n# SPDX-License-Identifier: x\n# why\na: 1\n\n---\nb: 2\n";
        assert_eq!(tidy(rendering), "---\n# why\na: 1\n---\nb: 2\n");
    }
}
