// SPDX-License-Identifier: Apache-2.0
//! The two programs on each pod's host-side veth: attached so that they outlive the agent, and taken over by the next one in place,
//! without a moment in which a packet meets none (rule B3).
//!
//! With TCX the links are pinned as `FOLDER/<ifindex>-from_pod` and `FOLDER/<ifindex>-to_pod`. Where the kernel has no TCX they are
//! filters of the `clsact` qdisc with a fixed priority and handle; a folder entry `<ifindex>-clsact` then says that
//! the qdisc is ours too. Both run before the programs of others, and let those run on whatever they do not drop.

mod clsact;
mod tcx;

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    fmt, io,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf,
    programs::{ProgramError, SchedClassifier, TcAttachType, links::PinnedLink, tc::TcError},
};
use nix::net::if_::if_nametoindex;
use thiserror::Error;
use tracing::debug;

/// How programs are attached, as asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Mode {
    /// TCX where the kernel has it (Linux 6.6), else clsact.
    #[default]
    Auto,
    /// TCX links.
    Tcx,
    /// Filters of a clsact qdisc.
    Clsact,
}

/// How programs are attached, as found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    /// TCX links.
    Tcx,
    /// Filters of a clsact qdisc.
    Clsact,
}

impl fmt::Display for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        })
    }
}

/// A place at a veth where a program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// What the pod sends: TC ingress of the veth.
    FromPod,
    /// What the pod receives: TC egress of the veth.
    ToPod,
}

impl Hook {
    /// Both.
    pub const ALL: [Self; 2] = [Self::FromPod, Self::ToPod];

