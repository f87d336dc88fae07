// SPDX-License-Identifier: Apache-2.0
//! Default capacity of the flow table.

/// Smallest default: 2 MiB.
const LEAST: u32 = 1 << 14;
/// Largest default: 38 MiB, as many as nf_conntrack tracks by default with more than 4 GiB of
/// memory.
const MOST: u32 = 1 << 18;
/// One entry for each 16 KiB of memory. An entry takes 152 bytes (key 28, padded to 32; value 56;
/// 48 of the kernel's own; 16 of its hash table), so the table takes less than one hundredth of the
/// memory.
const MEMORY_AN_ENTRY: u64 = 16 << 10;

/// Returns the default for this machine; [`LEAST`] if its memory is unknown.
pub(super) fn of_this_machine() -> u32 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    of_memory(memory(&text).unwrap_or_default())
}

/// Returns the default for `memory` bytes: a power of two, like the kernel's hash table.
fn of_memory(memory: u64) -> u32 {
    let entries = (memory / MEMORY_AN_ENTRY).clamp(LEAST.into(), MOST.into());
    1 << entries.ilog2()
}

/// Parses the memory size from `/proc/meminfo`, in bytes.
fn memory(text: &str) -> Option<u64> {
    let kibibytes = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let number: u64 = kibibytes.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(number << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_grows_with_memory_between_its_bounds() {
        for (mebibytes, expected) in [
            (0, 1 << 14),
            (256, 1 << 14),
            (512, 1 << 15),
            (1000, 1 << 15),
            (1024, 1 << 16),
            (4096, 1 << 18),
            (1 << 20, 1 << 18),
        ] {
            assert_eq!(of_memory(mebibytes << 20), expected, "{mebibytes} MiB");
        }
    }

    #[test]
    fn the_kernel_tells_memory_in_kibibytes() {
        let text = "MemTotal:       24684092 kB\nMemFree:         1000 kB\n";
        assert_eq!(memory(text), Some(24_684_092 << 10));
        assert_eq!(memory("MemFree: 1 kB\n"), None);
        assert_eq!(memory("MemTotal: much\n"), None);
    }
}
