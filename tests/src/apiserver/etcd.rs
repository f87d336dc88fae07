// SPDX-License-Identifier: Apache-2.0
//! Writes objects directly into etcd, thousands a second. The API server reads them as if it had
//! written them, because it accepts JSON as well as its own encoding.

use anyhow::{Context, Result, ensure};
use k8s_openapi::ByteString;
use kube::{
    Client, Config,
    api::{PostParams, Request},
};
use serde_json::{Value, json};

use super::{ApiServer, ETCD};

/// An object and its key in etcd.
pub type Stored = (String, Value);

/// Objects in a transaction: etcd's default maximum.
const TOGETHER: usize = 128;
/// Concurrent transactions.
const AT_ONCE: usize = 4;

/// Makes a client for etcd.
///
/// # Errors
/// If it cannot be made.
pub fn client(api: &ApiServer) -> Result<Client> {
    api.run(async { Ok(Client::try_from(Config::new(ETCD.parse()?))?) })
}

/// Writes objects. Replaces those under the same key.
///
/// # Errors
/// If etcd refuses one.
pub fn put(api: &ApiServer, objects: impl Iterator<Item = Stored>) -> Result<usize> {
    let client = client(api)?;
    let mut objects = objects.peekable();
    let mut written = 0;
    while objects.peek().is_some() {
        let mut bodies: Vec<Vec<Value>> = Vec::new();
        while bodies.len() < AT_ONCE && objects.peek().is_some() {
            let some: Vec<Stored> = objects.by_ref().take(TOGETHER).collect();
            written += some.len();
            bodies.push(some.iter().map(|(key, object)| put_one(key, object)).collect());
        }
        let client = client.clone();
        api.run(async move {
            let sent = bodies.into_iter().map(|body| {
                let client = client.clone();
                tokio::spawn(async move { send(&client, body).await })
            });
            for sent in sent.collect::<Vec<_>>() {
                sent.await.context("a transaction panicked")??;
            }
            Ok(())
        })?;
    }
    Ok(written)
}

/// Returns the operation that writes an object.
pub fn put_one(key: &str, object: &Value) -> Value {
    let value = ByteString(object.to_string().into_bytes());
    json!({"requestPut": {"key": bytes(key), "value": value}})
}

/// Returns the operation that removes an object.
pub fn remove(key: &str) -> Value {
    json!({"requestDeleteRange": {"key": bytes(key)}})
}

fn bytes(key: &str) -> ByteString {
    ByteString(key.as_bytes().to_vec())
}

/// Sends operations in one transaction.
///
/// # Errors
/// If etcd refuses.
pub async fn send(client: &Client, operations: Vec<Value>) -> Result<()> {
    let body = serde_json::to_vec(&json!({"success": operations}))?;
    let request = Request::new("/v3/kv/txn").create(&PostParams::default(), body)?;
    let answer: Value = client.request(request).await.context("writing into etcd")?;
    ensure!(
        answer["succeeded"] == true,
        "etcd refused a transaction: {answer}"
    );
    Ok(())
}
