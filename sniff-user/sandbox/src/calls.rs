//! seccomp: the system calls that remain.
//!
//! Every other one answers EPERM, and no signal comes of it: a library that tries something else first goes on as where
//! that is not allowed, and no packet is lost for it.

use std::{collections::BTreeMap, env::consts, io};

use anyhow::{Context as _, Result};
use libc::c_long;
use seccompiler::{
    BpfProgram, Error, SeccompAction, SeccompCmpArgLen,
    SeccompCmpOp::{self, Eq, MaskedEq},
    SeccompCondition, SeccompFilter, SeccompRule, TargetArch, apply_filter,
};

use crate::{Kept, Sandbox};

type Calls = BTreeMap<c_long, Vec<SeccompRule>>;

/// Calls that are allowed whatever they are given: they act on descriptors, memory, threads and clocks that the process
/// has. A file's meta-data can be seen by path, as glibc does where a descriptor would do, too.
///
/// As the C libraries from 2.28 on make them, on kernels of any age.
const ANY: &[c_long] = &[
    // Descriptors.
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_pwrite64,
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_pipe2,
    libc::SYS_eventfd2,
    libc::SYS_signalfd4,
    libc::SYS_lseek,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_ftruncate,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    // Waiting.
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_restart_syscall,
    // Sockets that it has.
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_shutdown,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_getsockopt,
    // Memory.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    // Threads.
    libc::SYS_futex,
    libc::SYS_gettid,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // Signals to itself.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sigaltstack,
    // What it is, where, and when.
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_uname,
    libc::SYS_sysinfo,
    libc::SYS_getrandom,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_gettimeofday,
    libc::SYS_getcpu,
    // Another filter says that there is none (`without_clone3`).
    libc::SYS_clone3,
];

/// The same by older names, which newer architectures do without.
#[cfg(target_arch = "x86_64")]
const OLDER: &[c_long] = &[
    libc::SYS_dup2,
    libc::SYS_epoll_wait,
    libc::SYS_lstat,
    libc::SYS_poll,
    libc::SYS_select,
    libc::SYS_stat,
    libc::SYS_time,
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[c_long] = &[];

/// How the C libraries make threads (sysdeps/unix/sysv/linux/createthread.c and nptl/pthread_create.c in glibc).
const THREAD: libc::c_int = libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SYSVSEM
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SETTLS
    | libc::CLONE_PARENT_SETTID
    | libc::CLONE_CHILD_CLEARTID;

/// What makes an opening more than one to read a file. A folder's opening is more, and so is `O_PATH`, by which a
/// descriptor of anything is had.
const MORE_THAN_READ: libc::c_int = libc::O_ACCMODE
    | libc::O_CREAT
    | libc::O_TRUNC
    | libc::O_APPEND
    | libc::O_TMPFILE
    | libc::O_DIRECTORY
    | libc::O_PATH;

/// What a terminal is asked: whether it is one, and its size. Beside that, whether a descriptor blocks and is kept by
/// programs, as the standard library sets it.
const IOCTLS: [u64; 6] =
    [libc::TCGETS, libc::TCGETS2, libc::TIOCGWINSZ, libc::FIONBIO, libc::FIOCLEX, libc::FIONREAD];

/// What concerns the descriptor alone; whom signals about it go to does not.
const FCNTLS: [libc::c_int; 8] = [
    libc::F_DUPFD,
    libc::F_DUPFD_CLOEXEC,
    libc::F_GETFD,
    libc::F_SETFD,
    libc::F_GETFL,
    libc::F_SETFL,
    libc::F_GETPIPE_SZ,
    libc::F_SETPIPE_SZ,
];

/// The bits of a socket's type that say what it is; others say how the descriptor behaves (include/linux/net.h).
const SOCKET_TYPE: libc::c_int = 0xf;

/// Has this thread, and all that it starts, make no other calls than the process `pid` in this sandbox may.
///
/// # Errors
///
/// When the processor is none that the filters are made for.
pub fn allow(sandbox: &Sandbox, pid: u32) -> Result<Option<Kept>> {
    let filters = [without_clone3(), only(calls(sandbox, pid)?)].map(compile);
    for filter in filters {
        match apply_filter(&filter?) {
            Ok(()) => {}
            Err(Error::Seccomp(error) | Error::Prctl(error)) if is_missing(&error) => {
                return Ok(Some(Kept::Calls(error.to_string())));
            }
            Err(error) => return Err(error).context("cannot filter system calls"),
        }
    }
    Ok(None)
}

/// Whether the kernel knows no filters.
fn is_missing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL))
}

/// A filter that denies `clone3` as a kernel that does not have it: what it is to make stands in memory, where a filter
/// cannot look, and the C library goes on to `clone`.
fn without_clone3() -> Filter {
    let calls = Calls::from([(libc::SYS_clone3, Vec::new())]);
    Filter { calls, these: SeccompAction::Errno(libc::ENOSYS as u32), others: SeccompAction::Allow }
}

/// A filter that allows these calls alone.
fn only(calls: Calls) -> Filter {
    Filter { calls, these: SeccompAction::Allow, others: SeccompAction::Errno(libc::EPERM as u32) }
}

/// What is to happen to calls.
struct Filter {
    calls: Calls,
    these: SeccompAction,
    others: SeccompAction,
}

