// SPDX-License-Identifier: Apache-2.0
//! README and `docs/explain.md` show what `netpol explain` prints.

use netpol_tests::{manifests::ManifestDir, shown::Shown};

use crate::{
    doubts,
    example::{self, explain_in},
};

const COMMAND: &str = "target/debug/netpol explain --source ";

#[test]
fn documents_show_what_explain_prints() {
    let mut checked = 0;
    for document in ["README.md", "docs/explain.md"] {
        for shown in Shown::all(document).unwrap() {
            let Some(arguments) = shown.command.strip_prefix(COMMAND) else {
                continue;
            };
            let arguments: Vec<&str> = arguments.split(' ').collect();
            // `manifests` is the reader's own folder; here it is a cluster of these tests.
            let own: ManifestDir;
            let folder = match arguments[..] {
                ["manifests", "ops/exporter", ..] => {
                    own = doubts::world("vxlan", &doubts::from("192.0.2.2/32"));
                    own.path().to_owned()
                }
                ["manifests", ..] => {
                    own = example::cluster();
                    own.path().to_owned()
                }
                [folder, ..] => [env!("CARGO_MANIFEST_DIR"), "..", folder].iter().collect(),
                [] => unreachable!("split gives one part at least"),
            };
            let (_, output, errors) = explain_in(&folder, &arguments[1..]);
            let checks = shown.check(&output);
            checks.unwrap_or_else(|error| panic!("{document}: {error:#}{errors}"));
            checked += 1;
        }
    }
    assert_eq!(checked, 4, "commands of documents");
}
