//! Network namespaces: named by a path, known by identity, entered on a thread of their own.
//!
//! A pod's network namespace lives as long as something refers to it, an open file included.
//! So a [`Netns`] holds no file: it keeps the path and opens it for each use, and compares
//! what it opens with the namespace it was made from.

use std::{
    fmt,
    fs::{self, File},
    hash::{Hash, Hasher},
    io::{self, ErrorKind},
    os::unix::fs::MetadataExt,
    panic,
    path::{Path, PathBuf},
    thread,
};

use anyhow::{Context, Result, anyhow, bail};
use nix::{
    errno::Errno,
    sched::{CloneFlags, setns},
    sys::statfs::{NSFS_MAGIC, fstatfs},
};

/// Where `ip netns` and most container runtimes keep named network namespaces.
const NAMED: &str = "/run/netns";

/// What tells one network namespace from another: the file's place in the kernel's nsfs.
///
/// The kernel may give a dead namespace's inode number to a new one, so an identity is only
/// as good as the path that leads to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NetnsId {
    /// `st_dev` of the namespace file.
    pub dev: u64,
    /// `st_ino` of the namespace file; the number in `net:[4026531840]`.
    pub inode: u64,
}

/// As the kernel names it in `/proc/PID/ns/net`.
impl fmt::Display for NetnsId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "net:[{}]", self.inode)
    }
}

/// A network namespace. Two are equal when they are the same namespace, by whatever path.
#[derive(Debug, Clone)]
pub struct Netns {
    path: PathBuf,
    id: NetnsId,
}

impl PartialEq for Netns {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Netns {}

impl Hash for Netns {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

impl Netns {
    /// The network namespace of the calling thread.
    ///
    /// # Errors
    /// When `/proc` is not mounted.
    pub fn current() -> Result<Self> {
        // A namespace belongs to a thread; `/proc/self` is the main thread's. Its path is
        // the better one, since other threads come and go.
        let process = Self::at("/proc/self/ns/net")?;
        let thread = fs::read_link("/proc/thread-self").context("reading /proc/thread-self")?;
        let thread = Self::at(Path::new("/proc").join(thread).join("ns/net"))?;
        Ok(if process == thread { process } else { thread })
    }

    /// The network namespace of the process `pid`.
    ///
    /// # Errors
    /// When there is no such process, or `CAP_SYS_PTRACE` is missing and it is another user's.
    pub fn of_pid(pid: u32) -> Result<Self> {
        let path = PathBuf::from(format!("/proc/{pid}/ns/net"));
        match open(&path) {
            Ok((_, id)) => Ok(Self { path, id }),
            Err(e) if e.kind() == ErrorKind::NotFound => bail!("no process has the pid {pid}"),
            Err(e) => Err(explain(e, &path)),
        }
    }

    /// The network namespace that `name` stands for: a name that `ip netns` lists, or a path.
    ///
    /// # Errors
    /// When there is none, or the file is something else.
    pub fn named(name: &str) -> Result<Self> {
        if name.is_empty() || name == "." || name == ".." {
            bail!("{name:?} is not a name of a network namespace");
        }
        // An absolute path replaces the directory; a relative one is the caller's own.
        let path = if name.contains('/') { name.into() } else { Path::new(NAMED).join(name) };
        Self::at(path)
    }

    /// The network namespace that the file at `path` refers to.
    ///
    /// # Errors
    /// When there is no such file, it is not a namespace, or it may not be opened.
    pub fn at(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        match open(&path) {
            Ok((_, id)) => Ok(Self { path, id }),
            Err(e) => Err(explain(e, &path)),
        }
    }

    /// Which namespace this is.
    pub fn id(&self) -> NetnsId {
        self.id
    }

