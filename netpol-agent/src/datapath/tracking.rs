// SPDX-License-Identifier: Apache-2.0
//! Finds out if and how the programs can ask this kernel's connection tracking who opened a
//! connection (Linux 5.18, if it is built in).

use netpol_common::abi::Tracking;

use super::{
    btf::{Btf, BtfError},
    sk_buff::SkBuffError,
};

/// A way to ask.
#[derive(Debug, Clone, Copy, Default)]
pub struct Way {
    /// Offsets in the answer.
    pub layout: Tracking,
    /// Numbers of the kernel functions that look up and release an entry.
    calls: Option<[u32; 2]>,
}

impl Way {
    /// Returns the replacement of an instruction that stands for one of the calls. Without the
    /// calls it is never reached.
    pub fn instruction(&self, word: u64) -> Option<u64> {
        /// `r0 = 0`.
        const NOTHING: u64 = 0xb7;
        const NUMBER: u32 = 32;
        let index = [Tracking::LOOKUP, Tracking::RELEASE]
            .iter()
            .position(|call| *call == word)?;
        Some(self.calls.map_or(NOTHING, |numbers| {
            word & u64::from(u32::MAX) | u64::from(numbers[index]) << NUMBER
        }))
    }
}

/// Returns the way that a kernel offers, by its description; `None` if it has none.
///
/// # Errors
/// The description is damaged, or describes a structure as no known kernel does.
pub fn way(bytes: &[u8]) -> Result<Option<Way>, SkBuffError> {
    let btf = Btf::parse(bytes)?;
    let [lookup, release] = ["bpf_skb_ct_lookup", "bpf_ct_release"].map(|name| btf.function(name));
    let (Some(lookup), Some(release)) = (lookup?, release?) else {
        return Ok(None);
    };
    let byte = |structure: &str, field: &str| Ok(btf.field(structure, field)?.bits_before / 8);
    let places = || -> Result<[u32; 4], BtfError> {
        Ok([
            byte("nf_conn", "status")?,
            byte("nf_conn", "proto")?,
            byte("ip_ct_tcp", "seen")?,
            byte("ip_ct_tcp_state", "flags")?,
        ])
    };
    let [status, proto, seen, flags] = places()?;
    let flags = proto + seen + flags;
    let (Ok(status), Ok(flags)) = (u16::try_from(status), u16::try_from(flags)) else {
        return Err(SkBuffError::TooFar(status.max(flags)));
    };
    Ok(Some(Way {
        layout: Tracking {
            access: 1,
            status,
            flags,
        },
        calls: Some([lookup, release]),
    }))
}
