// SPDX-License-Identifier: Apache-2.0
//! Boots a kernel under QEMU, without hardware virtualisation, and reads what the guest tells.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{Files, console::Outcome};

/// How long a guest may take. On an idle machine it takes a tenth of it.
const DEADLINE: Duration = Duration::from_secs(1200);
/// Lines of the kernel's own log that are shown where a guest fails.
const SHOWN: usize = 40;
/// A panic ends the guest: QEMU does not reboot it.
const PARAMETERS: &str = "console=ttyS0 quiet loglevel=4 panic=-1 oops=panic random.trust_cpu=on";

/// A process that ends with this value.
struct Ending(Child);

impl Drop for Ending {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Boots it and waits until it is off. `filter`: names of tests. `refuses`: what the agent must say
/// if the programs do not run there.
pub fn boot(files: &Files, initrd: &Path, filter: &[String], refuses: Option<&str>) -> Result<Outcome> {
    let console = files.folder.join("console.log");
    let log = files.folder.join("suites.log");
    let mut copy = fs::File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    // The kernel hands a parameter that it does not know to the first process.
    let parameters = match filter {
        [] => PARAMETERS.to_owned(),
        names => format!("{PARAMETERS} NETPOL_FILTER={}", names.join(",")),
    };
    let mut qemu = Ending(
        Command::new("qemu-system-x86_64")
            .args([
                "-accel",
                "tcg,thread=multi",
                "-cpu",
                "max",
                "-smp",
                "2",
                "-m",
                "2048",
            ])
            .args(["-nodefaults", "-no-reboot", "-display", "none"])
            .arg("-serial")
            .arg(format!("file:{}", console.display()))
            .args(["-serial", "stdio", "-kernel"])
            .arg(files.folder.join("vmlinuz"))
            .arg("-initrd")
            .arg(initrd)
            .args(["-append", &parameters])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start qemu-system-x86_64")?,
    );
    let told = qemu.0.stdout.take().context("QEMU has no output")?;
    let (lines, received) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(told).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if lines.send(line).is_err() {
                return;
            }
        }
    });
    let (mut outcome, end) = (Outcome::default(), Instant::now() + DEADLINE);
    loop {
        match received.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                writeln!(copy, "{line}").with_context(|| format!("cannot write {}", log.display()))?;
                outcome.read(&line);
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                println!("kernels: not done after {} s: ended", DEADLINE.as_secs());
                break;
            }
        }
    }
    drop(qemu);
    if !outcome.is_as_expected(refuses) {
        println!("{}", outcome.log());
        let text = fs::read(&console).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let last: Vec<&str> = text.lines().rev().take(SHOWN).collect();
        println!("the guest's kernel ({}):", console.display());
        for line in last.iter().rev() {
            println!("  {line}");
        }
    }
    Ok(outcome)
}
