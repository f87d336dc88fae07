// SPDX-License-Identifier: Apache-2.0
//! What the kernel that this runs on makes of the programs. `cargo xtask test --kernels` reads what
//! is printed here, on each of its kernels.

use anyhow::ensure;
use netpol_agent::datapath::attach::Hook;
use netpol_tests::progrun::on_bench;

const SUITE: &str = "kernels";

/// What a program may have at most: instructions after the verifier's rewriting, and instructions
/// that the verifier looks at, on all paths. The verifier's own limit is a million. Kernels differ:
/// these are for all of them.
const BUDGETS: [(Hook, u32, u32); 3] = [
    (Hook::FromPod, 12_000, 250_000),
    (Hook::ToPod, 12_000, 250_000),
    (Hook::ToNetwork, 7_000, 150_000),
];

#[test]
fn programs_are_within_their_budgets() {
    on_bench(SUITE, 1, |bench| {
        let mut told = Vec::new();
        for (hook, instructions, verified) in BUDGETS {
            let size = bench.size(hook)?;
            println!(
                "{hook}: {} instructions of at most {instructions}, {} verified of at most {verified}",
                size.instructions, size.verified
            );
            ensure!(size.instructions > 0, "{hook}: no size");
            ensure!(
                size.instructions <= instructions,
                "{hook}: {} instructions",
                size.instructions
            );
            ensure!(size.verified <= verified, "{hook}: {} verified", size.verified);
            told.push(size.verified.to_string());
        }
        println!("kernel: verified: {}", told.join(" / "));
        Ok(())
    });
}

#[test]
fn what_the_kernel_has_is_told() {
    on_bench(SUITE, 1, |bench| {
        let datapath = bench.datapath();
        let yes = |is| if is { "yes" } else { "no" };
        println!("kernel: attached by: {}", datapath.mechanism());
        println!(
            "kernel: asks connection tracking: {}",
            yes(datapath.asks_tracking())
        );
        println!("kernel: sees checksums: {}", yes(datapath.checks_checksums()));
        Ok(())
    });
}
