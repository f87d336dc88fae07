// SPDX-License-Identifier: Apache-2.0
//! TCX links, pinned.

use std::{io, path::Path};

use aya::programs::{
    LinkOrder, ProgramError, SchedClassifier, TcAttachType,
    links::{FdLink, PinnedLink},
    tc::{SchedClassifierLink, SchedClassifierLinkId, TcAttachOptions},
};
use tracing::debug;

use super::{AttachError, error::errno, hook::Place, link::device, pins::remove_pin};

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
) -> Result<Option<PinnedLink>, AttachError> {
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
) -> Result<FdLink, AttachError> {
    let link = program.take_link(id).map_err(place.failed("take the link"))?;
    link.try_into().map_err(place.failed("take the link"))
}
