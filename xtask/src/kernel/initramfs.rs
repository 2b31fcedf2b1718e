//! The whole system of a virtual machine: an archive that the kernel unpacks into memory, with a shell script as init
//! (`init.sh`), the programs under test, the tools that the tests call, and the libraries of all of them.

use std::{
    ffi::OsString,
    fs::{self, File, Permissions},
    io::Write as _,
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use super::{package::Unpacked, symlink, tool};
use crate::process::{output, run};

/// The first process.
const INIT: &str = include_str!("init.sh");

/// Those that busybox cannot stand in for.
const TOOLS: [&str; 10] =
    ["bpftool", "busybox", "ip", "ping", "prlimit", "setpriv", "sleep", "tc", "tcpdump", "unshare"];

/// Those that busybox stands in for.
const APPLETS: [&str; 8] = ["cat", "hostname", "insmod", "ls", "mkdir", "mount", "nohup", "sh"];

/// What the tests make use of, where it is not built in: veth and macvlan pairs, devices without Ethernet, packet
/// sockets, VLANs, and filters on qdiscs.
const MODULES: [&str; 9] =
    ["veth", "macvlan", "tun", "af_packet", "8021q", "sch_ingress", "cls_bpf", "cls_u32", "act_mirred"];

/// What the libraries look up, as a machine has it: names of protocols and services.
const FILES: [&str; 2] = ["etc/protocols", "etc/services"];

/// The same for what differs from machine to machine: users, groups, hosts, networks.
const NAMES: [(&str, &[u8]); 4] = [
    ("etc/passwd", b"root:x:0:0:root:/:/bin/sh\n"),
    ("etc/group", b"root:x:0:\n"),
    ("etc/hosts", b"127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"),
    ("etc/networks", b"loopback 127.0.0.0\n"),
];

/// The programs that are not the machine's.
pub struct Programs<'a> {
    /// The built `sniff`.
    pub sniff: &'a Path,
    /// The integration tests.
    pub tests: &'a Path,
    /// For the tests.
    pub args: &'a [OsString],
    /// The root with the tools, where this machine's are for another processor.
    pub tools: Option<&'a Path>,
}

/// Makes the archive for a kernel, and returns its path.
///
/// # Errors
/// Something that goes into it is missing.
pub fn make(kernel: &Unpacked, programs: &Programs<'_>) -> Result<PathBuf> {
    let root = kernel.root.with_file_name("initramfs");
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    let tree = Tree { root };
    tree.lay_out(programs.tools.unwrap_or(Path::new("/")))?;
    tree.add_programs(programs)?;
    tree.add_modules(kernel)?;
    tree.pack()
}

/// The files as the virtual machine will see them.
struct Tree {
    root: PathBuf,
}

impl Tree {
    fn lay_out(&self, root: &Path) -> Result<()> {
        for folder in [
            "dev",
            "etc",
            "modules",
            "proc",
            "run",
            "sys",
            "tmp",
            "usr/bin",
            "usr/lib",
            "usr/lib64",
            "usr/sbin",
            "var/lib",
        ] {
            fs::create_dir_all(self.root.join(folder))?;
        }
        for folder in ["bin", "lib", "lib64", "sbin"] {
            symlink(&format!("usr/{folder}"), &self.root.join(folder))?;
        }
        for applet in APPLETS {
            symlink("busybox", &self.root.join("usr/bin").join(applet))?;
        }
        for file in FILES {
            self.add(&root.join(file), file)?;
        }
        for (file, names) in NAMES {
            self.write(file, names)?;
        }
        self.write("init", INIT.as_bytes())?;
        Ok(fs::set_permissions(self.root.join("init"), Permissions::from_mode(0o755))?)
    }

    fn add_programs(&self, Programs { sniff, tests, args, tools }: &Programs<'_>) -> Result<()> {
        let own = [("sniff", *sniff), ("sniff-tests", *tests)];
        match tools {
            Some(root) => self.add_foreign(&own, root)?,
            None => self.add_own(&own)?,
        }
        let lines = args.iter().flat_map(|arg| [arg.as_bytes(), b"\n"]).collect::<Vec<_>>().concat();
        self.write("etc/arguments", &lines)
    }

