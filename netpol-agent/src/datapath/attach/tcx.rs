// SPDX-License-Identifier: Apache-2.0
//! TCX links, pinned.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use aya::programs::{
    LinkOrder, ProgramError, SchedClassifier, TcAttachType,
    links::{FdLink, PinnedLink},
    tc::{SchedClassifierLink, SchedClassifierLinkId, TcAttachOptions},
};
use tracing::debug;

use super::{Hook, Place, errno, remove_pin};
use crate::datapath::netlink::u32_at;

const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_LINK_TYPE_TCX: u32 = 11;
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;
/// Enough of `struct bpf_link_info` for the fields of a TCX link.
const LINK_INFO_BYTES: usize = 24;

/// Whether the kernel has TCX: one that does not refuses to list the programs of such a hook as it does not know it.
pub(super) fn is_supported() -> Result<bool, ProgramError> {
    match SchedClassifier::query_tcx("lo", TcAttachType::Ingress) {
        Ok(_) => Ok(true),
        Err(error) if matches!(errno(&error), Some(libc::EINVAL | libc::EOPNOTSUPP)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Updates the link pinned at `path`, or the one still `held`, to `program`; makes and pins a new one if there is none or it is
/// another device's. A link knows its device, so a pin that outlived it is never taken for the new device with the same index.
pub(super) fn attach(
    program: &mut SchedClassifier,
    place: Place<'_>,
    path: &Path,
    held: Option<PinnedLink>,
) -> Result<PinnedLink, super::AttachError> {
    if let Some(held) = held
        && !path.exists()
    {
        FdLink::from(held)
            .pin(path)
            .map_err(place.failed("pin the link again"))?;
    }
    match device(path, place.hook) {
        Ok(Some(index)) if index == place.index => {
            if let Some(link) = take_over(program, place, path)? {
                return Ok(link);
            }
            remove_pin(path)?;
        }
        Ok(_) => {
            debug!(path = %path.display(), "the device of a pinned link is gone");
            remove_pin(path)?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(place.failed("read the pinned link")(error)),
    }
    // First: what is dropped here reaches no other program, and what passes goes on to the next.
    let id = program
        .attach_with_options(
            place.interface,
            place.hook.attach_type(),
            TcAttachOptions::TcxOrder(LinkOrder::first()),
        )
        .map_err(|error| place.program_failed("attach the program (TCX)", error))?;
    let link = own(program, place, id)?
        .pin(path)
        .map_err(place.failed("pin the link"))?;
    match device(path, place.hook) {
        Ok(Some(index)) if index == place.index => Ok(link),
        Ok(_) => {
            remove_pin(path)?;
            Err(place.gone())
        }
        Err(error) => Err(place.failed("read the new link")(error)),
    }
}

/// `None`: the link's device vanished meanwhile.
fn take_over(
    program: &mut SchedClassifier,
    place: Place<'_>,
    path: &Path,
) -> Result<Option<PinnedLink>, super::AttachError> {
    let pinned = PinnedLink::from_pin(path).map_err(place.failed("open the pinned link"))?;
    let link =
        SchedClassifierLink::try_from(FdLink::from(pinned)).map_err(place.failed("open the pinned link"))?;
    match program.attach_to_link(link) {
        Ok(id) => {
            // The link's own descriptor served for the update; the pin is opened again for one that knows its path.
            drop(own(program, place, id)?);
            PinnedLink::from_pin(path)
                .map(Some)
                .map_err(place.failed("open the pinned link"))
        }
        Err(error) if errno(&error) == Some(libc::ENOLINK) => Ok(None),
        Err(error) => Err(place.program_failed("update the pinned link to the program", error)),
    }
}

/// Takes a link out of aya's keeping, which would end it with the program.
fn own(
    program: &mut SchedClassifier,
    place: Place<'_>,
    id: SchedClassifierLinkId,
) -> Result<FdLink, super::AttachError> {
    let link = program.take_link(id).map_err(place.failed("take the link"))?;
    link.try_into().map_err(place.failed("take the link"))
}

/// Index of the device of the link pinned at `path`, zero if it is gone; `None` if that is no TCX link of this hook.
fn device(path: &Path, hook: Hook) -> io::Result<Option<u32>> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)?;
    let mut open = [0; 16];
    open[..8].copy_from_slice(&(path.as_ptr() as u64).to_ne_bytes());
    // SAFETY: the address is that of `path`, which ends with NUL and is alive.
    let link = unsafe { bpf(BPF_OBJ_GET, &mut open)? };
    let link = i32::try_from(link).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor, and nothing else owns it.
    let link = unsafe { OwnedFd::from_raw_fd(link) };

    let mut info = [0u8; LINK_INFO_BYTES];
    let mut ask = [0; 16];
    ask[..4].copy_from_slice(&link.as_raw_fd().to_ne_bytes());
    ask[4..8].copy_from_slice(&(LINK_INFO_BYTES as u32).to_ne_bytes());
    ask[8..].copy_from_slice(&(info.as_mut_ptr() as u64).to_ne_bytes());
    // SAFETY: the address and the length are those of `info`, which nothing else uses meanwhile.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut ask)? };
    let attach_type = match hook {
        Hook::FromPod => BPF_TCX_INGRESS,
        Hook::ToPod => BPF_TCX_EGRESS,
    };
    let ours = u32_at(&info, 0) == Some(BPF_LINK_TYPE_TCX) && u32_at(&info, 20) == Some(attach_type);
    Ok(ours.then(|| u32_at(&info, 16)).flatten())
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
