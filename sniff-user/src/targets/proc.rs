//! From a pod's UID or a container's id to its processes, by the cgroups in `/proc`.
//!
//! The kubelet puts the pod's UID into the path of the pod's cgroup, and every runtime puts
//! the container's id into that of the container's, whatever the cgroup version and driver:
//!
//! ```text
//! 0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod12ab_34cd.slice/crio-ID.scope
//! 4:memory:/kubepods/besteffort/pod12ab-34cd/ID
//! ```

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

/// How many hexadecimal digits a whole container id has.
const CONTAINER_ID_LEN: usize = 64;

/// A mounted proc file system.
///
/// Its files are bytes: a process names itself, and its cgroups may be named by whoever made them.
#[derive(Debug, Clone)]
pub struct ProcFs {
    root: PathBuf,
}

impl Default for ProcFs {
    fn default() -> Self {
        Self::at("/proc")
    }
}

/// A process, and how it came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    pub pid: u32,
    /// The process that made it, or took it in; none when that is not known.
    pub parent: Option<u32>,
    /// When it started, in clock ticks since boot; none when that is not known.
    started: Option<u64>,
}

/// A container found by its processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerProcesses {
    /// The whole container id.
    pub id: String,
    /// Its processes, the oldest first.
    pub processes: Vec<Process>,
}

impl ProcFs {
    /// The proc file system mounted at `root`.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The processes of the pod with this UID, the oldest first; empty when there are none.
    ///
    /// # Errors
    /// When the proc file system cannot be read.
    pub fn of_pod(&self, uid: &str) -> Result<Vec<Process>> {
        let of_pod = self.cgroups()?.filter(|(_, cgroups)| names_pod(cgroups, uid));
        Ok(self.oldest_first(of_pod.map(|(pid, _)| pid)))
    }

    /// The container whose id begins with `prefix`, or `None` when none does.
    ///
    /// # Errors
    /// When several do, or the proc file system cannot be read.
    pub fn of_container(&self, prefix: &str) -> Result<Option<ContainerProcesses>> {
        let mut found = BTreeMap::<String, Vec<u32>>::new();
        for (pid, cgroups) in self.cgroups()? {
            for id in container_ids(&cgroups).filter(|id| id.starts_with(prefix)) {
                let pids = found.entry(id.to_owned()).or_default();
                // A v1 file repeats the id for each of its hierarchies.
                if pids.last() != Some(&pid) {
                    pids.push(pid);
                }
            }
        }
        let found = only_match(prefix, found)?;
        Ok(found.map(|(id, pids)| ContainerProcesses { id, processes: self.oldest_first(pids) }))
    }

    /// Whether the process is in a cgroup of the pod with this UID, or of this container.
    ///
    /// A pid that a runtime names is another process, or none, where sniff's `/proc` is not
    /// that of the node.
    pub fn belongs_to(&self, pid: u32, uid: &str, container_id: &str) -> bool {
        self.read(pid, "cgroup").is_some_and(|cgroups| {
            names_pod(&cgroups, uid) || container_ids(&cgroups).any(|id| id == container_id)
        })
    }

    /// Every process's `cgroup` file.
    fn cgroups(&self) -> Result<impl Iterator<Item = (u32, Vec<u8>)>> {
        let entries = fs::read_dir(&self.root).with_context(|| format!("reading {}", self.root.display()))?;
        Ok(entries.filter_map(|entry| {
            let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
            // Processes come and go while this reads.
            Some((pid, self.read(pid, "cgroup")?))
        }))
    }

    /// One whose age is not known comes last: it must not speak for those whose age is.
    fn oldest_first(&self, pids: impl IntoIterator<Item = u32>) -> Vec<Process> {
        let mut processes: Vec<Process> = pids.into_iter().map(|pid| self.process(pid)).collect();
        processes.sort_by_key(|process| (process.started.is_none(), process.started, process.pid));
        processes
    }

    /// By fields 4 and 22 of proc_pid_stat(5).
    fn process(&self, pid: u32) -> Process {
        let stat = self.read(pid, "stat").unwrap_or_default();
        // Field 2 is the command in parentheses, and may hold any bytes.
        let behind_command = stat.iter().rposition(|&byte| byte == b')').map_or(stat.len(), |at| at + 1);
        let fields: Vec<&str> =
            str::from_utf8(&stat[behind_command..]).unwrap_or_default().split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3);
        let parent = field(4).and_then(|text| text.parse().ok());
        let started = field(22).and_then(|text| text.parse().ok());
        Process { pid, parent, started }
    }

    fn read(&self, pid: u32, file: &str) -> Option<Vec<u8>> {
        fs::read(self.root.join(pid.to_string()).join(Path::new(file))).ok()
    }
}

