// SPDX-License-Identifier: Apache-2.0
//! Link operations that aya lacks: find the device of a pinned link, end a link at once, close it,
//! and list the programs of a hook in order. Layouts are those of `linux/bpf.h`.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use super::Hook;
use crate::datapath::netlink::u32_at;

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_PROG_QUERY: libc::c_long = 16;
const BPF_LINK_UPDATE: libc::c_long = 29;
const BPF_LINK_DETACH: libc::c_long = 34;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_LINK_TYPE_TCX: u32 = 11;
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;
/// Enough of `struct bpf_link_info` for the fields of a TCX link.
const LINK_INFO_BYTES: usize = 24;
/// Maximum number of programs at a hook (`BPF_MPROG_MAX`).
const MOST_PROGRAMS: usize = 64;
/// `r0 = TC_ACT_SHOT; exit`, two `struct bpf_insn`.
const DROP_ALL: [u8; 16] = [0xb7, 0, 0, 0, 2, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];

/// Returns the device index of the link pinned at `path`, zero if the device is gone; `None` if the
/// pin is no TCX link of this hook.
pub(super) fn device(path: &Path, hook: Hook) -> io::Result<Option<u32>> {
    let link = open(path)?;
    let mut info = [0u8; LINK_INFO_BYTES];
    let mut ask = [0; 16];
    ask[..4].copy_from_slice(&link.as_raw_fd().to_ne_bytes());
    ask[4..8].copy_from_slice(&(LINK_INFO_BYTES as u32).to_ne_bytes());
    ask[8..].copy_from_slice(&(info.as_mut_ptr() as u64).to_ne_bytes());
    // SAFETY: the address and the length are those of `info`, which nothing else uses meanwhile.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut ask)? };
    let ours = u32_at(&info, 0) == Some(BPF_LINK_TYPE_TCX) && u32_at(&info, 20) == Some(attach_type(hook));
    Ok(ours.then(|| u32_at(&info, 16)).flatten())
}

const fn attach_type(hook: Hook) -> u32 {
    match hook {
        Hook::FromPod => BPF_TCX_INGRESS,
        Hook::ToPod | Hook::ToNetwork => BPF_TCX_EGRESS,
    }
}

/// Returns the ids of the programs at a hook of an interface (TCX), in the order in which they run.
/// `EINVAL` if the kernel has no TCX.
pub(super) fn programs(index: u32, hook: Hook) -> io::Result<Vec<u32>> {
    let mut ids = [0u32; MOST_PROGRAMS];
    let mut query = [0; 64];
    query[..4].copy_from_slice(&index.to_ne_bytes());
    query[4..8].copy_from_slice(&attach_type(hook).to_ne_bytes());
    query[16..24].copy_from_slice(&(ids.as_mut_ptr() as u64).to_ne_bytes());
    query[24..28].copy_from_slice(&(MOST_PROGRAMS as u32).to_ne_bytes());
    // SAFETY: the address is that of `ids`, which has room for as many as the call is told. Nothing
    // else uses it meanwhile.
    unsafe { bpf(BPF_PROG_QUERY, &mut query)? };
    let count = u32_at(&query, 24).unwrap_or_default() as usize;
    Ok(ids.into_iter().take(count).collect())
}

/// Makes the link pinned at `path` drop every packet, in place, while a program moves among others.
pub(super) fn close(path: &Path) -> io::Result<OwnedFd> {
    let mut load = [0; 24];
    load[..4].copy_from_slice(&BPF_PROG_TYPE_SCHED_CLS.to_ne_bytes());
    load[4..8].copy_from_slice(&2u32.to_ne_bytes());
    load[8..16].copy_from_slice(&(DROP_ALL.as_ptr() as u64).to_ne_bytes());
    load[16..24].copy_from_slice(&(c"GPL".as_ptr() as u64).to_ne_bytes());
    // SAFETY: the addresses are those of this many instructions and of a text that ends with NUL.
    // Both live for ever, and the call only reads them.
    let program = owned(unsafe { bpf(BPF_PROG_LOAD, &mut load)? })?;
    let link = open(path)?;
    let mut update = [0; 16];
    update[..4].copy_from_slice(&link.as_raw_fd().to_ne_bytes());
    update[4..8].copy_from_slice(&program.as_raw_fd().to_ne_bytes());
    // SAFETY: the command takes descriptors and no address.
    unsafe { bpf(BPF_LINK_UPDATE, &mut update)? };
    Ok(link)
}

/// Detaches the program of the link pinned at `path` from its device. Removing the pin alone would
/// do so a moment later, and not while any process has the link open. Ignores a pin that is
/// something else.
pub(super) fn detach(path: &Path) -> io::Result<()> {
    end(&open(path)?)
}

/// Like [`detach`], for an open link.
pub(super) fn end(link: &OwnedFd) -> io::Result<()> {
    let mut attributes = [0; 16];
    attributes[..4].copy_from_slice(&link.as_raw_fd().to_ne_bytes());
    // SAFETY: the command takes a descriptor and no address.
    match unsafe { bpf(BPF_LINK_DETACH, &mut attributes) } {
        Err(error) if error.raw_os_error() != Some(libc::EINVAL) => Err(error),
        _ => Ok(()),
    }
}

fn open(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)?;
    let mut open = [0; 16];
    open[..8].copy_from_slice(&(path.as_ptr() as u64).to_ne_bytes());
    // SAFETY: the address is that of `path`, which ends with NUL and is alive.
    owned(unsafe { bpf(BPF_OBJ_GET, &mut open)? })
}

/// Takes ownership of the descriptor that a command has just made.
fn owned(descriptor: libc::c_long) -> io::Result<OwnedFd> {
    let descriptor = i32::try_from(descriptor).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Calls `bpf` with the first bytes of its `union bpf_attr`; the kernel takes the rest as zeros.
///
/// # Safety
/// Addresses in `attributes` are of memory that the command may read or write, as it does.
unsafe fn bpf(command: libc::c_long, attributes: &mut [u8]) -> io::Result<libc::c_long> {
    // SAFETY: the attributes are as long as the call is told; what they point at is the caller's
    // promise.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), attributes.len()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}
