// SPDX-License-Identifier: Apache-2.0
//! The clock stands still unless everybody waits.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
};

use futures::stream::{self, BoxStream};
use http_body_util::StreamBody;
use hyper::{
    Response,
    body::{Bytes, Frame},
};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::mpsc::{self, Receiver};
use tokio_util::task::AbortOnDropHandle;
use tower::service_fn;

use super::*;
use crate::watch::wire::Namespace;

/// Frames of an answer as they come.
type Frames = BoxStream<'static, Result<Frame<Bytes>, Infallible>>;

/// What a server answers.
#[derive(Clone)]
enum Answer {
    /// A status and a body.
    Told(u16, Value),
    /// Lines of a watch that ends behind them.
    Ended(Vec<String>),
    /// Lines of a watch that says nothing behind them.
    Open(Vec<String>),
}

impl Answer {
    fn page(names: &[&str], next: &str) -> Self {
        let items = names
            .iter()
            .map(|name| json!({"metadata": {"name": name, "resourceVersion": "5"}}));
        let items: Vec<Value> = items.collect();
        let page = json!({"metadata": {"resourceVersion": "7", "continue": next}, "items": items});
        Self::Told(200, page)
    }

    fn response(self) -> Response<StreamBody<Frames>> {
        let (status, lines, is_open) = match self {
            Self::Told(status, body) => (status, vec![body.to_string()], false),
            Self::Ended(lines) => (200, lines, false),
            Self::Open(lines) => (200, lines, true),
        };
        let frames = lines.into_iter().map(|line| Ok(Frame::data(line.into())));
        let frames = stream::iter(frames);
        let frames = if is_open {
            frames.chain(stream::pending()).boxed()
        } else {
            frames.boxed()
        };
        let answer = Response::builder().status(status);
        answer.body(StreamBody::new(frames)).unwrap()
    }
}

fn event(kind: &str, name: &str, version: &str) -> String {
    let object = json!({"metadata": {"name": name, "resourceVersion": version}});
    json!({"type": kind, "object": object}).to_string() + "\n"
}

/// What was asked for: the path's query.
type Asked = Arc<Mutex<Vec<String>>>;

/// A watch of Namespaces, whose server answers in turn, and the last answer for ever.
struct Watched {
    updates: Receiver<(Kind, Update, Instant)>,
    asked: Asked,
    progress: Progress,
    _running: AbortOnDropHandle<()>,
}

impl Watched {
    fn new(lists: Vec<Answer>, watches: Vec<Answer>) -> Self {
        let asked = Asked::default();
        let seen = Arc::clone(&asked);
        let queues = Arc::new(Mutex::new([lists, watches]));
        let serve = move |request: hyper::Request<Body>| {
            let query = request.uri().query().unwrap_or_default().to_owned();
            let queue = usize::from(query.contains("watch=true"));
            seen.lock().unwrap().push(query);
            let mut queues = queues.lock().unwrap();
            let queue = &mut queues[queue];
            let answer = if queue.len() > 1 {
                queue.remove(0)
            } else {
                queue[0].clone()
            };
            std::future::ready(Ok::<_, Infallible>(answer.response()))
        };
        let (sender, updates) = mpsc::channel(1000);
        let progress = Progress::default();
        let watching = watch::<Namespace>(Watch {
            way: Way {
                client: Client::new(service_fn(serve), "default"),
                kubeconfig: None,
            },
            updates: sender,
            progress: progress.clone(),
        });
        Self {
            updates,
            asked,
            progress,
            _running: AbortOnDropHandle::new(tokio::spawn(watching)),
        }
    }

    /// The next update, in short.
    async fn next(&mut self) -> String {
        let names = |entries: Vec<Entry>| {
            let names = entries
                .into_iter()
                .map(|entry| entry.object.key().name.to_string());
            names.collect::<Vec<_>>().join(" ")
        };
        match self.updates.recv().await.unwrap().1 {
            Update::Listing => "listing".to_owned(),
            Update::Listed(entries) => format!("listed {}", names(entries)),
            Update::ListDone(entries) => format!("done {}", names(entries)),
            Update::Missing => "missing".to_owned(),
            Update::Changed(entry) => format!("changed {}", names(vec![*entry])),
            Update::Deleted(id) => format!("deleted {}", id.key.name),
        }
    }

