//! Debian's packages, fetched and checked by apt with a configuration of its own, and unpacked into a folder: nothing is
//! installed.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{
    process::{output, run},
    setup::KEYRING,
};

/// A release of Debian for one kind of processor.
#[derive(Clone, Copy, Debug)]
pub struct Suite {
    /// `trixie`
    pub name: &'static str,
    /// As Debian calls it: `amd64`.
    pub architecture: &'static str,
}

/// Where packages come from, and what apt is to make of it.
struct Mirror {
    debian: String,
    security: String,
    options: &'static str,
}

/// apt with everything of its own but the way to the network.
pub struct Apt {
    configuration: PathBuf,
    sources: PathBuf,
    /// Where packages are downloaded to.
    archives: PathBuf,
}

impl Suite {
    /// Makes `folder` with what `fill` leaves in the one that it is given, unless it was made before.
    ///
    /// # Errors
    /// There is no such suite at the machine's mirror nor in Debian's archive, its signature is wrong, or `fill` fails.
    pub fn once(self, folder: &Path, fill: impl FnOnce(&Apt, &Path) -> Result<()>) -> Result<()> {
        if folder.exists() {
            return Ok(());
        }
        let work = folder.with_extension("fetching");
        if work.exists() {
            fs::remove_dir_all(&work)?;
        }
        for part in ["lists/partial", "archives/partial", "filled"] {
            fs::create_dir_all(work.join(part))?;
        }
        let work = fs::canonicalize(work)?;
        let apt = Apt::new(&work, self.architecture)?;
        apt.update(&self.sources(&Mirror::of_this_machine()?)).or_else(|error| {
            eprintln!("{}: {error:#}; trying Debian's archive", self.name);
            apt.update(&self.sources(&Mirror::archive()))
        })?;
        fill(&apt, &work.join("filled"))?;
        fs::rename(work.join("filled"), folder)?;
        Ok(fs::remove_dir_all(work)?)
    }

    /// What apt calls a list of sources.
    fn sources(self, Mirror { debian, security, options }: &Mirror) -> String {
        let source = |from, suite: &str| {
            let rest = format!("[signed-by={KEYRING} {options}] {from} {suite} main");
            format!("deb {rest}\ndeb-src {rest}\n")
        };
        let mut sources = source(debian, self.name);
        // Backports have no security updates of their own.
        if !self.name.ends_with("-backports") {
            sources += &source(security, &format!("{}-security", self.name));
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

impl Apt {
    /// An apt that keeps everything in the folder `work`.
    fn new(work: &Path, architecture: &str) -> Result<Self> {
        let (configuration, sources) = (work.join("apt.conf"), work.join("sources.list"));
        File::create(work.join("status"))?;
        let archives = work.join("archives");
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
            APT::Architecture "{architecture}";
            APT::Install-Recommends "false";
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
        Ok(Self { configuration, sources, archives })
    }

    fn update(&self, sources: &str) -> Result<()> {
        fs::write(&self.sources, sources)?;
        output(&mut self.get("update")).map(drop)
    }

    /// Unpacks these packages alone.
    ///
    /// # Errors
    /// There is none of that name, or its signature is wrong.
    pub fn unpack(&self, packages: &[impl AsRef<str>], to: &Path) -> Result<()> {
        run(self.get("download").args(packages.iter().map(AsRef::as_ref)).current_dir(&self.archives))?;
        self.unpack_all(to)
    }

    /// Unpacks these packages, and all that they depend on.
    ///
    /// # Errors
    /// As for [`Self::unpack`].
    pub fn unpack_with_dependencies(&self, packages: &[&str], to: &Path) -> Result<()> {
        run(self.get("install").arg("--download-only").args(packages))?;
        self.unpack_all(to)
    }

    /// Unpacks what a package is built from, patches applied.
    ///
    /// # Errors
    /// As for [`Self::unpack`].
    pub fn unpack_source(&self, package: &str, to: &Path) -> Result<()> {
        run(self.get("source").arg("--download-only").arg(package).current_dir(&self.archives))?;
        let files = fs::read_dir(&self.archives)?.map(|file| Ok(file?.path())).collect::<Result<Vec<_>>>()?;
        let description = files.iter().find(|file| file.extension().is_some_and(|kind| kind == "dsc"));
        let description = description.with_context(|| format!("the source of {package} has no .dsc"))?;
        fs::remove_dir(to)?;
        // apt has checked the signature of the list that this is in.
        run(Command::new("dpkg-source").args(["--no-check", "--extract"]).arg(description).arg(to))
    }

    fn unpack_all(&self, to: &Path) -> Result<()> {
        for package in fs::read_dir(&self.archives)? {
            let package = package?.path();
            if package.extension().is_some_and(|kind| kind == "deb") {
                run(Command::new("dpkg").arg("-x").arg(package).arg(to))?;
            }
        }
        Ok(())
    }

    /// The packages that `package` depends on, however far, and itself.
    ///
    /// # Errors
    /// There is no such package.
    pub fn dependencies(&self, package: &str) -> Result<Vec<String>> {
        let only = ["recommends", "suggests", "conflicts", "breaks", "replaces", "enhances"]
            .map(|kind| format!("--no-{kind}"));
        let mut depends = self.command("apt-cache");
        let all = output(depends.args(["depends", "--recurse"]).args(only).arg(package))?;
        Ok(all.lines().map(str::to_owned).collect())
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
