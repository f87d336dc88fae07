// SPDX-License-Identifier: Apache-2.0
//! How to start an agent: as a plain process, or as a kubelet starts it in its pod.

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    process::Command,
};

/// How to start an agent.
#[derive(Debug, Clone, Default)]
pub struct Launch {
    /// Arguments after `netpol`, without the pin path and the log format.
    pub arguments: Vec<OsString>,
    /// Environment, on top of this process's.
    pub environment: Vec<(String, OsString)>,
    /// The only capabilities that it may have or gain, spelled as in a pod's security context
    /// (`NET_ADMIN`); all if absent.
    pub capabilities: Option<Vec<String>>,
    /// Folder with a service account's token, CA certificate and namespace. The agent finds them as
    /// in a pod with a read-only root.
    pub service_account: Option<PathBuf>,
}

impl Launch {
    /// Starts `netpol agent` on a source, for a node.
    pub fn new(source: &Path, node: &str) -> Self {
        let arguments: [&OsStr; 5] = [
            "agent".as_ref(),
            "--node-name".as_ref(),
            node.as_ref(),
            "--source".as_ref(),
            source.as_ref(),
        ];
        Self {
            arguments: arguments.map(OsStr::to_owned).to_vec(),
            ..Self::default()
        }
    }

    /// Returns the command, which is not run.
    #[must_use]
    pub fn command(&self, binary: &Path) -> Command {
        let mut words: Vec<OsString> = Vec::new();
        if let Some(folder) = &self.service_account {
            words.extend(["unshare", "--mount", "sh", "-c", AS_POD].map(OsString::from));
            words.push(folder.into());
        }
        if let Some(capabilities) = &self.capabilities {
            let mut bounds = String::from("-all");
            for capability in capabilities {
                bounds.extend([",+", &capability.to_lowercase()]);
            }
            let options = ["setpriv", "--no-new-privs", "--inh-caps=-all", "--bounding-set"];
            words.extend(options.map(OsString::from));
            words.push(bounds.into());
        }
        words.push(binary.into());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).args(&self.arguments);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.env_remove("KUBECONFIG").env_remove("HOME");
        command
    }
}

/// Makes the root read-only, puts the service account's files where a kubelet puts them, then runs
/// its arguments.
const AS_POD: &str = "set -e
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/secrets/kubernetes.io
cp -r \"$0\" /run/secrets/kubernetes.io/serviceaccount
mount -o remount,bind,ro /
exec \"$@\"";
