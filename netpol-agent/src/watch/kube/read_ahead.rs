// SPDX-License-Identifier: Apache-2.0
//! Lists are read a page ahead: while one page is decoded, the server makes the next.

use std::sync::{Arc, Mutex, PoisonError};

use hyper::{HeaderMap, Method, Request, Response, Uri, body::Bytes, http::response};
use kube::{Client, client::Body};
use tokio_util::task::AbortOnDropHandle;
use tower::service_fn;

/// Bytes of an answer within which the metadata of a list ends.
const HEAD: usize = 4096;
/// What follows it.
const ITEMS: &[u8] = b"\"items\":";

/// A page as the server sent it.
type Page = kube::Result<(response::Parts, Bytes)>;

/// The client with which one kind is listed and watched: each page of a list that names another
/// makes it ask for that one at once.
pub(super) fn client(client: Client) -> Client {
    let namespace = client.default_namespace().to_owned();
    let pages = Arc::new(Pages {
        client,
        next: Mutex::new(None),
    });
    Client::new(
        service_fn(move |request| Arc::clone(&pages).answer(request)),
        namespace,
    )
}

struct Pages {
    client: Client,
    next: Mutex<Option<Next>>,
}

/// A page that was asked for before someone wants it.
struct Next {
    uri: Uri,
    page: AbortOnDropHandle<Page>,
}

impl Pages {
    async fn answer(self: Arc<Self>, request: Request<Body>) -> kube::Result<Response<Body>> {
        let uri = request.uri().clone();
        if !is_page(request.method(), &uri) {
            return self.client.send(request).await;
        }
        let headers = request.headers().clone();
        let page = match self.take(&uri) {
            Some(page) => page
                .await
                .unwrap_or_else(|error| Err(kube::Error::Service(error.into()))),
            None => fetch(self.client.clone(), request).await,
        };
        let (head, body) = page?;
        if head.status.is_success()
            && let Some(token) = continue_token(&body)
        {
            self.ask(page_after(&uri, token)?, headers);
        }
        Ok(Response::from_parts(head, Body::from(body)))
    }

    /// The page that was read ahead, if it is this one. Another is of a list that was given up.
    fn take(&self, uri: &Uri) -> Option<AbortOnDropHandle<Page>> {
        let next = self.next.lock().unwrap_or_else(PoisonError::into_inner).take();
        next.filter(|next| next.uri == *uri).map(|next| next.page)
    }

    fn ask(&self, uri: Uri, headers: HeaderMap) {
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = uri.clone();
        *request.headers_mut() = headers;
        let page = AbortOnDropHandle::new(tokio::spawn(fetch(self.client.clone(), request)));
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = Some(Next { uri, page });
    }
}

async fn fetch(client: Client, request: Request<Body>) -> Page {
    let (head, body) = client.send(request).await?.into_parts();
    Ok((head, body.collect_bytes().await?))
}

/// True for a request for a page of a list.
fn is_page(method: &Method, uri: &Uri) -> bool {
    let query = uri.query().unwrap_or_default().as_bytes();
    let has = |name| form_urlencoded::parse(query).any(|(key, _)| key == name);
    method == Method::GET && has("limit") && !has("watch")
}

/// Where the page is that a page at `uri` gives `token` for: what [`kube::api::ListParams`] writes.
fn page_after(uri: &Uri, token: &str) -> kube::Result<Uri> {
    let query = uri.query().unwrap_or_default().as_bytes();
    let kept = form_urlencoded::parse(query).filter(|(key, _)| {
        // The token says of which version of the list it is.
        !["continue", "resourceVersion", "resourceVersionMatch"].contains(&key.as_ref())
    });
    let mut next = form_urlencoded::Serializer::new(format!("{}?", uri.path()));
    let next = next.extend_pairs(kept).append_pair("continue", token).finish();
    next.parse()
        .map_err(|error| kube::Error::Service(Box::new(error)))
}

