// SPDX-License-Identifier: Apache-2.0
//! Bare lists: all objects of a kind, page by page, for a client that does nothing with them.

use anyhow::{Context, Result, ensure};
use kube::{
    Client,
    api::{ListParams, Request},
    client::Body,
};
use prost::{Message, bytes::Bytes};

/// Objects on a page, as the agent asks.
const PAGE: u32 = 500;
/// What an answer in Kubernetes' binary encoding begins with.
const MAGIC: &[u8] = b"k8s\0";

/// Lists all Pods in the API server's binary encoding, as the agent does.
pub(super) async fn pods(client: &Client) -> Result<()> {
    let accept = "application/vnd.kubernetes.protobuf";
    list(client, "/api/v1/pods", accept, |page| {
        ensure!(
            page.starts_with(MAGIC),
            "the answer is not in Kubernetes' binary encoding"
        );
        let list = Envelope::decode(page.slice(MAGIC.len()..))?.raw;
        Ok(Head::decode(list)?.metadata.unwrap_or_default().token)
    })
    .await
}

/// Lists all NetworkPolicies in JSON, as the agent does.
pub(super) async fn policies(client: &Client) -> Result<()> {
    let path = "/apis/networking.k8s.io/v1/networkpolicies";
    list(client, path, "application/json", |page| {
        // The token is in the metadata, before the items: only that is parsed.
        let head = String::from_utf8_lossy(page.get(..1000).unwrap_or(page));
        let after = head.split("\"continue\":\"").nth(1);
        let token = after.and_then(|rest| rest.split('"').next());
        Ok(token.unwrap_or_default().to_owned())
    })
    .await
}

async fn list(
    client: &Client,
    path: &str,
    accept: &'static str,
    token: impl Fn(&Bytes) -> Result<String>,
) -> Result<()> {
    let mut parameters = ListParams::default().limit(PAGE);
    loop {
        let mut request = Request::new(path).list(&parameters)?.map(Body::from);
        request.headers_mut().insert("accept", accept.parse()?);
        let answer = client.send(request).await?;
        ensure!(answer.status().is_success(), "{path}: {}", answer.status());
        let page = answer.into_body().collect_bytes().await?;
        let next = token(&page).with_context(|| format!("a page of {path}"))?;
        if next.is_empty() {
            return Ok(());
        }
        parameters.continue_token = Some(next);
    }
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
