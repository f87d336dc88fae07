// SPDX-License-Identifier: Apache-2.0

use std::sync::{Arc, Mutex};

use hyper::Response;
use serde_json::{Value, json};
use tower::service_fn;

use super::*;
use crate::watch::wire::{Namespace, Pod};

#[test]
fn pages_are_of_one_size_in_bytes() {
    assert_eq!(fitting(500, SIZE), 500);
    assert_eq!(fitting(500, SIZE / 2), 1000);
    assert_eq!(fitting(1000, 2 * SIZE), 500);
    assert_eq!(fitting(500, 1000 * SIZE), *OBJECTS.start());
    assert_eq!(fitting(3, SIZE), 6, "the next may be larger");
    assert_eq!(fitting(500, 0), 1000, "the next may be larger");
    assert_eq!(fitting(1500, 0), *OBJECTS.end());
    assert_eq!(fitting(u32::MAX, 1), *OBJECTS.end());
}

/// What was asked for: the query and `Accept`.
type Asked = Arc<Mutex<Vec<(String, String)>>>;

/// A client whose server answers as `answer` says to a query.
fn client(asked: &Asked, answer: impl Fn(&str) -> (u16, Value) + Send + 'static) -> Client {
    let asked = Arc::clone(asked);
    let serve = move |request: hyper::Request<Body>| {
        let query = request.uri().query().unwrap_or_default().to_owned();
        let accept = request.headers()[ACCEPT].to_str().unwrap().to_owned();
        let (status, body) = answer(&query);
        asked.lock().unwrap().push((query, accept));
        let answer = Response::builder().status(status);
        std::future::ready(answer.body(Body::from(body.to_string().into_bytes())))
    };
    Client::new(service_fn(serve), "default")
}

/// A page of one object whose JSON is as long as 500 objects of 4 KiB.
fn page(name: &str, next: &str) -> Value {
    json!({
        "metadata": {"resourceVersion": "7", "continue": next},
        "items": [{"metadata": {"name": name, "annotations": {"filler": "x".repeat(500 * 4096)}}}],
    })
}

fn three_pages(query: &str) -> (u16, Value) {
    match query.split("continue=").nth(1) {
        None => (200, page("a", "one")),
        Some("one") => (200, page("b", "two")),
        Some(_) => (200, page("c", "")),
    }
}

fn queries(asked: &Asked) -> Vec<String> {
    asked
        .lock()
        .unwrap()
        .iter()
        .map(|(query, _)| query.clone())
        .collect()
}

fn names(page: &Page) -> Vec<String> {
    let names = page
        .entries
        .iter()
        .map(|entry| entry.object.key().name.to_string());
    names.collect()
}

#[tokio::test]
async fn each_page_is_asked_for_once_and_before_the_one_before_it_is_taken() {
    let asked = Asked::default();
    let mut pages = Pages::<Namespace>::of(client(&asked, three_pages));
    let mut seen = Vec::new();
    for expected in [2, 3, 3] {
        let page = pages.next().await.unwrap();
        // On one thread, every task that can run has its turns meanwhile.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(queries(&asked).len(), expected);
        assert_eq!(page.version, "7");
        seen.extend(names(&page));
        assert_eq!(page.is_last, seen.len() == 3);
    }
    assert_eq!(seen, ["a", "b", "c"]);
    let second = format!(
        "&limit={}&continue=one",
        fitting(FIRST, page("a", "one").to_string().len())
    );
    assert_eq!(queries(&asked)[..2], ["&limit=500".to_owned(), second]);
}

#[tokio::test]
async fn a_list_that_is_given_up_asks_for_no_more() {
    let asked = Asked::default();
    let mut pages = Pages::<Namespace>::of(client(&asked, three_pages));
    pages.next().await.unwrap();
    drop(pages);
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(queries(&asked).len() <= 2);
}

#[tokio::test]
async fn only_pods_are_asked_for_in_binary_and_may_come_in_json() {
    let asked = Asked::default();
    let client = client(&asked, |_| (200, page("a", "")));
    let pods = Pages::<Pod>::of(client.clone()).next().await.unwrap();
    assert_eq!(names(&pods), ["a"]);
    Pages::<Namespace>::of(client).next().await.unwrap();
    let accepted: Vec<String> = asked
        .lock()
        .unwrap()
        .iter()
        .map(|(_, accept)| accept.clone())
        .collect();
    assert_eq!(
        accepted[0],
        "application/vnd.kubernetes.protobuf, application/json;q=0.9"
    );
    assert_eq!(accepted[1], "application/json");
}

/// What an answer that is no page means.
async fn failure(status: u16, body: Value) -> Failure {
    let answer = move |_: &str| (status, body.clone());
    let mut pages = Pages::<Namespace>::of(client(&Asked::default(), answer));
    pages.next().await.unwrap_err()
}

#[tokio::test]
async fn what_is_no_page_is_a_failure_and_no_empty_list() {
    let told = |message: &str| Failure::Unavailable(message.to_owned());
    let metadata = json!({"resourceVersion": "7"});
    assert_eq!(failure(404, json!("gone")).await, Failure::Missing);
    let old = json!({"message": "old", "reason": "Expired"});
    assert_eq!(failure(410, old).await, told("list: old (410 Expired)"));
    let refused = json!({"message": "not now", "reason": "Wait"});
    assert_eq!(failure(503, refused).await, told("list: not now (503 Wait)"));
    assert_eq!(
        failure(502, json!("from between")).await,
        told("list: \"from between\" (502 Bad Gateway)")
    );
    assert_eq!(
        failure(200, json!({"metadata": {}, "items": []})).await,
        told("list: it has no version")
    );
    for other in [
        json!({"metadata": metadata}),
        json!({"items": []}),
        json!({"metadata": metadata, "items": 1}),
    ] {
        let failure = failure(200, other.clone()).await;
        assert!(matches!(failure, Failure::Unavailable(_)), "{other}");
    }
}

#[tokio::test]
async fn a_list_of_nothing_may_be_written_as_null() {
    let answer = |_: &str| (200, json!({"metadata": {"resourceVersion": "7"}, "items": null}));
    let mut pages = Pages::<Namespace>::of(client(&Asked::default(), answer));
    let page = pages.next().await.unwrap();
    assert!(page.entries.is_empty() && page.is_last);
}

/// Large objects behind small ones: the page is asked for again, with fewer.
#[tokio::test]
async fn l2_a_page_that_is_too_large_is_asked_for_in_smaller_parts() {
    let asked = Asked::default();
    let objects = |query: &str| {
        let limit = query.split("limit=").nth(1).unwrap();
        limit.split('&').next().unwrap().parse::<usize>().unwrap()
    };
    let answer = move |query: &str| {
        let filler = "x".repeat(objects(query) * LARGEST / 100);
        let object = json!({"metadata": {"name": "a", "annotations": {"filler": filler}}});
        (
            200,
            json!({"metadata": {"resourceVersion": "7"}, "items": [object]}),
        )
    };
    let page = Pages::<Namespace>::of(client(&asked, answer))
        .next()
        .await
        .unwrap();
    assert_eq!(names(&page), ["a"]);
    assert_eq!(queries(&asked), ["&limit=500", "&limit=125", "&limit=31"]);

    let answer = |_: &str| (200, json!({"metadata": {}, "items": ["x".repeat(LARGEST)]}));
    let failure = Pages::<Namespace>::of(client(&Asked::default(), answer))
        .next()
        .await;
    let told = Failure::Unavailable("list: one object is too large".to_owned());
    assert_eq!(failure.unwrap_err(), told);
}
