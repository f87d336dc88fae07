// SPDX-License-Identifier: Apache-2.0
//! What people and monitoring see: events of dropped packets, metrics, health, and answers to
//! `netpol explain` and `netpol status`.

use std::{io, net::TcpListener, sync::Arc};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{datapath::CounterReader, progress::Progress};

pub mod apart;
pub mod conditions;
pub mod events;
pub mod http;
mod late;
pub mod metrics;
pub mod overview;
pub mod program_log;
mod serve;
pub mod socket;
pub mod status;
mod verification;

/// Serves everyone who looks at the agent from outside its work: metrics and health, if they have a
/// listener, and the log of late changes.
///
/// # Errors
/// The listener failed.
pub async fn onlookers(
    server: Option<(TcpListener, CounterReader)>,
    status: watch::Receiver<Arc<status::Status>>,
    progress: Progress,
    stop: CancellationToken,
) -> io::Result<()> {
    let late = late::run(progress.clone(), stop.clone());
    match server {
        Some((listener, counters)) => {
            let served = http::run(listener, status, progress, counters, stop);
            // Either ends with `stop` only. If the other one ended by itself, nobody would notice.
            tokio::select! {
                served = served => served,
                () = late => Ok(()),
            }
        }
        None => {
            late.await;
            Ok(())
        }
    }
}
