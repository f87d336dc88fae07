// SPDX-License-Identifier: Apache-2.0
//! List and watch of one kind, for ever.

use std::{mem, pin::pin, time::Duration};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture};
use kube::{
    Api, Client,
    api::{ListParams, WatchParams},
    runtime::{
        utils::Backoff,
        watcher::{self, DefaultBackoff, Event},
    },
};
use tokio::{sync::mpsc::Sender, time::Instant};

use super::{Update, decoded::Decoded, failure::Failure, read_ahead};
use crate::{
    progress::Progress,
    watch::{
        kinds::{ByKind, Kind},
        wire::Wire,
    },
};

/// How long until a kind that the server does not have is asked for again: it comes with an
/// upgrade.
const MISSING_RETRY: Duration = Duration::from_secs(60);

/// Objects that are listed and handed on together.
const PAGE: u32 = 500;

/// Watches all objects of a kind. Ends when the receiver is gone.
pub(super) struct Watch {
    pub client: Client,
    /// Gets what is seen, and when it came.
    pub updates: Sender<(Kind, Update, Instant)>,
    /// Is told whether the kind can be watched.
    pub progress: Progress,
}

impl ByKind for Watch {
    type Output = BoxFuture<'static, ()>;

    fn visit<T: Wire>(self) -> Self::Output {
        watch::<T>(self).boxed()
    }
}

async fn watch<T: Wire>(watch: Watch) {
    let Watch {
        client,
        updates,
        progress,
    } = watch;
    let kind = T::KIND;
    let listed_ahead = Api::<Decoded<T>>::all(read_ahead::client(client.clone()));
    let begin = || watcher::watcher(listed_ahead.clone(), watcher::Config::default().page_size(PAGE));
    let mut events = pin!(begin());
    let api = Api::<Decoded<T>>::all(client);
    let mut listed = Vec::new();
    let mut backoff = DefaultBackoff::default();
    let mut failing = Failing {
        kind,
        failure: None,
        progress,
    };
    while let Some(event) = events.next().await {
        let received = Instant::now();
        let update = match event {
            // Says that a list is about to be asked for, not that the server answers.
            Ok(Event::Init) => {
                listed.clear();
                Update::Listing
            }
            Ok(event) => {
                failing.end();
                backoff.reset();
                match event {
                    Event::Init => Update::Listing,
                    Event::InitApply(object) => {
                        listed.push(object.entry);
                        if listed.len() < PAGE as usize {
                            continue;
                        }
                        Update::Listed(mem::take(&mut listed))
                    }
                    Event::InitDone => Update::ListDone(mem::take(&mut listed)),
                    Event::Apply(object) => Update::Changed(Box::new(object.entry)),
                    Event::Delete(object) => Update::Deleted(object.entry.object.id()),
                }
            }
            Err(error) => {
                let missing = failing.begin(Failure::of(&error));
                if missing && updates.send((kind, Update::Missing, received)).await.is_err() {
                    return;
                }
                retry(&api, missing, &mut backoff, &mut failing).await;
                if Failure::loses_an_event(&error) {
                    events.set(begin());
                }
                continue;
            }
        };
        if updates.send((kind, update, received)).await.is_err() {
            return;
        }
    }
}

/// What keeps a kind from being watched.
struct Failing {
    kind: Kind,
    failure: Option<Failure>,
    progress: Progress,
}

impl Failing {
    /// Notes and, if it is a new one, logs a failure. True if the kind is missing, and may be.
    fn begin(&mut self, failure: Failure) -> bool {
        let kind = self.kind;
        let missing = failure == Failure::Missing && kind.facts().may_be_missing;
        let failure = if failure == Failure::Missing && !missing {
            Failure::Unavailable(format!("{} is not served", kind.api_version()))
        } else {
            failure
        };
        if !self
            .failure
            .as_ref()
            .is_some_and(|before| before.is_like(&failure))
        {
            failure.log(kind);
        }
        match failure.trouble() {
            Some(why) => self.progress.unread(kind.resource(), why),
            // The server answered: what was told before is over.
            None => self.progress.read(kind.resource()),
        }
        if failure != Failure::Expired {
            self.failure = Some(failure);
        }
        missing
    }

    /// The kind can be watched.
    fn end(&mut self) {
        if self.failure.take().is_some() {
            tracing::info!(
                resource = self.kind.resource(),
                "the API server can be watched again"
            );
        }
        self.progress.read(self.kind.resource());
    }
}

/// Waits for the time to try again. After a lost connection or lost rights, asks whether the server
/// lists and watches again: a watch that is taken up again without a relist is silent until
/// something changes.
async fn retry<T: Wire>(
    api: &Api<Decoded<T>>,
    missing: bool,
    backoff: &mut DefaultBackoff,
    failing: &mut Failing,
) {
    loop {
        let delay = if missing {
            MISSING_RETRY
        } else {
            backoff.next().unwrap_or(MISSING_RETRY)
        };
        tokio::time::sleep(delay).await;
        if !matches!(
            failing.failure,
            Some(Failure::Unavailable(_) | Failure::Forbidden(_))
        ) {
            return;
        }
        match answers(api).await {
            Ok(()) => {
                failing.end();
                return;
            }
            Err(Failure::Unavailable(_)) => {}
            // A refusal is the watcher's to meet: it relists where that helps.
            Err(_) => return,
        }
    }
}

/// Lists and watches as little as can be.
async fn answers<T: Wire>(api: &Api<Decoded<T>>) -> Result<(), Failure> {
    let one = ListParams::default().limit(1);
    let listed = api.list_metadata(&one).await;
    let listed = listed.map_err(|error| Failure::from_request(&error, "list"))?;
    let version = listed.metadata.resource_version.unwrap_or_default();
    let begun = api
        .watch_metadata(&WatchParams::default().timeout(1), &version)
        .await;
    match begun {
        Ok(_) => Ok(()),
        Err(error) => Err(Failure::from_request(&error, "watch")),
    }
}
