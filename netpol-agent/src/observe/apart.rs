// SPDX-License-Identifier: Apache-2.0
//! A separate thread for observers. The agent's own work cannot delay their answers, however long
//! it takes.

use std::{io, thread};

use tokio::{runtime, sync::oneshot};

/// Runs `what` on a new thread and waits here for its result.
///
/// # Errors
/// The error that `what` returned; also if no thread or runtime could be made, or if the thread
/// panicked.
pub async fn run(what: impl Future<Output = io::Result<()>> + Send + 'static) -> io::Result<()> {
    let (result, ended) = oneshot::channel();
    let alone = move || {
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        // The send fails if nobody waits any more: then the process is ending.
        drop(result.send(runtime.and_then(|runtime| runtime.block_on(what))));
    };
    thread::Builder::new().name("onlookers".into()).spawn(alone)?;
    let panicked = |_| Err(io::Error::other("its thread panicked"));
    ended.await.unwrap_or_else(panicked)
}
