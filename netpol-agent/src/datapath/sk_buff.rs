// SPDX-License-Identifier: Apache-2.0
//! Finds the fields of this kernel's `struct sk_buff` that the programs read.

use std::{fs, io, path::Path};

use netpol_common::abi::SkBuff;
use thiserror::Error;

use super::{
    btf::{Btf, BtfError},
    tracking,
};

/// The kernel's description of itself (`CONFIG_DEBUG_INFO_BTF`).
pub const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

const STRUCTURE: &str = "sk_buff";

/// Why the fields cannot be found.
#[derive(Debug, Error)]
pub enum SkBuffError {
    /// The kernel has no type description.
    #[error("reading {KERNEL_BTF}")]
    NoDescription(#[source] io::Error),
    /// The description lacks something.
    #[error(transparent)]
    Btf(#[from] BtfError),
    /// A field has a size or place that no known kernel has.
    #[error("`{field}` of structure `{STRUCTURE}` has {bits:?} bits from bit {before}, not {wanted}")]
    OtherField {
        /// The field.
        field: &'static str,
        /// Bits before it.
        before: u32,
        /// Its bits.
        bits: Option<u32>,
        /// How many they should be.
        wanted: u32,
    },
    /// The fields are further apart than the programs read at once.
    #[error("the fields of structure `{STRUCTURE}` that are needed are {0} bytes apart")]
    TooFar(u32),
}

/// A way to read a packet's `sk_buff`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Way {
    /// Offsets of its fields.
    pub layout: SkBuff,
    /// Number of the kernel function that returns a pointer to it.
    cast: Option<u32>,
}

impl Way {
    /// Puts the calls of that function, and those of `tracking`, into an object's instructions. A
    /// call that this kernel lacks becomes a harmless instruction.
    pub fn put_into(&self, tracking: &tracking::Way, object: &[u8]) -> Vec<u64> {
        /// `r0 = r1`.
        const NOTHING: u64 = 0x10bf;
        const NUMBER: u32 = 32;
        let instruction = match self.cast {
            Some(number) => SkBuff::CAST & u64::from(u32::MAX) | u64::from(number) << NUMBER,
            None => NOTHING,
        };
        let words = object.chunks(size_of::<u64>()).map(|bytes| {
            let mut word = [0; size_of::<u64>()];
            word[..bytes.len()].copy_from_slice(bytes);
            u64::from_ne_bytes(word)
        });
        words
            .map(|word| match word {
                SkBuff::CAST => instruction,
                word => tracking.instruction(word).unwrap_or(word),
            })
            .collect()
    }
}

/// Returns the ways to read it that a kernel offers, by its description, the best first.
///
/// # Errors
/// The description lacks a field, or describes one as no known kernel does.
pub fn ways(path: &Path) -> Result<Vec<Way>, SkBuffError> {
    let bytes = fs::read(path).map_err(SkBuffError::NoDescription)?;
    let btf = Btf::parse(&bytes)?;
    let layout = of(&btf)?;
    let cast = btf.function("bpf_cast_to_kern_ctx")?;
    let in_place = cast.map(|_| Way {
        layout: SkBuff {
            access: SkBuff::IN_PLACE,
            ..layout
        },
        cast,
    });
    let copied = Way { layout, cast: None };
    Ok(in_place.into_iter().chain([copied]).collect())
}

fn of(btf: &Btf<'_>) -> Result<SkBuff, SkBuffError> {
    const NAMES: [&str; 4] = ["csum_start", "csum_offset", "network_header", "mac_header"];
    let (ip_summed, shift) = place(btf, "ip_summed", 2)?;
    let mut fields = [0; NAMES.len()];
    for (field, name) in fields.iter_mut().zip(NAMES) {
        (*field, _) = place(btf, name, 16)?;
    }
    let first = fields.iter().fold(ip_summed, |first, field| first.min(*field));
    // The programs read numbers of two bytes, each at an aligned offset.
    let first = first & !7;
    let end = fields
        .iter()
        .fold(ip_summed + 1, |end, field| end.max(*field + 2));
    let length = end - first;
    if length > u32::from(SkBuff::MAX_LENGTH) || end > u32::from(u16::MAX) {
        return Err(SkBuffError::TooFar(length));
    }
    let [csum_start, csum_offset, network_header, mac_header] = fields.map(|field| (field - first) as u16);
    Ok(SkBuff {
        access: SkBuff::COPIED,
        first: first as u16,
        length: length as u16,
        ip_summed: (ip_summed - first) as u16,
        ip_summed_shift: shift as u16,
        csum_start,
        csum_offset,
        network_header,
        mac_header,
    })
}

/// Returns the byte of a field with `wanted` bits, and the bits before it in that byte. A field of
/// 16 bits must be aligned to two bytes; a smaller one must lie within a byte.
fn place(btf: &Btf<'_>, field: &'static str, wanted: u32) -> Result<(u32, u32), SkBuffError> {
    let found = btf.field(STRUCTURE, field)?;
    let (byte, shift) = (found.bits_before / 8, found.bits_before % 8);
    let fits = if wanted == 16 {
        found.bits_before.is_multiple_of(wanted)
    } else {
        shift + wanted <= 8
    };
    if found.bits != Some(wanted) || !fits {
        return Err(SkBuffError::OtherField {
            field,
            before: found.bits_before,
            bits: found.bits,
            wanted,
        });
    }
    Ok((byte, shift))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Holds on any kernel that runs the tests: the programs need these fields, near each other.
    #[test]
    fn this_kernel_tells() {
        let path = Path::new(KERNEL_BTF);
        if !path.exists() {
            return;
        }
        let layout = ways(path).unwrap().last().unwrap().layout;
        assert!(layout.length > 0 && layout.length <= SkBuff::MAX_LENGTH);
        assert_eq!(layout.csum_offset, layout.csum_start + 2);
        assert_eq!(layout.mac_header, layout.network_header + 2);
        assert!(layout.ip_summed_shift <= 6);
    }

    /// Also loads the ways that only other kernels need.
    #[test]
    fn every_way_loads() {
        use crate::datapath::{self, attach, bpffs, object::EBPF_OBJECT};
        let Some(object) = EBPF_OBJECT else { return };
        if datapath::maps::probe().is_err() || !Path::new(KERNEL_BTF).exists() {
            return;
        }
        let folder = Path::new("/sys/fs/bpf").join(format!("netpol-ways-{}", std::process::id()));
        let options = datapath::Options {
            pin_path: folder.clone(),
            attach: attach::Mode::Auto,
            flow_capacity: Some(64),
            log_level: 0,
        };
        datapath::make_folders(&folder).unwrap();
        let mut ways = ways(Path::new(KERNEL_BTF)).unwrap();
        assert!(ways.iter().any(|way| way.cast.is_none()), "{ways:?}");
        ways.push(Way::default());
        let tracking = tracking::way(&fs::read(KERNEL_BTF).unwrap()).unwrap();
        let trackings: Vec<_> = tracking.into_iter().chain([tracking::Way::default()]).collect();
        let loaded: Vec<_> = ways
            .iter()
            .flat_map(|way| trackings.iter().map(move |tracking| (way, tracking)))
            .map(|(way, tracking)| {
                let loaded = datapath::load::load_with(object, &options, way, tracking);
                ((way, tracking), loaded.map(|_| ()))
            })
            .collect();
        bpffs::remove_all(&folder).unwrap();
        for (way, loaded) in loaded {
            assert!(loaded.is_ok(), "{way:?}: {loaded:?}");
        }
    }

    #[test]
    fn an_object_calls_what_it_can() {
        let Some(object) = crate::datapath::object::EBPF_OBJECT else {
            return;
        };
        let count = |object: &[u64], word| object.iter().filter(|found| **found == word).count();
        let tracking = tracking::Way::default();
        let plain = Way::default().put_into(&tracking, object);
        let with = |cast| {
            Way {
                cast,
                ..Way::default()
            }
            .put_into(&tracking, object)
        };
        let call = 7 << 32 | 0x2085;
        let calls = count(&with(Some(7)), call) - count(&plain, call);
        assert!(calls >= 3, "in each program: {calls}");
        assert_eq!(count(&plain, SkBuff::CAST), 0);
        assert_eq!(count(&with(Some(7)), SkBuff::CAST), 0);
    }

    #[test]
    fn a_kernel_that_does_not_describe_itself() {
        let folder = tempfile::tempdir().unwrap();
        let missing = ways(&folder.path().join("vmlinux"));
        assert!(
            matches!(missing, Err(SkBuffError::NoDescription(_))),
            "{missing:?}"
        );
        let path = folder.path().join("other");
        fs::write(&path, b"something else").unwrap();
        let other = ways(&path);
        assert!(
            matches!(other, Err(SkBuffError::Btf(BtfError::Unreadable(..)))),
            "{other:?}"
        );
    }
}
