// SPDX-License-Identifier: Apache-2.0
//! Checks the documents: their sizes, and that no link is broken.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Maximum size of a document, bytes.
const SIZES: [(&str, u64); 2] = [("README.md", 8 << 10), ("ARCHITECTURE.md", 15 << 10)];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Lists the documents at the top level and in `docs`.
fn documents() -> Vec<PathBuf> {
    let folders = [root(), root().join("docs")];
    let entries = folders.iter().flat_map(|folder| fs::read_dir(folder).unwrap());
    let paths = entries.map(|entry| entry.unwrap().path());
    let found: Vec<PathBuf> = paths
        .filter(|path| path.extension().is_some_and(|end| end == "md"))
        .collect();
    assert!(found.len() > 10, "{found:?}");
    found
}

/// Returns the lines outside of code blocks.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut inside = false;
    text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        inside ^= fence;
        !inside && !fence
    })
}

/// Returns the anchors of the headings, as GitHub makes them.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = prose(text).filter(|line| line.starts_with('#'));
    headings
        .map(|heading| {
            let title = heading.trim_start_matches('#').trim().to_lowercase();
            let kept = title
                .chars()
                .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
            kept.collect::<String>().replace(' ', "-")
        })
        .collect()
}

/// Returns the targets of the links.
fn links(text: &str) -> Vec<String> {
    let parts = prose(text).flat_map(|line| line.split("](").skip(1));
    parts
        .filter_map(|part| Some(part.split_once(')')?.0.to_owned()))
        .collect()
}

#[test]
fn a_document_is_no_longer_than_it_may_be() {
    for (name, most) in SIZES {
        let size = fs::metadata(root().join(name)).unwrap().len();
        assert!(size <= most, "{name}: {size} bytes, more than {most}");
    }
}

#[test]
fn links_lead_somewhere() {
    let mut followed = 0;
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        for link in links(&text) {
            if link.contains("://") {
                continue;
            }
            let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = match path {
                "" => document.clone(),
                path => document.parent().unwrap().join(path),
            };
            assert!(target.exists(), "{}: {link}", document.display());
            if !anchor.is_empty() {
                let known = anchors(&fs::read_to_string(&target).unwrap());
                assert!(
                    known.contains(anchor),
                    "{}: {link}, not of {known:?}",
                    document.display()
                );
            }
            followed += 1;
        }
    }
    assert!(followed > 20, "{followed}");
}
