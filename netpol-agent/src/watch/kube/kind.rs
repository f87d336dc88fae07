// SPDX-License-Identifier: Apache-2.0
//! List and watch of one kind, for ever.

use std::{mem, path::PathBuf, pin::pin, time::Duration};

use futures::{FutureExt as _, Stream, StreamExt as _, future::BoxFuture};
use kube::{
    Api, Client,
    api::{ListParams, WatchParams},
    runtime::{
        utils::Backoff,
        watcher::{self, DefaultBackoff, Event},
    },
};
use tokio::{sync::mpsc::Sender, time::Instant};

use super::{Update, connect, decoded::Decoded, failure::Failure, read_ahead};
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

/// How the API server is reached.
#[derive(Clone)]
pub(super) struct Way {
    pub client: Client,
    /// Where its configuration is from.
    pub kubeconfig: Option<PathBuf>,
}

impl Way {
    /// Takes the credentials that are there now. False if there are none. The client library reads
    /// a token again a minute later by the node's clock, which may have been set back by years.
    async fn renew(&mut self) -> bool {
        let anew = connect(self.kubeconfig.as_deref()).await;
        anew.map(|client| self.client = client).is_ok()
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
        mut way,
        updates,
        progress,
    } = watch;
    let kind = T::KIND;
    let mut events = pin!(begin::<T>(&way.client));
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
                let renewed = retry::<T>(&mut way, missing, &mut backoff, &mut failing).await;
                if renewed || Failure::loses_an_event(&error) {
                    events.set(begin(&way.client));
                }
                continue;
            }
        };
        if updates.send((kind, update, received)).await.is_err() {
            return;
        }
    }
}

/// Lists and watches all objects, from the start.
fn begin<T: Wire>(client: &Client) -> impl Stream<Item = Result<Event<Decoded<T>>, watcher::Error>> + use<T> {
    let api = Api::<Decoded<T>>::all(read_ahead::client(client.clone()));
    watcher::watcher(api, watcher::Config::default().page_size(PAGE))
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
///
/// Returns true if it made a new client.
async fn retry<T: Wire>(
    way: &mut Way,
    missing: bool,
    backoff: &mut DefaultBackoff,
    failing: &mut Failing,
) -> bool {
    let mut renewed = false;
    loop {
        let delay = if missing {
            MISSING_RETRY
        } else {
            backoff.next().unwrap_or(MISSING_RETRY)
        };
        tokio::time::sleep(delay).await;
        match failing.failure {
            Some(Failure::Unavailable(_) | Failure::Forbidden(_)) => {}
            Some(Failure::Unauthorized(_)) => renewed |= way.renew().await,
            _ => return renewed,
        }
        match answers::<T>(&way.client).await {
            Ok(()) => {
                failing.end();
                return renewed;
            }
            // The newest reason is told.
            Err(failure @ (Failure::Unauthorized(_) | Failure::Unavailable(_))) => {
                failing.begin(failure);
            }
            // A refusal is the watcher's to meet: it relists where that helps.
            Err(_) => return renewed,
        }
    }
}

/// Lists and watches as little as can be.
async fn answers<T: Wire>(client: &Client) -> Result<(), Failure> {
    let api = Api::<Decoded<T>>::all(client.clone());
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
