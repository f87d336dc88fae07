// SPDX-License-Identifier: Apache-2.0
//! A real kube-apiserver with etcd, as envtest installs them: RBAC, tokens of service accounts, no
//! controllers and no kubelet.
//!
//! They listen on the loopback of a node's network namespace. The agent reaches them there, and no
//! port of the host is used.

mod client;
pub mod etcd;
pub mod faulty;
mod processes;

use std::{
    ffi::OsString,
    fmt,
    fs::{self, File},
    io::Read,
    path::PathBuf,
    process::Child,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use kube::Client;
use serde_json::json;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::{netns::NetNs, node::Node, privilege};

pub use processes::ETCD;
use processes::end;

/// Time limit for a start, which takes seconds on busy machines.
const START: Duration = Duration::from_secs(120);
/// Time between checks if it answers.
const ASK: Duration = Duration::from_millis(100);

const PORT: u16 = 6443;
/// A running API server. Drop stops it and removes its folder.
pub struct ApiServer {
    netns: Arc<NetNs>,
    assets: PathBuf,
    folder: TempDir,
    admin: String,
    runtime: Runtime,
    client: Option<Client>,
    server: Option<Child>,
    etcd: Option<Child>,
}

impl ApiServer {
    /// Starts one in the node's network namespace, and waits until it is ready.
    ///
    /// # Errors
    /// If it is not installed ([`privilege::api_server`]) or does not get ready; with its log.
    pub fn start(node: &Node) -> Result<Self> {
        let assets = privilege::api_server().map_err(anyhow::Error::msg)?;
        let folder = tempfile::Builder::new().prefix("netpol-apiserver-").tempdir()?;
        let admin = random_token()?;
        fs::write(
            folder.path().join("tokens.csv"),
            format!("{admin},admin,1,system:masters\n"),
        )?;
        let netns = Arc::clone(node.netns());
        let runtime = client::runtime(&netns)?;
        let mut server = Self {
            netns,
            assets,
            folder,
            admin,
            runtime,
            client: None,
            server: None,
            etcd: None,
        };
        server.etcd = Some(server.spawn_etcd()?);
        server.restart()?;
        Ok(server)
    }

    /// Kills the API server as a crash would. etcd keeps the objects.
    ///
    /// # Errors
    /// If it does not run.
    pub fn kill(&mut self) -> Result<()> {
        self.client = None;
        let mut server = self.server.take().context("the API server does not run")?;
        end(&mut server)
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "a server in another process tells nobody that it is ready"
    )]
    fn pause() {
        std::thread::sleep(ASK);
    }

    /// Starts it again with the same objects and certificate, and waits until it is ready.
    ///
    /// # Errors
    /// If it still runs or does not get ready; with its log.
    pub fn restart(&mut self) -> Result<()> {
        ensure!(self.server.is_none(), "the API server still runs");
        self.server = Some(self.spawn_server()?);
        let until = Instant::now() + START;
        loop {
            let state = match self.ask() {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let ended = self.server.as_mut().map(Child::try_wait).transpose()?.flatten();
            if ended.is_some() || Instant::now() > until {
                bail!(
                    "the API server is not ready ({ended:?}): {state:#}\n{}",
                    self.log()
                );
            }
            Self::pause();
        }
    }

    /// Writes a kubeconfig for a bearer token. The file lasts as long as the server.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn kubeconfig(&self, name: &str, token: &str) -> Result<PathBuf> {
        let path = self.folder.path().join(format!("kubeconfig-{name}"));
        let text = serde_json::to_string_pretty(&self.config(token))?;
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }

    /// Writes a kubeconfig for the administrator. The file lasts as long as the server.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn administrators_kubeconfig(&self) -> Result<PathBuf> {
        self.kubeconfig("admin", &self.admin)
    }

    /// Writes a folder as it is mounted into pods: token, CA certificate, namespace.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn service_account(&self, namespace: &str, token: &str) -> Result<PathBuf> {
        let path = self.folder.path().join("serviceaccount");
        fs::create_dir_all(&path)?;
        fs::write(path.join("token"), token)?;
        fs::write(path.join("namespace"), namespace)?;
        fs::copy(self.authority(), path.join("ca.crt")).context("copying the authority's certificate")?;
        Ok(path)
    }

    /// Returns the environment that tells a pod the API server's address.
    pub fn environment(&self) -> [(String, OsString); 2] {
        [
            ("KUBERNETES_SERVICE_HOST".to_owned(), "127.0.0.1".into()),
            ("KUBERNETES_SERVICE_PORT".to_owned(), PORT.to_string().into()),
        ]
    }

    /// Returns the certificate that the server makes for itself, followed by its CA's.
    fn authority(&self) -> PathBuf {
        self.folder.path().join("certs/apiserver.crt")
    }

    /// Returns the last log lines of the API server and etcd.
    pub fn log(&self) -> String {
        let tail = |name: &str| {
            let text = fs::read_to_string(self.folder.path().join(name)).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(30)..].join("\n")
        };
        format!(
            "kube-apiserver:\n{}\netcd:\n{}",
            tail("apiserver.log"),
            tail("etcd.log")
        )
    }

    fn config(&self, token: &str) -> serde_json::Value {
        json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {
                "server": format!("https://127.0.0.1:{PORT}"),
                "certificate-authority": self.authority(),
            }}],
            "users": [{"name": "test", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "current-context": "test",
        })
    }
}

impl fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiServer")
            .field("folder", &self.folder)
            .finish_non_exhaustive()
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
        for child in [&mut self.server, &mut self.etcd].into_iter().flatten() {
            if let Err(error) = end(child) {
                eprintln!("{error:#}");
            }
        }
    }
}

fn random_token() -> Result<String> {
    let mut bytes = [0_u8; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
