// SPDX-License-Identifier: Apache-2.0
//! The processes of etcd and kube-apiserver: arguments and end.

use std::{
    fs::File,
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result};
use nix::sys::{prctl, signal::Signal};

use super::{ApiServer, PORT};
use crate::agent::inside;

/// Where etcd listens, in the node's network namespace.
pub const ETCD: &str = "http://127.0.0.1:2379";
const ETCD_PEERS: &str = "http://127.0.0.1:2380";

impl ApiServer {
    pub(super) fn spawn_etcd(&self) -> Result<Child> {
        let mut command = Command::new(self.assets.join("etcd"));
        command.arg("--data-dir").arg(self.folder.path().join("etcd"));
        command.args(["--listen-client-urls", ETCD, "--advertise-client-urls", ETCD]);
        command.args([
            "--listen-peer-urls",
            ETCD_PEERS,
            "--initial-advertise-peer-urls",
            ETCD_PEERS,
        ]);
        command.args(["--initial-cluster", &format!("default={ETCD_PEERS}")]);
        self.spawn(command, "etcd.log")
    }

    pub(super) fn spawn_server(&self) -> Result<Child> {
        let folder = self.folder.path();
        let key = folder.join("certs/apiserver.key");
        let mut command = Command::new(self.assets.join("kube-apiserver"));
        command.args(["--etcd-servers", ETCD, "--bind-address", "127.0.0.1"]);
        command.args([
            "--secure-port",
            &PORT.to_string(),
            "--advertise-address",
            "127.0.0.1",
        ]);
        command.arg("--cert-dir").arg(folder.join("certs"));
        command.arg("--token-auth-file").arg(folder.join("tokens.csv"));
        command.args([
            "--authorization-mode",
            "RBAC",
            "--service-cluster-ip-range",
            "10.96.0.0/16",
        ]);
        command.args(["--service-account-issuer", "https://kubernetes.default.svc"]);
        command.arg("--service-account-key-file").arg(&key);
        command.arg("--service-account-signing-key-file").arg(&key);
        // The controller manager would make the default service accounts and tokens. It does not
        // run here.
        command.args(["--disable-admission-plugins", "ServiceAccount"]);
        // The service `kubernetes` cannot have endpoints on loopback.
        command.args(["--endpoint-reconciler-type", "none"]);
        // As kubeadm, k3s and kind have it.
        command.arg("--allow-privileged");
        // Two addresses per pod: on by default since 1.21.
        command.args(["--feature-gates", "IPv6DualStack=true"]);
        self.spawn(command, "apiserver.log")
    }

    fn spawn(&self, mut command: Command, log: &str) -> Result<Child> {
        let path = self.folder.path().join(log);
        let log = File::options().create(true).append(true).open(&path)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // SAFETY: between fork and exec this makes one system call and allocates nothing.
        unsafe {
            command.pre_exec(|| Ok(prctl::set_pdeathsig(Signal::SIGKILL)?));
        }
        let program = Path::new(command.get_program()).to_owned();
        inside(&mut command, &self.netns)
            .spawn()
            .with_context(|| format!("starting {}", program.display()))
    }
}

/// Kills a process and waits until it is gone.
pub(super) fn end(child: &mut Child) -> Result<()> {
    child.kill().context("killing a server")?;
    child.wait().context("waiting for a server to end").map(|_| ())
}
