// SPDX-License-Identifier: Apache-2.0
//! Attaches two programs to each pod's host-side veth, and one to each device by which packets
//! leave the node. The programs outlive the agent. The next agent replaces them in place, without a
//! moment in which a packet meets none (rule B3).
//!
//! TCX links are pinned as `FOLDER/<ifindex>-from_pod`, `FOLDER/<ifindex>-to_pod` and
//! `FOLDER/<ifindex>-to_network`. On a kernel without TCX, the programs are filters of the `clsact`
//! qdisc with a fixed priority and handle. Then a folder entry `<ifindex>-filters` says that the
//! filters are of the folder's version, and `<ifindex>-clsact` that the qdisc is ours too. Either
//! way our programs run before others' programs, and let those run on everything that they do not
//! drop.

mod clsact;
mod error;
mod hook;
mod link;
mod pins;
mod tcx;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf,
    programs::{ProgramError, SchedClassifier, links::PinnedLink},
};
use tracing::{debug, warn};

use crate::causes::causes;

pub use self::{error::AttachError, hook::Hook};
use self::{
    hook::Place,
    pins::{ignore_missing, pin, remove_pin, unpin},
};

/// How to attach programs, as requested.
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

/// How programs are attached.
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

impl Mechanism {
    const fn other(self) -> Self {
        match self {
            Self::Tcx => Self::Clsact,
            Self::Clsact => Self::Tcx,
        }
    }
}

/// What is wrong at a hook that should have our program, according to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Our program does not run.
    Absent,
    /// Another program runs first, and packets that it accepts are not judged.
    NotFirst,
    /// Our program runs, but would end with the agent.
    Unpinned,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Absent => "is not attached",
            Self::NotFirst => "runs behind another one, which may pass packets for good",
            Self::Unpinned => "is not pinned",
        })
    }
}

/// Attaches and removes the programs.
pub struct Attacher {
    mechanism: Mechanism,
    /// True if the other mechanism is tried where the preferred one fails.
    both: bool,
    folder: PathBuf,
    /// Interfaces whose programs are attached by the other mechanism.
    exceptions: BTreeSet<u32>,
    /// Kept open so that removing a pin does not end enforcement while the agent runs.
    links: BTreeMap<(u32, Hook), PinnedLink>,
    /// The hooks that this attacher attached to.
    hooks: BTreeMap<u32, &'static [Hook]>,
}

impl Attacher {
    /// Chooses TCX or clsact by what the kernel has, and makes `folder`
    /// (`PIN_PATH/vABI_VERSION/links`, on bpffs).
    ///
    /// # Errors
    /// TCX was requested and is missing, the kernel does not answer, or the folder cannot be made.
    pub fn new(mode: Mode, folder: PathBuf) -> Result<Self, AttachError> {
        let has_tcx = tcx::is_supported().map_err(AttachError::Probe)?;
        let mechanism = match mode {
            Mode::Tcx if !has_tcx => return Err(AttachError::NoTcx),
            Mode::Tcx | Mode::Auto if has_tcx => Mechanism::Tcx,
            _ => Mechanism::Clsact,
        };
        Self::with(mechanism, has_tcx, folder)
    }

