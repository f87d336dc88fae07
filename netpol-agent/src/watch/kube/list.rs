// SPDX-License-Identifier: Apache-2.0
//! Lists of one kind, page by page. The server makes a page while the one before is converted.
//!
//! Pages are of about the same size, whatever the size of an object is. For each page etcd counts
//! all objects that are left, so that many short pages of a long list cost more than the objects
//! do.

use std::{error::Error, ops::RangeInclusive};

use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::{
    body::Bytes,
    header::{ACCEPT, HeaderValue},
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta;
use kube::{
    Client, Resource as _,
    api::{ListParams, Request},
    client::Body,
    core::Status,
};
use serde::Deserialize;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::{
    binary,
    decoded::Decoded,
    failure::{Failure, silent},
    kind::SILENCE,
};
use crate::{
    causes::causes,
    watch::{
        object::Entry,
        wire::{FromBinary, Wire, or_default},
    },
};

/// Objects on the first page.
const FIRST: u32 = 500;
/// Bytes that a page should have.
const SIZE: usize = 2 << 20;
/// Objects that a page may have, whatever their size.
const OBJECTS: RangeInclusive<u32> = 50..=2000;
/// A page of more bytes is given up and asked for again with fewer objects. Otherwise large objects
/// behind small ones could cost the agent its memory. A single object is always smaller.
const LARGEST: usize = 16 << 20;

/// `Accept` for an answer in JSON.
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// A page of a list.
#[derive(Debug)]
pub(super) struct Page {
    pub entries: Vec<Entry>,
    /// The version of the list, from which a watch goes on.
    pub version: String,
    /// No other follows.
    pub is_last: bool,
}

/// A list that is being read.
pub(super) struct Pages<T> {
    client: Client,
    /// The page that was asked for.
    next: AbortOnDropHandle<Result<Answer<T>, Failure>>,
    /// A page was read.
    begun: bool,
}

impl<T: Wire> Pages<T> {
    /// Asks for the first page.
    pub(super) fn of(client: Client) -> Self {
        Self {
            next: ask::<T>(client.clone(), FIRST, None),
            client,
            begun: false,
        }
    }

    /// Returns the next page, and asks for the one behind it. Not to be called after the last.
    pub(super) async fn next(&mut self) -> Result<Page, Failure> {
        let answer = (&mut self.next).await;
        let answer = answer.map_err(|error| unreadable(&error))?;
        let Answer { body, read, limit } = answer.map_err(|failure| match failure {
            // It was there a page ago.
            Failure::Missing if self.begun => Failure::Unavailable("list: a page is missing".to_owned()),
            failure => failure,
        })?;
        self.begun = true;
        let size = body.len();
        let (metadata, items) = if let Some(read) = read {
            let list = binary::List::open::<T>(body).map_err(|error| unreadable(&error))?;
            (list.metadata, Items::Binary(list.items, read))
        } else {
            let list: InJson<T> = serde_json::from_slice(&body).map_err(|error| unreadable(&error))?;
            (list.metadata, Items::Decoded(list.items))
        };
        let version = metadata.resource_version.filter(|version| !version.is_empty());
        let Some(version) = version else {
            return Err(Failure::Unavailable("list: it has no version".to_owned()));
        };
        let token = metadata.continue_.filter(|token| !token.is_empty());
        let is_last = token.is_none();
        if let Some(token) = token {
            self.next = ask::<T>(self.client.clone(), fitting(limit, size), Some(token));
        }
        let entries = items.convert()?;
        if entries.iter().any(|entry| entry.object.key().name.is_empty()) {
            return Err(Failure::Unavailable("list: an object has no name".to_owned()));
        }
        Ok(Page {
            entries,
            version,
            is_last,
        })
    }
}

/// A page as it was sent.
struct Answer<T> {
    body: Bytes,
    /// Reads an object, if the answer is in the server's binary encoding.
    read: Option<FromBinary<T>>,
    /// Objects that were asked for.
    limit: u32,
}

/// A list in JSON.
#[derive(Deserialize)]
#[serde(bound = "")]
struct InJson<T: Wire> {
    metadata: ListMeta,
    /// `null` if there are none.
    #[serde(deserialize_with = "or_default")]
    items: Vec<Decoded<T>>,
}

enum Items<T> {
    Decoded(Vec<Decoded<T>>),
    Binary(Vec<Bytes>, FromBinary<T>),
}

impl<T: Wire> Items<T> {
    fn convert(self) -> Result<Vec<Entry>, Failure> {
        match self {
            Self::Decoded(objects) => Ok(objects.into_iter().map(|object| object.entry).collect()),
            Self::Binary(objects, read) => {
                let entries = objects.into_iter().map(|object| read(object).map(T::convert));
                let entries: Result<_, _> = entries.collect();
                entries.map_err(|error| unreadable(&error))
            }
        }
    }
}

fn unreadable(error: &dyn Error) -> Failure {
    Failure::Unavailable(format!("list: {}", causes(error)))
}

/// Asks for a page of so many objects, the first or the one of a token.
fn ask<T: Wire>(
    client: Client,
    limit: u32,
    token: Option<String>,
) -> AbortOnDropHandle<Result<Answer<T>, Failure>> {
    let mut parameters = ListParams {
        continue_token: token,
        ..ListParams::default()
    };
    AbortOnDropHandle::new(tokio::spawn(async move {
        let mut limit = limit;
        loop {
            parameters.limit = Some(limit);
            let fetched = timeout(SILENCE, fetch::<T>(&client, &parameters)).await;
            match fetched.map_err(|_| silent("list"))?? {
                Some((is_binary, body)) => {
                    let read = T::FROM_BINARY.filter(|_| is_binary);
                    return Ok(Answer { body, read, limit });
                }
                None if limit > 1 => limit = (limit / 4).max(1),
                None => return Err(Failure::Unavailable("list: one object is too large".to_owned())),
            }
        }
    }))
}

/// Returns what the server answers, and whether that is in its binary encoding; `None` if it is too
/// large.
async fn fetch<T: Wire>(client: &Client, parameters: &ListParams) -> Result<Option<(bool, Bytes)>, Failure> {
    let failed = |error: kube::Error| Failure::from_request(&error, "list");
    let request = Request::new(Decoded::<T>::url_path(&(), None)).list(parameters);
    let request = request.map_err(|error| failed(kube::Error::BuildRequest(error)))?;
    let mut request = request.map(Body::from);
    let accepted = T::FROM_BINARY.map_or(JSON, |_| binary::ACCEPTED);
    request.headers_mut().insert(ACCEPT, accepted);
    let (head, body) = client.send(request).await.map_err(failed)?.into_parts();
    let body = match Limited::new(body, LARGEST).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => return Ok(None),
        Err(error) => return Err(unreadable(&*error)),
    };
    let is_binary = binary::is_of(&head.headers);
    if head.status.is_success() {
        return Ok(Some((is_binary, body)));
    }
    let told = if is_binary {
        binary::status(body.clone()).ok()
    } else {
        serde_json::from_slice(&body).ok()
    };
    // What is between the agent and the server says it in its own words.
    let told = told.unwrap_or_else(|| Status {
        message: String::from_utf8_lossy(&body).trim().to_owned(),
        reason: head.status.canonical_reason().unwrap_or_default().to_owned(),
        ..Status::default()
    });
    let code = head.status.as_u16();
    Err(Failure::from_status(&Status { code, ..told }, "list"))
}

/// How many objects to ask for after a page of `limit` objects took `bytes`: at most twice as many,
/// because the next may be larger. A page that another follows has exactly `limit` objects.
fn fitting(limit: u32, bytes: usize) -> u32 {
    let objects = SIZE.saturating_mul(limit as usize) / bytes.max(1);
    let objects = u32::try_from(objects).unwrap_or(u32::MAX);
    objects
        .clamp(*OBJECTS.start(), *OBJECTS.end())
        .min(limit.saturating_mul(2))
}

#[cfg(test)]
mod tests;
