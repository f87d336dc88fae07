// SPDX-License-Identifier: Apache-2.0
//! `/verify` of the agent's socket: holds the scratch pods of [`crate::verify`] as long as the
//! client keeps its connection open.

use std::{convert::Infallible, time::Duration};

use axum::{
    body::Body,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use futures::{StreamExt as _, stream};
use tokio::{
    sync::{Semaphore, SemaphorePermit, watch},
    time::timeout,
};
use tracing::info;

use super::{socket::Known, status::Status};
use crate::{
    explain::Standing,
    verify::{Held, Scratch},
};

/// There are two scratch pods, so there is one self-test at a time.
static TESTS: Semaphore = Semaphore::const_new(1);
/// How long the agent may take until it enforces on the scratch pods.
const PATIENCE: Duration = Duration::from_secs(20);

/// Asks the loop for the scratch pods until it is dropped: at the end of the connection, whatever
/// ended it.
struct Lease {
    wanted: watch::Sender<bool>,
    _permit: SemaphorePermit<'static>,
}

impl Lease {
    fn new(wanted: &watch::Sender<bool>, permit: SemaphorePermit<'static>) -> Self {
        info!("the self-test begins: two scratch pods are enforced on as long as it lasts");
        wanted.send_replace(true);
        Self {
            wanted: wanted.clone(),
            _permit: permit,
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        info!("the self-test is over");
        self.wanted.send_replace(false);
    }
}

/// Answers with a line once the scratch pods are enforced on, and then with nothing more.
pub(super) async fn serve(State(known): State<Known>) -> Response {
    let Ok(permit) = TESTS.try_acquire() else {
        return (StatusCode::CONFLICT, "another self-test runs").into_response();
    };
    // The last test's pods must be gone: they are not on this one's interfaces.
    let mut status = known.status.clone();
    let gone = status.wait_for(|status| !is_held(status));
    if timeout(PATIENCE, gone).await.is_err() {
        let message = "the agent is busy, and still holds the pods of the last self-test";
        return (StatusCode::SERVICE_UNAVAILABLE, message).into_response();
    }
    let lease = Lease::new(&known.scratch, permit);
    let first = async move {
        let held = enforced(known.status).await;
        let line = serde_json::to_string(&held).unwrap_or_default() + "\n";
        Ok::<_, Infallible>(line)
    };
    // The rest never comes. It holds the lease, and is dropped with the connection.
    let rest = stream::once(async move {
        std::future::pending::<()>().await;
        drop(lease);
        Ok(String::new())
    });
    Body::from_stream(stream::once(first).chain(rest)).into_response()
}

/// Whether the last turn had to do with scratch pods.
fn is_held(status: &Status) -> bool {
    let held = |scratch: &Scratch| status.held.pods.contains_key(&scratch.key());
    status.scratch_refused.is_some() || Scratch::ALL.iter().any(held)
}

/// Waits until both pods are enforced on.
async fn enforced(mut status: watch::Receiver<std::sync::Arc<Status>>) -> Held {
    let all = status.wait_for(|status| {
        status.scratch_refused.is_some()
            || Scratch::ALL
                .iter()
                .all(|scratch| fault(status, *scratch).is_none())
    });
    let late = match timeout(PATIENCE, all).await {
        Ok(Ok(status)) => {
            return Held {
                refused: status.scratch_refused.clone(),
                fault: None,
            };
        }
        Ok(Err(_)) => "the agent is ending".to_owned(),
        Err(_) => format!("not within {} s", PATIENCE.as_secs()),
    };
    let now = status.borrow();
    let faults = Scratch::ALL
        .into_iter()
        .filter_map(|scratch| fault(&now, scratch));
    Held {
        refused: None,
        fault: Some(faults.fold(late, |told, fault| format!("{told}; {fault}"))),
    }
}

/// Says why a scratch pod is not enforced on.
fn fault(status: &Status, scratch: Scratch) -> Option<String> {
    let why = match status.held.pods.get(&scratch.key()) {
        Some(Standing::Enforced) => return None,
        Some(Standing::HeldBack(why) | Standing::Open(why) | Standing::Unknown(why)) => why.as_str(),
        None => "the agent did not get to it",
    };
    Some(format!("scratch {}: {why}", scratch.name()))
}
