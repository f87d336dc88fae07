// SPDX-License-Identifier: Apache-2.0
//! List and watch of one kind, for ever.

use std::{marker::PhantomData, mem, path::PathBuf, pin::pin, time::Duration};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture};
use kube::{
    Api, Client, ResourceExt as _,
    api::{WatchEvent, WatchParams},
    runtime::{utils::Backoff as _, watcher::DefaultBackoff},
};
use tokio::{
    sync::mpsc::Sender,
    time::{Instant, sleep, timeout},
};

use super::{
    Update, connect,
    decoded::Decoded,
    failure::{Failure, silent},
    list::Pages,
};
use crate::{
    progress::Progress,
    watch::{
        kinds::{ByKind, Kind},
        object::Entry,
        wire::Wire,
    },
};

/// How long until a kind that the server does not have is asked for again: it comes with an
/// upgrade.
const MISSING_RETRY: Duration = Duration::from_secs(60);

/// How long a watch must have been open before it counts as one that works. Until then a failure
/// stays told, and pauses grow.
const SETTLED: Duration = Duration::from_secs(1);

/// How long the server may send nothing before the connection counts as lost. It ends each watch
/// after 290 seconds itself, because the client library asks for that.
pub(super) const SILENCE: Duration = Duration::from_secs(295);

/// How the API server is reached.
#[derive(Clone)]
pub(super) struct Way {
    pub client: Client,
    /// Where its configuration is from.
    pub kubeconfig: Option<PathBuf>,
}

impl Way {
    /// Reads the credentials again. The client library does so only when a minute has passed by the
    /// node's clock, and that clock may have been set back by years.
    async fn renew(&mut self) {
        if let Ok(anew) = connect(self.kubeconfig.as_deref()).await {
            self.client = anew;
        }
    }
}

/// Watches all objects of a kind. Ends when the receiver is gone.
pub(super) struct Watch {
    /// To the API server.
    pub way: Way,
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
        way,
        updates,
        progress,
    } = watch;
    let watcher = Watcher {
        way,
        updates,
        backoff: DefaultBackoff::default(),
        failing: Failing {
            kind: T::KIND,
            failure: None,
            progress,
        },
        expired: false,
        kind: PhantomData::<T>,
    };
    watcher.run().await;
}

/// Why a list or a watch ended before its time.
enum End {
    /// Nobody wants updates any more.
    Unwanted,
    Failed {
        failure: Failure,
        /// Only a new list shows what was missed.
        relist: bool,
    },
}

impl End {
    /// Of a watch that was refused or ended with an error.
    fn of(error: &kube::Error) -> Self {
        Self::Failed {
            failure: Failure::from_request(error, "watch"),
            relist: Failure::refuses_the_version(error),
        }
    }

    /// Of a watch whose next event cannot be read.
    fn of_event(error: &kube::Error) -> Self {
        Self::Failed {
            failure: Failure::from_request(error, "watch"),
            relist: Failure::loses_an_event(error),
        }
    }
}

/// A failure that says nothing about the version: the watch goes on from it.
impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        Self::Failed {
            failure,
            relist: false,
        }
    }
}

struct Watcher<T> {
    way: Way,
    updates: Sender<(Kind, Update, Instant)>,
    backoff: DefaultBackoff,
    failing: Failing,
    /// The last failure was that the server's history had ended.
    expired: bool,
    kind: PhantomData<T>,
}

