// SPDX-License-Identifier: Apache-2.0
//! The compiled eBPF programs, embedded in the agent.

use netpol_common::abi::ABI_VERSION;
use object::{File, Object as _, ObjectSection as _, ObjectSymbol as _};

use super::{sk_buff::Way, tracking};

/// The ELF object of `netpol-ebpf` with its BTF, aligned to 8 bytes as aya needs.
///
/// `None` in a build without an eBPF toolchain (the build script warns): such an agent cannot
/// enforce. `cargo xtask build` makes one that can. Before loading, it is adapted to the kernel,
/// see [`for_any_kernel`].
#[cfg(netpol_ebpf_object)]
pub static EBPF_OBJECT: Option<&[u8]> = Some(aya::include_bytes_aligned!(concat!(
    env!("OUT_DIR"),
    "/netpol-ebpf.o"
)));

/// The ELF object of `netpol-ebpf`: `None`, because this build had no eBPF toolchain. `cargo xtask
/// build` makes one that has it.
#[cfg(not(netpol_ebpf_object))]
pub static EBPF_OBJECT: Option<&[u8]> = None;

/// Returns the programs without the parts that differ between kernels: they do not see where
/// checksums are to be written. As words, because aya needs the alignment.
pub fn for_any_kernel() -> Option<Vec<u64>> {
    Some(Way::default().put_into(&tracking::Way::default(), EBPF_OBJECT?))
}

/// Returns the names of the programs in the object, sorted; empty in a build without them.
pub fn programs() -> Vec<&'static str> {
    let Some(object) = EBPF_OBJECT.and_then(|object| File::parse(object).ok()) else {
        return Vec::new();
    };
    let mut names: Vec<_> = object
        .symbols()
        .filter(|symbol| {
            let section = symbol
                .section_index()
                .and_then(|index| object.section_by_index(index).ok());
            symbol.is_definition() && section.is_some_and(|section| section.name() == Ok(SECTION))
        })
        .filter_map(|symbol| symbol.name_bytes().ok())
        .filter_map(|name| std::str::from_utf8(name).ok())
        .collect();
    names.sort_unstable();
    names
}

/// The section of the object that holds the programs of TC hooks.
const SECTION: &str = "classifier";

/// Describes, for people, what this build enforces with: its ABI version and its programs.
pub fn described() -> String {
    let programs = programs();
    if programs.is_empty() {
        return format!("ABI version {ABI_VERSION}, no eBPF programs: this build cannot enforce");
    }
    format!(
        "ABI version {ABI_VERSION}, {} eBPF programs: {}",
        programs.len(),
        programs.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::{EBPF_OBJECT, described, programs};
    use crate::datapath::attach::Hook;

    #[test]
    fn the_object_is_aligned_elf_for_bpf() {
        const EM_BPF: u16 = 247;
        let Some(object) = EBPF_OBJECT else {
            assert!(
                std::env::var_os("NETPOL_BIN").is_none(),
                "`cargo xtask test` builds with the toolchain"
            );
            return;
        };
        assert_eq!(object.as_ptr() as usize % 8, 0);
        assert_eq!(&object[..4], b"\x7fELF");
        assert_eq!(u16::from_ne_bytes([object[18], object[19]]), EM_BPF);
        let mut hooks = Hook::ALL.map(Hook::name);
        hooks.sort_unstable();
        assert_eq!(programs(), hooks);
        assert!(
            described().ends_with("3 eBPF programs: from_pod, to_network, to_pod"),
            "{}",
            described()
        );
    }
}
