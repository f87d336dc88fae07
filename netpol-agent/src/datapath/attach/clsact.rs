// SPDX-License-Identifier: Apache-2.0
//! Filters of a `clsact` qdisc, for kernels without TCX. They belong to the device and live without the agent.

use std::{collections::BTreeSet, io, path::Path};

use aya::programs::{
    SchedClassifier,
    tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact},
};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::{
    AttachError, Hook,
    error::errno,
    hook::Place,
    pins::{filters_mark, put_mark, qdisc_mark, remove_mark},
};
use crate::datapath::netlink::{Requests, attributes, text, u32_at};

/// Runs before every other filter.
const PRIORITY: u16 = 1;
/// Fixed, so that a new agent replaces the filter of the last one in one step: "netp".
const HANDLE: TcHandle = TcHandle::new(0x6e65, 0x7470);

const CLSACT: u32 = 0xffff_fff1;
const CLSACT_HANDLE: u32 = 0xffff_0000;
const INGRESS: u32 = 0xffff_fff2;
const EGRESS: u32 = 0xffff_fff3;
const INTERFACE_MESSAGE_BYTES: usize = 16;
const TC_MESSAGE_BYTES: usize = 20;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_NAME: u16 = 7;

/// Attaches `program`, or replaces the one that is there, in one step.
pub(super) fn attach(
    program: &mut SchedClassifier,
    place: Place<'_>,
    folder: &Path,
) -> Result<(), AttachError> {
    add_qdisc(place, folder)?;
    let known =
        SchedClassifierLink::attached(place.interface, place.hook.attach_type(), PRIORITY, HANDLE, None)
            .map_err(|_| place.gone())?;
    let id = match program.attach_to_link(known) {
        Err(error) if errno(&error) == Some(libc::ENOENT) => program.attach_with_options(
            place.interface,
            place.hook.attach_type(),
            TcAttachOptions::Netlink(NlOptions {
                priority: PRIORITY,
                handle: HANDLE,
                classid: None,
            }),
        ),
        result => result,
    }
    .map_err(|error| place.program_failed("attach the program (clsact)", error))?;
    let link = program.take_link(id).map_err(place.failed("take the filter"))?;
    // Dropping it would remove the filter. It owns nothing else.
    std::mem::forget(link);
    let mut requests = open()?;
    if filters(&mut requests, place.index, place.hook)?.ours {
        return Ok(());
    }
    Err(place.gone())
}

/// Removes our filters from an interface, and the qdisc if we added it and nothing else is left on it.
pub(super) fn detach(index: u32, folder: &Path) -> Result<(), AttachError> {
    let mut requests = open()?;
    let mut others = false;
    for hook in Hook::ALL {
        others |= remove_from(&mut requests, index, hook)?;
    }
    remove_mark(&filters_mark(folder, index))?;
    let mark = qdisc_mark(folder, index);
    if !mark.exists() {
        return Ok(());
    }
    if !others {
        requests
            .request(
                libc::RTM_DELQDISC,
                0,
                &tc_message(index, CLSACT_HANDLE, CLSACT, 0),
            )
            .or_else(ignore_gone)
            .map_err(failed(|| format!("remove the clsact qdisc of interface {index}")))?;
    }
    remove_mark(&mark)
}

/// Notes that the filters on an interface are those of this version: another one has the same handle and other maps.
pub(super) fn note(index: u32, folder: &Path) -> Result<(), AttachError> {
    put_mark(&filters_mark(folder, index))
}

/// Whether an interface has this version's filter of a hook.
pub(super) fn is_attached(index: u32, hook: Hook, folder: &Path) -> Result<bool, AttachError> {
    Ok(filters_mark(folder, index).exists() && filters(&mut open()?, index, hook)?.ours)
}

/// Takes over what another version knew of an interface in its folder, after our filters replaced its own. A qdisc that it added is ours
/// then, or goes if no filter of ours is on it.
pub(super) fn take_over(index: u32, other: &Path, folder: &Path) -> Result<(), AttachError> {
    remove_mark(&filters_mark(other, index))?;
    let mark = qdisc_mark(other, index);
    if !mark.exists() {
        return Ok(());
    }
    put_mark(&qdisc_mark(folder, index))?;
    remove_mark(&mark)?;
    let mut requests = open()?;
    let mut ours = false;
    for hook in Hook::ALL {
        ours |= filters(&mut requests, index, hook)?.ours;
    }
    if ours { Ok(()) } else { detach(index, folder) }
}

/// Removes our filter of one hook from an interface.
pub(super) fn remove(index: u32, hook: Hook) -> Result<(), AttachError> {
    remove_from(&mut open()?, index, hook).map(drop)
}

