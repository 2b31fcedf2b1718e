//! Debian's kernels, taken out of their packages: unpacked into the target folder, and kept there until that folder is
//! removed.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::{
    folder,
    processor::Processor::{self, Amd64, Arm64},
    symlink, tool,
};
use crate::{
    debian::Suite,
    process::{output, run},
};

const KERNELS: [Kernel; 6] = [
    Kernel::cloud("5.10", "bullseye", Amd64),
    Kernel::cloud("6.1", "bookworm", Amd64),
    Kernel::cloud("6.12", "trixie", Amd64),
    Kernel { package: "linux-image-rt", ..Kernel::cloud("6.12-rt", "trixie", Amd64) },
    Kernel::cloud("7", "trixie-backports", Amd64),
    Kernel::cloud("6.12-arm64", "trixie", Arm64),
];

/// The packages of the tools that the tests call, and of the names that they look up.
const TOOLS: [&str; 8] = [
    "bpftool",
    "busybox-static",
    "coreutils",
    "iproute2",
    "iputils-ping",
    "netbase",
    "tcpdump",
    "util-linux",
];

/// A kernel that Debian has.
#[derive(Debug)]
pub struct Kernel {
    /// What it is called on the command line; also its folder's name.
    pub name: &'static str,
    /// What it runs on.
    pub processor: Processor,
    suite: &'static str,
    /// The package that depends on the suite's newest kernel, without the processor that ends its name.
    package: &'static str,
}

/// A kernel out of its packages.
pub struct Unpacked {
    /// What `uname -r` calls it.
    pub release: String,
    /// The root of its files.
    pub root: PathBuf,
}

/// The kernel that is called `name`.
///
/// # Errors
/// There is none; the error lists those that there are.
pub fn named(name: &str) -> Result<&'static Kernel> {
    let names = KERNELS.map(|kernel| kernel.name).join(", ");
    KERNELS
        .iter()
        .find(|kernel| kernel.name == name)
        .with_context(|| format!("no kernel {name:?}; known: {names}"))
}

impl Kernel {
    /// The one for virtual machines: small, and with all that the tests need.
    const fn cloud(name: &'static str, suite: &'static str, processor: Processor) -> Self {
        Self { name, processor, suite, package: "linux-image-cloud" }
    }

    /// Fetches the kernel, unless that was done before.
    ///
    /// # Errors
    /// There is no such package at the machine's mirror nor in Debian's archive, or its signature is wrong.
    pub fn fetch(&self) -> Result<Unpacked> {
        let root = folder(self.name)?.join("root");
        let package = format!("{}-{}", self.package, self.processor.debian());
        self.suite()
            .once(&root, |apt, root| {
                apt.unpack(&packages_of(&package, &apt.dependencies(&package)?)?, root)?;
                index_modules(root)
            })
            .with_context(|| format!("cannot fetch kernel {}", self.name))?;
        Unpacked::at(root)
    }

    /// The root with the tools for its processor, fetched unless that was done before; `None` for this machine's own.
    ///
    /// # Errors
    /// As for [`Self::fetch`].
    pub fn tools(&self) -> Result<Option<PathBuf>> {
        if self.processor == Amd64 {
            return Ok(None);
        }
        let root = folder(self.name)?.join("tools");
        self.suite()
            .once(&root, |apt, root| apt.unpack_with_dependencies(&TOOLS, root))
            .with_context(|| format!("cannot fetch tools for kernel {}", self.name))?;
        Ok(Some(root))
    }

    fn suite(&self) -> Suite {
        Suite { name: self.suite, architecture: self.processor.debian() }
    }
}

/// Those of the kernel among what `package` depends on: in Debian 13 all in one, later in several.
fn packages_of(package: &str, dependencies: &[String]) -> Result<Vec<String>> {
    let names = || dependencies.iter().filter(|name| name.starts_with("linux-") && *name != package);
    let image = names().find_map(|name| name.strip_prefix("linux-image-"));
    let release = image.with_context(|| format!("{package} depends on no kernel"))?;
    Ok(names().filter(|name| name.ends_with(release)).cloned().collect())
}

/// Makes `modules.dep`, which installing the package would have made.
fn index_modules(root: &Path) -> Result<()> {
    if !root.join("lib").exists() {
        symlink("usr/lib", &root.join("lib"))?;
    }
    let Unpacked { release, root } = Unpacked::at(root.to_owned())?;
    run(tool("depmod")?.arg("--basedir").arg(root).arg(release))
}

impl Unpacked {
    fn at(root: PathBuf) -> Result<Self> {
        let modules = root.join("lib/modules");
        let mut folders = fs::read_dir(&modules).with_context(|| format!("no {}", modules.display()))?;
        let release =
            folders.next().with_context(|| format!("nothing in {}", modules.display()))??.file_name();
        let release = release.into_string().ok().context("a release that is not UTF-8")?;
        Ok(Self { release, root })
    }

    /// The kernel itself.
    ///
    /// # Errors
    /// It is at none of the places where Debian has put it so far.
    pub fn vmlinuz(&self) -> Result<PathBuf> {
        let Self { release, root } = self;
        let places = [format!("boot/vmlinuz-{release}"), format!("lib/modules/{release}/vmlinuz")];
        let mut places = places.iter().map(|place| root.join(place));
        places.find(|place| place.exists()).with_context(|| format!("no vmlinuz in {}", root.display()))
    }

    /// The files of these modules and of those that they need, in the order in which to load them.
    ///
    /// # Errors
    /// The kernel has one of them neither as a file nor built in.
    pub fn modules(&self, names: &[&str]) -> Result<Vec<PathBuf>> {
        let Self { release, root } = self;
        let mut files: Vec<PathBuf> = Vec::new();
        for name in names {
            let mut show = tool("modprobe")?;
            show.arg("--dirname").arg(root).args(["--set-version", release, "--show-depends", name]);
            for line in output(&mut show)?.lines() {
                // Others are `builtin NAME`.
                if let Some(file) = line.strip_prefix("insmod ") {
                    let file = PathBuf::from(file.trim());
                    if !files.contains(&file) {
                        files.push(file);
                    }
                }
            }
        }
        Ok(files)
    }
}
