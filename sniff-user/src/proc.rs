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
#[derive(Debug, Clone)]
pub struct ProcFs {
    root: PathBuf,
}

impl Default for ProcFs {
    fn default() -> Self {
        Self::at("/proc")
    }
}

/// A container found by its processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerProcesses {
    /// The whole container id.
    pub id: String,
    /// Its processes, the oldest first.
    pub pids: Vec<u32>,
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
    pub fn of_pod(&self, uid: &str) -> Result<Vec<u32>> {
        let mut pids = Vec::new();
        for (pid, cgroups) in self.cgroups()? {
            if names_pod(&cgroups, uid) {
                pids.push(pid);
            }
        }
        Ok(self.oldest_first(pids))
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
        Ok(found.map(|(id, pids)| ContainerProcesses { id, pids: self.oldest_first(pids) }))
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
    fn cgroups(&self) -> Result<impl Iterator<Item = (u32, String)>> {
        let entries = fs::read_dir(&self.root).with_context(|| format!("reading {}", self.root.display()))?;
        Ok(entries.filter_map(|entry| {
            let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
            // Processes come and go while this reads.
            Some((pid, self.read(pid, "cgroup")?))
        }))
    }

    fn oldest_first(&self, mut pids: Vec<u32>) -> Vec<u32> {
        pids.sort_by_cached_key(|&pid| (self.start_time(pid), pid));
        pids
    }

    /// When the process started, in clock ticks since boot: field 22 of proc_pid_stat(5).
    fn start_time(&self, pid: u32) -> Option<u64> {
        let stat = self.read(pid, "stat")?;
        // Field 2 is the command in parentheses, and may hold anything.
        let (_, rest) = stat.rsplit_once(')')?;
        rest.split_whitespace().nth(22 - 3)?.parse().ok()
    }

    fn read(&self, pid: u32, file: &str) -> Option<String> {
        fs::read_to_string(self.root.join(pid.to_string()).join(Path::new(file))).ok()
    }
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

/// Whether a `cgroup` file names the pod's cgroup.
fn names_pod(cgroups: &str, uid: &str) -> bool {
    if uid.is_empty() {
        return false;
    }
    // In names of systemd's slices, a dash separates levels: the UID has underscores there.
    let pod = format!("pod{uid}").replace('_', "-");
    cgroups.lines().filter(|line| line.contains("kubepods")).any(|line| {
        let line = line.replace('_', "-");
        line.match_indices(&pod).any(|(at, _)| {
            let after = line[at + pod.len()..].chars().next();
            let before = line[..at].chars().next_back();
            matches!(before, Some('/' | '-')) && matches!(after, None | Some('/' | '.' | ':'))
        })
    })
}

/// The container ids in a `cgroup` file: `/ID`, `docker-ID.scope`, `…:cri-containerd:ID`.
fn container_ids(cgroups: &str) -> impl Iterator<Item = &str> {
    cgroups
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| word.len() == CONTAINER_ID_LEN)
        .filter(|word| word.bytes().all(|b| b.is_ascii_hexdigit()))
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
            let stat = format!("{pid} (a ) b) S {}{started} 0 0", "0 ".repeat(18));
            fs::write(process.join("stat"), stat).unwrap();
        }
        let proc = ProcFs::at(dir.path());
        (dir, proc)
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
            assert_eq!(proc.of_pod(UID).unwrap(), [7], "{path}");
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
        assert_eq!(proc.of_pod(UID).unwrap(), [900, 12, 7]);
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
        assert_eq!((found.id, found.pids), (a.clone(), vec![8, 7]));
        assert_eq!(proc.of_container(&b).unwrap().unwrap().pids, [9]);
        assert_eq!(proc.of_container("cccccc").unwrap(), None);
        assert!(proc.belongs_to(7, "", &a) && !proc.belongs_to(7, "", &b));
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