    /// The path by which it is opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the namespace; `None` when it is gone, or its path leads to another one by now.
    ///
    /// The file keeps the namespace alive: drop it soon.
    ///
    /// # Errors
    /// When the file may not be opened.
    pub fn open(&self) -> Result<Option<File>> {
        match open(&self.path) {
            Ok((file, id)) => Ok((id == self.id).then_some(file)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(explain(e, &self.path)),
        }
    }

    /// Whether its path still leads to it.
    pub fn is_there(&self) -> bool {
        matches!(self.open(), Ok(Some(_)))
    }

    /// Runs `inside` on a thread that has entered the namespace, and waits for it.
    ///
    /// The thread ends with the call, so nothing has to be restored; a panic in `inside`
    /// goes on in the caller. Sockets opened by `inside` stay in the namespace.
    ///
    /// # Errors
    /// Those of `inside`; when the namespace is gone; when `CAP_SYS_ADMIN` is missing.
    pub fn run<T: Send>(&self, inside: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.run_if_there(inside)?.ok_or_else(|| anyhow!("network namespace {} is gone", self.path.display()))
    }

    /// Like [`run_if_there`](Self::run_if_there), without a thread where the calling one is in the namespace: for what may
    /// be called on any.
    ///
    /// # Errors
    /// Those of `inside`; when `CAP_SYS_ADMIN` is missing.
    pub fn look<T: Send>(&self, inside: impl FnOnce() -> Result<T> + Send) -> Result<Option<T>> {
        if Self::current()? == *self { inside().map(Some) } else { self.run_if_there(inside) }
    }

    /// Like [`run`](Self::run), with `None` when the namespace is gone.
    ///
    /// # Errors
    /// Those of `inside`; when `CAP_SYS_ADMIN` is missing.
    pub fn run_if_there<T: Send>(&self, inside: impl FnOnce() -> Result<T> + Send) -> Result<Option<T>> {
        let Some(file) = self.open()? else {
            return Ok(None);
        };
        // A new thread is in its maker's namespace; entering that again would need
        // a capability for nothing.
        let already_there = Self::current()? == *self;
        let work = move || {
            if !already_there {
                enter(file, &self.path)?;
            }
            inside().map(Some)
        };
        thread::scope(|scope| {
            thread::Builder::new()
                .name("netns".into())
                .spawn_scoped(scope, work)
                .context("starting a thread")?
                .join()
                .unwrap_or_else(|payload| panic::resume_unwind(payload))
        })
    }
}

/// Moves the calling thread into the namespace.
fn enter(file: File, path: &Path) -> Result<()> {
    setns(&file, CloneFlags::CLONE_NEWNET).map_err(|errno| {
        let path = path.display();
        match errno {
            Errno::EPERM => anyhow!(
                "entering network namespace {path} needs CAP_SYS_ADMIN in the user namespace that it belongs to"
            ),
            Errno::EINVAL => anyhow!("{path} is not a network namespace"),
            _ => anyhow!("entering network namespace {path}: {}", errno.desc()),
        }
    })
}

/// Opens a namespace file. `InvalidInput` says that it is none.
fn open(path: &Path) -> io::Result<(File, NetnsId)> {
    let file = File::open(path)?;
    if fstatfs(&file)?.filesystem_type() != NSFS_MAGIC {
        return Err(ErrorKind::InvalidInput.into());
    }
    let metadata = file.metadata()?;
    Ok((file, NetnsId { dev: metadata.dev(), inode: metadata.ino() }))
}

fn explain(error: io::Error, path: &Path) -> anyhow::Error {
    let shown = path.display();
    match error.kind() {
        ErrorKind::NotFound => anyhow!("no network namespace at {shown}"),
        ErrorKind::InvalidInput => anyhow!("{shown} is not a network namespace"),
        ErrorKind::PermissionDenied if path.starts_with("/proc") => {
            anyhow!(
                "opening {shown} is not permitted: that takes CAP_SYS_PTRACE in the process's user namespace, and no \
                 security module (AppArmor, SELinux) against it"
            )
        }
        _ => anyhow!("opening network namespace {shown}: {error}"),
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! Network namespaces for tests: made by a thread, gone with it.

    use std::{
        process::{Command, Stdio},
        sync::mpsc,
        thread::JoinHandle,
    };

    use nix::sched::unshare;

    use super::*;

    /// A new, empty network namespace that lasts as long as the value. Needs root.
    pub(crate) struct TestNetns {
        netns: Netns,
        thread: Option<(mpsc::Sender<()>, JoinHandle<()>)>,
    }

    impl TestNetns {
        pub(crate) fn new() -> Self {
            let (tell, told) = mpsc::channel();
            let (stop, stopped) = mpsc::channel::<()>();
            let thread = thread::spawn(move || {
                unshare(CloneFlags::CLONE_NEWNET).expect("a new netns needs root");
                tell.send(Netns::current().unwrap()).unwrap();
                // Ends when the sender is dropped.
                stopped.recv().unwrap_err();
            });
            let netns = told.recv().expect("no netns");
            Self { netns, thread: Some((stop, thread)) }
        }

        /// Runs `ip ARGS` inside, and `ip` knows other namespaces by their path.
        pub(crate) fn ip(&self, args: &str) {
            self.netns
                .run(|| {
                    let out = Command::new("ip").args(args.split(' ')).stdin(Stdio::null()).output();
                    let out = out.expect("iproute2 is needed");
                    assert!(out.status.success(), "ip {args}: {}", String::from_utf8_lossy(&out.stderr));
                    Ok(())
                })
                .unwrap();
        }

        /// A veth pair between two namespaces, both ends up.
        pub(crate) fn veth(&self, name: &str, other: &Self, other_name: &str) {
            let path = other.path().display();
            self.ip(&format!("link add {name} type veth peer name {other_name} netns {path}"));
            self.ip(&format!("link set {name} up"));
            other.ip(&format!("link set {other_name} up"));
        }
    }

    impl std::ops::Deref for TestNetns {
        type Target = Netns;

        fn deref(&self) -> &Netns {
            &self.netns
        }
    }

    impl Drop for TestNetns {
        fn drop(&mut self) {
            if let Some((stop, thread)) = self.thread.take() {
                drop(stop);
                thread.join().expect("the netns thread");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{testing::TestNetns, *};

    #[test]
    fn one_namespace_by_two_paths_is_equal() {
        let by_pid = Netns::of_pid(std::process::id()).unwrap();
        let current = Netns::current().unwrap();
        assert_eq!(current, by_pid);
        assert_ne!(current.path(), by_pid.path());
    }

    #[test]
    fn the_own_namespace_needs_no_privileges() {
        let here = Netns::current().unwrap();
        let seen = here.run(Netns::current).unwrap();
        assert_eq!(seen, here);
    }

    #[test]
    fn errors_say_what_the_path_is() {
        let text = |result: Result<Netns>| result.unwrap_err().to_string();
        assert_eq!(text(Netns::named("no-such")), "no network namespace at /run/netns/no-such");
        assert_eq!(text(Netns::at("/dev/null")), "/dev/null is not a network namespace");
        assert_eq!(text(Netns::of_pid(u32::MAX)), "no process has the pid 4294967295");
        assert_eq!(text(Netns::named("..")), "\"..\" is not a name of a network namespace");
    }

    #[test]
    fn a_panic_inside_goes_on_in_the_caller() {
        let here = Netns::current().unwrap();
        let caught = panic::catch_unwind(|| here.run::<()>(|| panic!("inside")));
        assert_eq!(*caught.unwrap_err().downcast::<&str>().unwrap(), "inside");
    }

    #[test]
    #[ignore = "needs root; `cargo xtask test` runs it"]
    fn another_kind_of_namespace_is_refused() {
        let netns = Netns::at("/proc/self/ns/uts").unwrap();
        let error = netns.run(|| Ok(())).unwrap_err();
        assert_eq!(error.to_string(), "/proc/self/ns/uts is not a network namespace");
    }

    #[test]
    #[ignore = "needs root; `cargo xtask test` runs it"]
    fn work_runs_inside_and_the_caller_stays_where_it_was() {
        let before = Netns::current().unwrap();
        let other = TestNetns::new();
        assert_ne!(*other, before);
        let seen = other.run(Netns::current).unwrap();
        assert_eq!(seen, *other);
        assert_eq!(Netns::current().unwrap(), before);
    }

    #[test]
    #[ignore = "needs root; `cargo xtask test` runs it"]
    fn a_namespace_that_is_gone_is_said_to_be_gone() {
        let other = TestNetns::new();
        let netns = other.clone();
        drop(other);
        assert!(netns.open().unwrap().is_none());
        assert!(netns.run_if_there(|| Ok(())).unwrap().is_none());
        let error = netns.run(|| Ok(())).unwrap_err().to_string();
        assert!(error.ends_with("is gone"), "{error}");
    }

    #[test]
    #[ignore = "needs root; `cargo xtask test` runs it"]
    fn a_path_that_leads_elsewhere_by_now_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("netns");
        let [first, second] = [TestNetns::new(), TestNetns::new()];
        std::os::unix::fs::symlink(first.path(), &link).unwrap();
        let netns = Netns::at(&link).unwrap();
        fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink(second.path(), &link).unwrap();
        assert!(netns.run(|| Ok(())).is_err());
    }
}
