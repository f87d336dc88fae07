// SPDX-License-Identifier: Apache-2.0
//! Debian's package `rust-src`, downloaded with an apt configuration of our own and unpacked, not installed.
//!
//! The mirror is the machine's own; signatures are checked against Debian's archive keyring (the suites that are
//! tried are signed with the keys of the release before, too). The machine's sources, lists and caches stay untouched.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use super::{Rustc, source::in_whole};
use crate::workspace::{Workspace, output};

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const SUITES: [&str; 4] = ["trixie-backports", "trixie", "sid", "bookworm-backports"];
const PACKAGE: &str = "rust-src";

/// Unpacks the package of exactly this compiler's version, so that `unpacked/library` is its library.
///
/// # Errors
/// If this is no Debian, no suite has the version, or a tool of apt fails.
pub fn unpack(workspace: &Workspace, folder: &Path, rustc: &Rustc, unpacked: &Path) -> Result<()> {
    let codename = codename(&fs::read_to_string("/etc/os-release").unwrap_or_default())
        .context("this machine is not a Debian release")?;
    if !Path::new(KEYRING).is_file() {
        bail!("{KEYRING} is missing: install debian-archive-keyring");
    }
    let mirror = sources_of_the_machine()
        .iter()
        .find_map(|text| mirror(text, &codename))
        .with_context(|| format!("no source of {codename} main under /etc/apt"))?;

    let scratch = folder.join("apt");
    in_whole(&scratch, |_| Ok(()))?;
    let mut tried = Vec::new();
    for suite in SUITES {
        let apt = Apt::new(&scratch, &mirror, suite)?;
        match apt.download(&rustc.release) {
            Ok(Some((version, package))) => {
                println!(
                    "toolchain: unpacking Debian's {PACKAGE} {version} of {suite} to {}",
                    workspace.show(unpacked)
                );
                in_whole(unpacked, |part| extract(&package, &rustc.release, part))?;
                return fs::remove_dir_all(&scratch)
                    .with_context(|| format!("cannot remove {}", scratch.display()));
            }
            Ok(None) => tried.push(format!("{suite} has no {PACKAGE} {}", rustc.release)),
            Err(error) => tried.push(format!("{suite}: {error:#}")),
        }
    }
    bail!("{mirror}\n  {}", tried.join("\n").replace('\n', "\n  "))
}

/// apt over one suite of one mirror, with its state in a folder of ours.
struct Apt {
    folder: PathBuf,
    configuration: PathBuf,
}

impl Apt {
    fn new(scratch: &Path, mirror: &str, suite: &str) -> Result<Self> {
        let folder = scratch.join(suite);
        for part in ["parts", "lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(folder.join(part))
                .with_context(|| format!("cannot make {}", folder.display()))?;
        }
        let at = folder.display();
        // How to reach the mirror (proxy, time-outs) is the machine's; hooks, sources and state are not.
        let acquire: String = output(Command::new("apt-config").arg("dump"))?
            .lines()
            .filter(|line| line.starts_with("Acquire::") && !line.starts_with("Acquire::IndexTargets"))
            .flat_map(|line| [line, "\n"])
            .collect();
        let text = format!(
            "{acquire}Dir::Etc::main \"{at}/none\";\nDir::Etc::parts \"{at}/parts\";\n\
             Dir::Etc::sourcelist \"{at}/sources.list\";\nDir::Etc::sourceparts \"{at}/parts\";\n\
             Dir::State::lists \"{at}/lists\";\nDir::Cache \"{at}/cache\";\n\
             APT::Sandbox::User \"root\";\nAcquire::Languages \"none\";\nAPT::Update::Error-Mode \"any\";\n"
        );
        let configuration = folder.join("apt.conf");
        fs::write(&configuration, text)
            .with_context(|| format!("cannot write {}", configuration.display()))?;
        let source = format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n");
        fs::write(folder.join("sources.list"), source)
            .with_context(|| format!("cannot write {at}/sources.list"))?;
        Ok(Self {
            folder,
            configuration,
        })
    }

    /// The package's version and file; `None` if the suite has no such version.
    fn download(&self, release: &str) -> Result<Option<(String, PathBuf)>> {
        output(self.tool("apt-get").args(["update", "-qq"]))?;
        let listed = output(self.tool("apt-cache").args(["madison", PACKAGE]))?;
        let Some(version) = version_of(&listed, release) else {
            return Ok(None);
        };
        output(
            self.tool("apt-get")
                .args(["download", "-qq"])
                .arg(format!("{PACKAGE}={version}")),
        )?;
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "deb") {
                return Ok(Some((version, path)));
            }
        }
        bail!("apt-get download left no package in {}", self.folder.display())
    }

    fn tool(&self, name: &str) -> Command {
        let mut command = Command::new(name);
        command
            .current_dir(&self.folder)
            .env("APT_CONFIG", &self.configuration)
            .env("LC_ALL", "C");
        command
    }
}

