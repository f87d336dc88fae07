// SPDX-License-Identifier: Apache-2.0
//! Which rule is proven where: `docs/rules.md` is generated from the corpus and from the names of tests. With `NETPOL_BLESS=1` it is written,
//! else it is compared.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use netpol_tests::{cases, scenario::case::scenario};

/// The rules of the contract, with what they are about.
const RULES: [(&str, &str); 45] = [
    (
        "I1",
        "a pod is isolated by a policy of its namespace that selects it",
    ),
    ("I2", "policyTypes, given and absent"),
    ("I3", "the empty selector, invalid selectors"),
    ("I4", "policies add up"),
    ("I5", "egress of the source and ingress of the destination"),
    ("I6", "hostNetwork pods"),
    ("I7", "terminal and terminating pods"),
    ("P1", "no peers: everyone"),
    ("P2", "podSelector, namespaceSelector, AND and OR"),
    ("P3", "selector operators"),
    ("P4", "the namespace's name as a label"),
    ("P5", "ipBlock and except"),
    ("P6", "all addresses of a pod"),
    ("P7", "label changes"),
    ("T1", "no ports: every port of every protocol"),
    ("T2", "protocol without port, default TCP"),
    ("T3", "endPort"),
    ("T4", "named ports"),
    ("T5", "the source port never matters"),
    ("C1", "replies, and ICMP errors that quote a connection"),
    ("C2", "a change counts for open connections"),
    ("C3", "lifetime of flows, reused addresses"),
    ("C4", "floods of denied packets"),
    ("C5", "fragments"),
    ("C6", "connections older than the agent"),
    ("A1", "a pod to itself, directly and through a Service"),
    ("A2", "a pod and its node"),
    ("A3", "what the node only forwards"),
    ("A4", "other nodes"),
    ("A5", "Services"),
    ("A6", "spoofed sources"),
    ("A7", "denial is silence"),
    ("A8", "whose an interface is"),
    ("A9", "what an address is, and who is delivered what"),
    ("F1", "ARP, neighbour discovery, MLD and IGMP"),
    ("F2", "malformed, unknown and VLAN-tagged frames"),
    ("F3", "IPv4 options and IPv6 extension headers"),
    ("F4", "ICMP and other protocols"),
    ("F5", "multicast and broadcast"),
    ("B1", "nothing changes before the first complete list"),
    ("B2", "a pod before its policy is programmed"),
    ("B3", "the kernel enforces without the agent"),
    ("B4", "a policy changes as a whole"),
    ("L1", "no silent limit"),
    ("L2", "no object costs others their enforcement"),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Expectations of the corpus by rule: all of them (evaluator, compiler, prog-run), and those that sockets can make.
fn corpus() -> BTreeMap<String, (usize, usize)> {
    let mut counts: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for case in cases::load_all().unwrap() {
        let all: usize = case.steps.iter().map(|step| step.expectations.len()).sum();
        let (_, left_out) = scenario(&case).unwrap();
        let by_sockets = all - left_out.values().sum::<usize>();
        for rule in &case.rules {
            let count = counts.entry(rule.clone()).or_default();
            count.0 += all;
            count.1 += by_sockets;
        }
    }
    counts
}

/// Tests whose name begins with a rule (or several), by rule: `file: name`.
fn named_tests() -> BTreeMap<String, BTreeSet<String>> {
    let mut tests: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut folders: Vec<PathBuf> = ["netpol-agent", "netpol-common", "tests"]
        .map(|folder| root().join(folder))
        .to_vec();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let shown = path.strip_prefix(root()).unwrap().display().to_string();
                let mut is_test = false;
                for line in text.lines().map(str::trim) {
                    if let Some(name) = line
                        .strip_prefix("fn ")
                        .or_else(|| line.strip_prefix("async fn "))
                    {
                        let name = name.split(['(', '<']).next().unwrap_or_default();
                        if is_test {
                            for rule in name.split('_').map_while(rule_name) {
                                tests
                                    .entry(rule)
                                    .or_default()
                                    .insert(format!("`{name}` ({shown})"));
                            }
                        }
                        is_test = false;
                    } else if line.starts_with("#[") && line.contains("test]") {
                        is_test = true;
                    } else if line.starts_with("#[ignore") {
                        is_test = false;
                    }
                }
            }
        }
    }
    tests
}

/// `c2` as `C2`, if it is a rule.
fn rule_name(word: &str) -> Option<String> {
    let rule = word.to_uppercase();
    RULES.iter().any(|(name, _)| *name == rule).then_some(rule)
}

fn table() -> String {
    let (corpus, named) = (corpus(), named_tests());
    let mut text = String::from(
        "# Which rule is proven where\n\n\
         Generated from the corpus (`tests/cases`) and from test names by `NETPOL_BLESS=1 cargo test -p netpol-tests --test rules`. \
         A test named `c2_…` proves rule C2.\n\n\
         Expectations of the corpus are played by the evaluator, the compiler and the kernel programs (`BPF_PROG_TEST_RUN`); \
         those that sockets can make on one node, by real connections too.\n\n\
         | rule | what it is about | evaluator, compiler, prog-run | real connections | tests of its own |\n\
         |---|---|---|---|---|\n",
    );
    for (rule, about) in RULES {
        let (all, by_sockets) = corpus.get(rule).copied().unwrap_or_default();
        let tests = named.get(rule).map_or(0, BTreeSet::len);
        let shown = |count: usize| {
            if count == 0 {
                "-".to_owned()
            } else {
                count.to_string()
            }
        };
        writeln!(
            text,
            "| {rule} | {about} | {} | {} | {} |",
            shown(all),
            shown(by_sockets),
            shown(tests)
        )
        .unwrap();
    }
    text.push_str("\n## Tests of their own\n");
    for (rule, tests) in named {
        writeln!(text, "- **{rule}**").unwrap();
        for test in tests {
            writeln!(text, "  - {test}").unwrap();
        }
    }
    text
}

/// A rule of the contract that is implemented has its line in the table.
#[test]
fn every_rule_of_the_contract_is_listed() {
    let contract = fs::read_to_string(root().join("docs/semantics.md")).unwrap();
    let (implemented, _) = contract.split_once("## Cluster-wide policy").unwrap();
    let rules: BTreeSet<&str> = implemented
        .lines()
        .filter_map(|line| line.strip_prefix("- **")?.split("**").next())
        .collect();
    assert_eq!(rules, RULES.iter().map(|(rule, _)| *rule).collect());
}

#[test]
fn the_table_is_what_the_tests_are() {
    let path = root().join("docs/rules.md");
    let table = table();
    if std::env::var_os("NETPOL_BLESS").is_some() {
        fs::write(&path, &table).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == table,
        "docs/rules.md is not up to date: NETPOL_BLESS=1 cargo test -p netpol-tests --test rules"
    );
}
