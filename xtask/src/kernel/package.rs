//! Debian's kernels, taken out of their packages: fetched and checked by apt with a configuration of its own, unpacked
//! into the target folder, and kept there until that folder is removed.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::{folder, symlink, tool};
use crate::{
    process::{output, run},
    setup::KEYRING,
};

/// Small, and with all that the tests need.
const CLOUD: &str = "linux-image-cloud-amd64";
const REALTIME: &str = "linux-image-rt-amd64";

const KERNELS: [Kernel; 5] = [
    Kernel { name: "5.10", suite: "bullseye", package: CLOUD },
    Kernel { name: "6.1", suite: "bookworm", package: CLOUD },
    Kernel { name: "6.12", suite: "trixie", package: CLOUD },
    Kernel { name: "6.12-rt", suite: "trixie", package: REALTIME },
    Kernel { name: "7", suite: "trixie-backports", package: CLOUD },
];

/// A kernel that Debian has.
#[derive(Debug)]
pub struct Kernel {
    /// What it is called on the command line; also its folder's name.
    name: &'static str,
    suite: &'static str,
    /// The package that depends on the suite's newest kernel.
    package: &'static str,
}

/// A kernel out of its packages.
pub struct Unpacked {
    /// What `uname -r` calls it.
    pub release: String,
    /// The root of its files.
    pub root: PathBuf,
}

/// Where packages come from, and what apt is to make of it.
struct Mirror {
    debian: String,
    security: String,
    options: &'static str,
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
    /// Fetches the kernel, unless that was done before.
    ///
    /// # Errors
    /// There is no such package at the machine's mirror nor in Debian's archive, or its signature is wrong.
    pub fn fetch(&self) -> Result<Unpacked> {
        let root = folder(self.name)?.join("root");
        if !root.exists() {
            let fetching = folder(self.name)?.join("fetching");
            self.fetch_through(&fetching).with_context(|| format!("cannot fetch kernel {}", self.name))?;
            fs::rename(fetching.join("root"), &root)?;
            fs::remove_dir_all(fetching)?;
        }
        Unpacked::at(root)
    }

    /// Leaves the unpacked files in `work/root`.
    fn fetch_through(&self, work: &Path) -> Result<()> {
        if work.exists() {
            fs::remove_dir_all(work)?;
        }
        for part in ["lists/partial", "archives/partial", "root"] {
            fs::create_dir_all(work.join(part))?;
        }
        let work = fs::canonicalize(work)?;
        let apt = Apt::new(&work)?;
        apt.update(&self.sources(&Mirror::of_this_machine()?)).or_else(|error| {
            eprintln!("kernel {}: {error:#}; trying Debian's archive", self.name);
            apt.update(&self.sources(&Mirror::archive()))
        })?;
        let packages = apt.packages_of_kernel(self.package)?;
        run(apt.get("download").args(packages).current_dir(work.join("archives")))?;
        for package in fs::read_dir(work.join("archives"))? {
            let package = package?.path();
            if package.is_file() {
                run(Command::new("dpkg").arg("-x").arg(package).arg(work.join("root")))?;
            }
        }
        index_modules(&work.join("root"))
    }

    /// What apt calls a list of sources.
    fn sources(&self, Mirror { debian, security, options }: &Mirror) -> String {
        let source = |from, suite| format!("deb [signed-by={KEYRING} {options}] {from} {suite} main\n");
        let mut sources = source(debian, self.suite.to_owned());
        // Backports have no security updates of their own.
        if !self.suite.ends_with("-backports") {
            sources += &source(security, format!("{}-security", self.suite));
        }
        sources
    }
}

impl Mirror {
    /// The one that this machine's own packages come from, where that is one of Debian.
    fn of_this_machine() -> Result<Self> {
        let format =
            ["indextargets", "--format", "$(LABEL) $(REPO_URI)", "Created-By: Packages", "Origin: Debian"];
        let lines = output(Command::new("apt-get").args(format))?;
        let of = |label: &str, otherwise: &str| {
            let mut sources = lines.lines().filter_map(|line| line.split_once(' '));
            let found = sources.find(|&(at, _)| at == label);
            found.map_or(otherwise, |(_, address)| address).to_owned()
        };
        Ok(Self {
            debian: of("Debian", "http://deb.debian.org/debian"),
            security: of("Debian-Security", "http://deb.debian.org/debian-security"),
            options: "",
        })
    }

    /// Where suites go that are no longer supported; what signs them is long past its date.
    fn archive() -> Self {
        Self {
            debian: "http://archive.debian.org/debian".into(),
            security: "http://archive.debian.org/debian-security".into(),
            options: "check-valid-until=no",
        }
    }
}

/// apt with everything of its own but the way to the network.
struct Apt {
    configuration: PathBuf,
    sources: PathBuf,
}

impl Apt {
    /// An apt that keeps everything in the folder `work`.
    fn new(work: &Path) -> Result<Self> {
        let (configuration, sources) = (work.join("apt.conf"), work.join("sources.list"));
        File::create(work.join("status"))?;
        let work = work.display();
        // Read after the machine's own, which may name a proxy.
        let text = format!(
            r#"
            #clear APT::Architectures;
            #clear APT::Default-Release;
            #clear APT::Update::Post-Invoke;
            #clear APT::Update::Post-Invoke-Success;
            Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
            Acquire::Languages "none";
            APT::Architecture "amd64";
            APT::Sandbox::User "";
            APT::Update::Error-Mode "any";
            Dir::Cache "{work}";
            Dir::Etc::Preferences "/dev/null";
            Dir::Etc::PreferencesParts "/dev/null";
            Dir::Etc::SourceList "{work}/sources.list";
            Dir::Etc::SourceParts "/dev/null";
            Dir::State "{work}";
            Dir::State::status "{work}/status";
            "#
        );
        fs::write(&configuration, text)?;
        Ok(Self { configuration, sources })
    }

    fn update(&self, sources: &str) -> Result<()> {
        fs::write(&self.sources, sources)?;
        output(&mut self.get("update")).map(drop)
    }

    /// The packages of the kernel that `package` depends on: in Debian 13 all in one, later in several.
    fn packages_of_kernel(&self, package: &str) -> Result<Vec<String>> {
        let only = ["recommends", "suggests", "conflicts", "breaks", "replaces", "enhances"]
            .map(|kind| format!("--no-{kind}"));
        let mut depends = self.command("apt-cache");
        let all = output(depends.args(["depends", "--recurse"]).args(only).arg(package))?;
        let names = || all.lines().filter(|line| line.starts_with("linux-") && *line != package);
        let image = names().find_map(|name| name.strip_prefix("linux-image-"));
        let release = image.with_context(|| format!("{package} depends on no kernel"))?;
        Ok(names().filter(|name| name.ends_with(release)).map(str::to_owned).collect())
    }

    fn get(&self, action: &str) -> Command {
        let mut command = self.command("apt-get");
        command.args(["--quiet", "--yes", action]);
        command
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(name);
        command.arg("--config-file").arg(&self.configuration);
        command
    }
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
