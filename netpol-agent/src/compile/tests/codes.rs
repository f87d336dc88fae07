// SPDX-License-Identifier: Apache-2.0
//! The codes of diagnostics in the sources against the table in `docs/diagnostics.md`.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap_or_default();
        if path.is_dir() && name != "tests" {
            sources(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") && name != "tests.rs" {
            found.push(path);
        }
    }
}

/// String literals of words with hyphens between them: in these files they are codes and nothing
/// else.
fn codes(text: &str) -> BTreeSet<String> {
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let is_code = |word: &&str| {
        word.contains('-')
            && word
                .split('-')
                .all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_lowercase()))
    };
    code.split('"').filter(is_code).map(str::to_owned).collect()
}

#[test]
fn every_code_is_in_the_table_and_every_row_is_a_code() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for stage in ["compile", "watch"] {
        sources(&root.join("src").join(stage), &mut files);
        files.push(root.join("src").join(stage).with_extension("rs"));
    }
    files.push(root.join("src/model/findings.rs"));
    let in_sources: BTreeSet<String> = files
        .iter()
        .flat_map(|path| codes(&fs::read_to_string(path).unwrap()))
        .collect();
    let table = fs::read_to_string(root.join("../docs/diagnostics.md")).unwrap();
    let rows = table.lines().filter_map(|line| line.strip_prefix("| `"));
    let listed: Vec<&str> = rows.filter_map(|row| row.split('`').next()).collect();
    let in_table: BTreeSet<String> = listed.iter().map(|&code| code.to_owned()).collect();
    assert_eq!(listed.len(), in_table.len(), "a code has two rows");
    assert_eq!(in_sources, in_table);
    assert!(in_table.len() > 20, "codes are found at all");
}
