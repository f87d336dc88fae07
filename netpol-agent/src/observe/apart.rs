// SPDX-License-Identifier: Apache-2.0
//! A thread of its own for those who look at the agent: no work of the agent, however long it
//! takes, keeps them from being answered.

use std::{io, thread};

use tokio::{runtime, sync::oneshot};

/// Runs `what` on a new thread, and waits for it here.
///
/// # Errors
/// Its own; or there is no thread or no runtime to be had, or it panicked.
pub async fn run(what: impl Future<Output = io::Result<()>> + Send + 'static) -> io::Result<()> {
    let (result, ended) = oneshot::channel();
    let alone = move || {
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        // If nobody waits for it any more, the process ends.
        drop(result.send(runtime.and_then(|runtime| runtime.block_on(what))));
    };
    thread::Builder::new().name("onlookers".into()).spawn(alone)?;
    let panicked = |_| Err(io::Error::other("its thread panicked"));
    ended.await.unwrap_or_else(panicked)
}
