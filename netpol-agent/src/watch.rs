// SPDX-License-Identifier: Apache-2.0
//! Where objects come from: a Kubernetes API server, or a folder of manifests. Both feed the same
//! [`Snapshot`]s.
//!
//! Nothing is published before the first complete list of every kind is in (rule B1). An object
//! that cannot be read never takes back what it said before: its last good version stays in the
//! snapshots until it can be read again or is gone.

use std::{convert::Infallible, fmt, path::PathBuf, str::FromStr, sync::Arc};

use tokio_util::sync::CancellationToken;

use crate::{
    model::{Diagnostic, Snapshot},
    progress::Progress,
};

pub mod convert;
pub mod directory;
mod kinds;
mod kube;
mod object;
mod publish;
pub mod rollout;
mod shared;
pub mod wire;

pub use publish::Outlet;

/// Where objects come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A Kubernetes API server.
    Kube {
        /// The kubeconfig to use; without one, `~/.kube/config`, then the service account of the
        /// pod.
        kubeconfig: Option<PathBuf>,
    },
    /// A folder of manifests: see [`directory`].
    Directory(PathBuf),
}

impl FromStr for Source {
    type Err = Infallible;

    /// `kube` is the API server, anything else is the path of a folder (`./kube` for a folder of
    /// that name).
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text {
            "kube" => Self::Kube { kubeconfig: None },
            path => Self::Directory(PathBuf::from(path)),
        })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kube { .. } => f.write_str("kube"),
            Self::Directory(path) => path.display().fmt(f),
        }
    }
}

/// What makes watching a source senseless. Everything else is retried, or is a [`Diagnostic`] of
/// the snapshot.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The folder cannot be listed at start.
    #[error("cannot read the manifest folder {}: {error}; create it, or give another one with --source", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The folder cannot be watched for changes.
    #[error("cannot watch the manifest folder {}: {error}", path.display())]
    Notify {
        /// The folder.
        path: PathBuf,
        /// Why.
        error: notify::Error,
    },
    /// Objects of the folder cannot be read at start, when there is no earlier version of them to
    /// go on with.
    #[error(
        "the manifest folder {} holds what cannot be read, and starting without it could allow what it denies; \
         what is already enforced stays. Mend or move away:{}", path.display(), listed(diagnostics)
    )]
    Unreadable {
        /// The folder.
        path: PathBuf,
        /// What is wrong, sorted. Never empty.
        diagnostics: Vec<Diagnostic>,
    },
    /// The watch of a kind ended or panicked. It never should.
    #[error("the watch of a kind of object ended")]
    Ended(#[source] Option<tokio::task::JoinError>),
    /// There is no usable configuration for the API server.
    #[error(
        "no way to the Kubernetes API server ({from}): {reason}; run in a pod with a service account, or give --kubeconfig FILE"
    )]
    Configuration {
        /// What was tried.
        from: String,
        /// Why it cannot be used.
        reason: String,
    },
}

/// No snapshot for a command that needs one.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The source cannot be read.
    #[error(transparent)]
    Watch(#[from] WatchError),
    /// The API server did not give a complete list of every kind in time.
    #[error("no complete list of all kinds from the API server after {} s; --log warn shows why", .0.as_secs())]
    TimedOut(std::time::Duration),
}

/// One complete reading of `source`, for what needs no agent; an API server has `patience` to give
/// it.
///
/// # Errors
/// See [`LoadError`].
pub async fn load(source: Source, patience: std::time::Duration) -> Result<Arc<Snapshot>, LoadError> {
    if let Source::Directory(path) = &source {
        return Ok(Arc::new(directory::load(path)?));
    }
    let (sender, mut snapshots) = tokio::sync::watch::channel(None);
    let outlet = Outlet {
        snapshots: sender,
        drafts: tokio::sync::watch::Sender::default(),
    };
    let stop = CancellationToken::new();
    let watching = run(source, outlet, Progress::default(), stop);
    let complete = async {
        match snapshots.wait_for(Option::is_some).await {
            Ok(snapshot) => snapshot.clone(),
            Err(_) => None,
        }
    };
    let first = async {
        tokio::select! {
            ended = watching => ended.map(|()| None),
            snapshot = complete => Ok(snapshot),
        }
    };
    match tokio::time::timeout(patience, first).await {
        Ok(Ok(Some(snapshot))) => Ok(snapshot),
        Ok(Err(error)) => Err(error.into()),
        Ok(Ok(None)) | Err(_) => Err(LoadError::TimedOut(patience)),
    }
}

/// What a node's object says that its pods have addresses of (`spec.podCIDRs`), asked of the API
/// server alone; none if there is no such node.
///
/// # Errors
/// Why it cannot be asked.
pub async fn pod_cidrs(
    kubeconfig: Option<&std::path::Path>,
    node: &str,
) -> Result<Vec<ipnet::IpNet>, String> {
    kube::pod_cidrs(kubeconfig, node).await
}

fn listed(diagnostics: &[Diagnostic]) -> String {
    diagnostics.iter().map(|d| format!("\n  {d}")).collect()
}

/// Watches `source` and publishes what it holds until `stop` is cancelled. The receiver first sees
/// `None`, then snapshots whose revision starts at 1 and rises by one; changes that come together
/// share one, and a receiver that is busy sees only the last. `progress` hears of each. Drafts come
/// before the first of them, if an API server is slow.
///
/// # Errors
/// See [`WatchError`]; a source that worked once is never given up.
pub async fn run(
    source: Source,
    outlet: Outlet,
    progress: Progress,
    stop: CancellationToken,
) -> Result<(), WatchError> {
    let publisher = publish::Publisher::new(outlet, progress);
    match source {
        Source::Kube { kubeconfig } => kube::run(kubeconfig.as_deref(), publisher, stop).await,
        Source::Directory(path) => directory::run(&path, publisher, stop).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_kube_or_a_path() {
        assert_eq!("kube".parse(), Ok(Source::Kube { kubeconfig: None }));
        assert_eq!("./kube".parse(), Ok(Source::Directory("./kube".into())));
        assert_eq!("/etc/netpol".parse(), Ok(Source::Directory("/etc/netpol".into())));
    }
}