/// The token of the next page. It is in the list's metadata, which servers write before the items:
/// those are not looked through. A token that is not found is a page that is not read ahead.
fn continue_token(body: &[u8]) -> Option<&str> {
    let head = body.get(..HEAD).unwrap_or(body);
    let head = match head.windows(ITEMS.len()).position(|part| part == ITEMS) {
        Some(end) => head.get(..end)?,
        None => head,
    };
    let (_, token) = std::str::from_utf8(head).ok()?.split_once("\"continue\":\"")?;
    let (token, _) = token.split_once('"')?;
    (!token.is_empty() && !token.contains('\\')).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_where_the_library_asks_for_it() {
        use kube::api::{ListParams, Request};
        let list = ListParams::default().limit(500);
        let uri = |list: &ListParams| Request::new("/api/v1/pods").list(list).unwrap().uri().clone();
        let next = uri(&list.clone().continue_token("a+b/c=&d"));
        assert_eq!(page_after(&uri(&list), "a+b/c=&d").unwrap(), next);
        assert_eq!(
            page_after(&next, "e").unwrap(),
            uri(&list.clone().continue_token("e"))
        );
        let selected = list.labels("app=a").at("7");
        let next = uri(&selected.clone().continue_token("f"));
        assert_eq!(page_after(&uri(&selected), "f").unwrap(), next);
    }

    #[test]
    fn only_pages_are_read_ahead() {
        let is_page = |method, uri: &str| is_page(&method, &uri.parse().unwrap());
        assert!(is_page(Method::GET, "/api/v1/pods?limit=500"));
        assert!(is_page(Method::GET, "/api/v1/pods?limit=500&continue=a"));
        assert!(!is_page(Method::GET, "/api/v1/pods?"));
        assert!(!is_page(Method::GET, "/api/v1/pods?watch=true&limit=500"));
        assert!(!is_page(Method::POST, "/api/v1/pods?limit=500"));
    }

    #[test]
    fn the_token_is_that_of_the_list_and_not_of_an_object() {
        let page = |metadata: &str, pod: &str| {
            format!(
                r#"{{"kind":"PodList","apiVersion":"v1","metadata":{metadata},"items":[{{"metadata":{pod}}}]}}"#
            )
        };
        let object = r#"{"labels":{"continue":"b"}}"#;
        let first = page(r#"{"resourceVersion":"7","continue":"a"}"#, object);
        assert_eq!(continue_token(first.as_bytes()), Some("a"));
        let last = page(r#"{"resourceVersion":"7"}"#, object);
        assert_eq!(continue_token(last.as_bytes()), None);
        let empty = page(r#"{"continue":""}"#, object);
        assert_eq!(continue_token(empty.as_bytes()), None);
        assert_eq!(continue_token(b"{\"metadata\":{\"continue\":\"a"), None);
        assert_eq!(continue_token(b""), None);
    }

    /// A server that gives three pages and notes what it was asked for.
    fn server(asked: &Arc<Mutex<Vec<String>>>, fails: &'static str) -> Client {
        let asked = Arc::clone(asked);
        let answer = move |request: Request<Body>| {
            let uri = request.uri().to_string();
            asked.lock().unwrap().push(uri.clone());
            let after = uri.split_once("continue=").map_or("", |(_, token)| token);
            let (status, next) = match after {
                token if !token.is_empty() && token == fails => (410, ""),
                "" => (200, "one"),
                "one" => (200, "two"),
                _ => (200, ""),
            };
            let page = format!(r#"{{"metadata":{{"continue":"{next}"}},"items":[]}}"#);
            let answer = Response::builder()
                .status(status)
                .body(Body::from(page.into_bytes()));
            std::future::ready(answer)
        };
        Client::new(service_fn(answer), "default")
    }

    /// Asks for a page, waits until nothing runs any more, and tells the status.
    async fn ask(client: &Client, uri: &str) -> u16 {
        let request = Request::get(uri).body(Body::empty()).unwrap();
        let status = client.send(request).await.unwrap().status().as_u16();
        // On one thread, every task that can run has its turns meanwhile.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        status
    }

    /// As the library writes them.
    const FIRST: &str = "/api/v1/pods?&limit=500";
    const SECOND: &str = "/api/v1/pods?&limit=500&continue=one";
    const THIRD: &str = "/api/v1/pods?&limit=500&continue=two";

    #[tokio::test]
    async fn each_page_is_asked_for_once_and_before_someone_wants_it() {
        let asked = Arc::default();
        let client = client(server(&asked, ""));
        let so_far = || asked.lock().unwrap().clone();
        assert_eq!(ask(&client, FIRST).await, 200);
        assert_eq!(so_far(), [FIRST, SECOND]);
        assert_eq!(ask(&client, SECOND).await, 200);
        assert_eq!(so_far(), [FIRST, SECOND, THIRD]);
        assert_eq!(ask(&client, THIRD).await, 200);
        assert_eq!(so_far(), [FIRST, SECOND, THIRD]);
    }

    #[tokio::test]
    async fn a_page_that_is_refused_is_answered_so_once_and_the_list_begins_again() {
        let asked = Arc::default();
        let client = client(server(&asked, "one"));
        assert_eq!(ask(&client, FIRST).await, 200);
        assert_eq!(ask(&client, SECOND).await, 410);
        assert_eq!(ask(&client, FIRST).await, 200);
        assert_eq!(*asked.lock().unwrap(), [FIRST, SECOND, FIRST, SECOND]);
    }

    #[tokio::test]
    async fn what_was_read_ahead_for_a_list_that_was_given_up_is_nobodys_answer() {
        let asked = Arc::default();
        let client = client(server(&asked, ""));
        assert_eq!(ask(&client, FIRST).await, 200);
        assert_eq!(ask(&client, FIRST).await, 200);
        assert_eq!(ask(&client, SECOND).await, 200);
        assert_eq!(*asked.lock().unwrap(), [FIRST, SECOND, FIRST, SECOND, THIRD]);
    }
}
