// SPDX-License-Identifier: Apache-2.0
//! The agent's unix socket. `/explain` answers from the objects that the agent holds now, `/status`
//! says how the agent is, and `/verify` holds the pods of a self-test.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, Permissions},
    io,
    net::IpAddr,
    os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{RawQuery, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use thiserror::Error;
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{Semaphore, mpsc, oneshot, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::{
    overview,
    serve::{self, Limits},
    status::Status,
    verification,
};
use crate::{
    datapath::interfaces::Interfaces,
    explain::{Answer, Behind, Request, Standing, World, explain, known_nodes},
    model::{Node, Snapshot},
    progress::Progress,
};

/// Only root can connect. An answer about a large cluster takes a while.
const LIMITS: Limits = Limits {
    connections: 16,
    head: Duration::from_secs(5),
    whole: Duration::from_secs(60),
};
/// Computes at most two answers at a time, even if their clients have left.
static ANSWERS: Semaphore = Semaphore::const_new(2);

/// The socket could not be made.
#[derive(Debug, Error)]
pub enum BindError {
    /// Another process answers there.
    #[error("another agent answers on {} (--socket)", .0.display())]
    Taken(PathBuf),
    /// The path exists and is not a socket.
    #[error("{} is no socket, and is left alone (--socket)", .0.display())]
    NoSocket(PathBuf),
    /// The system refused.
    #[error("listening on {} (--socket)", path.display())]
    Refused {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
}

/// A listening socket. Drop removes its file, unless another agent has replaced it.
#[derive(Debug)]
pub struct Listener {
    listener: UnixListener,
    file: SocketFile,
}

#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Makes the socket, accessible to the agent's user only, and its folder. Replaces a dead agent's
/// socket.
///
/// # Errors
/// See [`BindError`].
pub async fn bind(path: &Path) -> Result<Listener, BindError> {
    let refused = |error| BindError::Refused {
        path: path.to_owned(),
        error,
    };
    if let Some(folder) = path.parent() {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o755);
        builder.create(folder).map_err(refused)?;
    }
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => return Err(BindError::NoSocket(path.to_owned())),
        Ok(_) if UnixStream::connect(path).await.is_ok() => return Err(BindError::Taken(path.to_owned())),
        Ok(_) => fs::remove_file(path).map_err(refused)?,
        Err(_) => {}
    }
    // Bound under another name first, so that nobody can connect before the permissions are set.
    let mut hidden = path.as_os_str().to_owned();
    hidden.push(format!(".{}", std::process::id()));
    let hidden = PathBuf::from(hidden);
    let make = || {
        let listener = UnixListener::bind(&hidden)?;
        fs::set_permissions(&hidden, Permissions::from_mode(0o600))?;
        let inode = fs::symlink_metadata(&hidden)?.ino();
        fs::rename(&hidden, path)?;
        Ok((listener, inode))
    };
    let (listener, inode) = make().map_err(|error| {
        let _ = fs::remove_file(&hidden);
        refused(error)
    })?;
    let file = SocketFile {
        path: path.to_owned(),
        inode,
    };
    Ok(Listener { listener, file })
}

/// The sources of an answer.
#[derive(Debug, Clone)]
pub struct Known {
    /// The agent's node.
    pub node_name: String,
    /// Where its objects come from.
    pub source: String,
    /// Where its maps are pinned.
    pub pin_path: PathBuf,
    /// When it started.
    pub started: Instant,
    /// How far it is.
    pub progress: Progress,
    /// Asks the loop to compare the kernel with what it wrote, and for what it finds. It repairs
    /// that at once.
    pub inspections: mpsc::Sender<oneshot::Sender<Vec<String>>>,
    /// Whether the loop is to hold the scratch pods of a self-test.
    pub scratch: watch::Sender<bool>,
    /// The cluster's objects.
    pub snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    /// The node's interfaces; they give its addresses.
    pub interfaces: watch::Receiver<Option<Arc<Interfaces>>>,
    /// What the agent enforces.
    pub status: watch::Receiver<Arc<Status>>,
}

/// Answers until `stop`.
///
/// # Errors
/// The listener failed.
pub async fn run(listener: Listener, known: Known, stop: CancellationToken) -> io::Result<()> {
    let Listener { listener, file } = listener;
    info!(socket = %file.path.display(), "answering netpol explain and status");
    let router = Router::new()
        .route("/explain", get(serve_explain))
        .route("/status", get(serve_status))
        .route("/verify", get(verification::serve))
        .with_state(known);
    serve::run(&listener, &router, LIMITS, &stop).await;
    Ok(())
}

async fn serve_status(State(known): State<Known>) -> Response {
    let permit = ANSWERS.acquire().await;
    let drift = overview::inspect(&known).await;
    let shown = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        overview::gather(&known, drift)
    });
    match shown.await {
        Ok(shown) => Json(shown).into_response(),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, "the answer could not be made").into_response(),
    }
}

async fn serve_explain(State(known): State<Known>, RawQuery(query): RawQuery) -> Response {
    let permit = ANSWERS.acquire().await;
    let answered = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        known.answer(&query.unwrap_or_default())
    });
    let answered = answered.await;
    match answered {
        Ok(Ok(answer)) => Json(answer).into_response(),
        Ok(Err((status, message))) => (status, message).into_response(),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, "the answer could not be made").into_response(),
    }
}

/// Maps addresses to the interfaces that are closed or enforced on. Other interfaces pass
/// everything where no pod is known.
fn behind(interfaces: Option<&Interfaces>, status: &Status) -> BTreeMap<IpAddr, Behind> {
    let pods = interfaces.into_iter().flat_map(|found| &found.pods);
    let behind = pods.filter_map(|(ifindex, interface)| {
        let closed = status.closed.contains(&interface.name);
        let behind = Behind {
            interface: interface.name.clone(),
            closed,
        };
        (closed || status.interfaces.contains_key(ifindex)).then_some((interface, behind))
    });
    let addresses = behind.flat_map(|(interface, behind)| {
        let own = interface.addresses.iter();
        own.map(move |address| (*address, behind.clone()))
    });
    addresses.collect()
}

impl Known {
    fn answer(&self, query: &str) -> Result<Answer, (StatusCode, String)> {
        let request =
            Request::from_query(query).map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))?;
        let snapshot = self.snapshots.borrow().clone();
        let Some(snapshot) = snapshot else {
            let message = "the agent waits for the first complete list of objects".to_owned();
            return Err((StatusCode::SERVICE_UNAVAILABLE, message));
        };
        let interfaces = self.interfaces.borrow().clone();
        let status = self.status.borrow().clone();
        let mut held = status.held.clone();
        held.node.clone_from(&self.node_name);
        held.behind = behind(interfaces.as_deref(), &status);
        let own = Node {
            name: self.node_name.clone(),
            addresses: interfaces
                .as_ref()
                .map_or_else(Default::default, |found| found.node_addresses.clone()),
            link_locals: held.link_locals.clone(),
            ..Node::default()
        };
        let nodes = known_nodes(&snapshot, &[], Some(own));
        if !status.ready || status.revision != snapshot.revision {
            let why = format!(
                "the kernel has what an earlier revision said than {}",
                snapshot.revision
            );
            for standing in held.pods.values_mut() {
                *standing = Standing::HeldBack(why.clone());
            }
        }
        let world = World {
            snapshot: &snapshot,
            nodes: &nodes,
            held: Some(&held),
        };
        explain(world, &request).map_err(|error| (StatusCode::NOT_FOUND, error.to_string()))
    }
}
