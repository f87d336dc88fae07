// SPDX-License-Identifier: Apache-2.0
//! Whether the programs can ask this kernel's connection tracking who opened a connection, and how
//! (Linux 5.18, where it is built in).

use netpol_common::abi::Tracking;

use super::{
    btf::{Btf, BtfError},
    sk_buff::SkBuffError,
};

/// A way to ask.
#[derive(Debug, Clone, Copy, Default)]
pub struct Way {
    /// Where the answer is.
    pub layout: Tracking,
    /// Numbers of the kernel's functions that look it up and that give it back.
    calls: Option<[u32; 2]>,
}

impl Way {
    /// The instruction in the place of one of the object, if it stands for one of the calls: where
    /// they are not made, nobody comes there.
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

/// The way that a kernel has, by its description; `None` if it has none.
///
/// # Errors
/// The description is damaged, or says of a structure what no kernel did yet.
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
