// SPDX-License-Identifier: Apache-2.0
//! Filters of a `clsact` qdisc, for kernels without TCX. They belong to the device and outlive the
//! agent.

use std::{collections::BTreeSet, io, path::Path};

use aya::programs::{
    SchedClassifier,
    tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact},
};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::{
    AttachError, Fault, Hook,
    error::errno,
    hook::Place,
    pins::{filters_mark, put_mark, qdisc_mark, remove_mark},
};
use crate::datapath::netlink::{Requests, attributes, text, u32_at};

/// Runs before every other filter.
const PRIORITY: u16 = 1;
/// Fixed, so that a new agent replaces the last one's filter in one step: "netp".
const HANDLE: TcHandle = TcHandle::new(0x6e65, 0x7470);
/// Stands in while the main filter moves before others' filters.
const STAND_IN: TcHandle = TcHandle::new(0x6e65, 0x7471);

const CLSACT_KIND: &[u8] = b"clsact";
const CLSACT: u32 = 0xffff_fff1;
const CLSACT_HANDLE: u32 = 0xffff_0000;
const INGRESS: u32 = 0xffff_fff2;
const EGRESS: u32 = 0xffff_fff3;
const INTERFACE_MESSAGE_BYTES: usize = 16;
const TC_MESSAGE_BYTES: usize = 20;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
const TCA_BPF_ID: u16 = 11;
/// The program's return value is the action.
const TCA_BPF_FLAG_ACT_DIRECT: u32 = 1;
const NLM_F_ECHO: u16 = 8;

/// Attaches `program`, or replaces the current one in one step. It runs before others' filters.
pub(super) fn attach(
    program: &mut SchedClassifier,
    place: Place<'_>,
    folder: &Path,
) -> Result<(), AttachError> {
    add_qdisc(place, folder)?;
    put(program, place, HANDLE)?;
    match fault(program, place)? {
        None => Ok(()),
        Some(Fault::Absent) if !place.is_there() => Err(place.gone()),
        Some(Fault::Absent) => Err(place.failed("find the filter where it was put")(
            "something else has its place",
        )),
        // Of two filters with the same priority, the later one runs first.
        Some(_) => {
            put(program, place, STAND_IN)?;
            let mut requests = open()?;
            remove_one(&mut requests, place.index, place.hook, HANDLE.into())?;
            put(program, place, HANDLE)?;
            remove_one(&mut requests, place.index, place.hook, STAND_IN.into())
        }
    }
}

fn put(program: &mut SchedClassifier, place: Place<'_>, handle: TcHandle) -> Result<(), AttachError> {
    let known =
        SchedClassifierLink::attached(place.interface, place.hook.attach_type(), PRIORITY, handle, None)
            .map_err(|_| place.gone())?;
    let id = match program.attach_to_link(known) {
        Err(error) if errno(&error) == Some(libc::ENOENT) => program.attach_with_options(
            place.interface,
            place.hook.attach_type(),
            TcAttachOptions::Netlink(NlOptions {
                priority: PRIORITY,
                handle,
                classid: None,
            }),
        ),
        result => result,
    }
    .map_err(|error| place.program_failed("attach the program (clsact)", error))?;
    let link = program.take_link(id).map_err(place.failed("take the filter"))?;
    // Dropping the link would remove the filter. The link owns nothing else.
    std::mem::forget(link);
    Ok(())
}

/// Returns what is wrong with `program` at its hook, according to the kernel. Under a qdisc with
/// one hook for both directions, no program runs as it should.
pub(super) fn fault(program: &SchedClassifier, place: Place<'_>) -> Result<Option<Fault>, AttachError> {
    let own = program
        .info()
        .map_err(place.failed("ask for the program's id"))?
        .id();
    let mut requests = open()?;
    if kind(&mut requests, place.index)?.as_deref() != Some(CLSACT_KIND) {
        return Ok(Some(Fault::Absent));
    }
    let found = filters(&mut requests, place.index, place.hook)?;
    Ok(match found.running.iter().position(|id| *id == Some(own)) {
        None => Some(Fault::Absent),
        Some(0) => None,
        Some(_) => Some(Fault::NotFirst),
    })
}

