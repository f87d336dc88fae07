// SPDX-License-Identifier: Apache-2.0
//! Objects from a Kubernetes API server.
use std::path::Path;

use tokio_util::sync::CancellationToken;

use super::{WatchError, publish::Publisher};

pub(super) async fn run(
    _kubeconfig: Option<&Path>,
    _publisher: Publisher,
    _stop: CancellationToken,
) -> Result<(), WatchError> {
    Ok(())
}