    /// Name of the hook, of its program in the object and of its pins.
    pub const fn name(self) -> &'static str {
        match self {
            Self::FromPod => "from_pod",
            Self::ToPod => "to_pod",
        }
    }

    const fn attach_type(self) -> TcAttachType {
        match self {
            Self::FromPod => TcAttachType::Ingress,
            Self::ToPod => TcAttachType::Egress,
        }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why programs could not be attached or removed.
#[derive(Debug, Error)]
pub enum AttachError {
    /// The kernel did not say whether it has TCX.
    #[error("ask the kernel for TCX: {0}")]
    Probe(#[source] ProgramError),
    /// TCX was asked for.
    #[error("the kernel has no TCX (Linux 6.6): use --attach auto or --attach clsact")]
    NoTcx,
    /// The folder of the pins.
    #[error("{attempt} {path}: {source}")]
    Folder {
        /// What was attempted.
        attempt: &'static str,
        /// The folder or the pin.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The object has no such program, or the kernel refuses it.
    #[error("load program {hook}: {source}")]
    Program {
        /// The program.
        hook: Hook,
        /// The reason.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The interface is gone, or another one has its name now.
    #[error("interface {interface} (index {index}) is gone")]
    Gone {
        /// Its name.
        interface: String,
        /// Its index.
        index: u32,
    },
    /// A step at one hook of one interface failed.
    #[error("interface {interface} (index {index}), {hook}: {attempt}: {source}")]
    Hook {
        /// Name of the interface, or its index where the name is not known.
        interface: String,
        /// Its index.
        index: u32,
        /// The hook.
        hook: Hook,
        /// What was attempted.
        attempt: &'static str,
        /// The reason.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A list or a change by netlink failed.
    #[error("netlink: {attempt}: {source}")]
    Netlink {
        /// What was attempted on what.
        attempt: String,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// One hook of one interface, for what is done there and for the message when it fails.
#[derive(Clone, Copy)]
struct Place<'a> {
    interface: &'a str,
    index: u32,
    hook: Hook,
}

impl Place<'_> {
    fn gone(self) -> AttachError {
        AttachError::Gone {
            interface: self.interface.to_owned(),
            index: self.index,
        }
    }

    fn failed<E: Into<Box<dyn Error + Send + Sync>>>(
        self,
        attempt: &'static str,
    ) -> impl FnOnce(E) -> AttachError {
        let interface = self.interface.to_owned();
        move |source| AttachError::Hook {
            interface,
            index: self.index,
            hook: self.hook,
            attempt,
            source: source.into(),
        }
    }

    /// As [`Place::failed`], but an interface that vanished meanwhile is told as that.
    fn program_failed(self, attempt: &'static str, error: ProgramError) -> AttachError {
        match errno(&error) {
            Some(libc::ENODEV | libc::ENXIO | libc::ENOLINK) => self.gone(),
            _ if !self.is_there() => self.gone(),
            _ => self.failed(attempt)(error),
        }
    }

    fn is_there(self) -> bool {
        if_nametoindex(self.interface) == Ok(self.index)
    }
}

/// Attaches the programs, and removes them where they are no longer wanted.
pub struct Attacher {
    mechanism: Mechanism,
    folder: PathBuf,
    /// Kept open, so that a pin that someone removes does not end the enforcement while the agent runs.
    links: BTreeMap<(u32, Hook), PinnedLink>,
}

impl Attacher {
    /// Decides between TCX and clsact by asking the kernel, and makes `folder` (`PIN_PATH/v1/links`, on bpffs).
    ///
    /// # Errors
    /// TCX was asked for and is not there, the kernel does not answer, or the folder cannot be made.
    pub fn new(mode: Mode, folder: PathBuf) -> Result<Self, AttachError> {
        let mechanism = match mode {
            Mode::Clsact => Mechanism::Clsact,
            Mode::Tcx | Mode::Auto => match (tcx::is_supported().map_err(AttachError::Probe)?, mode) {
                (true, _) => Mechanism::Tcx,
                (false, Mode::Tcx) => return Err(AttachError::NoTcx),
                (false, _) => Mechanism::Clsact,
            },
        };
        std::fs::create_dir_all(&folder).map_err(|source| AttachError::Folder {
            attempt: "make the folder",
            path: folder.clone(),
            source,
        })?;
        Ok(Self {
            mechanism,
            folder,
            links: BTreeMap::new(),
        })
    }

    /// How programs are attached.
    pub fn mechanism(&self) -> Mechanism {
        self.mechanism
    }

    /// Attaches both programs of `ebpf` to the interface `name` with index `index`, loading them if they are not yet. What an earlier
    /// agent, or this one, attached there is updated in place to these programs. What was attached the other way is removed after.
    ///
    /// # Errors
    /// [`AttachError::Gone`] if the interface vanished or the name is another's by now. After an error a program that was attached
    /// before still is.
    pub fn attach(&mut self, ebpf: &mut Ebpf, index: u32, name: &str) -> Result<(), AttachError> {
        for hook in Hook::ALL {
            let program = program(ebpf, hook)?;
            let place = Place {
                interface: name,
                index,
                hook,
            };
            if !place.is_there() {
                return Err(place.gone());
            }
            match self.mechanism {
                Mechanism::Tcx => {
                    let path = pin(&self.folder, index, hook);
                    let held = self.links.remove(&(index, hook));
                    let link = tcx::attach(program, place, &path, held)?;
                    self.links.insert((index, hook), link);
                }
                Mechanism::Clsact => clsact::attach(program, place, &self.folder)?,
            }
        }
        match self.mechanism {
            Mechanism::Tcx => clsact::detach(index, &self.folder)?,
            Mechanism::Clsact => self.unpin(index)?,
        }
        debug!(interface = name, index, mechanism = %self.mechanism, "programs attached");
        Ok(())
    }

    /// Removes the programs from an interface, and its pins. It need not exist any more.
    ///
    /// # Errors
    /// A pin or a filter that cannot be removed.
    pub fn detach(&mut self, index: u32) -> Result<(), AttachError> {
        clsact::detach(index, &self.folder)?;
        self.unpin(index)
    }

    /// Removes the programs, and the pins, of all interfaces but the `wanted` ones: also those that an earlier agent left.
    ///
    /// # Errors
    /// The first that occurred; what can be removed is removed all the same.
    pub fn retain(&mut self, wanted: &BTreeSet<u32>) -> Result<(), AttachError> {
        let mut result = Ok(());
        for index in attached(&self.folder)? {
            if !wanted.contains(&index) {
                result = result.and(self.detach(index));
            }
        }
        result
    }

    fn unpin(&mut self, index: u32) -> Result<(), AttachError> {
        for hook in Hook::ALL {
            self.links.remove(&(index, hook));
        }
        unpin(&self.folder, index)
    }
}

/// Removes all programs that any agent with this `folder` attached, and the folder: for `netpol cleanup`. Returns the number
/// of interfaces that had some.
///
/// # Errors
/// The first that occurred; what can be removed is removed all the same.
pub fn cleanup(folder: &Path) -> Result<usize, AttachError> {
    let found = attached(folder)?;
    let mut result = Ok(());
    for &index in &found {
        result = result
            .and(clsact::detach(index, folder))
            .and(unpin(folder, index));
    }
    result?;
    ignore_missing(std::fs::remove_dir(folder)).map_err(|source| AttachError::Folder {
        attempt: "remove the folder",
        path: folder.to_owned(),
        source,
    })?;
    Ok(found.len())
}

/// Indices of the interfaces that have pins or filters of ours.
fn attached(folder: &Path) -> Result<BTreeSet<u32>, AttachError> {
    let mut found = clsact::attached()?;
    let failed = |source| AttachError::Folder {
        attempt: "read the folder",
        path: folder.to_owned(),
        source,
    };
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        entries => entries.map_err(failed)?,
    };
    for entry in entries {
        let name = entry.map_err(failed)?.file_name();
        found.extend(name.to_str().and_then(pinned_index));
    }
    Ok(found)
}

/// The interface index in the name of a pin.
fn pinned_index(name: &str) -> Option<u32> {
    let (index, rest) = name.split_once('-')?;
    let ours = rest == clsact::MARK || Hook::ALL.iter().any(|hook| rest == hook.name());
    ours.then(|| index.parse().ok()).flatten()
}

fn pin(folder: &Path, index: u32, hook: Hook) -> PathBuf {
    folder.join(format!("{index}-{hook}"))
}

fn unpin(folder: &Path, index: u32) -> Result<(), AttachError> {
    for hook in Hook::ALL {
        remove_pin(&pin(folder, index, hook))?;
    }
    Ok(())
}

fn remove_pin(path: &Path) -> Result<(), AttachError> {
    ignore_missing(std::fs::remove_file(path)).map_err(|source| AttachError::Folder {
        attempt: "remove the pin",
        path: path.to_owned(),
        source,
    })
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn program(ebpf: &mut Ebpf, hook: Hook) -> Result<&mut SchedClassifier, AttachError> {
    let failed = |source| AttachError::Program { hook, source };
    let program = ebpf
        .program_mut(hook.name())
        .ok_or_else(|| failed("the object has no program of this name".into()))?;
    let program: &mut SchedClassifier = program
        .try_into()
        .map_err(|error: ProgramError| failed(error.into()))?;
    match program.load() {
        Ok(()) | Err(ProgramError::AlreadyLoaded) => Ok(program),
        Err(error) => Err(failed(error.into())),
    }
}

/// The kernel's error number in an error of aya, if it has one.
fn errno(error: &ProgramError) -> Option<i32> {
    match error {
        ProgramError::SyscallError(error) => error.io_error.raw_os_error(),
        ProgramError::NetlinkError(error) | ProgramError::TcError(TcError::NetlinkError(error)) => {
            error.raw_os_error()
        }
        ProgramError::TcError(TcError::IoError(error)) | ProgramError::IOError(error) => error.raw_os_error(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_pins_have_an_index() {
        for hook in Hook::ALL {
            let path = pin(Path::new("links"), 17, hook);
            assert_eq!(
                pinned_index(path.file_name().unwrap().to_str().unwrap()),
                Some(17)
            );
        }
        assert_eq!(pinned_index("17-clsact"), Some(17));
        for other in [
            "",
            "17",
            "17-",
            "17-other",
            "x-from_pod",
            "-1-to_pod",
            "17-from_pod-2",
        ] {
            assert_eq!(pinned_index(other), None, "{other}");
        }
    }
}
