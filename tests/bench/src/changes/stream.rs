// SPDX-License-Identifier: Apache-2.0
//! A watch that only notes when events come: the API server's own delay for a change.

use std::{
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, bail};
use futures::StreamExt as _;
use k8s_openapi::api::{
    core::v1::{Namespace, Pod},
    networking::v1::NetworkPolicy,
};
use kube::{
    api::{Api, DynamicObject, ListParams, WatchEvent, WatchParams},
    core::ApiResource,
};

use netpol_tests::apiserver::ApiServer;

/// Time limit for an event.
const DEADLINE: Duration = Duration::from_secs(60);

/// Events of pods, namespaces and policies from now on.
pub struct Stream(Receiver<(String, SystemTime)>);

impl Stream {
    /// Starts to watch.
    ///
    /// # Errors
    /// If the API server refuses.
    pub fn start(api: &ApiServer) -> Result<Self> {
        let (sender, receiver) = channel();
        let kinds = [
            ApiResource::erase::<Pod>(&()),
            ApiResource::erase::<Namespace>(&()),
            ApiResource::erase::<NetworkPolicy>(&()),
        ];
        for kind in kinds {
            let (client, sender) = (api.administrator()?, sender.clone());
            let (watched, version) = api.run(async move {
                let watched = Api::<DynamicObject>::all_with(client, &kind);
                let list = watched.list_metadata(&ListParams::default().limit(1)).await?;
                let version = list
                    .metadata
                    .resource_version
                    .context("a list without a version")?;
                Ok((watched, version))
            })?;
            api.follow(follow(watched, version, sender));
        }
        Ok(Self(receiver))
    }

    /// Returns when the first event of an object of that name came after a moment; skips others.
    ///
    /// # Errors
    /// If none comes.
    pub fn wait_for_after(&self, name: &str, moment: SystemTime) -> Result<SystemTime> {
        let until = Instant::now() + DEADLINE;
        loop {
            match self
                .0
                .recv_timeout(until.saturating_duration_since(Instant::now()))
            {
                Ok((of, at)) if of == name && at >= moment => return Ok(at),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => bail!("no event of {name} came"),
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("the watch ended before an event of {name} came")
                }
            }
        }
    }
}

/// Watches until nobody listens. Resumes a watch that the server ends.
async fn follow(watched: Api<DynamicObject>, mut version: String, events: Sender<(String, SystemTime)>) {
    loop {
        let Ok(stream) = watched.watch(&WatchParams::default(), &version).await else {
            return;
        };
        let mut stream = std::pin::pin!(stream);
        while let Some(Ok(event)) = stream.next().await {
            let at = SystemTime::now();
            let object = match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) | WatchEvent::Deleted(object) => {
                    object
                }
                WatchEvent::Bookmark(bookmark) => {
                    version = bookmark.metadata.resource_version;
                    continue;
                }
                WatchEvent::Error(_) => return,
            };
            version = object.metadata.resource_version.unwrap_or(version);
            let name = object.metadata.name.unwrap_or_default();
            if events.send((name, at)).is_err() {
                return;
            }
        }
    }
}
