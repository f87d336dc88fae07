// SPDX-License-Identifier: Apache-2.0
//! How an agent is started: plainly, or as a kubelet starts it in its pod.

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    process::Command,
};

/// How an agent is started.
#[derive(Debug, Clone, Default)]
pub struct Launch {
    /// Arguments after `netpol`, without the pin path and the log format.
    pub arguments: Vec<OsString>,
    /// Environment, on top of this process's.
    pub environment: Vec<(String, OsString)>,
    /// The only capabilities that it may have, spelled as in a pod's security context (`NET_ADMIN`), and no way to more; all if absent.
    pub capabilities: Option<Vec<String>>,
    /// Folder with the token, the authority's certificate and the namespace of a service account, which it then finds as in a pod whose
    /// root is read-only.
    pub service_account: Option<PathBuf>,
}

impl Launch {
    /// `netpol agent` on a source, for a node.
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

    pub(super) fn command(&self, binary: &Path) -> Command {
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

/// Makes the root read-only and the service account's files appear where a kubelet puts them, then runs its arguments.
const AS_POD: &str = "set -e
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/secrets/kubernetes.io
cp -r \"$0\" /run/secrets/kubernetes.io/serviceaccount
mount -o remount,bind,ro /
exec \"$@\"";
