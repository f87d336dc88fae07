// SPDX-License-Identifier: Apache-2.0
//! What aya does not tell or do with a pinned link: its device, and to end it at once. Layouts are those of `linux/bpf.h`.

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

const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_LINK_DETACH: libc::c_long = 34;
const BPF_LINK_TYPE_TCX: u32 = 11;
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;
/// Enough of `struct bpf_link_info` for the fields of a TCX link.
const LINK_INFO_BYTES: usize = 24;

/// Index of the device of the link pinned at `path`, zero if it is gone; `None` if that is no TCX link of this hook.
pub(super) fn device(path: &Path, hook: Hook) -> io::Result<Option<u32>> {
    let link = open(path)?;
    let mut info = [0u8; LINK_INFO_BYTES];
    let mut ask = [0; 16];
    ask[..4].copy_from_slice(&link.as_raw_fd().to_ne_bytes());
    ask[4..8].copy_from_slice(&(LINK_INFO_BYTES as u32).to_ne_bytes());
    ask[8..].copy_from_slice(&(info.as_mut_ptr() as u64).to_ne_bytes());
    // SAFETY: the address and the length are those of `info`, which nothing else uses meanwhile.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut ask)? };
    let attach_type = match hook {
        Hook::FromPod => BPF_TCX_INGRESS,
        Hook::ToPod | Hook::ToNetwork => BPF_TCX_EGRESS,
    };
    let ours = u32_at(&info, 0) == Some(BPF_LINK_TYPE_TCX) && u32_at(&info, 20) == Some(attach_type);
    Ok(ours.then(|| u32_at(&info, 16)).flatten())
}

/// Takes the program of the link pinned at `path` off its device. Removing the pin alone would do so a moment later, and not while
/// any process has the link open. Something else that is pinned there is left as it is.
pub(super) fn detach(path: &Path) -> io::Result<()> {
    let link = open(path)?;
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
    let link = unsafe { bpf(BPF_OBJ_GET, &mut open)? };
    let link = i32::try_from(link).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(link) })
}

/// The `bpf` system call with the first 16 bytes of its `union bpf_attr`.
///
/// # Safety
/// Addresses in `attributes` are of memory that the command may read or write, as it does.
unsafe fn bpf(command: libc::c_long, attributes: &mut [u8; 16]) -> io::Result<libc::c_long> {
    // SAFETY: the attributes are as long as the call is told; what they point at is the caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), attributes.len()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}
