// SPDX-License-Identifier: Apache-2.0
//! The contract, `docs/semantics.md`, holds together with the tests and with all that cites it.
//!
//! `docs/rules.md`, the list of each rule's tests, is generated from the corpus and from the names
//! of tests. So are the contract's links into it. With `NETPOL_BLESS=1` both are written, else they
//! are compared.

#[path = "rules/citations.rs"]
mod citations;
#[path = "rules/contract.rs"]
mod contract;
#[path = "rules/proofs.rs"]
mod proofs;
#[path = "rules/sources.rs"]
mod sources;

use std::fs;

use contract::Contract;
use proofs::Proofs;
use sources::root;

const BLESS: &str = "NETPOL_BLESS=1 cargo test -p netpol-tests --test rules";

/// Compares a document with what it should be, or writes it.
fn check(name: &str, wanted: &str) {
    let path = root().join(name);
    if std::env::var_os("NETPOL_BLESS").is_some() {
        fs::write(&path, wanted).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(found == wanted, "{name} is not up to date: {BLESS}");
}

#[test]
fn the_list_is_what_the_tests_are() {
    let (contract, proofs) = (Contract::read(), Proofs::find());
    check("docs/rules.md", &proofs.document(&contract));
}

#[test]
fn each_rule_of_the_contract_links_to_its_tests() {
    let (contract, proofs) = (Contract::read(), Proofs::find());
    check(
        contract::PATH,
        &contract.with_links(|rule| !proofs.of(rule).is_empty()),
    );
}

/// A section that is not implemented says so; everywhere else a rule without a test is a promise
/// that nobody checks.
#[test]
fn each_rule_has_a_test() {
    let (contract, proofs) = (Contract::read(), Proofs::find());
    let without: Vec<&str> = contract
        .rules()
        .filter(|rule| rule.implemented && proofs.of(&rule.name).is_empty())
        .map(|rule| rule.name.as_str())
        .collect();
    assert!(without.is_empty(), "no test proves {without:?}");
}

#[test]
fn tests_name_rules_of_the_contract() {
    let (contract, proofs) = (Contract::read(), Proofs::find());
    let unknown: Vec<String> = proofs
        .rules()
        .filter(|rule| !contract.has(rule))
        .map(|rule| format!("{rule}: {:?}", proofs.of(rule)))
        .collect();
    assert!(
        unknown.is_empty(),
        "not in {}: {}",
        contract::PATH,
        unknown.join("\n")
    );
}

#[test]
fn code_and_documents_cite_rules_of_the_contract() {
    let contract = Contract::read();
    let citations = citations::find(&contract);
    let unknown: Vec<String> = citations
        .iter()
        .filter(|citation| !contract.has(&citation.rule))
        .map(ToString::to_string)
        .collect();
    assert!(
        unknown.is_empty(),
        "not in {}:\n{}",
        contract::PATH,
        unknown.join("\n")
    );
    assert!(
        citations.len() > 400,
        "only {} citations were found",
        citations.len()
    );
}
