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

use super::{Files, Kernel, console::Outcome};
use crate::architecture::Architecture;

/// How long a guest may take. On an idle machine it takes a tenth of it.
const DEADLINE: Duration = Duration::from_secs(1200);
/// Lines of the kernel's own log that are shown where a guest fails.
const SHOWN: usize = 40;
/// A panic ends the guest: QEMU does not reboot it.
const PARAMETERS: &str = "quiet loglevel=4 panic=-1 oops=panic random.trust_cpu=on";

/// What differs between architectures.
struct Machine {
    arguments: &'static [&'static str],
    /// The device of QEMU's option `-serial`, which the kernel's log goes to.
    console: &'static str,
    /// QEMU's option for another serial port, and its device.
    port: [&'static str; 2],
    told: &'static str,
}

fn machine(architecture: Architecture) -> Machine {
    match architecture {
        Architecture::Amd64 => Machine {
            arguments: &["-cpu", "max"],
            console: "ttyS0",
            port: ["-serial", "chardev:told"],
            told: "ttyS1",
        },
        Architecture::Arm64 => Machine {
            // Pointer authentication as it is specified costs much without hardware.
            arguments: &["-machine", "virt", "-cpu", "max,pauth-impdef=on"],
            console: "ttyAMA0",
            port: ["-device", "pci-serial,chardev=told"],
            told: "ttyS0",
        },
    }
}

/// A process that ends with this value.
struct Ending(Child);

impl Drop for Ending {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Boots it and waits until it is off. `filter`: names of tests.
pub fn boot(kernel: &Kernel, files: &Files, initrd: &Path, filter: &[String]) -> Result<Outcome> {
    let console = files.folder.join("console.log");
    let log = files.folder.join("suites.log");
    let mut copy = fs::File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let machine = machine(kernel.architecture);
    // The kernel hands a parameter that it does not know to the first process.
    let parameters = format!(
        "console={} {PARAMETERS} NETPOL_PORT={} NETPOL_FILTER={}",
        machine.console,
        machine.told,
        filter.join(",")
    );
    let (program, _) = kernel.architecture.emulator();
    let mut qemu = Ending(
        Command::new(program)
            .args(machine.arguments)
            .args(["-accel", "tcg,thread=multi", "-smp", "2", "-m", "2048"])
            .args(["-nodefaults", "-no-reboot", "-display", "none"])
            .arg("-serial")
            .arg(format!("file:{}", console.display()))
            .args(["-chardev", "stdio,id=told"])
            .args(machine.port)
            .arg("-kernel")
            .arg(files.folder.join("vmlinuz"))
            .arg("-initrd")
            .arg(initrd)
            .args(["-append", &parameters])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {program}"))?,
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
    if !outcome.is_as_expected(kernel.refuses) {
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
