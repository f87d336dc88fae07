// SPDX-License-Identifier: Apache-2.0
//! Bare lists: all objects of a kind, page by page, for a client that does nothing with them.

use anyhow::{Result, ensure};
use kube::{
    Client,
    api::{ListParams, Request},
    client::Body,
};
use prost::{Message, bytes::Bytes};

/// How a list is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Manner {
    /// Objects on a page.
    page: u32,
    /// `Accept` for Pods.
    pods: &'static str,
}

/// As the common clients ask: 500 objects a page is kubectl's default, JSON everybody's.
pub const COMMON: Manner = Manner {
    page: 500,
    pods: JSON,
};

/// As the agent asks. With objects as small as those of the benchmark, a page has so many.
pub const AGENT: Manner = Manner {
    page: 2000,
    pods: "application/vnd.kubernetes.protobuf",
};

const JSON: &str = "application/json";
/// What an answer in Kubernetes' binary encoding begins with.
const MAGIC: &[u8] = b"k8s\0";

/// Lists all Pods and all NetworkPolicies at once.
pub(super) async fn all(client: &Client, manner: Manner) -> Result<()> {
    let policies = "/apis/networking.k8s.io/v1/networkpolicies";
    tokio::try_join!(
        list(client, "/api/v1/pods", manner.page, manner.pods),
        list(client, policies, manner.page, JSON),
    )?;
    Ok(())
}

async fn list(client: &Client, path: &str, page: u32, accept: &'static str) -> Result<()> {
    let mut parameters = ListParams::default().limit(page);
    loop {
        let mut request = Request::new(path).list(&parameters)?.map(Body::from);
        request.headers_mut().insert("accept", accept.parse()?);
        let answer = client.send(request).await?;
        ensure!(answer.status().is_success(), "{path}: {}", answer.status());
        let next = token(answer.into_body().collect_bytes().await?)?;
        if next.is_empty() {
            return Ok(());
        }
        parameters.continue_token = Some(next);
    }
}

/// The token of the next page, empty if there is none. It is in the list's metadata: the objects
/// are not looked through.
fn token(page: Bytes) -> Result<String> {
    if page.starts_with(MAGIC) {
        let list = Envelope::decode(page.slice(MAGIC.len()..))?.raw;
        return Ok(Head::decode(list)?.metadata.unwrap_or_default().token);
    }
    let head = String::from_utf8_lossy(page.get(..1000).unwrap_or(&page)).into_owned();
    let after = head.split("\"continue\":\"").nth(1);
    let token = after.and_then(|rest| rest.split('"').next());
    Ok(token.unwrap_or_default().to_owned())
}

/// `runtime.Unknown`, as far as it is read.
#[derive(Message)]
struct Envelope {
    #[prost(bytes = "bytes", tag = "2")]
    raw: Bytes,
}

/// A list without its items.
#[derive(Message)]
struct Head {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ListMeta>,
}

/// A list's metadata, as far as it is read.
#[derive(Message)]
struct ListMeta {
    #[prost(string, tag = "3")]
    token: String,
}
