//! What kernels run on.

use std::{path::PathBuf, process::Command};

use anyhow::Result;

use crate::{
    dist::node,
    process::{self, cargo},
    setup::Extra,
    test,
};

/// A processor, as Debian calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Processor {
    /// This machine's: programs are built as they are for it, and its tools are used.
    Amd64,
    /// Another one: programs are built as they are for a release, and Debian's tools are used.
    Arm64,
}

impl Processor {
    /// All there are.
    pub const ALL: [Self; 2] = [Self::Amd64, Self::Arm64];

    /// Debian's name for it.
    pub fn debian(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// What rustc calls it where programs are built for another machine than this one.
    fn cross(self) -> Option<&'static str> {
        match self {
            Self::Amd64 => None,
            Self::Arm64 => Some("aarch64-unknown-linux-gnu"),
        }
    }

    /// What the tests need of this machine.
    pub fn extras(self) -> &'static [Extra] {
        match self {
            Self::Amd64 => &[Extra::Tests, Extra::Kernels],
            Self::Arm64 => &[Extra::Kernels, Extra::Arm64],
        }
    }

    /// Builds `sniff`, and returns a cargo that builds tests and has `runner` run them.
    ///
    /// # Errors
    /// Something does not build.
    pub fn tests(self, runner: &str) -> Result<Command> {
        let Some(system) = self.cross() else {
            process::build_sniff(None)?;
            let mut tests = cargo();
            tests.arg("test").env(test::runner_variable(&test::host()?), runner);
            return Ok(tests);
        };
        node::build(system, None)?;
        let mut tests = node::tests(system)?;
        tests.env(test::runner_variable(system), runner);
        Ok(tests)
    }

    /// The built `sniff`.
    ///
    /// # Errors
    /// There is no target folder.
    pub fn sniff(self) -> Result<PathBuf> {
        self.cross().map_or_else(process::built_sniff, node::built)
    }

    /// The machine that QEMU is to be, with a console and a second serial port.
    pub fn machine(self) -> Machine {
        match self {
            Self::Amd64 => Machine {
                qemu: "qemu-system-x86_64",
                // Hardware virtualisation has it, too.
                options: &["-cpu", "max", "-serial", "stdio", "-serial", "chardev:status"],
                console: "ttyS0",
                status: "ttyS1",
                slowness: 1,
            },
            Self::Arm64 => Machine {
                qemu: "qemu-system-aarch64",
                // What Graviton 2 has. With the instructions of later ones, emulation takes its time for pointers.
                options: &[
                    "-machine",
                    "virt",
                    "-cpu",
                    "neoverse-n1",
                    "-serial",
                    "stdio",
                    "-device",
                    "pci-serial,chardev=status",
                ],
                console: "ttyAMA0",
                status: "ttyS0",
                slowness: 5,
            },
        }
    }
}

/// A machine of QEMU's.
pub struct Machine {
    /// The program.
    pub qemu: &'static str,
    /// Options of its own; the second serial port writes to the character device `status`.
    pub options: &'static [&'static str],
    /// What Linux calls the first serial port.
    pub console: &'static str,
    /// And the second one.
    pub status: &'static str,
    /// How many times as long as elsewhere the tests may wait for something, and may take.
    pub slowness: u32,
}