    /// Adds programs for this machine's processor, and its tools.
    fn add_own(&self, programs: &[(&str, &Path)]) -> Result<()> {
        for (name, program) in programs {
            self.add_program(program, &format!("/usr/bin/{name}"))?;
        }
        for name in TOOLS {
            let program = tool(name)?;
            let program = Path::new(program.get_program());
            self.add_program(program, &format!("/usr/bin/{name}"))?;
        }
        Ok(())
    }

    /// Adds programs for another processor, the tools below `root`, and all libraries there: this machine's loader does
    /// not know which they need.
    fn add_foreign(&self, programs: &[(&str, &Path)], root: &Path) -> Result<()> {
        run(Command::new("cp").arg("--archive").arg(root.join("usr/lib/.")).arg(self.root.join("usr/lib")))?;
        for (name, program) in programs {
            self.add(program, &format!("/usr/bin/{name}"))?;
        }
        for name in TOOLS {
            let mut places = ["usr/bin", "usr/sbin"].iter().map(|folder| root.join(folder).join(name));
            let program = places.find(|program| program.exists());
            self.add(
                &program.with_context(|| format!("no {name} in Debian's packages"))?,
                &format!("/usr/bin/{name}"),
            )?;
        }
        Ok(())
    }

    /// Adds a program as `name`, without what only debuggers read, and the libraries that it is linked with.
    fn add_program(&self, program: &Path, name: &str) -> Result<()> {
        run(tool("strip")?.arg("--strip-debug").arg("-o").arg(self.at(name)).arg(program))?;
        for library in libraries(program)? {
            let to = self.at(&library);
            fs::create_dir_all(to.parent().context("a library in the root folder")?)?;
            self.add(Path::new(&library), &library)?;
        }
        Ok(())
    }

    fn add_modules(&self, kernel: &Unpacked) -> Result<()> {
        let mut order = String::new();
        for file in kernel.modules(&MODULES)? {
            let name = file.file_name().and_then(|name| name.to_str()).context("a module without a name")?;
            let to = self.root.join("modules").join(name.trim_end_matches(".xz"));
            // busybox loads what is not compressed.
            if name.ends_with(".xz") {
                run(tool("xz")?.args(["--decompress", "--stdout"]).arg(&file).stdout(File::create(&to)?))?;
            } else {
                fs::copy(&file, &to)?;
            }
            order += &format!("/modules/{}\n", name.trim_end_matches(".xz"));
        }
        self.write("etc/modules", order.as_bytes())
    }

    /// Packs everything as the kernel wants it (Documentation/driver-api/early-userspace/buffer-format.rst).
    fn pack(&self) -> Result<PathBuf> {
        let archive = self.root.with_extension("cpio");
        let mut cpio = tool("cpio")?;
        cpio.args(["--create", "--quiet", "--format=newc", "--owner=0:0", "--null"]).current_dir(&self.root);
        let mut cpio = cpio.stdin(Stdio::piped()).stdout(File::create(&archive)?).spawn()?;
        let list = output(Command::new("find").args([".", "-print0"]).current_dir(&self.root))?;
        cpio.stdin.take().context("a piped stdin")?.write_all(list.as_bytes())?;
        ensure!(cpio.wait()?.success(), "cpio failed");
        Ok(archive)
    }

    fn add(&self, file: &Path, name: &str) -> Result<()> {
        fs::copy(file, self.at(name)).with_context(|| format!("cannot copy {}", file.display()))?;
        Ok(())
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        fs::write(self.root.join(name), bytes).with_context(|| format!("cannot write {name}"))
    }

    fn at(&self, name: &str) -> PathBuf {
        self.root.join(name.trim_start_matches('/'))
    }
}

/// The libraries of a program and its loader, where the program itself would find them; none of a static one.
fn libraries(program: &Path) -> Result<Vec<String>> {
    let Ok(lines) = output(tool("ldd")?.arg(program)) else { return Ok(Vec::new()) };
    let paths = lines.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    Ok(paths.map(str::to_owned).collect())
}
