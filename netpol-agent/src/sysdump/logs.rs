// SPDX-License-Identifier: Apache-2.0
//! The agent's logs. A pod that may write to the node's `/var/log`, as one that ships logs, must
//! not choose what root reads there: no link is followed on the way to a log that the kubelet
//! keeps.

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom},
    path::{Component, Path, PathBuf},
};

use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};

/// Bytes of a log that are taken, from its end.
const MOST: u64 = 4 << 20;
/// Where the kubelet keeps the logs of containers.
const FOLDER: &str = "/var/log/pods";
/// How the names of the DaemonSet's folders begin there: namespace and pod.
const PODS: &str = "kube-system_netpol-";

/// A log.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    /// True if root named it: then links are followed.
    given: bool,
}

/// Returns the logs that were given, or else those of the DaemonSet's containers.
///
/// # Errors
/// There is none.
pub(super) fn find(given: &[PathBuf]) -> Result<Vec<Log>, String> {
    if given.is_empty() {
        return of_pods(Path::new(FOLDER));
    }
    let given = given.iter().map(|path| Log {
        path: path.clone(),
        given: true,
    });
    Ok(given.collect())
}

fn of_pods(folder: &Path) -> Result<Vec<Log>, String> {
    let entries = fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let below = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths = Vec::new();
    for pod in entries.flatten() {
        if pod.file_name().to_string_lossy().starts_with(PODS) {
            for container in below(&pod.path()) {
                paths.extend(below(&container.path()).map(|file| file.path()));
            }
        }
    }
    // Older logs are compressed.
    paths.retain(|path| path.extension().is_none_or(|ending| ending != "gz"));
    if paths.is_empty() {
        return Err(format!("no log of a pod {PODS}* below {}", folder.display()));
    }
    paths.sort();
    let logs = paths.into_iter().map(|path| Log { path, given: false });
    Ok(logs.collect())
}

impl Log {
    /// Its path in the archive.
    pub(super) fn name_in_archive(&self) -> String {
        let parts = self.path.components().filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_string_lossy()),
            _ => None,
        });
        format!("logs/{}", parts.collect::<Vec<_>>().join("/"))
    }

    /// Its end.
    ///
    /// # Errors
    /// It cannot be read, is no regular file, or a link is on the way to it.
    pub(super) fn end(&self) -> Result<String, String> {
        self.read_end()
            .map_err(|error| format!("{}: {error}", self.path.display()))
    }

    fn read_end(&self) -> anyhow::Result<String> {
        let resolve = if self.given {
            ResolveFlag::empty()
        } else {
            ResolveFlag::RESOLVE_NO_SYMLINKS
        };
        // Opening a FIFO must not wait for who writes it.
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let how = OpenHow::new().flags(flags).resolve(resolve);
        let opened = openat2(AT_FDCWD, &self.path, how).map_err(io::Error::from)?;
        let mut file = File::from(opened);
        let found = file.metadata()?;
        anyhow::ensure!(found.is_file(), "not a regular file");
        file.seek(SeekFrom::Start(found.len().saturating_sub(MOST)))?;
        let mut bytes = Vec::new();
        file.take(MOST).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use nix::{sys::stat::Mode, unistd::mkfifo};

    use super::*;

    /// Makes the folder of a pod's container.
    fn container(folder: &Path, pod: &str) -> PathBuf {
        let path = folder.join(pod).join("netpol");
        fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn only_logs_of_the_daemon_set_are_found() {
        let folder = tempfile::tempdir().unwrap();
        assert!(of_pods(folder.path()).is_err());
        for pod in ["shop_netpol-x_1", "kube-system_other_2"] {
            fs::write(container(folder.path(), pod).join("0.log"), "theirs").unwrap();
        }
        assert!(of_pods(folder.path()).is_err());
        let own = container(folder.path(), "kube-system_netpol-y_3");
        fs::write(own.join("1.log"), "now").unwrap();
        fs::write(own.join("0.log.20261130-1.gz"), "then").unwrap();
        let logs = of_pods(folder.path()).unwrap();
        let [log] = logs.as_slice() else {
            panic!("{logs:?}")
        };
        assert_eq!(log.end().unwrap(), "now");
        assert!(
            log.name_in_archive()
                .ends_with("kube-system_netpol-y_3/netpol/1.log")
        );
    }

    #[test]
    fn what_a_pod_puts_there_leads_nowhere() {
        let folder = tempfile::tempdir().unwrap();
        let elsewhere = folder.path().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        fs::write(elsewhere.join("0.log"), "a key").unwrap();
        let linked = container(folder.path(), "kube-system_netpol-x_1");
        symlink(elsewhere.join("0.log"), linked.join("0.log")).unwrap();
        mkfifo(&linked.join("1.log"), Mode::S_IRWXU).unwrap();
        let pod = folder.path().join("kube-system_netpol-x_2");
        fs::create_dir(&pod).unwrap();
        symlink(&elsewhere, pod.join("netpol")).unwrap();
        let logs = of_pods(folder.path()).unwrap();
        assert_eq!(logs.len(), 3);
        for log in logs {
            assert!(log.end().is_err(), "{log:?}");
        }
    }

    #[test]
    fn a_log_that_was_given_may_be_a_link_anywhere() {
        let folder = tempfile::tempdir().unwrap();
        let text = "x".repeat(usize::try_from(MOST).unwrap()) + "the end";
        fs::write(folder.path().join("log"), text).unwrap();
        symlink("log", folder.path().join("link")).unwrap();
        let found = find(&[folder.path().join("link")]).unwrap();
        let end = found[0].end().unwrap();
        assert!(end.ends_with("the end") && end.len() as u64 == MOST);
        let up = find(&["../x.log".into()]).unwrap();
        assert_eq!(up[0].name_in_archive(), "logs/x.log");
    }
}
