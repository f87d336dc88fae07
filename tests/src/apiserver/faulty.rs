// SPDX-License-Identifier: Apache-2.0
//! A way to the API server on which answers can fail, for faults that a real server will not
//! produce on demand. What does not fail passes unchanged.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderMap, Uri, header},
    response::{IntoResponse, Json, Response},
};
use futures::{Stream, StreamExt as _, stream};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::json;
use tokio::{net::TcpListener, sync::watch};

use super::ApiServer;

/// How an answer fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is a refusal with this status code. The client may come again after a second.
    Refused(u16),
    /// Its body ends after so many bytes, and so does the connection.
    Cut(usize),
    /// It is no JSON.
    Garbage,
    /// It ends before its first byte, in order.
    Empty,
    /// It is a watch event which says that history does not reach back.
    Expired,
    /// Its first event is of the wrong type. What comes after it passes.
    Garbled,
    /// Its body comes in pieces of so many bytes, each after a pause.
    Slow(usize),
}

/// Pause before each piece of a slow answer.
const PAUSE: Duration = Duration::from_millis(20);

/// Requests that get a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// Lists.
    List,
    /// Watches.
    Watch,
}

type Rules = Vec<(Asked, &'static str, Fault)>;

struct Shared {
    client: Client,
    rules: Mutex<Rules>,
    /// Answers that got one of them.
    failed: AtomicUsize,
    /// Open answers end when it changes.
    cuts: watch::Sender<u64>,
}

/// The way. It is closed when the API server is dropped.
pub struct Faulty {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl ApiServer {
    /// Opens such a way on the loopback of the node, for the bearer of a token.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn faulty(&self, token: &str) -> Result<Faulty> {
        let config: Kubeconfig = serde_json::from_value(self.config(token))?;
        let (address, shared) = self.run(async move {
            let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
            let shared = Arc::new(Shared {
                client: Client::try_from(config)?,
                rules: Mutex::default(),
                failed: AtomicUsize::new(0),
                cuts: watch::Sender::new(0),
            });
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            let address = listener.local_addr()?;
            let router = Router::new().fallback(answer).with_state(Arc::clone(&shared));
            tokio::spawn(async move { axum::serve(listener, router).await });
            Ok((address, shared))
        })?;
        Ok(Faulty { address, shared })
    }
}

impl Faulty {
    /// Returns a kubeconfig for it.
    pub fn kubeconfig(&self) -> serde_json::Value {
        json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {"server": format!("http://{}", self.address)}}],
            "users": [{"name": "test", "user": {}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "current-context": "test",
        })
    }

    /// Makes these faults the only ones, and ends all answers that are open: each watch is asked
    /// for again.
    pub fn set(&self, rules: &[(Asked, &'static str, Fault)]) {
        *self.shared.rules.lock().unwrap_or_else(PoisonError::into_inner) = rules.to_vec();
        self.shared.failed.store(0, Ordering::SeqCst);
        self.shared.cuts.send_modify(|count| *count += 1);
    }
}

impl Faulty {
    /// Returns how many answers failed since the faults were set.
    pub fn failed(&self) -> usize {
        self.shared.failed.load(Ordering::SeqCst)
    }
}

impl Shared {
    fn fault(&self, uri: &Uri) -> Option<Fault> {
        let watches = uri.query().unwrap_or_default().contains("watch=true");
        let asked = if watches { Asked::Watch } else { Asked::List };
        let rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        let mut matching = rules
            .iter()
            .filter(|(of, resource, _)| *of == asked && uri.path().ends_with(&format!("/{resource}")));
        let (_, _, fault) = matching.next()?;
        self.failed.fetch_add(1, Ordering::SeqCst);
        Some(*fault)
    }
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let mut cuts = shared.cuts.subscribe();
    let fault = shared.fault(request.uri());
    match fault {
        Some(Fault::Refused(code)) => return refusal(code),
        Some(Fault::Garbage) => return json_body(Body::from("<html>")),
        Some(Fault::Empty) => return json_body(Body::empty()),
        Some(Fault::Expired) => {
            let event = json!({"type": "ERROR", "object": status(410)});
            return json_body(Body::from(format!("{event}\n")));
        }
        Some(Fault::Cut(_) | Fault::Slow(_) | Fault::Garbled) | None => {}
    }
    let forwarded = forward(&shared.client, request).await;
    let answer = match forwarded {
        Ok(answer) => answer,
        Err(error) => return (axum::http::StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
    };
    let (head, body) = answer.into_parts();
    let body = Body::new(body).into_data_stream();
    let ended = async move { cuts.changed().await.map_or((), |()| ()) };
    let body = body.take_until(Box::pin(ended));
    let body = match fault {
        Some(Fault::Cut(length)) => Body::from_stream(cut(body, length)),
        Some(Fault::Slow(length)) => Body::from_stream(slow(body, length)),
        Some(Fault::Garbled) => Body::from_stream(body.enumerate().map(|(index, piece)| match index {
            0 => piece.map(|_| Bytes::from_static(b"{\"type\":\"MODIFIED\",\"object\":{\"metadata\":7}}\n")),
            _ => piece,
        })),
        _ => Body::from_stream(body),
    };
    let mut answer = Response::new(body);
    *answer.status_mut() = head.status;
    if let Some(kind) = head.headers.get(header::CONTENT_TYPE) {
        answer.headers_mut().insert(header::CONTENT_TYPE, kind.clone());
    }
    answer
}

async fn forward(client: &Client, request: Request) -> Result<axum::http::Response<kube::client::Body>> {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await?;
    let mut onward = axum::http::Request::new(kube::client::Body::from(body.to_vec()));
    *onward.method_mut() = head.method;
    *onward.uri_mut() = head.uri.path_and_query().context("no path")?.as_str().parse()?;
    let mut headers = HeaderMap::new();
    for name in [header::ACCEPT, header::CONTENT_TYPE] {
        if let Some(value) = head.headers.get(&name) {
            headers.insert(name, value.clone());
        }
    }
    *onward.headers_mut() = headers;
    Ok(client.send(onward).await?)
}

fn status(code: u16) -> serde_json::Value {
    let reason = match code {
        410 => "Expired",
        429 => "TooManyRequests",
        _ => "InternalError",
    };
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
           "message": format!("a fault of the test ({code})"), "reason": reason, "code": code})
}

