// SPDX-License-Identifier: Apache-2.0
//! Checks the documents: size, line width, links and names of metrics; and the width of comments.
//!
//! Suites `explain` and `demo` compare what commands print with what the documents show.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Maximum size of a document, bytes.
const SIZES: [(&str, u64); 3] = [
    ("README.md", 8 << 10),
    ("ARCHITECTURE.md", 15 << 10),
    ("BENCHMARKS.md", 6 << 10),
];

/// Maximum width of a line of a document or comment, columns.
const COLUMNS: usize = 100;

/// Pages whose lines are made by programs, from names and figures.
const GENERATED: [&str; 2] = ["BENCHMARKS.md", "rules.md"];

/// Folders whose comments are no wider.
const NARROW: [&str; 6] = [
    "fuzz/targets",
    "netpol-agent",
    "netpol-common",
    "netpol-ebpf",
    "tests",
    "xtask",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Lists the documents at the top level and in `docs`.
fn documents() -> Vec<PathBuf> {
    let folders = ["", "docs", "docs/guides", "tests/cases"].map(|folder| root().join(folder));
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

/// Tables and blocks of code are as wide as what they show, and a link may not fit.
#[test]
fn documents_are_no_wider_than_a_screen() {
    let mut wide = Vec::new();
    for document in documents() {
        if GENERATED.iter().any(|name| document.ends_with(name)) {
            continue;
        }
        let text = fs::read_to_string(&document).unwrap();
        for line in prose(&text) {
            let is_table = line.starts_with('|');
            let is_one_word = line.split_whitespace().count() == 1;
            if line.chars().count() > COLUMNS && !is_table && !is_one_word {
                wide.push(format!("{}: {line}", document.display()));
            }
        }
    }
    assert!(
        wide.is_empty(),
        "more than {COLUMNS} columns:\n{}",
        wide.join("\n")
    );
}

#[test]
fn comments_are_no_wider_than_a_screen() {
    let mut wide = Vec::new();
    let mut open: Vec<PathBuf> = NARROW.iter().map(|path| root().join(path)).collect();
    let mut read = 0;
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            read += 1;
            for (index, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
                if line.trim_start().starts_with("//") && line.chars().count() > COLUMNS {
                    wide.push(format!("{}:{}", path.display(), index + 1));
                }
            }
        }
    }
    assert!(read >= NARROW.len(), "only {read} files were read");
    assert!(
        wide.is_empty(),
        "more than {COLUMNS} columns:\n{}",
        wide.join("\n")
    );
}

/// `docs/metrics.md` has what a running agent serves, by suite `operations`.
#[test]
fn documents_name_metrics_that_are_served() {
    let served = fs::read_to_string(root().join("docs/metrics.md")).unwrap();
    let is_part = |c: char| c.is_ascii_lowercase() || c == '_';
    let mut named = 0;
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        for word in text.split(|c| !is_part(c)) {
            // Rust's names of the crates begin the same way.
            let is_metric = word.starts_with("netpol_")
                && !["netpol_agent", "netpol_common", "netpol_ebpf", "netpol_tests"].contains(&word);
            if is_metric {
                assert!(
                    served.contains(&format!("`{word}")),
                    "{}: {word}",
                    document.display()
                );
                named += 1;
            }
        }
    }
    assert!(named > 30, "{named}");
}
