// SPDX-License-Identifier: Apache-2.0
//! Where programs run.

use std::{error::Error, fmt};

use aya::programs::{ProgramError, TcAttachType};
use nix::{errno::Errno, net::if_::if_nametoindex};

use super::{AttachError, error::errno};

/// A place at an interface where a program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// What the pod sends: TC ingress of the veth.
    FromPod,
    /// What the pod receives: TC egress of the veth.
    ToPod,
    /// What leaves the node: TC egress of any other device (rule A5).
    ToNetwork,
}

impl Hook {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::FromPod, Self::ToPod, Self::ToNetwork];
    /// Those of a pod's veth.
    pub const POD: [Self; 2] = [Self::FromPod, Self::ToPod];
    /// Those of a device by which packets leave the node.
    pub const NETWORK: [Self; 1] = [Self::ToNetwork];

    /// Name of the hook, of its program in the object and of its pins.
    pub const fn name(self) -> &'static str {
        match self {
            Self::FromPod => "from_pod",
            Self::ToPod => "to_pod",
            Self::ToNetwork => "to_network",
        }
    }

    pub(super) const fn attach_type(self) -> TcAttachType {
        match self {
            Self::FromPod => TcAttachType::Ingress,
            Self::ToPod | Self::ToNetwork => TcAttachType::Egress,
        }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One hook of one interface, for what is done there and for the message when it fails.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) interface: &'a str,
    pub(super) index: u32,
    pub(super) hook: Hook,
}

impl Place<'_> {
    pub(super) fn gone(self) -> AttachError {
        AttachError::Gone {
            interface: self.interface.to_owned(),
            index: self.index,
        }
    }

    pub(super) fn failed<E: Into<Box<dyn Error + Send + Sync>>>(
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
    pub(super) fn program_failed(self, attempt: &'static str, error: ProgramError) -> AttachError {
        match errno(&error) {
            Some(libc::ENODEV | libc::ENXIO | libc::ENOLINK) => self.gone(),
            _ if !self.is_there() => self.gone(),
            _ => self.failed(attempt)(error),
        }
    }

    pub(super) fn is_there(self) -> bool {
        match if_nametoindex(self.interface) {
            Ok(index) => index == self.index,
            // Any other trouble (no descriptor left, say) shows, as what it is, at the next step.
            Err(error) => error != Errno::ENODEV,
        }
    }
}