impl<T: Wire> Watcher<T> {
    async fn run(mut self) {
        // From which a watch goes on. Without it, everything is listed.
        let mut version = None;
        loop {
            let ended = match &mut version {
                None => self.list().await.map(|listed| version = Some(listed)),
                Some(version) => self.follow(version).await,
            };
            match ended {
                Ok(()) => {}
                Err(End::Unwanted) => return,
                Err(End::Failed { failure, relist }) => {
                    if relist {
                        version = None;
                    }
                    if self.fail(failure).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// Lists all objects. Returns the version of the list.
    async fn list(&mut self) -> Result<String, End> {
        self.send(Update::Listing).await?;
        let mut pages = Pages::<T>::of(self.way.client.clone());
        loop {
            let page = pages.next().await?;
            if page.is_last {
                self.send(Update::ListDone(page.entries)).await?;
                return Ok(page.version);
            }
            self.send(Update::Listed(page.entries)).await?;
        }
    }

    /// Watches all objects from a version on, until the server ends it.
    async fn follow(&mut self, version: &mut String) -> Result<(), End> {
        let api = Api::<Decoded<T>>::all(self.way.client.clone());
        let events = timeout(SILENCE, api.watch(&WatchParams::default(), version)).await;
        let mut events = pin!(
            events
                .map_err(|_| silent("watch"))?
                .map_err(|error| End::of(&error))?
        );
        let begun = Instant::now();
        let mut settled = false;
        loop {
            if !settled && begun.elapsed() >= SETTLED {
                settled = true;
                self.failing.end();
                self.backoff.reset();
            }
            let patience = if settled {
                SILENCE
            } else {
                SETTLED.saturating_sub(begun.elapsed())
            };
            match timeout(patience, events.next()).await {
                Ok(Some(event)) => {
                    let event = event.map_err(|error| End::of_event(&error))?;
                    if let Some(update) = read(event, version)? {
                        self.send(update).await?;
                    }
                }
                Ok(None) if settled => return Ok(()),
                // In order, and too early to ask again at once.
                Ok(None) => {
                    self.pause().await;
                    return Ok(());
                }
                Err(_) if settled => return Err(silent("watch").into()),
                Err(_) => {}
            }
        }
    }

    /// Tells of a failure, and waits for the time to try again. If the server's history ended, it
    /// answers: it is asked for a list at once, but not over and over.
    async fn fail(&mut self, failure: Failure) -> Result<(), End> {
        let unauthorized = matches!(failure, Failure::Unauthorized(_));
        let expired = failure == Failure::Expired;
        let again = mem::replace(&mut self.expired, expired);
        if self.failing.begin(failure) {
            self.send(Update::Missing).await?;
            sleep(MISSING_RETRY).await;
        } else if !expired || again {
            self.pause().await;
        }
        if unauthorized {
            self.way.renew().await;
        }
        Ok(())
    }

    async fn pause(&mut self) {
        sleep(self.backoff.next().unwrap_or(MISSING_RETRY)).await;
    }

    async fn send(&mut self, update: Update) -> Result<(), End> {
        let sent = self.updates.send((T::KIND, update, Instant::now())).await;
        sent.map_err(|_| End::Unwanted)
    }
}

/// What an event of a watch says. The watch goes on from `version`.
fn read<T: Wire>(event: WatchEvent<Decoded<T>>, version: &mut String) -> Result<Option<Update>, End> {
    let (seen, update) = match event {
        WatchEvent::Added(object) | WatchEvent::Modified(object) => {
            let seen = object.resource_version();
            (seen, Some(Update::Changed(Box::new(named(object.entry)?))))
        }
        WatchEvent::Deleted(object) => {
            let seen = object.resource_version();
            (seen, Some(Update::Deleted(named(object.entry)?.object.id())))
        }
        WatchEvent::Bookmark(bookmark) => (Some(bookmark.metadata.resource_version), None),
        // What the server cannot send as an event, it may still list.
        WatchEvent::Error(status) => {
            return Err(End::Failed {
                failure: Failure::from_status(&status, "watch"),
                relist: status.code != 429,
            });
        }
    };
    // Without one, a watch would begin with what there is, and not tell what is gone.
    if let Some(seen) = seen.filter(|seen| !seen.is_empty()) {
        *version = seen;
    }
    Ok(update)
}

/// An object without a name is none: what the event says is not known.
fn named(entry: Entry) -> Result<Entry, End> {
    if entry.object.key().name.is_empty() {
        return Err(End::Failed {
            failure: Failure::Unavailable("watch: an object has no name".to_owned()),
            relist: true,
        });
    }
    Ok(entry)
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
            None if failure == Failure::Missing => self.progress.read(kind.resource()),
            None => {}
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

#[cfg(test)]
mod tests;
