// SPDX-License-Identifier: Apache-2.0
//! Asks the running agent over its socket.

use std::{io::ErrorKind, path::Path, time::Duration};

use anyhow::{Context, bail};
use serde::de::DeserializeOwned;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

use super::read;

/// Longest time to wait for the agent's answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Returns the agent's answer for a path.
pub(super) fn ask<T: DeserializeOwned>(socket: &Path, path: &str) -> anyhow::Result<T> {
    let text = ask_text(socket, path)?;
    let shown = socket.display();
    serde_json::from_str(&text).with_context(|| format!("the agent on {shown} is of another version"))
}

/// As [`ask`], as the agent wrote it.
pub(super) fn ask_text(socket: &Path, path: &str) -> anyhow::Result<String> {
    let asked = async { tokio::time::timeout(PATIENCE, request(socket, path)).await };
    let answered = read::runtime()?.block_on(asked);
    answered.with_context(|| format!("no answer on {}", socket.display()))?
}

/// HTTP/1.0 ends the answer with the connection and sends it in one piece.
async fn request(socket: &Path, path: &str) -> anyhow::Result<String> {
    let shown = socket.display();
    let mut stream = connect(socket).await?;
    let head = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
    let mut answer = Vec::new();
    stream.write_all(head.as_bytes()).await?;
    stream.read_to_end(&mut answer).await?;
    let answer = String::from_utf8(answer).context("the agent's answer is no text")?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .with_context(|| format!("what answers on {shown} is no agent"))?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    if status != "200" {
        bail!("the agent on {shown} says: {body}");
    }
    Ok(body.to_owned())
}

/// Connects to the agent.
async fn connect(socket: &Path) -> anyhow::Result<UnixStream> {
    UnixStream::connect(socket).await.map_err(|error| {
        let hint = match error.kind() {
            ErrorKind::PermissionDenied => "only its user may ask the agent",
            _ => "does an agent run here?",
        };
        let asked = format!("asking the agent on {} ({hint})", socket.display());
        anyhow::Error::new(error).context(asked)
    })
}