/// As [`remove`]; whether others have filters there.
fn remove_from(requests: &mut Requests, index: u32, hook: Hook) -> Result<bool, AttachError> {
    let found = filters(requests, index, hook)?;
    if found.ours {
        let info = (u32::from(PRIORITY) << 16) | u32::from((libc::ETH_P_ALL as u16).to_be());
        let message = tc_message(index, HANDLE.into(), parent(hook), info);
        requests
            .request(libc::RTM_DELTFILTER, 0, &message)
            .or_else(ignore_gone)
            .map_err(failed(|| format!("remove filter {hook} of interface {index}")))?;
    }
    Ok(found.others)
}

/// Indices of the interfaces of this network namespace that have filters of ours.
pub(super) fn attached() -> Result<BTreeSet<u32>, AttachError> {
    let mut requests = open()?;
    let mut indices = BTreeSet::new();
    requests
        .dump(
            libc::RTM_GETLINK,
            &[0; INTERFACE_MESSAGE_BYTES],
            |kind, message| {
                if kind == libc::RTM_NEWLINK {
                    indices.extend(u32_at(message, 4));
                }
            },
        )
        .map_err(failed(|| "list the links".to_owned()))?;
    let mut found = BTreeSet::new();
    for index in indices {
        for hook in Hook::ALL {
            if filters(&mut requests, index, hook)?.ours {
                found.insert(index);
            }
        }
    }
    Ok(found)
}

/// Adds the qdisc if there is none, and leaves a mark that it is ours.
fn add_qdisc(place: Place<'_>, folder: &Path) -> Result<(), AttachError> {
    match qdisc_add_clsact(place.interface) {
        Ok(()) => put_mark(&qdisc_mark(folder, place.index)),
        Err(TcError::AlreadyAttached) => Ok(()),
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        Err(_) if !place.is_there() => Err(place.gone()),
        Err(error) => Err(place.failed("add the clsact qdisc")(error)),
    }
}

/// The filters at one hook.
#[derive(Default)]
struct Filters {
    ours: bool,
    others: bool,
}

fn filters(requests: &mut Requests, index: u32, hook: Hook) -> Result<Filters, AttachError> {
    let mut found = Filters::default();
    let dumped = requests.dump(
        libc::RTM_GETTFILTER,
        &tc_message(index, 0, parent(hook), 0),
        |kind, message| {
            // A filter chain shows itself too, with no handle.
            if kind != libc::RTM_NEWTFILTER || u32_at(message, 8).is_none_or(|handle| handle == 0) {
                return;
            }
            if is_ours(message, hook) {
                found.ours = true;
            } else if !Hook::ALL.into_iter().any(|hook| is_ours(message, hook)) {
                found.others = true;
            }
        },
    );
    match dumped {
        Ok(_) => Ok(found),
        Err(error) => ignore_gone(error)
            .map(|()| Filters::default())
            .map_err(failed(|| format!("list the filters of interface {index}"))),
    }
}

fn is_ours(message: &[u8], hook: Hook) -> bool {
    let name = hook.name().as_bytes();
    let (mut bpf, mut named) = (false, false);
    for (kind, value) in attributes(message.get(TC_MESSAGE_BYTES..).unwrap_or_default()) {
        match kind {
            TCA_KIND => bpf = text(value) == b"bpf",
            TCA_OPTIONS => {
                named = attributes(value).any(|(kind, value)| kind == TCA_BPF_NAME && text(value) == name)
            }
            _ => {}
        }
    }
    let priority = u32_at(message, 16).map(|info| info >> 16);
    bpf && named && u32_at(message, 8) == Some(HANDLE.into()) && priority == Some(PRIORITY.into())
}

const fn parent(hook: Hook) -> u32 {
    match hook {
        Hook::FromPod => INGRESS,
        Hook::ToPod | Hook::ToNetwork => EGRESS,
    }
}

/// `struct tcmsg`.
fn tc_message(index: u32, handle: u32, parent: u32, info: u32) -> Vec<u8> {
    [0, index, handle, parent, info]
        .into_iter()
        .flat_map(u32::to_ne_bytes)
        .collect()
}

/// What was to be removed went away by itself.
fn ignore_gone(error: io::Error) -> io::Result<()> {
    match error.raw_os_error() {
        Some(libc::ENODEV | libc::ENOENT) => Ok(()),
        _ => Err(error),
    }
}

fn failed(attempt: impl FnOnce() -> String) -> impl FnOnce(io::Error) -> AttachError {
    move |source| AttachError::Netlink {
        attempt: attempt(),
        source,
    }
}

fn open() -> Result<Requests, AttachError> {
    Requests::open(NETLINK_ROUTE).map_err(failed(|| "open a socket for requests".to_owned()))
}