/// Removes our filters from an interface, and the qdisc if we added it and it is now empty.
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

/// Marks the filters of an interface as this version's: another version's have the same handle, but
/// other maps.
pub(super) fn note(index: u32, folder: &Path) -> Result<(), AttachError> {
    put_mark(&filters_mark(folder, index))
}

/// Returns true if an interface has this version's filter at a hook.
pub(super) fn is_attached(index: u32, hook: Hook, folder: &Path) -> Result<bool, AttachError> {
    Ok(filters_mark(folder, index).exists() && filters(&mut open()?, index, hook)?.ours)
}

/// Returns true if an interface has filters of ours that are another version's.
pub(super) fn has_other_version(index: u32, folder: &Path) -> Result<bool, AttachError> {
    if filters_mark(folder, index).exists() {
        return Ok(false);
    }
    let mut requests = open()?;
    for hook in Hook::POD {
        if filters(&mut requests, index, hook)?.ours {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Takes over another version's marks for an interface, after our filters replaced its own. A qdisc
/// that it added becomes ours, or is removed if no filter of ours is on it.
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

/// Removes our filter at one hook of an interface.
pub(super) fn remove(index: u32, hook: Hook) -> Result<(), AttachError> {
    remove_from(&mut open()?, index, hook).map(drop)
}

/// Like [`remove`]. Returns true if others have filters there.
fn remove_from(requests: &mut Requests, index: u32, hook: Hook) -> Result<bool, AttachError> {
    let found = filters(requests, index, hook)?;
    for handle in found.handles {
        remove_one(requests, index, hook, handle)?;
    }
    Ok(found.others)
}

fn remove_one(requests: &mut Requests, index: u32, hook: Hook, handle: u32) -> Result<(), AttachError> {
    let info = (u32::from(PRIORITY) << 16) | u32::from((libc::ETH_P_ALL as u16).to_be());
    requests
        .request(
            libc::RTM_DELTFILTER,
            0,
            &tc_message(index, handle, parent(hook), info),
        )
        .or_else(ignore_gone)
        .map_err(failed(|| format!("remove filter {hook} of interface {index}")))
}

/// Lists the interfaces of this network namespace that have filters of ours.
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

/// Adds the qdisc if it is missing, and marks it as ours. An `ingress` qdisc, for example the
/// bandwidth plugin's, may have its place. That keeps the filters of both directions in a single
/// list: what is attached for one direction replaces the other's. An empty one is replaced. One in
/// use is not ours to remove.
fn add_qdisc(place: Place<'_>, folder: &Path) -> Result<(), AttachError> {
    let mut requests = open()?;
    let found = kind(&mut requests, place.index)?;
    match found.as_deref() {
        Some(CLSACT_KIND) => return Ok(()),
        Some(_) if filters(&mut requests, place.index, Hook::FromPod)?.is_empty() => {
            requests
                .request(
                    libc::RTM_DELQDISC,
                    0,
                    &tc_message(place.index, CLSACT_HANDLE, CLSACT, 0),
                )
                .or_else(ignore_gone)
                .map_err(place.failed("replace the empty qdisc by clsact"))?;
        }
        Some(kind) => {
            return Err(AttachError::OtherQdisc {
                interface: place.interface.to_owned(),
                index: place.index,
                kind: String::from_utf8_lossy(kind).into_owned(),
            });
        }
        None => {}
    }
    match qdisc_add_clsact(place.interface) {
        Ok(()) => put_mark(&qdisc_mark(folder, place.index)),
        Err(_) if !place.is_there() => Err(place.gone()),
        // Another qdisc came first. Reading the filters back shows what it is.
        Err(TcError::AlreadyAttached) => Ok(()),
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        Err(error) => Err(place.failed("add the clsact qdisc")(error)),
    }
}

/// Returns the kind of the qdisc in the place of clsact; `None` if there is none.
fn kind(requests: &mut Requests, index: u32) -> Result<Option<Vec<u8>>, AttachError> {
    let mut found = None;
    let asked = requests.get(
        libc::RTM_GETQDISC,
        NLM_F_ECHO,
        &tc_message(index, 0, CLSACT, 0),
        |kind, message| {
            if kind == libc::RTM_NEWQDISC {
                let rest = message.get(TC_MESSAGE_BYTES..).unwrap_or_default();
                let mut kinds = attributes(rest).filter(|(kind, _)| *kind == TCA_KIND);
                found = kinds.next().map(|(_, kind)| text(kind).to_owned());
            }
        },
    );
    asked
        .or_else(ignore_gone)
        .map_err(failed(|| format!("ask for the qdisc of interface {index}")))?;
    Ok(found)
}

/// The filters at a hook.
#[derive(Default)]
struct Filters {
    /// True if one of them is ours.
    ours: bool,
    /// Handles of our filters.
    handles: Vec<u32>,
    others: bool,
    /// Ids of the programs whose return value is the action, in the order in which the filters run;
    /// `None` for any other filter.
    running: Vec<Option<u32>>,
}

impl Filters {
    fn is_empty(&self) -> bool {
        self.running.is_empty()
    }
}

fn filters(requests: &mut Requests, index: u32, hook: Hook) -> Result<Filters, AttachError> {
    let mut found = Filters::default();
    let dumped = requests.dump(
        libc::RTM_GETTFILTER,
        &tc_message(index, 0, parent(hook), 0),
        |kind, message| {
            let handle = u32_at(message, 8).unwrap_or_default();
            // A filter chain is listed too, with handle 0.
            if kind != libc::RTM_NEWTFILTER || handle == 0 {
                return;
            }
            let filter = Filter::read(message);
            if filter.is_ours(hook) {
                found.ours = true;
                found.handles.push(handle);
            } else if !Hook::ALL.into_iter().any(|hook| filter.is_ours(hook)) {
                found.others = true;
            }
            found.running.push(filter.program);
        },
    );
    match dumped {
        Ok(_) => Ok(found),
        Err(error) => ignore_gone(error)
            .map(|()| Filters::default())
            .map_err(failed(|| format!("list the filters of interface {index}"))),
    }
}

/// The distinguishing fields of a filter.
struct Filter<'a> {
    /// Name, of a `bpf` filter with our handle and priority.
    name: Option<&'a [u8]>,
    /// Id of the program, if its return value is the action.
    program: Option<u32>,
}

impl<'a> Filter<'a> {
    fn read(message: &'a [u8]) -> Self {
        let (mut bpf, mut name, mut program, mut direct) = (false, None, None, false);
        for (kind, value) in attributes(message.get(TC_MESSAGE_BYTES..).unwrap_or_default()) {
            match kind {
                TCA_KIND => bpf = text(value) == b"bpf",
                TCA_OPTIONS => {
                    for (kind, value) in attributes(value) {
                        match kind {
                            TCA_BPF_NAME => name = Some(text(value)),
                            TCA_BPF_ID => program = u32_at(value, 0),
                            TCA_BPF_FLAGS => {
                                direct = u32_at(value, 0)
                                    .is_some_and(|flags| flags & TCA_BPF_FLAG_ACT_DIRECT != 0);
                            }
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        let own_handle = [HANDLE, STAND_IN].map(|handle| Some(u32::from(handle)));
        let own_place = own_handle.contains(&u32_at(message, 8))
            && u32_at(message, 16).map(|info| info >> 16) == Some(PRIORITY.into());
        Self {
            name: name.filter(|_| bpf && own_place),
            program: program.filter(|_| bpf && direct),
        }
    }

    fn is_ours(&self, hook: Hook) -> bool {
        self.name == Some(hook.name().as_bytes())
    }
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

/// Treats it as success that something to be removed was already gone.
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
