//! The kernel that the tests run on, and what is to be expected of it.

use std::fs;

/// The first two numbers of its release.
///
/// # Panics
///
/// When it has none.
pub fn version() -> (u32, u32) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("the kernel's release");
    let mut numbers = release.split(|char: char| !char.is_ascii_digit()).map(str::parse);
    let mut next = || numbers.next().and_then(Result::ok).expect("a number in the kernel's release");
    (next(), next())
}

/// Whether it has TCX: a kernel that should and does not is a failure, not another case.
pub fn has_tcx() -> bool {
    version() >= (6, 6)
}

/// Whether the receiver of a packet that `bpf_redirect_peer` hands over counts it (Linux 6.7, `skb_do_redirect`).
pub fn counts_redirected() -> bool {
    version() >= (6, 7)
}

/// What classifiers can be attached by, as sniff calls it.
pub fn hooks() -> &'static [&'static str] {
    if has_tcx() { &["tcx", "clsact"] } else { &["clsact"] }
}

/// What can be between the kernel and sniff, as sniff calls it. Regions take an atomic exchange in BPF programs, and
/// CPUs on which nothing interrupts a classifier.
pub fn rings() -> &'static [&'static str] {
    if version() >= (5, 12) && !is_preempt_rt() { &["regions", "ringbuf"] } else { &["ringbuf"] }
}

fn is_preempt_rt() -> bool {
    fs::read_to_string("/proc/version").expect("the kernel's version").contains("PREEMPT_RT")
}