/// The processes that none of the others has made: what a runtime has started, without what came of that.
pub fn without_descendants(processes: &[Process]) -> impl Iterator<Item = &Process> {
    let is_one = |pid: u32| processes.iter().any(|other| other.pid == pid);
    processes.iter().filter(move |process| !process.parent.is_some_and(is_one))
}

/// What `/proc/self/status` says. The name in it may be any bytes.
///
/// # Errors
/// When the file cannot be read.
pub fn own_status() -> Result<String> {
    status_at("/proc/self/status")
}

/// The same of process 1: the node's first, where this process sees the node's.
///
/// # Errors
/// When the file cannot be read.
pub fn first_status() -> Result<String> {
    status_at("/proc/1/status")
}

fn status_at(path: &str) -> Result<String> {
    let status = fs::read(path).with_context(|| format!("cannot read {path}"))?;
    Ok(String::from_utf8_lossy(&status).into_owned())
}

/// The only container of those whose ids begin with `prefix`, with what is known of it;
/// `None` when there is none.
///
/// # Errors
/// When there are several; they are listed.
pub fn only_match<T>(prefix: &str, mut found: BTreeMap<String, T>) -> Result<Option<(String, T)>> {
    if found.len() > 1 {
        let ids: Vec<&str> = found.keys().map(String::as_str).collect();
        bail!("container id {prefix} is ambiguous: it begins {}", ids.join(" and "));
    }
    Ok(found.pop_first())
}

/// Whether a `cgroup` file says that this is a process of the pod.
fn names_pod(cgroups: &[u8], uid: &str) -> bool {
    // In names of systemd's slices, a dash separates levels: the UID has underscores there.
    let is_its =
        |found: &[u8]| found.iter().map(|&byte| if byte == b'_' { b'-' } else { byte }).eq(uid.bytes());
    !uid.is_empty() && paths(cgroups).filter_map(outermost_pod).any(|(found, _)| is_its(found))
}

/// The container that a `cgroup` file says this is a process of, once for each hierarchy: `/ID`, `docker-ID.scope`,
/// `…:cri-containerd:ID`.
///
/// Below its own cgroup a container may make others, of any name: the outermost id counts. In a pod that is the
/// outermost below the pod's cgroup, as the node itself may run in a container.
fn container_ids(cgroups: &[u8]) -> impl Iterator<Item = &str> {
    let outermost = |path| {
        let path = outermost_pod(path).map_or(path, |(_, below)| below);
        let mut words = path.split(|byte| !byte.is_ascii_alphanumeric());
        words.find(|word| word.len() == CONTAINER_ID_LEN && word.iter().all(u8::is_ascii_hexdigit))
    };
    paths(cgroups).filter_map(outermost).filter_map(|id| str::from_utf8(id).ok())
}

/// The paths in a `cgroup` file, `ID:CONTROLLERS:PATH` for each hierarchy. The kernel lets no line feed into a path.
fn paths(cgroups: &[u8]) -> impl Iterator<Item = &[u8]> {
    cgroups.split(|&byte| byte == b'\n').filter_map(|line| line.splitn(3, |&byte| byte == b':').nth(2))
}

