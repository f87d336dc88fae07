// SPDX-License-Identifier: Apache-2.0
//! `/metrics`, `/healthz` and `/readyz`.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{RawQuery, State},
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::get,
};
use prometheus_client::registry::Registry;
use thiserror::Error;
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::{
    metrics,
    serve::{self, Limits},
    status::Status,
};
use crate::datapath::CounterReader;

/// The address to serve on is taken, or not this node's.
#[derive(Debug, Error)]
#[error("listening on {address} (--listen)")]
pub struct BindError {
    address: SocketAddr,
    #[source]
    error: io::Error,
}

/// Takes the address to serve on.
///
/// # Errors
/// It cannot be had.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(address)
        .await
        .map_err(|error| BindError { address, error })
}

/// A kubelet, a Prometheus or two and people: whoever reaches the address may try to be all of them.
const LIMITS: Limits = Limits {
    connections: 64,
    head: Duration::from_secs(5),
    whole: Duration::from_secs(10),
};

#[derive(Clone)]
struct Served {
    registry: Arc<Registry>,
    status: watch::Receiver<Arc<Status>>,
}

/// Serves until `stop`.
///
/// # Errors
/// The listener failed.
pub async fn run(
    listener: TcpListener,
    status: watch::Receiver<Arc<Status>>,
    counters: CounterReader,
    stop: CancellationToken,
) -> io::Result<()> {
    info!(address = %listener.local_addr()?, "serving metrics and health");
    let registry = Arc::new(metrics::registry(status.clone(), counters));
    let router = Router::new()
        .route("/metrics", get(serve_metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(serve_readiness))
        .with_state(Served { registry, status });
    serve::run(&listener, &router, LIMITS, &stop).await;
    Ok(())
}

/// The format that prometheus-client writes.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

async fn serve_metrics(State(served): State<Served>) -> Result<impl IntoResponse, StatusCode> {
    let text = metrics::text(&served.registry).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(([(CONTENT_TYPE, OPENMETRICS)], text))
}

async fn serve_readiness(State(served): State<Served>, RawQuery(query): RawQuery) -> (StatusCode, String) {
    let status = served.status.borrow();
    let (code, mut text) = if status.ready {
        let mut told = format!("enforcing revision {}\n", status.revision);
        for (who, why) in &status.unattached {
            told.push_str(&format!("not enforced: {who}: {why}\n"));
        }
        (StatusCode::OK, told)
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "waiting for the first complete list of objects and interfaces\n".into(),
        )
    };
    let verbose = query
        .iter()
        .flat_map(|query| query.split('&'))
        .any(|part| part.split_once('=').map_or(part, |(name, _)| name) == "verbose");
    if verbose {
        text += &conditions(&status);
    }
    (code, text)
}

/// What is not as it should be, in the form of the API server's `/readyz?verbose`. It does not make the agent unready: a node's other pods
/// would not be better off without it.
fn conditions(status: &Status) -> String {
    let overdue: Vec<_> = status.unenforced.iter().filter(|(_, pod)| pod.overdue).collect();
    let mut text = String::new();
    for (good, name) in [
        (overdue.is_empty(), "pods-enforced"),
        (!status.misnamed, "node-name-known"),
    ] {
        text += &format!(
            "[{}]{name} {}\n",
            if good { '+' } else { '-' },
            if good { "ok" } else { "failed" }
        );
    }
    for (key, pod) in overdue {
        text += &format!("pod {key} is not enforced on: {}\n", pod.why);
    }
    text
}
