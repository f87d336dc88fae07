// SPDX-License-Identifier: Apache-2.0
//! Checks `docs/metrics.md` against what a running agent serves, and the table of drop reasons.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use netpol_common::abi::DropReason;
use netpol_tests::privilege::can_enforce;

use crate::shared::{SUITE, ask, launch, node};

const HEAD: &str = "# Metrics\n\n\
    What the agent serves on `/metrics` with `--listen`, in the text format of OpenMetrics. This page is\n\
    made of what a running agent serves. Packet counters are the kernel's, read when they are asked for.\n\
    [operations.md](operations.md) says which of them are worth an alert.\n\n\
    | metric | type | labels | |\n|---|---|---|---|\n";

/// Returns the name of a label in a sample, without its value.
fn labels(sample: &str) -> Vec<String> {
    let Some((_, rest)) = sample.split_once('{') else {
        return Vec::new();
    };
    let inside = rest.split_once('}').unwrap().0;
    let names = inside.split("\",").map(|pair| pair.split_once('=').unwrap().0);
    names.map(|name| format!("`{name}`")).collect()
}

/// Returns a row for each metric, by name.
fn page(text: &str) -> String {
    let (mut kinds, mut about) = (BTreeMap::new(), BTreeMap::new());
    for line in text.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("TYPE"), Some(name), Some(kind)) => _ = kinds.insert(name, kind),
            (Some("#"), Some("HELP"), Some(name), Some(help)) => _ = about.insert(name, help),
            _ => {}
        }
    }
    let mut page = HEAD.to_owned();
    for (name, kind) in kinds {
        // A counter's sample has a suffix.
        let shown = match kind {
            "counter" => format!("{name}_total"),
            _ => name.to_owned(),
        };
        let sample = text.lines().find(|line| {
            let rest = line.strip_prefix(&shown);
            rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
        });
        let labels = sample.map(labels).unwrap_or_default().join(", ");
        writeln!(page, "| `{shown}` | {kind} | {labels} | {} |", about[name]).unwrap();
    }
    page.push_str("\n## Why packets are dropped\n\n| `reason` | |\n|---|---|\n");
    for reason in DropReason::ALL {
        writeln!(page, "| `{}` | {} |", reason.name(), reason.meaning()).unwrap();
    }
    page
}

#[test]
fn the_page_of_metrics_is_what_an_agent_serves() {
    if !can_enforce(SUITE) {
        return;
    }
    let (node, manifests) = node();
    // A diagnostic, so that its metric has a sample.
    let policy = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {namespace: shop, name: odd}\n\
                  spec: {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: nowhere}}]}]}\n";
    manifests.write("odd.yaml", policy).unwrap();
    let agent = launch(&node, &manifests);
    agent.wait_for_line(0, "revision applied").unwrap();
    let page = page(&ask(node.netns(), "/metrics").unwrap());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    if std::env::var_os("NETPOL_BLESS").is_some() {
        fs::write(&path, &page).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        committed, page,
        "docs/metrics.md is not up to date: NETPOL_BLESS=1 cargo test -p netpol-tests --test operations"
    );
}