/// The UID of the outermost pod that a cgroup's path leads through, as it is written there, and the path below it.
/// Further in, the pod itself may have made cgroups of any name.
fn outermost_pod(path: &[u8]) -> Option<(&[u8], &[u8])> {
    const ROOT: &[u8] = b"kubepods";
    let mut is_below_root = false;
    let mut rest = path;
    while !rest.is_empty() {
        // systemd's paths may end in `NAME.slice:RUNTIME:ID`.
        let end = rest.iter().position(|byte| matches!(byte, b'/' | b':')).unwrap_or(rest.len());
        let name = rest[..end].strip_suffix(b".slice").unwrap_or(&rest[..end]);
        is_below_root |= name.split(|&byte| byte == b'-').any(|word| word == ROOT);
        let uid = name.strip_prefix(b"pod").or_else(|| {
            // As in `kubepods-burstable-podUID`.
            let at = name.windows(4).position(|four| four == b"-pod")?;
            Some(&name[at + 4..])
        });
        if let Some(uid) = uid.filter(|uid| is_below_root && !uid.is_empty()) {
            return Some((uid, &rest[end..]));
        }
        rest = rest.get(end + 1..).unwrap_or_default();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0a1b2c3d-1111-2222-3333-444455556666";
    const UID_OF_SLICE: &str = "0a1b2c3d_1111_2222_3333_444455556666";

    /// A made `/proc`, one `cgroup` line and start time a process.
    fn proc_with(processes: &[(u32, &str, u64)]) -> (tempfile::TempDir, ProcFs) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sys")).unwrap();
        for (pid, cgroup, started) in processes {
            let process = dir.path().join(pid.to_string());
            fs::create_dir(&process).unwrap();
            fs::write(process.join("cgroup"), format!("1:name=systemd:/\n{cgroup}\n")).unwrap();
            let stat = format!("{pid} (a ) b) S 1 {}{started} 0 0", "0 ".repeat(17));
            fs::write(process.join("stat"), stat).unwrap();
        }
        let proc = ProcFs::at(dir.path());
        (dir, proc)
    }

    fn pids(processes: &[Process]) -> Vec<u32> {
        processes.iter().map(|process| process.pid).collect()
    }

    fn id(digit: char) -> String {
        String::from(digit).repeat(CONTAINER_ID_LEN)
    }

    #[test]
    fn pods_are_found_under_every_driver_and_version() {
        let a = id('a');
        for path in [
            format!("0::/kubepods/besteffort/pod{UID}/{a}"),
            format!("4:memory:/kubepods/pod{UID}/{a}"),
            format!(
                "0::/kubepods.slice/kubepods-burstable.slice/\
                 kubepods-burstable-pod{UID_OF_SLICE}.slice/cri-containerd-{a}.scope"
            ),
            format!(
                "0::/system.slice/containerd.service/kubepods-pod{UID_OF_SLICE}.slice:cri-containerd:{a}"
            ),
            format!(
                "0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{UID_OF_SLICE}.slice/crio-{a}.scope"
            ),
            format!("0::/../../kubepods/burstable/pod{UID}"),
        ] {
            let (_dir, proc) = proc_with(&[(7, &path, 1), (8, "0::/user.slice", 2)]);
            assert_eq!(pids(&proc.of_pod(UID).unwrap()), [7], "{path}");
            assert!(proc.belongs_to(7, UID, ""), "{path}");
            assert!(!proc.belongs_to(8, UID, &a) && !proc.belongs_to(9, UID, &a));
        }
    }

    #[test]
    fn a_uid_is_matched_whole() {
        let longer = format!("0::/kubepods/pod{UID}0");
        let elsewhere = format!("0::/machine/pod{UID}");
        let within = format!("0::/kubepods/xpod{UID}");
        let (_dir, proc) = proc_with(&[(7, &longer, 1), (8, &elsewhere, 2), (9, &within, 3)]);
        assert!(proc.of_pod(UID).unwrap().is_empty());
        assert!(proc.of_pod("").unwrap().is_empty());
    }

    #[test]
    fn the_oldest_process_comes_first_whatever_its_pid() {
        let path = format!("0::/kubepods/pod{UID}/{}", id('a'));
        let (_dir, proc) = proc_with(&[(7, &path, 300), (900, &path, 100), (12, &path, 200)]);
        assert_eq!(pids(&proc.of_pod(UID).unwrap()), [900, 12, 7]);
    }

    #[test]
    fn containers_are_found_by_prefix() {
        let [a, b] = [id('a'), id('b')];
        let (_dir, proc) = proc_with(&[
            (7, &format!("0::/system.slice/docker-{a}.scope"), 2),
            (8, &format!("3:cpu:/docker/{a}\n2:memory:/docker/{a}"), 1),
            (9, &format!("0::/machine.slice/libpod-{b}.scope/container"), 3),
            (10, &format!("0::/x/{b}0"), 3),
        ]);
        let found = proc.of_container("aaaaaa").unwrap().unwrap();
        assert_eq!((found.id, pids(&found.processes)), (a.clone(), vec![8, 7]));
        assert_eq!(pids(&proc.of_container(&b).unwrap().unwrap().processes), [9]);
        assert_eq!(proc.of_container("cccccc").unwrap(), None);
        assert!(proc.belongs_to(7, "", &a) && !proc.belongs_to(7, "", &b));
    }

    #[test]
    fn a_process_whose_age_is_not_known_is_not_the_oldest() {
        let path = format!("0::/kubepods/pod{UID}/{}", id('a'));
        let (dir, proc) = proc_with(&[(7, &path, 300), (8, &path, 100), (9, &path, 200)]);
        fs::remove_file(dir.path().join("8/stat")).unwrap();
        assert_eq!(pids(&proc.of_pod(UID).unwrap()), [9, 7, 8]);
    }

    #[test]
    fn a_process_may_have_any_bytes_for_a_name() {
        let path = format!("0::/kubepods/pod{UID}/{}", id('a'));
        let (dir, proc) = proc_with(&[(7, &path, 300), (8, &path, 100)]);
        for (pid, started) in [(7, "300"), (8, "400")] {
            let mut stat = format!("{pid} (").into_bytes();
            stat.extend(b"\xff\xfe) 7 (\n\x9b) S 5 ");
            stat.extend(format!("{}{started} 0 0", "0 ".repeat(17)).bytes());
            fs::write(dir.path().join(format!("{pid}/stat")), stat).unwrap();
        }
        let found = proc.of_pod(UID).unwrap();
        assert_eq!(pids(&found), [7, 8]);
        assert_eq!(found[0], Process { pid: 7, parent: Some(5), started: Some(300) });
    }

    #[test]
    fn cgroups_that_a_container_made_do_not_tell_whose_it_is() {
        let [a, b] = [id('a'), id('b')];
        let other = "9f9f9f9f-1111-2222-3333-444455556666";
        for path in [
            format!("0::/kubepods/besteffort/pod{UID}/{a}/kubepods/besteffort/pod{other}/{b}"),
            format!("0::/kubepods/pod{UID}/{a}/docker-{b}.scope\n4:memory:/kubepods/pod{UID}/{a}/pod{other}"),
            format!(
                "0::/kubepods.slice/kubepods-pod{UID_OF_SLICE}.slice/cri-containerd-{a}.scope/kubepods-pod{other}.slice/{b}"
            ),
            format!(
                "0::/system.slice/kubepods-pod{UID_OF_SLICE}.slice:cri-containerd:{a}/kubepods/pod{other}/{b}"
            ),
            // Of a node that is a container itself.
            format!("0::/docker/{}/kubelet/kubepods/pod{UID}/{a}/{b}", id('c')),
        ] {
            let (_dir, proc) = proc_with(&[(7, &path, 1)]);
            assert_eq!(pids(&proc.of_pod(UID).unwrap()), [7], "{path}");
            assert_eq!(proc.of_pod(other).unwrap(), [], "{path}");
            assert_eq!(pids(&proc.of_container(&a).unwrap().unwrap().processes), [7], "{path}");
            assert_eq!(proc.of_container(&b).unwrap(), None, "{path}");
            assert!(!proc.belongs_to(7, other, &b), "{path}");
        }
        let (_dir, proc) = proc_with(&[(7, &format!("0::/docker/{a}/docker/{b}"), 1)]);
        assert_eq!(proc.of_container(&b).unwrap(), None);
    }

    #[test]
    fn a_cgroup_may_have_any_bytes_in_its_name() {
        let (dir, proc) = proc_with(&[(7, "0::/", 1)]);
        let mut cgroup = format!("0::/kubepods/pod{UID}/{}/", id('a')).into_bytes();
        cgroup.extend(b"\xff\n");
        fs::write(dir.path().join("7/cgroup"), cgroup).unwrap();
        assert_eq!(pids(&proc.of_pod(UID).unwrap()), [7]);
        assert_eq!(pids(&proc.of_container("aaaaaa").unwrap().unwrap().processes), [7]);
    }

    #[test]
    fn what_a_process_has_made_is_told_from_what_a_runtime_started() {
        let of = |(pid, parent)| Process { pid, parent, started: None };
        let all = [(7, Some(1)), (8, Some(7)), (9, Some(8)), (10, Some(3)), (11, None)].map(of);
        let first: Vec<u32> = without_descendants(&all).map(|process| process.pid).collect();
        assert_eq!(first, [7, 10, 11]);
    }

    #[test]
    fn an_ambiguous_prefix_lists_what_it_may_mean() {
        let [one, two] = [format!("abcdef{}", "1".repeat(58)), format!("abcdef{}", "2".repeat(58))];
        let (_dir, proc) =
            proc_with(&[(7, &format!("0::/docker/{one}"), 1), (8, &format!("0::/docker/{two}"), 2)]);
        let error = proc.of_container("abcdef").unwrap_err().to_string();
        assert!(error.contains(&one) && error.contains(&two), "{error}");
    }

    #[test]
    fn a_proc_that_is_not_there_is_an_error() {
        assert!(ProcFs::at("/no/such/proc").of_pod(UID).is_err());
    }
}
