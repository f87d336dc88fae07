// SPDX-License-Identifier: Apache-2.0
//! What the image says of itself: the keys of the OCI image specification.

use std::collections::BTreeMap;

use crate::workspace::{Workspace, output};

/// Labels by their keys.
pub type Labels = BTreeMap<String, String>;

/// The key of the time that the image says it was made at.
pub const CREATED: &str = "org.opencontainers.image.created";

/// Returns the labels of an image of the workspace. Without git, they lack the revision and the
/// time.
pub fn of(workspace: &Workspace) -> Labels {
    let mut labels = fixed();
    let git = |arguments: &[&str]| {
        let mut git = std::process::Command::new("git");
        git.arg("-C")
            .arg(&workspace.root)
            .args(arguments)
            .env("TZ", "UTC");
        output(&mut git).map(|text| text.trim().to_owned())
    };
    let told = git(&["rev-parse", "HEAD"]).and_then(|revision| {
        let changed = git(&["status", "--porcelain", "--untracked-files=no"])?;
        // The commit's: the time of the build would make each build another one.
        let time = git(&[
            "show",
            "--no-patch",
            "--format=%cd",
            "--date=format-local:%Y-%m-%dT%H:%M:%SZ",
            "HEAD",
        ])?;
        let dirty = if changed.is_empty() { "" } else { "-dirty" };
        Ok((format!("{revision}{dirty}"), time))
    });
    match told {
        Ok((revision, time)) => {
            labels.insert("org.opencontainers.image.revision".to_owned(), revision);
            labels.insert(CREATED.to_owned(), time);
        }
        Err(error) => println!("image: no revision and no time in its labels: {error:#}"),
    }
    labels
}

/// Those that depend on the version alone.
pub fn fixed() -> Labels {
    [
        ("title", "netpol"),
        (
            "description",
            "Node agent that enforces Kubernetes NetworkPolicy with eBPF",
        ),
        ("version", env!("CARGO_PKG_VERSION")),
        ("licenses", env!("CARGO_PKG_LICENSE")),
        ("source", env!("CARGO_PKG_REPOSITORY")),
    ]
    .map(|(key, value)| (format!("org.opencontainers.image.{key}"), value.to_owned()))
    .into()
}
