// SPDX-License-Identifier: Apache-2.0
//! The compiled eBPF programs, embedded in the agent.

use super::sk_buff::Way;

/// The ELF object of `netpol-ebpf` with its BTF, aligned to 8 bytes as aya reads it.
///
/// `None` in a build that had no eBPF toolchain (the build script warns of it): such an agent cannot enforce.
/// `cargo xtask build` makes one that can. A kernel takes it with what is put into it for that kernel only, see [`for_any_kernel`].
#[cfg(netpol_ebpf_object)]
pub static EBPF_OBJECT: Option<&[u8]> = Some(aya::include_bytes_aligned!(concat!(
    env!("OUT_DIR"),
    "/netpol-ebpf.o"
)));

/// The ELF object of `netpol-ebpf`: none, as this build had no eBPF toolchain. `cargo xtask build` makes one that has it.
#[cfg(not(netpol_ebpf_object))]
pub static EBPF_OBJECT: Option<&[u8]> = None;

/// The programs without what differs from kernel to kernel: they do not see where checksums are to be written. Words, as aya reads it.
pub fn for_any_kernel() -> Option<Vec<u64>> {
    Some(Way::default().put_into(EBPF_OBJECT?))
}

#[cfg(test)]
mod tests {
    use super::EBPF_OBJECT;

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
    }
}
