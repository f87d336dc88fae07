// SPDX-License-Identifier: Apache-2.0
//! Tests `netpol matrix` on a folder: JSON, table and HTML.

use crate::{
    example::cluster,
    shared::{json, netpol, stdout},
};

#[test]
fn matrix_without_ports_takes_those_that_policies_name_and_html_is_one_file() {
    let folder = cluster();
    let source = folder.path().to_str().unwrap();
    let pairs = json(&netpol(&["matrix", "--source", source, "-o", "json"]));
    let mut ports: Vec<u64> = pairs
        .as_array()
        .unwrap()
        .iter()
        .map(|pair| pair["port"].as_u64().unwrap())
        .collect();
    ports.dedup();
    assert_eq!(ports, [80, 443, 15432]);
    let table = stdout(&netpol(&["matrix", "--source", source, "--port", "15432/tcp"]));
    for line in [
        "15432/TCP IPv4",
        "1 data/db    - + +",
        "2 data/spare . - +",
        "3 shop/web   + + -",
    ] {
        assert!(
            table.lines().any(|found| found == line),
            "{line:?} is not in\n{table}"
        );
    }
    let page = stdout(&netpol(&["matrix", "--source", source, "-o", "html"]));
    assert!(page.starts_with("<!doctype html>") && page.contains("data/db"));
    for external in ["http:", "https:", "src=", "url(", "@import", "<script", "<link"] {
        assert!(!page.contains(external), "{external}");
    }
}
