//! What sniff needs of the system: capabilities, and descriptors and memory enough for many interfaces.

use anyhow::{Context as _, Result, bail};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};

use crate::proc;

/// Bits of `CapEff` (include/uapi/linux/capability.h), and what each is for.
const NEEDED: [(u32, &str); 5] = [
    (12, "CAP_NET_ADMIN (attach to interfaces)"),
    (19, "CAP_SYS_PTRACE (look at other users' processes)"),
    (21, "CAP_SYS_ADMIN (enter a pod's network namespace)"),
    (38, "CAP_PERFMON (read packets in BPF)"),
    (39, "CAP_BPF (load programs and maps)"),
];

/// Makes sure of the privileges before anything is touched.
///
/// # Errors
///
/// When a capability lacks; the error names it.
pub fn check() -> Result<()> {
    let status = proc::own_status()?;
    let missing = missing(&status).context("cannot tell this process's capabilities")?;
    if !missing.is_empty() {
        bail!("not permitted: run as root (sudo), or with {}", missing.join(", "));
    }
    Ok(())
}

/// Raises the limits that many interfaces would reach, as far as this process may: of open files, since each classifier
/// takes a descriptor or two, and of locked memory, which maps and programs count as before Linux 5.11.
pub fn raise_limits() {
    // Without them, few interfaces work all the same, and many end with an error that names the limit.
    raise(Resource::RLIMIT_NOFILE);
    // The hard limit is raised by CAP_SYS_RESOURCE alone.
    if setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY).is_err() {
        raise(Resource::RLIMIT_MEMLOCK);
    }
}

fn raise(limit: Resource) {
    if let Ok((_, hard)) = getrlimit(limit) {
        let _ = setrlimit(limit, hard, hard);
    }
}

/// What lacks, according to `/proc/PID/status`. Kernels before 5.8 have no bits 38 and 39; CAP_SYS_ADMIN stands
/// for both there, and everywhere.
fn missing(status: &str) -> Option<Vec<&'static str>> {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    let effective = u64::from_str_radix(effective.trim(), 16).ok()?;
    let has = |bit: u32| effective & 1 << bit != 0;
    let covered = |bit: u32| bit >= 38 && has(21);
    Some(NEEDED.iter().filter(|&&(bit, _)| !has(bit) && !covered(bit)).map(|&(_, name)| name).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_capabilities_that_lack() {
        assert_eq!(missing("Name:\tx\nCapEff:\t000001ffffffffff\n"), Some(vec![]));
        assert_eq!(missing("CapEff:\t0000000000000000\n").map(|names| names.len()), Some(5));
        let without_the_newer_ones = format!("CapEff:\t{:016x}\n", 1u64 << 12 | 1 << 19 | 1 << 21);
        assert_eq!(missing(&without_the_newer_ones), Some(vec![]));
        assert_eq!(missing("Name:\tx\n"), None);
    }
}
