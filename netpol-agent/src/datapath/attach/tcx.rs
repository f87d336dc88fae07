// SPDX-License-Identifier: Apache-2.0
//! Pinned TCX links.

use std::{io, path::Path};

use aya::programs::{
    LinkOrder, ProgramError, SchedClassifier, TcAttachType,
    links::{FdLink, PinnedLink},
    tc::{SchedClassifierLink, SchedClassifierLinkId, TcAttachOptions},
};
use tracing::debug;

use super::{
    AttachError, Fault,
    error::errno,
    hook::Place,
    link::{self, device},
    pins::{next, remove_pin},
};

/// Returns true if the kernel has TCX. A kernel without it refuses to list the programs of such a
/// hook.
pub(super) fn is_supported() -> Result<bool, ProgramError> {
    match SchedClassifier::query_tcx("lo", TcAttachType::Ingress) {
        Ok(_) => Ok(true),
        Err(error) if matches!(errno(&error), Some(libc::EINVAL | libc::EOPNOTSUPP)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Updates the link pinned at `path`, or the one still `held`, to `program`. Makes and pins a new
/// link if there is none, or if it belongs to another device. A link knows its device, so a pin
/// that outlived the device is never taken for a new device with the same index.
pub(super) fn attach(
    program: &mut SchedClassifier,
    place: Place<'_>,
    path: &Path,
    held: Option<PinnedLink>,
) -> Result<PinnedLink, AttachError> {
    if let Some(held) = held
        && !path.exists()
    {
        FdLink::from(held)
            .pin(path)
            .map_err(place.failed("pin the link again"))?;
    }
    match device(path, place.hook) {
        Ok(Some(index)) if index == place.index => {
            // An agent that ended while it moved the program left this pin behind.
            remove_pin(&next(path))?;
            if let Some(link) = take_over(program, place, path)? {
                return match fault(program, place, path)? {
                    Some(Fault::NotFirst) => put_first(program, place, path),
                    _ => Ok(link),
                };
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
    let link = attach_first(program, place)?
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

/// Returns what is wrong with `program` at its hook, according to the kernel; its link is pinned at
/// `path`.
pub(super) fn fault(
    program: &SchedClassifier,
    place: Place<'_>,
    path: &Path,
) -> Result<Option<Fault>, AttachError> {
    let own = program
        .info()
        .map_err(place.failed("ask for the program's id"))?
        .id();
    let running = match link::programs(place.index, place.hook) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENXIO)) => {
            return Err(place.gone());
        }
        running => running.map_err(place.failed("list the programs of the hook (TCX)"))?,
    };
    Ok(match running.iter().position(|id| *id == own) {
        None => Some(Fault::Absent),
        Some(0) => match device(path, place.hook) {
            Ok(Some(index)) if index == place.index => None,
            // The link ends with this process.
            Ok(_) => Some(Fault::Unpinned),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Some(Fault::Unpinned),
            Err(error) => return Err(place.failed("read the pinned link")(error)),
        },
        Some(_) => Some(Fault::NotFirst),
    })
}

/// Attaches before all others: what we drop reaches no other program, and what passes goes on to
/// the next.
fn attach_first(program: &mut SchedClassifier, place: Place<'_>) -> Result<FdLink, AttachError> {
    let order = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = program
        .attach_with_options(place.interface, place.hook.attach_type(), order)
        .map_err(|error| place.program_failed("attach the program (TCX)", error))?;
    own(program, place, id)
}

/// Moves `program`, whose link is pinned at `path`, before others' programs: packets that they
/// accept would not be judged. The kernel cannot move a link, and attaches no program twice. So the
/// hook drops packets for some milliseconds, between the old link and the new one.
fn put_first(
    program: &mut SchedClassifier,
    place: Place<'_>,
    path: &Path,
) -> Result<PinnedLink, AttachError> {
    let closed = link::close(path).map_err(place.failed("close the hook while the program is moved"))?;
    let next = next(path);
    drop(
        attach_first(program, place)?
            .pin(&next)
            .map_err(place.failed("pin the link"))?,
    );
    std::fs::rename(&next, path).map_err(place.failed("pin the link in the place of the old one"))?;
    link::end(&closed).map_err(place.failed("end the old link"))?;
    PinnedLink::from_pin(path).map_err(place.failed("open the pinned link"))
}

/// Updates the pinned link to `program`; `None` if the link's device has vanished.
fn take_over(
    program: &mut SchedClassifier,
    place: Place<'_>,
    path: &Path,
) -> Result<Option<PinnedLink>, AttachError> {
    let pinned = PinnedLink::from_pin(path).map_err(place.failed("open the pinned link"))?;
    let link =
        SchedClassifierLink::try_from(FdLink::from(pinned)).map_err(place.failed("open the pinned link"))?;
    match program.attach_to_link(link) {
        Ok(id) => {
            // The update used up the descriptor. The pin is opened again, because that one knows
            // its path.
            drop(own(program, place, id)?);
            PinnedLink::from_pin(path)
                .map(Some)
                .map_err(place.failed("open the pinned link"))
        }
        Err(error) if errno(&error) == Some(libc::ENOLINK) => Ok(None),
        Err(error) => Err(place.program_failed("update the pinned link to the program", error)),
    }
}

/// Takes the link from aya, which would end it with the program.
fn own(
    program: &mut SchedClassifier,
    place: Place<'_>,
    id: SchedClassifierLinkId,
) -> Result<FdLink, AttachError> {
    let link = program.take_link(id).map_err(place.failed("take the link"))?;
    link.try_into().map_err(place.failed("take the link"))
}