fn compile(filter: Filter) -> Result<BpfProgram> {
    // It ends the process at a call of another architecture (of 32 bits), whose numbers mean something else.
    let machine = TargetArch::try_from(consts::ARCH)?;
    let filter = SeccompFilter::new(filter.calls, filter.others, filter.these, machine)?;
    Ok(filter.try_into()?)
}

/// All calls that are allowed, and given what.
fn calls(sandbox: &Sandbox, pid: u32) -> Result<Calls> {
    let mut calls = Calls::default();
    any(&mut calls, ANY);
    any(&mut calls, OLDER);
    of_its_own(&mut calls, pid)?;
    if !sandbox.readable.is_empty() {
        when(&mut calls, libc::SYS_openat, [argument(2, MaskedEq(MORE_THAN_READ as u64), 0)])?;
        #[cfg(target_arch = "x86_64")]
        when(&mut calls, libc::SYS_open, [argument(1, MaskedEq(MORE_THAN_READ as u64), 0)])?;
    }
    if sandbox.names {
        names(&mut calls)?;
    } else {
        // To whom the socket is connected.
        when(&mut calls, libc::SYS_sendto, [null(4)])?;
    }
    Ok(calls)
}

/// Calls that are allowed if they are about the process itself, and bring nothing new.
fn of_its_own(calls: &mut Calls, pid: u32) -> Result<()> {
    // Memory is never made a program.
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        when(calls, call, [argument(2, MaskedEq(libc::PROT_EXEC as u64), 0)])?;
    }
    when(calls, libc::SYS_clone, [argument(0, Eq, THREAD as u64)])?;
    // As abort(3) does.
    for call in [libc::SYS_kill, libc::SYS_tgkill] {
        when(calls, call, [argument(0, Eq, pid.into())])?;
    }
    for option in [libc::PR_SET_NAME, libc::PR_SET_VMA] {
        when(calls, libc::SYS_prctl, [argument(0, Eq, option as u64)])?;
    }
    for command in FCNTLS {
        when(calls, libc::SYS_fcntl, [argument(1, Eq, command as u64)])?;
    }
    for request in IOCTLS {
        when(calls, libc::SYS_ioctl, [argument(1, Eq, request)])?;
    }
    // Its limits are asked for, never set.
    when(calls, libc::SYS_prlimit64, [argument(0, Eq, 0), null(2)])?;
    // Of datagrams, an end could send to any socket that has a name.
    when(calls, libc::SYS_socketpair, [argument(0, Eq, libc::AF_UNIX as u64), is_socket(libc::SOCK_STREAM)])?;
    for option in [libc::SO_RCVTIMEO, libc::SO_SNDTIMEO] {
        when(calls, libc::SYS_setsockopt, option_at(libc::SOL_SOCKET, option))?;
    }
    Ok(())
}

/// What looking up names takes, of resolvers at any address.
fn names(calls: &mut Calls) -> Result<()> {
    any(
        calls,
        &[libc::SYS_bind, libc::SYS_connect, libc::SYS_sendto, libc::SYS_sendmmsg, libc::SYS_recvmmsg],
    );
    for family in [libc::AF_INET, libc::AF_INET6] {
        when(calls, libc::SYS_socket, [argument(0, Eq, family as u64), is_socket(libc::SOCK_DGRAM)])?;
    }
    // Which addresses the machine has: those of a name are put in order by that.
    let route = argument(2, Eq, libc::NETLINK_ROUTE as u64);
    when(calls, libc::SYS_socket, [argument(0, Eq, libc::AF_NETLINK as u64), route])?;
    // Errors are heard of, and datagrams not cut in pieces on their way.
    for option in [libc::IP_RECVERR, libc::IP_MTU_DISCOVER] {
        when(calls, libc::SYS_setsockopt, option_at(libc::SOL_IP, option))?;
    }
    for option in [libc::IPV6_RECVERR, libc::IPV6_MTU_DISCOVER] {
        when(calls, libc::SYS_setsockopt, option_at(libc::SOL_IPV6, option))?;
    }
    Ok(())
}

/// Allows calls, whatever they are given.
fn any(calls: &mut Calls, these: &[c_long]) {
    calls.extend(these.iter().map(|&call| (call, Vec::new())));
}

/// Allows a call if all of this is so, too.
fn when<const N: usize>(calls: &mut Calls, call: c_long, all: [Result<SeccompCondition>; N]) -> Result<()> {
    let all = all.into_iter().collect::<Result<_>>()?;
    calls.entry(call).or_default().push(SeccompRule::new(all)?);
    Ok(())
}

/// A socket option, as getsockopt(2) and setsockopt(2) are given it.
fn option_at(level: libc::c_int, option: libc::c_int) -> [Result<SeccompCondition>; 2] {
    [argument(1, Eq, level as u64), argument(2, Eq, option as u64)]
}

/// A kind of socket, as socket(2) and socketpair(2) are given it.
fn is_socket(kind: libc::c_int) -> Result<SeccompCondition> {
    argument(1, MaskedEq(SOCKET_TYPE as u64), kind as u64)
}

/// What an argument has to be, of which the kernel takes 32 bits.
fn argument(index: u8, is: SeccompCmpOp, value: u64) -> Result<SeccompCondition> {
    Ok(SeccompCondition::new(index, SeccompCmpArgLen::Dword, is, value)?)
}

/// An argument that is to point to nothing.
fn null(index: u8) -> Result<SeccompCondition> {
    Ok(SeccompCondition::new(index, SeccompCmpArgLen::Qword, Eq, 0)?)
}
