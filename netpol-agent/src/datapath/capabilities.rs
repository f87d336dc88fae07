// SPDX-License-Identifier: Apache-2.0
//! Which capability, or which feature, a refusal of the kernel is about.

use caps::{CapSet, Capability};

use super::{DatapathError, features};

/// What the kernel asks for: maps and programs need the first, pointers in programs the second, the
/// type and the hooks of the programs the third.
const NEEDED: [Capability; 3] = [
    Capability::CAP_BPF,
    Capability::CAP_PERFMON,
    Capability::CAP_NET_ADMIN,
];

/// Adds the capabilities that the process lacks to an error that they may explain, or names what
/// the kernel lacks. The kernel itself only says that something is not permitted or not valid.
pub(super) fn explained(error: DatapathError) -> DatapathError {
    if matches!(error, DatapathError::NoObject | DatapathError::OtherLayout { .. }) {
        return error;
    }
    let missing = missing(|capability| caps::has_cap(None, CapSet::Effective, capability).unwrap_or(true));
    if missing.is_empty() {
        // The verifier's log says nothing that helps.
        return match (&error, features::missing()) {
            (DatapathError::Load(_) | DatapathError::Attach(_), Some(lacking)) => {
                DatapathError::NoFeature(lacking)
            }
            _ => error,
        };
    }
    DatapathError::NoCapability {
        missing,
        source: Box::new(error),
    }
}

/// The names of those that are needed and that `has` does not tell of. To BPF, `CAP_SYS_ADMIN` is
/// each of them.
fn missing(has: impl Fn(Capability) -> bool) -> String {
    if has(Capability::CAP_SYS_ADMIN) {
        return String::new();
    }
    let missing = NEEDED.into_iter().filter(|capability| !has(*capability));
    let names: Vec<String> = missing.map(|capability| capability.to_string()).collect();
    names.join(" and ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let without = |lacking: &[Capability]| {
            missing(|capability| capability != Capability::CAP_SYS_ADMIN && !lacking.contains(&capability))
        };
        assert_eq!(without(&[]), "");
        assert_eq!(without(&[Capability::CAP_PERFMON]), "CAP_PERFMON");
        assert_eq!(without(&NEEDED), "CAP_BPF and CAP_PERFMON and CAP_NET_ADMIN");
        assert_eq!(missing(|capability| capability == Capability::CAP_SYS_ADMIN), "");
    }
}
