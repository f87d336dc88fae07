// SPDX-License-Identifier: Apache-2.0
//! Waits for a DaemonSet, as `kubectl rollout status` does.

use std::{
    fmt,
    path::Path,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use ::kube::{Api, Client, runtime::wait::await_condition};
use k8s_openapi::api::apps::v1::DaemonSet;
use tracing::warn;

use super::{WatchError, kube};
use crate::causes::causes;

/// Pause before the API server is asked again.
const PAUSE: Duration = Duration::from_secs(1);

/// Why the wait ended without success.
#[derive(Debug, thiserror::Error)]
pub enum RolloutError {
    /// There is no usable configuration for the API server.
    #[error(transparent)]
    Configuration(#[from] WatchError),
    /// Time ran out.
    #[error("not ready on every node after {} s: {state}", .patience.as_secs())]
    TimedOut {
        /// The time.
        patience: Duration,
        /// What was known last.
        state: State,
    },
}

/// How far a DaemonSet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The API server gave no answer.
    Unknown,
    /// There is no such DaemonSet.
    Missing,
    /// Its controller has not seen its last change.
    Unseen,
    /// Its controller has counted.
    Counted {
        /// Nodes that it is for.
        desired: i32,
        /// Nodes with a ready pod of the current template.
        ready: i32,
    },
}

impl State {
    fn of(found: Option<&DaemonSet>) -> Self {
        let Some(daemon_set) = found else {
            return Self::Missing;
        };
        let Some(status) = &daemon_set.status else {
            return Self::Unseen;
        };
        // 0 until the controller comes: a status of zeros is no count.
        let observed = status.observed_generation.unwrap_or(0);
        if observed < daemon_set.metadata.generation.unwrap_or(0).max(1) {
            return Self::Unseen;
        }
        Self::Counted {
            desired: status.desired_number_scheduled,
            ready: status
                .number_ready
                .min(status.updated_number_scheduled.unwrap_or(0)),
        }
    }

    fn is_done(self) -> bool {
        matches!(self, Self::Counted { desired, ready } if ready >= desired)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("the API server did not answer"),
            Self::Missing => f.write_str("there is no such DaemonSet"),
            Self::Unseen => f.write_str("its controller has not seen it"),
            Self::Counted { desired, ready } => write!(f, "ready on {ready} of {desired} nodes"),
        }
    }
}

/// Waits until a DaemonSet is ready on every node that it is for. Returns their number. A server
/// that does not answer is asked again until `patience` ends.
///
/// # Errors
/// See [`RolloutError`].
pub async fn wait(
    kubeconfig: Option<&Path>,
    namespace: &str,
    name: &str,
    patience: Duration,
) -> Result<i32, RolloutError> {
    let daemon_sets: Api<DaemonSet> = Api::namespaced(client(kubeconfig).await?, namespace);
    let last = Mutex::new(State::Unknown);
    let see = |found: Option<&DaemonSet>| {
        let state = State::of(found);
        *last.lock().unwrap_or_else(PoisonError::into_inner) = state;
        state.is_done()
    };
    let waiting = async {
        while let Err(error) = await_condition(daemon_sets.clone(), name, see).await {
            warn!(error = %causes(&error), "the API server will be asked again");
            tokio::time::sleep(PAUSE).await;
        }
    };
    let ended = tokio::time::timeout(patience, waiting).await;
    let state = *last.lock().unwrap_or_else(PoisonError::into_inner);
    match (ended, state) {
        (Ok(()), State::Counted { desired, .. }) => Ok(desired),
        _ => Err(RolloutError::TimedOut { patience, state }),
    }
}

async fn client(kubeconfig: Option<&Path>) -> Result<Client, WatchError> {
    let config = kube::configuration(kubeconfig).await?;
    Client::try_from(config).map_err(|error| WatchError::Configuration {
        from: kube::origin(kubeconfig),
        reason: causes(&error),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn state(status: &serde_json::Value) -> State {
        let object = json!({"metadata": {"name": "cleanup", "generation": 2}, "status": status});
        State::of(Some(&serde_json::from_value(object).unwrap()))
    }

    #[test]
    fn only_ready_pods_of_the_current_template_on_every_node_are_an_end() {
        let status = |observed, desired, updated, ready| {
            json!({
                "observedGeneration": observed, "desiredNumberScheduled": desired,
                "updatedNumberScheduled": updated, "numberReady": ready,
                "currentNumberScheduled": desired, "numberMisscheduled": 0,
            })
        };
        assert!(state(&status(2, 3, 3, 3)).is_done());
        assert!(state(&status(2, 0, 0, 0)).is_done());
        for (status, says) in [
            (status(1, 3, 3, 3), "its controller has not seen it"),
            (status(0, 0, 0, 0), "its controller has not seen it"),
            (status(2, 3, 2, 3), "ready on 2 of 3 nodes"),
            (status(2, 3, 3, 2), "ready on 2 of 3 nodes"),
        ] {
            let state = state(&status);
            assert!(!state.is_done(), "{status}");
            assert_eq!(state.to_string(), says);
        }
        assert!(!State::of(None).is_done() && !State::Unknown.is_done());
    }
}
