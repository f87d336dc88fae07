// SPDX-License-Identifier: Apache-2.0
//! The archive: a compressed tar file with one folder.

use std::{
    fmt::Write as _,
    io::{self, Write},
    time::{SystemTime, UNIX_EPOCH},
};

use flate2::{Compression, write::GzEncoder};
use tar::{Builder, Header};

use super::{Item, scrub::scrub};

/// The file that says what is in the archive.
const CONTENTS: &str = "CONTENTS.txt";

/// Writes the items below `folder`, and a file that lists them.
///
/// # Errors
/// The archive cannot be written.
pub fn write(to: impl Write, folder: &str, items: &[Item]) -> io::Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let time = now.map_or(0, |since| since.as_secs());
    let mut archive = Builder::new(GzEncoder::new(to, Compression::default()));
    add(
        &mut archive,
        &format!("{folder}/{CONTENTS}"),
        &contents(items),
        time,
    )?;
    for item in items {
        if let Ok(text) = &item.text {
            add(
                &mut archive,
                &format!("{folder}/{}", item.path),
                &scrub(text),
                time,
            )?;
        }
    }
    archive.into_inner()?.finish()?.flush()
}

fn add(archive: &mut Builder<impl Write>, path: &str, text: &str, time: u64) -> io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_size(text.len() as u64);
    header.set_mode(0o600);
    header.set_mtime(time);
    archive.append_data(&mut header, path, text.as_bytes())
}

/// Says what each file is, and why some are missing.
fn contents(items: &[Item]) -> String {
    let mut text = format!(
        "netpol {} sysdump\n\n\
         No object of the cluster is in here but what netpol status and the log say: names of pods,\n\
         namespaces and policies, and addresses. What looked like a token, a password or a key was\n\
         taken out.\n\nFiles\n",
        env!("CARGO_PKG_VERSION")
    );
    let width = items.iter().map(|item| item.path.len()).max().unwrap_or(0);
    for item in items.iter().filter(|item| item.text.is_ok()) {
        let _ = writeln!(text, "  {:width$}  {}", item.path, item.what);
    }
    let mut missing = items
        .iter()
        .filter_map(|item| item.text.as_ref().err().map(|why| (item, why)))
        .peekable();
    if missing.peek().is_some() {
        text += "\nNot collected\n";
    }
    for (item, why) in missing {
        let why = why.lines().next().unwrap_or_default();
        let _ = writeln!(text, "  {:width$}  {}: {}", item.path, item.what, scrub(why));
    }
    text
}
