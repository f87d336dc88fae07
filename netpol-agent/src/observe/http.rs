// SPDX-License-Identifier: Apache-2.0
//! The HTTP endpoints `/metrics`, `/livez`, `/readyz` and `/healthz`.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{RawQuery, State},
    http::{StatusCode, header::CONTENT_TYPE},
    response::IntoResponse,
    routing::get,
};
use prometheus_client::registry::Registry;
use thiserror::Error;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::{
    metrics,
    serve::{self, Limits},
    status::Status,
};
use crate::{datapath::CounterReader, progress::Progress};

mod readiness;

/// The address to serve on is taken, or is not an address of this node.
#[derive(Debug, Error)]
#[error("listening on {address} (--listen)")]
pub struct BindError {
    address: SocketAddr,
    #[source]
    error: io::Error,
}

/// Binds the address to serve on.
///
/// # Errors
/// The address cannot be bound.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    let listener = tokio::net::TcpListener::bind(address).await;
    // Converted because another runtime serves it.
    listener
        .and_then(tokio::net::TcpListener::into_std)
        .map_err(|error| BindError { address, error })
}

/// Expected clients are a kubelet, a Prometheus or two, and people. Anyone who reaches the address
/// can connect, so all of them are limited.
const LIMITS: Limits = Limits {
    connections: 64,
    head: Duration::from_secs(5),
    whole: Duration::from_secs(10),
};

#[derive(Clone)]
struct Served {
    registry: Arc<Registry>,
    status: watch::Receiver<Arc<Status>>,
    progress: Progress,
}

/// Serves until `stop`.
///
/// # Errors
/// The listener failed.
pub async fn run(
    listener: TcpListener,
    status: watch::Receiver<Arc<Status>>,
    progress: Progress,
    counters: CounterReader,
    stop: CancellationToken,
) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    info!(address = %listener.local_addr()?, "serving metrics and health");
    let registry = Arc::new(metrics::registry(status.clone(), progress.clone(), counters));
    let router = Router::new()
        .route("/metrics", get(serve_metrics))
        .route("/livez", get(serve_liveness))
        // An older name.
        .route("/healthz", get(serve_liveness))
        .route("/readyz", get(serve_readiness))
        .with_state(Served {
            registry,
            status,
            progress,
        });
    serve::run(&listener, &router, LIMITS, &stop).await;
    Ok(())
}

/// The content type of what prometheus-client writes.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

async fn serve_metrics(State(served): State<Served>) -> Result<impl IntoResponse, StatusCode> {
    let text = metrics::text(&served.registry).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(([(CONTENT_TYPE, OPENMETRICS)], text))
}

async fn serve_liveness(State(served): State<Served>, RawQuery(query): RawQuery) -> (StatusCode, String) {
    readiness::liveness(
        &served.progress.look(),
        Instant::now(),
        is_verbose(query.as_deref()),
    )
}

async fn serve_readiness(State(served): State<Served>, RawQuery(query): RawQuery) -> (StatusCode, String) {
    let status = served.status.borrow().clone();
    let verbose = is_verbose(query.as_deref());
    readiness::answer(&status, &served.progress.look(), Instant::now(), verbose)
}

fn is_verbose(query: Option<&str>) -> bool {
    query
        .iter()
        .flat_map(|query| query.split('&'))
        .any(|part| part.split_once('=').map_or(part, |(name, _)| name) == "verbose")
}