fn refusal(code: u16) -> Response {
    let status_code = axum::http::StatusCode::from_u16(code).expect("a status code");
    (status_code, [(header::RETRY_AFTER, "1")], Json(status(code))).into_response()
}

fn json_body(body: Body) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// The first bytes of a body, then an error, which ends the connection.
fn cut<E: Into<axum::BoxError>>(
    body: impl Stream<Item = std::result::Result<Bytes, E>>,
    length: usize,
) -> impl Stream<Item = std::result::Result<Bytes, axum::BoxError>> {
    let first = body
        .map(|piece| piece.map_err(Into::into))
        .scan(length, |left, piece| {
            let piece = piece.map(|piece: Bytes| piece.slice(..piece.len().min(*left)));
            *left -= piece.as_ref().map_or(0, Bytes::len);
            std::future::ready(
                piece
                    .as_ref()
                    .map_or(true, |piece| !piece.is_empty())
                    .then_some(piece),
            )
        });
    first.chain(stream::once(std::future::ready(Err("cut by the test".into()))))
}

/// A body in small pieces, each after a pause.
fn slow<E>(
    body: impl Stream<Item = std::result::Result<Bytes, E>>,
    length: usize,
) -> impl Stream<Item = std::result::Result<Bytes, E>> {
    let pieces = body.flat_map(move |piece| {
        let pieces: Vec<_> = match piece {
            Ok(piece) => (0..piece.len())
                .step_by(length)
                .map(|from| Ok(piece.slice(from..piece.len().min(from + length))))
                .collect(),
            Err(error) => vec![Err(error)],
        };
        stream::iter(pieces)
    });
    pieces.then(|piece| async {
        tokio::time::sleep(PAUSE).await;
        piece
    })
}
