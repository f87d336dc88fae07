// SPDX-License-Identifier: Apache-2.0
//! Checks properties on seeds: first those that once failed, then random ones. `NETPOL_CASES`
//! scales their number.

use std::{fs, path::Path};

use proptest::{
    prelude::*,
    test_runner::{TestCaseError, TestRunner},
};

/// Checks a property on the seeds of `regressions/SUITE.txt`, then on one random seed for each
/// `share` cases.
///
/// # Panics
/// If it does not hold. The message names the seed, which then belongs into that file.
pub fn hold(suite: &str, share: u32, test: impl Fn(u64) -> Result<(), TestCaseError>) {
    let test = |seed| {
        let named = |failure| match failure {
            TestCaseError::Fail(reason) => TestCaseError::fail(format!("seed {seed}: {reason}")),
            rejected => rejected,
        };
        test(seed).map_err(named)
    };
    for seed in regressions(suite) {
        if let Err(failure) = test(seed) {
            panic!("{failure}");
        }
    }
    let scale =
        std::env::var("NETPOL_CASES").map_or(100_000, |text| text.parse().expect("NETPOL_CASES: a number"));
    let mut runner = TestRunner::new(ProptestConfig {
        cases: (scale / share).max(1),
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    if let Err(failure) = runner.run(&any::<u64>().no_shrink(), test) {
        panic!("{failure}\nAdd the seed to tests/regressions/{suite}.txt.");
    }
}

/// Parses one seed per line, with a remark after `#`.
fn regressions(suite: &str) -> Vec<u64> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("regressions")
        .join(format!("{suite}.txt"));
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let seeds = text.lines().filter_map(|line| line.split('#').next());
    seeds
        .map(str::trim)
        .filter(|seed| !seed.is_empty())
        .map(|seed| seed.parse().expect("a seed is a number"))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, panic::catch_unwind};

    use super::*;

    #[test]
    fn seeds_that_failed_come_first_and_a_failure_names_its_seed() {
        let met = RefCell::new(Vec::new());
        hold("plan", 20_000, |seed| {
            met.borrow_mut().push(seed);
            Ok(())
        });
        let met = met.into_inner();
        let known = regressions("plan");
        assert!(!known.is_empty() && met.starts_with(&known) && met.len() > known.len());
        let failure = catch_unwind(|| hold("plan", 1, |_| Err(TestCaseError::fail("it does not hold"))));
        let message = failure.expect_err("it fails");
        let message = message.downcast_ref::<String>().expect("a message");
        assert!(
            message.contains(&format!("seed {}: it does not hold", known[0])),
            "{message}"
        );
    }
}
