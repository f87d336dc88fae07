// SPDX-License-Identifier: Apache-2.0
//! Loads the object with all that this kernel lets the programs see.

use std::path::Path;

use aya::{Ebpf, EbpfLoader};
use zerocopy::IntoBytes as _;

use super::{DatapathError, Options, PINNED_MAPS, attach, capacity, pin, sk_buff, tracking};
use crate::causes::causes;

/// What the programs can see on this kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sight {
    /// Where a checksum is to be written.
    pub(super) checksums: bool,
    /// Who opened a connection that they do not know.
    pub(super) tracking: bool,
}

/// Loads maps and programs; what they can see.
pub(super) fn load(object: &[u8], options: &Options) -> Result<(Ebpf, Sight), DatapathError> {
    let description = std::fs::read(sk_buff::KERNEL_BTF).unwrap_or_default();
    let tracking = tracking::way(&description).unwrap_or_default();
    if let Some(tracking) = &tracking {
        match load_seeing(object, options, tracking) {
            Ok((ebpf, checksums)) => {
                let tracking = true;
                return Ok((ebpf, Sight { checksums, tracking }));
            }
            // No other way takes less.
            Err(error @ DatapathError::NoRoom(_)) => return Err(error),
            Err(error) => tracing::debug!(error = causes(&error), "asking connection tracking"),
        }
    }
    let (ebpf, checksums) = load_seeing(object, options, &tracking::Way::default())?;
    tracing::warn!(
        "this kernel lets the programs not ask its connection tracking (Linux 5.18, with nf_conntrack built in): an open \
         connection of an isolated pod that is not in the flow table any more is judged as if its next packet opened it"
    );
    let tracking = false;
    Ok((ebpf, Sight { checksums, tracking }))
}

/// Loads them with a way to ask connection tracking; whether they see where a checksum is to be
/// written.
fn load_seeing(
    object: &[u8],
    options: &Options,
    tracking: &tracking::Way,
) -> Result<(Ebpf, bool), DatapathError> {
    let ways = sk_buff::ways(Path::new(sk_buff::KERNEL_BTF));
    let mut closed = ways.as_ref().err().map(|error| causes(error));
    for way in ways.into_iter().flatten() {
        match load_with(object, options, &way, tracking) {
            Ok(ebpf) => return Ok((ebpf, true)),
            Err(error @ DatapathError::NoRoom(_)) => return Err(error),
            // Kernels differ in what they let programs read: older ones, and those locked down for
            // confidentiality.
            Err(error) => closed = Some(causes(&error)),
        }
    }
    let ebpf = load_with(object, options, &sk_buff::Way::default(), tracking)?;
    tracing::error!(
        error = closed,
        "not enforced on this kernel: that no checksum is written over a port or an address, for a pod with the capability NET_RAW"
    );
    Ok((ebpf, false))
}

pub(super) fn load_with(
    object: &[u8],
    options: &Options,
    way: &sk_buff::Way,
    tracking: &tracking::Way,
) -> Result<Ebpf, DatapathError> {
    let mut loader = EbpfLoader::new();
    // The kernel's own types take more memory than all else, and no program is fitted to them.
    loader.btf(None);
    let pins = PINNED_MAPS.map(|name| (name, pin(&options.pin_path, name)));
    for (name, path) in &pins {
        loader.map_pin_path(name, path);
    }
    match options.flow_capacity {
        Some(capacity) => {
            loader.map_max_entries("flows", capacity);
        }
        None if !pin(&options.pin_path, "flows").exists() => {
            loader.map_max_entries("flows", capacity::of_this_machine());
        }
        None => {}
    }
    loader.override_global(aya_log::LEVEL, &options.log_level, true);
    loader.override_global("SK_BUFF", &way.layout, true);
    loader.override_global("TRACKING", &tracking.layout, true);
    let mut ebpf = loader
        .load(way.put_into(tracking, object).as_bytes())
        .map_err(|error| refused(Box::new(error)))?;
    attach::load(&mut ebpf)?;
    Ok(ebpf)
}

fn refused(error: Box<aya::EbpfError>) -> DatapathError {
    let mut cause: Option<&dyn std::error::Error> = Some(&*error);
    while let Some(found) = cause {
        let io = found.downcast_ref::<std::io::Error>();
        if matches!(
            io.and_then(std::io::Error::raw_os_error),
            Some(libc::ENOMEM | libc::E2BIG)
        ) {
            return DatapathError::NoRoom(error);
        }
        cause = found.source();
    }
    DatapathError::Load(error)
}
