// SPDX-License-Identifier: Apache-2.0
//! Tests exit codes, and errors that name what is wrong.

use std::fs;

use netpol_tests::manifests::ManifestDir;

use crate::{
    example::{cluster, explain_in},
    shared::{netpol, stderr, stdout},
};

#[test]
fn exit_codes_and_errors_that_name_what_is_wrong() {
    let folder = cluster();
    for (arguments, code, part) in [
        (["shop/web", "data/db", "15432/TCP"], 0, ""),
        (["shop/web", "data/db", "15432/UDP"], 1, ""),
        (
            ["shop/wbe", "data/db", "80/TCP"],
            2,
            "there is no pod or Service shop/wbe",
        ),
        (
            ["shop/wbe", "data/db", "80/TCP"],
            2,
            "the pods of namespace shop are web",
        ),
        (["shpo/web", "data/db", "80/TCP"], 2, "there is no namespace shpo"),
        (
            ["shop/web", "service:data/db", "80/TCP"],
            2,
            "there is no Service data/db",
        ),
        (
            ["shop/web", "data/starting", "80/TCP"],
            2,
            "pod data/starting has no address",
        ),
        (["shop/web", "data/db", "80"], 2, "\"80\" is no port"),
        (["shop/web", "data/db", "http/TCP"], 2, "\"http/TCP\" is no port"),
        (
            ["shop/web", "data", "80/TCP"],
            2,
            "\"data\" is neither an IP address nor namespace/name",
        ),
        (
            ["fd00::10", "data/spare", "80/TCP"],
            2,
            "share no addresses of one family",
        ),
        (
            ["shop/web", "data/sql", "80/TCP"],
            2,
            "Service data/sql has no port 80/TCP; it has 5432/TCP",
        ),
    ] {
        let (found, out, error) = explain_in(folder.path(), &arguments);
        assert_eq!(found, Some(code), "{arguments:?}: {out}{error}");
        assert!(error.contains(part), "{arguments:?}: {error}");
    }
    let (code, _, error) = explain_in(
        folder.path(),
        &["shop/web", "data/spare", "80/TCP", "--family", "ipv6"],
    );
    assert_eq!(code, Some(2));
    assert!(error.contains("share no IPv6 addresses"), "{error}");
    let (code, _, error) = explain_in(&folder.path().join("nowhere"), &["a/b", "a/c", "80/TCP"]);
    assert_eq!(code, Some(2));
    assert!(error.contains("nowhere"), "{error}");
    let missing = folder.path().join("no.sock");
    let output = netpol(&[
        "explain",
        "--socket",
        missing.to_str().unwrap(),
        "a/b",
        "a/c",
        "80/TCP",
    ]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("no.sock"), "{}", stderr(&output));
    let output = netpol(&["matrix", "--source", missing.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_cluster_that_does_not_answer_is_no_verdict() {
    let folder = ManifestDir::new().unwrap();
    let file = folder.path().join("kubeconfig");
    // Nothing listens on port 1 of the loopback.
    let config = "{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c, user: u}}], \
                  clusters: [{name: c, cluster: {server: \"http://127.0.0.1:1\"}}], users: [{name: u, user: {}}]}";
    fs::write(&file, config).unwrap();
    let output = netpol(&[
        "explain",
        "--source",
        "kube",
        "--timeout",
        "1",
        "--kubeconfig",
        file.to_str().unwrap(),
        "a/b",
        "a/c",
        "80/TCP",
    ]);
    assert_eq!(output.status.code(), Some(2), "{}", stdout(&output));
    assert!(
        stderr(&output).contains("no complete list"),
        "{}",
        stderr(&output)
    );
}