/// Takes `library/` only: the rest of the package is the compiler's source.
fn extract(package: &Path, release: &str, to: &Path) -> Result<()> {
    let mut archive = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(package)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start dpkg-deb")?;
    let stream = archive.stdout.take().context("dpkg-deb has no output")?;
    let tar = output_of_tar(stream, release, to);
    let status = archive.wait().context("dpkg-deb")?;
    tar?;
    if !status.success() {
        bail!("dpkg-deb --fsys-tarfile {}: {status}", package.display());
    }
    Ok(())
}

fn output_of_tar(stream: std::process::ChildStdout, release: &str, to: &Path) -> Result<()> {
    let status = Command::new("tar")
        .args(["-x", "--no-same-owner", "--strip-components=4", "-C"])
        .arg(to)
        .arg(format!("./usr/src/rustc-{release}/library"))
        .stdin(stream)
        .status()
        .context("cannot start tar")?;
    if !status.success() {
        bail!("tar of {PACKAGE}: {status}");
    }
    Ok(())
}

fn codename(os_release: &str) -> Option<String> {
    let field = |name: &str| {
        os_release
            .lines()
            .find_map(|line| Some(line.strip_prefix(name)?.trim_matches('"').to_owned()))
    };
    field("ID=").filter(|id| id == "debian")?;
    field("VERSION_CODENAME=")
}

fn sources_of_the_machine() -> Vec<String> {
    let mut paths: Vec<PathBuf> = fs::read_dir("/etc/apt/sources.list.d")
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.extension()
                .is_some_and(|name| name == "list" || name == "sources")
        })
        .collect();
    paths.sort();
    paths.insert(0, "/etc/apt/sources.list".into());
    paths
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .collect()
}

/// The address that a suite's component `main` is fetched from, by a text in either of apt's two formats.
fn mirror(text: &str, suite: &str) -> Option<String> {
    let lines = || text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let one_line = lines().find_map(|line| {
        let rest = line.trim().strip_prefix("deb ")?.trim_start();
        let rest = match rest.strip_prefix('[') {
            Some(options) => options.split_once(']')?.1,
            None => rest,
        };
        let mut words = rest.split_whitespace();
        let address = words.next()?;
        (words.next()? == suite && words.any(|word| word == "main")).then(|| address.to_owned())
    });
    if one_line.is_some() {
        return one_line;
    }
    let text = lines().collect::<Vec<_>>().join("\n");
    text.split("\n\n").find_map(|paragraph| {
        let field = |name: &str| {
            paragraph
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .unwrap_or_default()
                .split_whitespace()
        };
        let fits = field("Types:").any(|word| word == "deb")
            && field("Suites:").any(|word| word == suite)
            && field("Components:").any(|word| word == "main")
            && field("Enabled:").all(|word| word == "yes");
        field("URIs:").next().filter(|_| fits).map(str::to_owned)
    })
}

/// The Debian version of an upstream release in the table of `apt-cache madison`.
fn version_of(madison: &str, release: &str) -> Option<String> {
    madison.lines().find_map(|line| {
        let version = line.split('|').nth(1)?.trim();
        version
            .strip_prefix(release)
            .is_some_and(|rest| rest.starts_with(['+', '-', '~']))
            .then(|| version.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_read_in_both_formats() {
        let one_line = "# deb http://old/debian bookworm main\ndeb https://cloud/apt cloud-bookworm main\n\
                        deb [arch=amd64 signed-by=/k.gpg] http://a/debian bookworm contrib main\n";
        assert_eq!(mirror(one_line, "bookworm").as_deref(), Some("http://a/debian"));
        assert_eq!(mirror(one_line, "trixie"), None);
        let fields = "Types: deb\nURIs: http://s/security\nSuites: bookworm-security\nComponents: main\n\n\
                      Types: deb deb-src\n# Comment: x\nURIs: http://b/debian http://c/debian\n\
                      Suites: bookworm bookworm-updates\nComponents: main\n";
        assert_eq!(mirror(fields, "bookworm").as_deref(), Some("http://b/debian"));
        assert_eq!(
            mirror(
                &fields.replace("Types: deb deb-src", "Enabled: no\nTypes: deb"),
                "bookworm"
            ),
            None
        );
    }

    #[test]
    fn only_the_compilers_own_version_will_do() {
        let table =
            " rust-src | 1.96.1+dfsg1-2~bpo13+1 | http://a\n rust-src | 1.95.0+dfsg1-2~bpo13+1 | http://a\n";
        assert_eq!(
            version_of(table, "1.95.0").as_deref(),
            Some("1.95.0+dfsg1-2~bpo13+1")
        );
        assert_eq!(version_of(table, "1.96"), None);
        assert_eq!(version_of(table, "1.95.1"), None);
    }

    #[test]
    fn only_debian_has_a_codename_here() {
        assert_eq!(
            codename("ID=debian\nVERSION_CODENAME=bookworm\n").as_deref(),
            Some("bookworm")
        );
        assert_eq!(
            codename("ID=ubuntu\nID_LIKE=debian\nVERSION_CODENAME=noble\n"),
            None
        );
    }
}
