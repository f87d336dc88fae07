// SPDX-License-Identifier: Apache-2.0
//! What the image is built for, and the kernels that it is tried on.

use std::env;

use anyhow::{Result, bail};

/// An architecture, by its OCI name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Architecture {
    /// x86-64
    Amd64,
    /// AArch64
    Arm64,
}

impl Architecture {
    /// Returns this machine's.
    ///
    /// # Errors
    /// If there is no image for it.
    pub fn of_this_machine() -> Result<Self> {
        match env::consts::ARCH {
            "x86_64" => Ok(Self::Amd64),
            "aarch64" => Ok(Self::Arm64),
            other => bail!("no image for the architecture {other}"),
        }
    }

    /// Returns its name in an OCI platform.
    pub fn oci(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// Returns the compiler's target: musl, as glibc in a static program still looks for files.
    pub fn target(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-unknown-linux-musl",
            Self::Arm64 => "aarch64-unknown-linux-musl",
        }
    }

    /// Returns the architecture in the header of its programs.
    pub fn elf(self) -> object::Architecture {
        match self {
            Self::Amd64 => object::Architecture::X86_64,
            Self::Arm64 => object::Architecture::Aarch64,
        }
    }

    /// Returns the emulator of its machines, and the Debian package that it is in.
    pub fn emulator(self) -> (&'static str, &'static str) {
        match self {
            Self::Amd64 => ("qemu-system-x86_64", "qemu-system-x86"),
            Self::Arm64 => ("qemu-system-aarch64", "qemu-system-arm"),
        }
    }

    /// Returns the C compiler for this target on another machine, and the Debian package that each
    /// of it and of the C library's headers is in.
    pub fn cross_compiler(self) -> (&'static str, [&'static str; 2]) {
        match self {
            Self::Amd64 => (
                "x86_64-linux-gnu-gcc",
                ["gcc-x86-64-linux-gnu", "libc6-dev-amd64-cross"],
            ),
            Self::Arm64 => (
                "aarch64-linux-gnu-gcc",
                ["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"],
            ),
        }
    }
}