    /// Like [`Attacher::new`], on a kernel with clsact only.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn without_tcx(folder: PathBuf) -> Result<Self, AttachError> {
        Self::with(Mechanism::Clsact, false, folder)
    }

    fn with(mechanism: Mechanism, both: bool, folder: PathBuf) -> Result<Self, AttachError> {
        std::fs::create_dir_all(&folder).map_err(|source| AttachError::Folder {
            attempt: "make the folder",
            path: folder.clone(),
            source,
        })?;
        Ok(Self {
            mechanism,
            both,
            folder,
            exceptions: BTreeSet::new(),
            links: BTreeMap::new(),
            hooks: BTreeMap::new(),
        })
    }

    /// Returns how programs are attached.
    pub fn mechanism(&self) -> Mechanism {
        self.mechanism
    }

    /// Attaches both programs of `ebpf` to the interface `name` with index `index`, and loads them
    /// if needed. Replaces, in place, what this agent or an earlier one attached there. Then
    /// removes what was attached by the other mechanism.
    ///
    /// # Errors
    /// [`AttachError::Gone`] if the interface vanished or the name now belongs to another. After an
    /// error, a program that was attached before still is.
    pub fn attach(&mut self, ebpf: &mut Ebpf, index: u32, name: &str) -> Result<(), AttachError> {
        self.attach_hooks(ebpf, index, name, &Hook::POD)
    }

    /// Attaches the program of a device by which pods' packets leave the node, as
    /// [`Attacher::attach`].
    ///
    /// # Errors
    /// As [`Attacher::attach`].
    pub fn attach_device(&mut self, ebpf: &mut Ebpf, index: u32, name: &str) -> Result<(), AttachError> {
        self.attach_hooks(ebpf, index, name, &Hook::NETWORK)
    }

    fn attach_hooks(
        &mut self,
        ebpf: &mut Ebpf,
        index: u32,
        name: &str,
        hooks: &'static [Hook],
    ) -> Result<(), AttachError> {
        // Someone may have removed the folder: a link that cannot be pinned again would end with
        // its descriptor.
        std::fs::create_dir_all(&self.folder).map_err(|source| AttachError::Folder {
            attempt: "make the folder",
            path: self.folder.clone(),
            source,
        })?;
        let known = if self.exceptions.contains(&index) {
            self.mechanism.other()
        } else {
            self.mechanism
        };
        let mechanism = match self.attach_by(known, ebpf, index, name, hooks) {
            Ok(()) => known,
            Err(gone @ AttachError::Gone { .. }) => return Err(gone),
            // What blocks one mechanism, such as others' qdisc or too many programs, need not block
            // the other.
            Err(error) if self.both => match self.attach_by(known.other(), ebpf, index, name, hooks) {
                Ok(()) => {
                    warn!(interface = name, index, mechanism = %known.other(), error = causes(&error), "programs are attached the other way");
                    known.other()
                }
                Err(gone @ AttachError::Gone { .. }) => return Err(gone),
                Err(other) => return Err(AttachError::NeitherWay(Box::new([error, other]))),
            },
            Err(error) => return Err(error),
        };
        if mechanism == self.mechanism {
            self.exceptions.remove(&index);
        } else {
            self.exceptions.insert(index);
        }
        match mechanism {
            Mechanism::Tcx => clsact::detach(index, &self.folder)?,
            Mechanism::Clsact => {
                clsact::note(index, &self.folder)?;
                self.unpin(index)?;
            }
        }
        // The interface may have changed between a pod's veth and a device of the network.
        for hook in Hook::ALL.into_iter().filter(|hook| !hooks.contains(hook)) {
            self.links.remove(&(index, hook));
            remove_pin(&pin(&self.folder, index, hook))?;
            if mechanism == Mechanism::Clsact {
                clsact::remove(index, hook)?;
            }
        }
        self.hooks.insert(index, hooks);
        debug!(interface = name, index, %mechanism, "programs attached");
        Ok(())
    }

    fn attach_by(
        &mut self,
        mechanism: Mechanism,
        ebpf: &mut Ebpf,
        index: u32,
        name: &str,
        hooks: &[Hook],
    ) -> Result<(), AttachError> {
        for &hook in hooks {
            let program = program(ebpf, hook)?;
            let place = Place {
                interface: name,
                index,
                hook,
            };
            if !place.is_there() {
                return Err(place.gone());
            }
            match mechanism {
                Mechanism::Tcx => {
                    let path = pin(&self.folder, index, hook);
                    let held = self.links.remove(&(index, hook));
                    let link = tcx::attach(program, place, &path, held)?;
                    self.links.insert((index, hook), link);
                }
                Mechanism::Clsact => clsact::attach(program, place, &self.folder)?,
            }
        }
        Ok(())
    }

    /// Returns what is wrong at the hooks that this attacher attached to, according to the kernel:
    /// the programs of `ebpf` must run first. Someone may have removed one, replaced the program of
    /// its link, or attached another before it.
    ///
    /// # Errors
    /// [`AttachError::Gone`] if the interface vanished; another error if the kernel does not
    /// answer.
    pub fn faults(&self, ebpf: &mut Ebpf, index: u32, name: &str) -> Result<Vec<(Hook, Fault)>, AttachError> {
        let mut found = Vec::new();
        let clsact = (self.mechanism == Mechanism::Clsact) != self.exceptions.contains(&index);
        for &hook in self.hooks.get(&index).copied().unwrap_or_default() {
            let program = program(ebpf, hook)?;
            let place = Place {
                interface: name,
                index,
                hook,
            };
            if !place.is_there() {
                return Err(place.gone());
            }
            let fault = if clsact {
                clsact::fault(program, place)?
            } else {
                tcx::fault(program, place, &pin(&self.folder, index, hook))?
            };
            found.extend(fault.map(|fault| (hook, fault)));
        }
        Ok(found)
    }

    /// Returns true if both programs of a pod are on the interface, from this agent or an earlier
    /// one of the same version: then no packet passes without one.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub fn is_attached(&self, index: u32) -> Result<bool, AttachError> {
        for hook in Hook::POD {
            let path = pin(&self.folder, index, hook);
            let linked = match link::device(&path, hook) {
                Ok(device) => device == Some(index),
                // Someone removed the pin; the link lives on by its descriptor.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.links.contains_key(&(index, hook))
                }
                Err(source) => {
                    return Err(AttachError::Folder {
                        attempt: "read the pinned link",
                        path,
                        source,
                    });
                }
            };
            if !linked && !clsact::is_attached(index, hook, &self.folder)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Returns true if an interface has a program of an agent of this version.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub fn has_programs(&self, index: u32) -> Result<bool, AttachError> {
        for hook in Hook::POD {
            if is_linked(&self.folder, index, hook)? || clsact::is_attached(index, hook, &self.folder)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Returns true if an interface has programs of another version's agent: pinned in a folder
    /// beside our own, or filters without our mark.
    ///
    /// # Errors
    /// The kernel does not answer.
    pub fn has_other_version(&self, index: u32) -> Result<bool, AttachError> {
        for links in self.folders_of_other_versions()? {
            for hook in Hook::POD {
                if is_linked(&links, index, hook)? {
                    return Ok(true);
                }
            }
        }
        clsact::has_other_version(index, &self.folder)
    }

    /// Lists where the links of other versions would be pinned.
    fn folders_of_other_versions(&self) -> Result<Vec<PathBuf>, AttachError> {
        let own = self.folder.parent();
        let (Some(all), Some(name)) = (own.and_then(Path::parent), self.folder.file_name()) else {
            return Ok(Vec::new());
        };
        let refused = |source| AttachError::Folder {
            attempt: "look for other versions in the folder",
            path: all.to_owned(),
            source,
        };
        let mut folders = Vec::new();
        for entry in std::fs::read_dir(all).map_err(refused)? {
            let version = entry.map_err(refused)?.path();
            if Some(version.as_path()) != own {
                folders.push(version.join(name));
            }
        }
        Ok(folders)
    }

    /// Removes the programs and pins of an interface, which may be gone already.
    ///
    /// # Errors
    /// A pin or a filter cannot be removed.
    pub fn detach(&mut self, index: u32) -> Result<(), AttachError> {
        self.hooks.remove(&index);
        self.exceptions.remove(&index);
        clsact::detach(index, &self.folder)?;
        self.unpin(index)
    }

    /// Removes the programs from a pod's veth, unless the interface has become a device of the
    /// network.
    ///
    /// # Errors
    /// A pin or a filter cannot be removed.
    pub fn detach_pod(&mut self, index: u32) -> Result<(), AttachError> {
        match self.hooks.get(&index) {
            Some(hooks) if **hooks != Hook::POD => Ok(()),
            _ => self.detach(index),
        }
    }

    /// Removes the program from a device, unless the interface has become a pod's veth.
    ///
    /// # Errors
    /// A pin or a filter cannot be removed.
    pub fn detach_device(&mut self, index: u32) -> Result<(), AttachError> {
        match self.hooks.get(&index) {
            Some(hooks) if **hooks != Hook::NETWORK => Ok(()),
            _ => self.detach(index),
        }
    }

    /// Removes the programs and pins of all interfaces except `wanted`, also those of earlier
    /// agents.
    ///
    /// # Errors
    /// The first error. Everything else is still removed.
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

/// Returns true if a link of an interface's hook is pinned in `folder`.
fn is_linked(folder: &Path, index: u32, hook: Hook) -> Result<bool, AttachError> {
    let path = pin(folder, index, hook);
    match link::device(&path, hook) {
        Ok(device) => Ok(device == Some(index)),
        // What is no folder has no pins.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(false)
        }
        Err(source) => Err(AttachError::Folder {
            attempt: "read the pinned link",
            path,
            source,
        }),
    }
}

/// Removes all programs that any agent with this `folder` attached, and the folder, for `netpol
/// cleanup`. Returns the number of interfaces that had some.
///
/// # Errors
/// The first error. Everything else is still removed.
pub fn cleanup(folder: &Path) -> Result<usize, AttachError> {
    let found = attached(folder)?;
    let mut result = Ok(());
    for &index in &found {
        result = result
            .and(clsact::detach(index, folder))
            .and(unpin(folder, index));
    }
    result?;
    remove_folder(folder)?;
    Ok(found.len())
}

/// Removes the pins of another version in its folder, and so its TCX links. Call it once this
/// version's programs (`folder`) are everywhere. The other version's filters were replaced in place
/// and stay. Returns the number of interfaces that had some.
///
/// # Errors
/// The first error. Everything else is still removed.
pub fn take_over(other: &Path, folder: &Path) -> Result<usize, AttachError> {
    let found = pins::indices(other)?;
    let mut result = Ok(());
    for &index in &found {
        result = result
            .and(clsact::take_over(index, other, folder))
            .and(unpin(other, index));
    }
    result?;
    remove_folder(other)?;
    Ok(found.len())
}

fn remove_folder(folder: &Path) -> Result<(), AttachError> {
    ignore_missing(std::fs::remove_dir(folder)).map_err(|source| AttachError::Folder {
        attempt: "remove the folder",
        path: folder.to_owned(),
        source,
    })
}

/// Lists the interfaces that have our pins or filters.
fn attached(folder: &Path) -> Result<BTreeSet<u32>, AttachError> {
    let mut found = clsact::attached()?;
    found.append(&mut pins::indices(folder)?);
    Ok(found)
}

/// Loads the programs into the kernel, so that a program which the verifier rejects is found before
/// anything changes.
///
/// # Errors
/// A program is not in the object or does not load.
pub fn load(ebpf: &mut Ebpf) -> Result<(), AttachError> {
    for hook in Hook::ALL {
        program(ebpf, hook)?;
    }
    Ok(())
}

pub(super) fn program(ebpf: &mut Ebpf, hook: Hook) -> Result<&mut SchedClassifier, AttachError> {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// An interface that an earlier agent closed must not be taken for a new one because its pin
    /// cannot be read.
    #[test]
    fn a8_only_a_pin_that_is_not_there_is_no_program() {
        let versions = tempfile::tempdir().unwrap();
        let folder = versions.path().join("links");
        assert!(!is_linked(&folder, 7, Hook::FromPod).unwrap(), "no folder");
        std::fs::create_dir(&folder).unwrap();
        assert!(!is_linked(&folder, 7, Hook::FromPod).unwrap(), "no pin");
        // The kernel refuses to open a pin on another file system.
        let path = pin(&folder, 7, Hook::FromPod);
        std::fs::write(&path, "").unwrap();
        assert!(is_linked(&folder, 7, Hook::FromPod).is_err());
        assert!(!is_linked(&path, 7, Hook::FromPod).unwrap(), "not a folder");
    }
}
