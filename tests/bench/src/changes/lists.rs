// SPDX-License-Identifier: Apache-2.0
//! Bare lists: all objects of a kind, page by page, for a client that does nothing with them.

use anyhow::{Result, ensure};
use kube::{
    Client,
    api::{ListParams, Request},
    client::Body,
};
use prost::{Message, bytes::Bytes};

/// Objects on a page: about what the agent asks for, with objects as small as those of the
/// benchmark.
const PAGE: u32 = 1600;
/// What an answer in Kubernetes' binary encoding begins with.
const MAGIC: &[u8] = b"k8s\0";

/// Lists all Pods and all NetworkPolicies at once, as the agent does: each page is asked for while
/// the one before is dropped.
pub(super) async fn all(client: &Client) -> Result<()> {
    let policies = "/apis/networking.k8s.io/v1/networkpolicies";
    tokio::try_join!(
        list(client, "/api/v1/pods", "application/vnd.kubernetes.protobuf"),
        list(client, policies, "application/json"),
    )?;
    Ok(())
}

async fn list(client: &Client, path: &str, accept: &'static str) -> Result<()> {
    let mut parameters = ListParams::default().limit(PAGE);
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
