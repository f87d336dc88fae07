// SPDX-License-Identifier: Apache-2.0
//! Where programs run.

use std::{error::Error, fmt};

use aya::programs::{ProgramError, TcAttachType};
use nix::{errno::Errno, net::if_::if_nametoindex};

use super::{AttachError, error::errno};

/// A hook of an interface where a program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// Packets that the pod sends: TC ingress of the veth.
    FromPod,
    /// Packets that the pod receives: TC egress of the veth.
    ToPod,
    /// Packets that leave the node: TC egress of any other device (rule A5).
    ToNetwork,
}

impl Hook {
    /// All hooks.
    pub const ALL: [Self; 3] = [Self::FromPod, Self::ToPod, Self::ToNetwork];
    /// The hooks of a pod's veth.
    pub const POD: [Self; 2] = [Self::FromPod, Self::ToPod];
    /// The hook of a device by which packets leave the node.
    pub const NETWORK: [Self; 1] = [Self::ToNetwork];

    /// Returns the name of the hook, of its program in the object and of its pins.
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

/// One hook of one interface. Names it in error messages.
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

    /// Like [`Place::failed`], but reports an interface that vanished as gone.
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
            // Any other error, such as no free descriptor, shows as itself at the next step.
            Err(error) => error != Errno::ENODEV,
        }
    }
}
