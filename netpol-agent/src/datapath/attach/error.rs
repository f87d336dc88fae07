// SPDX-License-Identifier: Apache-2.0
//! Errors of attaching programs.

use std::{error::Error, io, path::PathBuf};

use aya::programs::{ProgramError, tc::TcError};
use thiserror::Error;

use super::Hook;

/// Why programs could not be attached or removed.
#[derive(Debug, Error)]
pub enum AttachError {
    /// The kernel did not say if it has TCX.
    #[error("ask the kernel for TCX: {0}")]
    Probe(#[source] ProgramError),
    /// TCX was requested and the kernel lacks it.
    #[error("the kernel has no TCX (Linux 6.6): use --attach auto or --attach clsact")]
    NoTcx,
    /// The folder of the pins could not be used.
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
        /// Name of the interface, or its index if the name is unknown.
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
    /// Others use a qdisc there that has one list of filters for both directions.
    #[error(
        "interface {interface} (index {index}): its {kind} qdisc has filters of others, and keeps what a pod receives from being \
         judged: filters need clsact there, or TCX (Linux 6.6)"
    )]
    OtherQdisc {
        /// Name of the interface.
        interface: String,
        /// Its index.
        index: u32,
        /// Kind of the qdisc.
        kind: String,
    },
    /// TCX and clsact both failed; first the one that other interfaces use. Either may show the
    /// real cause.
    #[error("{}; the other way: {}", .0[0], .0[1])]
    NeitherWay(Box<[Self; 2]>),
    /// A list or a change by netlink failed.
    #[error("netlink: {attempt}: {source}")]
    Netlink {
        /// What was attempted on what.
        attempt: String,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Returns the errno in an error of aya, if it has one.
pub(super) fn errno(error: &ProgramError) -> Option<i32> {
    match error {
        ProgramError::SyscallError(error) => error.io_error.raw_os_error(),
        ProgramError::NetlinkError(error) | ProgramError::TcError(TcError::NetlinkError(error)) => {
            error.raw_os_error()
        }
        ProgramError::TcError(TcError::IoError(error)) | ProgramError::IOError(error) => error.raw_os_error(),
        _ => None,
    }
}