    async fn is(&mut self, updates: &[&str]) {
        for expected in updates {
            assert_eq!(self.next().await, *expected);
        }
    }

    /// The versions from which a watch was asked for.
    fn versions(&self) -> Vec<String> {
        let asked = self.asked.lock().unwrap();
        let watches = asked.iter().filter(|query| query.contains("watch=true"));
        let version = |query: &String| {
            let after = query.split("resourceVersion=").nth(1).unwrap_or_default();
            after.split('&').next().unwrap_or_default().to_owned()
        };
        watches.map(version).collect()
    }

    fn told(&self) -> Option<String> {
        let unread = self.progress.look().unread;
        unread.get("namespaces").map(|unread| unread.why.clone())
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_goes_on_where_it_ended() {
    let lists = vec![Answer::page(&["a"], "")];
    let deleted = vec![event("DELETED", "a", "9")];
    let added = vec![event("ADDED", "b", "8")];
    let mut watched = Watched::new(lists, vec![Answer::Ended(added), Answer::Open(deleted)]);
    watched.is(&["listing", "done a", "changed b", "deleted a"]).await;
    assert_eq!(watched.versions(), ["7", "8"]);
}

/// A connection that was lost on the way says nothing, not even that it is lost.
#[tokio::test(start_paused = true)]
async fn a_watch_that_says_nothing_for_too_long_is_asked_for_again() {
    let lists = vec![Answer::page(&[], "")];
    let added = vec![event("ADDED", "b", "8")];
    let mut watched = Watched::new(lists, vec![Answer::Open(Vec::new()), Answer::Open(added)]);
    watched.is(&["listing", "done "]).await;
    let begun = Instant::now();
    watched.is(&["changed b"]).await;
    assert!(begun.elapsed() >= SILENCE, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn b3_what_only_a_list_can_show_is_listed_again() {
    let told = |code: u16| Answer::Told(code, json!({"message": "no", "code": code}));
    let error = |code: u16| {
        let status = json!({"type": "ERROR", "object": {"kind": "Status", "message": "no", "code": code}});
        Answer::Ended(vec![status.to_string() + "\n"])
    };
    let garbage = Answer::Ended(vec!["{\"type\": \"ADDED\", \"object\": 7}\n".to_owned()]);
    let nameless = Answer::Ended(vec![event("DELETED", "", "8")]);
    for watch in [
        told(410),
        told(404),
        told(400),
        error(410),
        error(404),
        error(500),
        garbage,
        nameless,
    ] {
        let lists = vec![Answer::page(&["a"], "")];
        let mut watched = Watched::new(lists, vec![watch, Answer::Open(Vec::new())]);
        watched.is(&["listing", "done a", "listing", "done a"]).await;
    }
    for watch in [
        told(403),
        told(429),
        told(503),
        error(429),
        Answer::Ended(Vec::new()),
    ] {
        let lists = vec![Answer::page(&["a"], "")];
        let added = vec![event("ADDED", "b", "8")];
        let mut watched = Watched::new(lists, vec![watch, Answer::Open(added)]);
        watched.is(&["listing", "done a", "changed b"]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn b3_b1_a_list_that_fails_on_its_way_is_not_done_and_begins_again() {
    let refused = Answer::Told(503, json!({"message": "no"}));
    let gone = Answer::Told(404, json!({"message": "no"}));
    let nameless = Answer::page(&["b", ""], "");
    for second in [refused, gone, nameless] {
        let first = || Answer::page(&["a"], "next");
        let lists = vec![first(), second, first(), Answer::page(&["b"], "")];
        let mut watched = Watched::new(lists, vec![Answer::Open(Vec::new())]);
        watched
            .is(&["listing", "listed a", "listing", "listed a", "done b"])
            .await;
    }
}

/// A bookmark without a version says nothing: a watch without one would not tell what is gone.
#[tokio::test(start_paused = true)]
async fn a_watch_never_goes_on_from_no_version() {
    let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"resourceVersion": ""}});
    let bookmark = json!({"type": "BOOKMARK", "object": object}).to_string() + "\n";
    let lists = vec![Answer::page(&[], "")];
    let added = vec![event("ADDED", "b", "8")];
    let mut watched = Watched::new(lists, vec![Answer::Ended(vec![bookmark]), Answer::Open(added)]);
    watched.is(&["listing", "done ", "changed b"]).await;
    assert_eq!(watched.versions(), ["7", "7"]);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_ends_each_watch_is_asked_less_and_less() {
    let endings = [
        Answer::Ended(Vec::new()),
        Answer::Ended(vec![event("MODIFIED", "a", "8")]),
        Answer::Ended(vec![event("MODIFIED", "a", "8"), "garbage\n".to_owned()]),
        Answer::Told(500, json!({"message": "no"})),
    ];
    for ending in endings {
        let watched = Watched::new(vec![Answer::page(&["a"], "")], vec![ending]);
        sleep(Duration::from_secs(120)).await;
        let asked = watched.asked.lock().unwrap().len();
        assert!((4..40).contains(&asked), "{asked} requests in two minutes");
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_told_until_a_watch_works() {
    let refused = Answer::Told(403, json!({"message": "no", "code": 403}));
    let lists = vec![Answer::page(&[], "")];
    let watches = vec![refused.clone(), refused, Answer::Open(Vec::new())];
    let mut watched = Watched::new(lists, watches);
    watched.is(&["listing", "done "]).await;
    while watched.versions().len() < 2 {
        sleep(Duration::from_millis(10)).await;
    }
    assert!(watched.told().is_some_and(|why| why.contains("forbids `watch`")));
    while watched.versions().len() < 3 {
        sleep(Duration::from_millis(10)).await;
    }
    assert!(watched.told().is_some(), "not before it is seen to work");
    sleep(2 * SETTLED).await;
    assert_eq!(watched.told(), None);
}

#[tokio::test(start_paused = true)]
async fn b3_a_server_that_is_away_for_an_hour_takes_nothing_away_and_is_followed_again() {
    let away = Answer::Told(503, json!({"message": "away", "code": 503}));
    let old = Answer::Told(410, json!({"message": "old", "code": 410}));
    let lists = vec![Answer::page(&["a"], ""), Answer::page(&["b"], "")];
    let hour = 150;
    let watches = vec![away; hour]
        .into_iter()
        .chain([old, Answer::Open(Vec::new())]);
    let mut watched = Watched::new(lists, watches.collect());
    watched.is(&["listing", "done a"]).await;
    let begun = Instant::now();
    while watched.versions().len() < hour {
        sleep(Duration::from_secs(1)).await;
    }
    assert!(
        begun.elapsed() > Duration::from_secs(3600),
        "{:?}",
        begun.elapsed()
    );
    assert!(watched.updates.is_empty(), "nothing is told of it");
    assert!(watched.told().is_some_and(|why| why.contains("503")));
    let back = Instant::now();
    watched.is(&["listing", "done b"]).await;
    assert!(back.elapsed() < Duration::from_secs(90), "{:?}", back.elapsed());
    sleep(2 * SETTLED).await;
    assert_eq!(watched.told(), None);
}

/// The headers of an answer say nothing about the watch.
#[tokio::test(start_paused = true)]
async fn a_watch_that_fails_as_it_begins_does_not_work() {
    let status = json!({"type": "ERROR", "object": {"kind": "Status", "message": "no", "code": 500}});
    let failing = Answer::Ended(vec![status.to_string() + "\n"]);
    let watched = Watched::new(vec![Answer::page(&[], "")], vec![failing]);
    sleep(Duration::from_secs(60)).await;
    for _ in 0..600 {
        sleep(Duration::from_millis(100)).await;
        assert!(watched.told().is_some());
    }
}
