//! The kubelet's part of the cgroup tree, which is the one thing that no namespace takes away: a
//! test process that is killed leaves its empty directories.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

/// Where the machine running the tests has its cgroups; test machines see the same.
const ROOT: &str = "/sys/fs/cgroup";

/// Hierarchies that a process can be put into without further ado: the one of v2, alone or beside
/// those of v1, and two of v1.
const HIERARCHIES: [&str; 4] = ["", "unified", "systemd", "pids"];

/// The cgroup above a node's `kubepods`, as where the kubelet runs with a `--cgroup-root`. Removed on
/// drop, when the processes in it must be on their way out.
#[derive(Debug)]
pub struct Cgroup {
    name: String,
}

impl Cgroup {
    /// A cgroup that nobody else uses. It comes into being with its first pod.
    pub fn named_at_random() -> Self {
        Self { name: random_name() }
    }

    /// Its name at the top of each hierarchy.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The path of a pod's cgroup in its hierarchy.
    pub fn of_pod(&self, uid: &str) -> String {
        format!("/{}/kubepods/besteffort/pod{uid}", self.name)
    }

    /// Makes the process `pid`, as numbered where the tests run, one of the pod's.
    pub fn add_to_pod(&self, uid: &str, pid: u32) {
        let procs = self.procs(uid, "");
        fs::write(procs, pid.to_string()).expect("putting a process into a cgroup");
    }

    /// Makes the cgroup `below` that of a pod, which may be the pod's own; whoever writes 0 to the file is in it.
    pub fn procs(&self, uid: &str, below: &str) -> PathBuf {
        let path = hierarchy().join(self.of_pod(uid).trim_start_matches('/')).join(below);
        fs::create_dir_all(&path).expect("making a pod's cgroup");
        path.join("cgroup.procs")
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let root = Path::new(ROOT);
        let hierarchies = fs::read_dir(root).into_iter().flatten().flatten().map(|e| e.path());
        for hierarchy in hierarchies.chain([root.to_owned()]) {
            remove_tree(&hierarchy.join(&self.name));
        }
    }
}

/// A cgroup whose processes may take so much memory; removed on drop.
#[derive(Debug)]
pub struct MemoryLimit(PathBuf);

impl MemoryLimit {
    /// A limit in bytes, for nobody yet.
    ///
    /// # Panics
    ///
    /// When there is no memory controller at the top of the tree.
    pub fn new(bytes: u64) -> Self {
        let v1 = Path::new(ROOT).join("memory");
        let (top, file) = match v1.exists() {
            true => (v1, "memory.limit_in_bytes"),
            false => (PathBuf::from(ROOT), "memory.max"),
        };
        let this = Self(top.join(random_name()));
        fs::create_dir(&this.0).expect("a cgroup");
        fs::write(this.0.join(file), bytes.to_string()).expect("a memory controller");
        this
    }

    /// Where whoever writes 0 falls under it.
    pub fn procs(&self) -> PathBuf {
        self.0.join("cgroup.procs")
    }
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        remove_tree(&self.0);
    }
}

fn random_name() -> String {
    format!("sniff-test-{}", &random_uuid()[..8])
}

/// A UUID, such as the API server gives to a pod.
pub fn random_uuid() -> String {
    let uuid = fs::read_to_string("/proc/sys/kernel/random/uuid").expect("a random UUID");
    uuid.trim().to_owned()
}

fn hierarchy() -> PathBuf {
    let paths = HIERARCHIES.map(|name| Path::new(ROOT).join(name));
    let found = paths.into_iter().find(|path| path.join("cgroup.procs").exists());
    found.unwrap_or_else(|| panic!("none of {HIERARCHIES:?} is a cgroup hierarchy in {ROOT}"))
}

/// Removes a cgroup and those below it; only directories can be, and must be, removed.
fn remove_tree(cgroup: &Path) {
    let Ok(entries) = fs::read_dir(cgroup) else {
        return;
    };
    for entry in entries.flatten().filter(|entry| entry.path().is_dir()) {
        remove_tree(&entry.path());
    }
    // Processes that were killed a moment ago still count for a while.
    for _ in 0..200 {
        if fs::remove_dir(cgroup).is_ok() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
