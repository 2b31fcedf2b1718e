//! What sniff needs of the system: capabilities, and descriptors and memory enough for many interfaces.

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    errno::Errno,
    sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit},
};

use crate::targets::proc;

/// Open files that it takes to begin, those of one interface included.
const FEWEST_FILES: u64 = 64;

/// Bits of `CapEff` (include/uapi/linux/capability.h), and what each is for.
const NEEDED: [(u32, &str); 5] = [
    (12, "CAP_NET_ADMIN (attach to interfaces)"),
    (19, "CAP_SYS_PTRACE (look at other users' processes)"),
    (21, "CAP_SYS_ADMIN (enter a pod's network namespace)"),
    (38, "CAP_PERFMON (read packets in BPF)"),
    (39, "CAP_BPF (load programs and maps)"),
];

/// What may be wrong where a process of a container is refused something.
const FEW_RIGHTS: &str = "\
    the node may want more rights than sniff's container has (--privileged gives a short-lived pod all of them, and \
    deploy/base the DaemonSet)";

/// Makes sure of the privileges before anything is touched.
///
/// # Errors
///
/// When a capability is missing; the error names it.
pub fn check() -> Result<()> {
    let status = proc::own_status()?;
    let missing = missing(&status).context("cannot tell this process's capabilities")?;
    if !missing.is_empty() {
        bail!("not permitted: run as root (sudo), or with {}", missing.join(", "));
    }
    Ok(())
}

/// Whether a process has them, by its `/proc/PID/status`.
pub fn are_in(status: &str) -> bool {
    missing(status).is_some_and(|missing| missing.is_empty())
}

/// Raises the limit of locked memory, which maps and programs count as before Linux 5.11, as far as this process may.
pub fn raise_limits() {
    // Without it, few interfaces work all the same, and many end with an error that names the limit.
    // The hard limit is raised by CAP_SYS_RESOURCE alone.
    if setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY).is_err() {
        raise(Resource::RLIMIT_MEMLOCK);
    }
}

/// Raises the limit of open files as far as this process may, since each classifier takes a descriptor or two, and makes
/// sure of as many as it takes to begin.
///
/// # Errors
///
/// When the limit is too low for anything.
pub fn ensure_open_files() -> Result<()> {
    raise(Resource::RLIMIT_NOFILE);
    let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    ensure!(limit >= FEWEST_FILES, "{}", too_few_files(limit));
    Ok(())
}

/// Says what to do about an error that comes of the limit of open files.
pub fn advise(error: anyhow::Error) -> anyhow::Error {
    // However it was wrapped on its way here, it says that.
    let is_limit = error.chain().any(|cause| cause.to_string().contains(Errno::EMFILE.desc()));
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((limit, _)) if is_limit => error.context(too_few_files(limit)),
        _ => error,
    }
}

/// The same in a session, where an error may also come of the few rights that sniff's container was given.
pub fn advise_session(error: anyhow::Error) -> anyhow::Error {
    let is_refusal = |cause: &str| cause.contains("not permitted") || cause.contains(Errno::EACCES.desc());
    let statuses = (proc::own_status(), proc::first_status());
    match statuses {
        (Ok(own), Ok(first))
            if error.chain().any(|cause| is_refusal(&cause.to_string())) && has_fewer(&own, &first) =>
        {
            error.context(FEW_RIGHTS)
        }
        _ => advise(error),
    }
}

/// Whether a process has not all the capabilities of the other, according to their `/proc/PID/status`.
fn has_fewer(status: &str, other: &str) -> bool {
    effective(status).zip(effective(other)).is_some_and(|(these, those)| those & !these != 0)
}

fn too_few_files(limit: u64) -> String {
    format!(
        "the limit of open files, {limit}, is too low for this: raise it (ulimit -n, LimitNOFILE= of a service), or name \
         fewer interfaces"
    )
}

fn raise(limit: Resource) {
    if let Ok((_, hard)) = getrlimit(limit) {
        let _ = setrlimit(limit, hard, hard);
    }
}

/// What is missing, according to `/proc/PID/status`. Kernels before 5.8 have no bits 38 and 39; CAP_SYS_ADMIN stands
/// for both there, and everywhere.
fn missing(status: &str) -> Option<Vec<&'static str>> {
    let effective = effective(status)?;
    let has = |bit: u32| effective & 1 << bit != 0;
    let covered = |bit: u32| bit >= 38 && has(21);
    Some(NEEDED.iter().filter(|&&(bit, _)| !has(bit) && !covered(bit)).map(|&(_, name)| name).collect())
}

fn effective(status: &str) -> Option<u64> {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(effective.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_capabilities_that_are_missing() {
        assert_eq!(missing("Name:\tx\nCapEff:\t000001ffffffffff\n"), Some(vec![]));
        assert_eq!(missing("CapEff:\t0000000000000000\n").map(|names| names.len()), Some(5));
        let without_the_newer_ones = format!("CapEff:\t{:016x}\n", 1u64 << 12 | 1 << 19 | 1 << 21);
        assert_eq!(missing(&without_the_newer_ones), Some(vec![]));
        assert_eq!(missing("Name:\tx\n"), None);
    }

    #[test]
    fn a_container_with_named_capabilities_has_fewer_than_its_node() {
        let status = |bits: u64| format!("Name:\tx\nCapEff:\t{bits:016x}\n");
        let named: u64 = [39, 38, 21, 19, 12, 11].iter().map(|bit| 1 << bit).sum();
        assert!(has_fewer(&status(named), &status((1 << 41) - 1)));
        assert!(!has_fewer(&status((1 << 41) - 1), &status((1 << 41) - 1)));
        assert!(!has_fewer(&status(named), &status(1 << 21)), "a first process that has less");
        assert!(!has_fewer("", &status(1)) && !has_fewer(&status(1), ""), "nothing is known");
    }
}
