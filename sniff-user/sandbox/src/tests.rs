//! Each test runs once more, alone in a process that enters the sandbox, and tries from inside.
#![expect(unsafe_code, reason = "system calls by their numbers, which no safe function makes")]

use std::{
    any::type_name,
    env, fs,
    fs::File,
    hint::black_box,
    io::{self, BufRead as _, BufReader, Read as _, Seek as _, Write as _},
    net::{TcpListener, TcpStream, ToSocketAddrs as _, UdpSocket},
    os::{
        fd::AsRawFd as _,
        unix::{
            fs::PermissionsExt as _,
            net::{UnixListener, UnixStream},
            process::{CommandExt as _, ExitStatusExt as _, parent_id},
        },
    },
    path::Path,
    process::{self, Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant, SystemTime},
};

use nix::{errno::Errno, unistd::gettid};

use super::{Kept, Lack, NOBODY, Sandbox};

/// Set in the process that is to enter; says what a test's process is for, where it takes several.
const ROLE: &str = "SNIFF_SANDBOX_TEST";
/// What a process says when it has entered, and waits.
const ENTERED: &str = "has entered";

/// Kernels without Landlock are not what these tests are for.
fn enter(change: impl FnOnce(&mut Sandbox)) {
    let mut sandbox = Sandbox::new(parent_id());
    change(&mut sandbox);
    let kept = sandbox.enter().unwrap();
    let is_root_only = |kept: &Kept| matches!(kept, Kept::User { .. } | Kept::Groups(_));
    assert!(kept.iter().all(is_root_only), "{kept:?}");
}

/// What this process is for, if it was made for a test.
fn role() -> Option<String> {
    env::var(ROLE).ok()
}

/// A command that runs the test which `inside` is part of, and nothing else, as `role`.
fn again<F>(_inside: &F, role: &str) -> Command {
    let test = type_name::<F>().trim_end_matches("::{{closure}}");
    let (_, test) = test.split_once("::").unwrap();
    let mut command = Command::new(env::current_exe().unwrap());
    // On one thread: on that which is to enter.
    command.args([test, "--exact", "--include-ignored", "--nocapture", "--test-threads=1"]);
    command.env(ROLE, role).env_remove("RUST_BACKTRACE").stdin(Stdio::null());
    command
}

/// A command with other rights, as setpriv(1) is told them.
fn with(rights: &[&str], command: &Command) -> Command {
    let mut changed = Command::new("setpriv");
    changed.args(rights).arg(command.get_program()).args(command.get_args());
    for (variable, value) in command.get_envs() {
        match value {
            Some(value) => changed.env(variable, value),
            None => changed.env_remove(variable),
        };
    }
    changed
}

#[track_caller]
fn assert_success(output: &Output) {
    let said = [&output.stdout[..], &output.stderr[..]].map(String::from_utf8_lossy).concat();
    // Nothing is proved by a name that no test has.
    assert!(output.status.success() && said.contains("1 passed"), "{}: {said}", output.status);
}

/// Runs a part of a test in a process of its own, which sees to entering.
#[track_caller]
fn alone(inside: impl FnOnce()) {
    match role() {
        None => assert_success(&again(&inside, "alone").output().unwrap()),
        Some(_) => inside(),
    }
}

/// A process that has entered, and the id of the thread that did; it waits to be killed.
fn waiting(mut command: Command) -> (Child, u32) {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.as_mut().unwrap()).lines().map_while(Result::ok);
    let entered = lines.find_map(|line| line.split_once(ENTERED).map(|(_, thread)| thread.trim().to_owned()));
    (child, entered.expect("it says that it has entered").parse().unwrap())
}

fn say_entered() {
    println!("{ENTERED} {}", gettid());
}

fn wait() {
    say_entered();
    io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

type Call = (&'static str, libc::c_long, [usize; 6]);

/// What a system call answers.
fn call((_, number, arguments): &Call) -> Result<i64, Errno> {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: `forbidden` says why these do nothing, or nothing to memory that Rust has.
    Errno::result(unsafe { libc::syscall(*number, *a, *b, *c, *d, *e, *f) })
}

fn call_with<const N: usize>(name: &'static str, number: libc::c_long, given: [usize; N]) -> Call {
    let mut arguments = [0; 6];
    arguments[..N].copy_from_slice(&given);
    (name, number, arguments)
}

/// No descriptor, and no flags that anything knows.
const BAD: usize = usize::MAX;

/// Calls that a sandboxed process has no use for, given what has the kernel refuse them in other words, or what does
/// nothing: an address that there is not (0), a descriptor or flags that there are not.
fn forbidden(parent: usize) -> Vec<Call> {
    let null = c"/dev/null".as_ptr() as usize;
    let cwd = libc::AT_FDCWD as usize;
    let flags = |flags: libc::c_int| flags as usize;
    let anywhere = flags(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    let calls = vec![
        call_with("bpf", libc::SYS_bpf, [BAD]),
        call_with("setns", libc::SYS_setns, [BAD]),
        call_with("unshare", libc::SYS_unshare, [1]),
        call_with("execve", libc::SYS_execve, []),
        call_with("execveat", libc::SYS_execveat, [BAD]),
        call_with("clone of a process", libc::SYS_clone, [flags(libc::CLONE_SIGHAND)]),
        call_with("ptrace", libc::SYS_ptrace, [BAD, BAD]),
        call_with("process_vm_readv", libc::SYS_process_vm_readv, [0, 0, 0, 0, 0, BAD]),
        call_with("process_vm_writev", libc::SYS_process_vm_writev, [0, 0, 0, 0, 0, BAD]),
        call_with("process_madvise", libc::SYS_process_madvise, [BAD]),
        call_with("kill of another", libc::SYS_kill, [parent, 0]),
        call_with("tgkill of another", libc::SYS_tgkill, [parent, parent, 0]),
        call_with("rt_sigqueueinfo", libc::SYS_rt_sigqueueinfo, [parent]),
        call_with("pidfd_open", libc::SYS_pidfd_open, [parent, BAD]),
        call_with("pidfd_getfd", libc::SYS_pidfd_getfd, [BAD]),
        call_with("pidfd_send_signal", libc::SYS_pidfd_send_signal, [BAD]),
        call_with("mount", libc::SYS_mount, []),
        call_with("umount2", libc::SYS_umount2, [0, BAD]),
        call_with("pivot_root", libc::SYS_pivot_root, []),
        call_with("chroot", libc::SYS_chroot, []),
        call_with("chdir", libc::SYS_chdir, []),
        call_with("open_tree", libc::SYS_open_tree, [BAD, 0, BAD]),
        call_with("fsopen", libc::SYS_fsopen, [0, BAD]),
        call_with("io_uring_setup", libc::SYS_io_uring_setup, []),
        call_with("io_uring_enter", libc::SYS_io_uring_enter, [BAD]),
        call_with("keyctl", libc::SYS_keyctl, [BAD]),
        call_with("add_key", libc::SYS_add_key, []),
        call_with("request_key", libc::SYS_request_key, []),
        call_with("userfaultfd", libc::SYS_userfaultfd, [BAD]),
        call_with("perf_event_open", libc::SYS_perf_event_open, [0, 0, 0, 0, BAD]),
        call_with("seccomp", libc::SYS_seccomp, [BAD]),
        call_with("landlock_create_ruleset", libc::SYS_landlock_create_ruleset, [0, 0, 1]),
        call_with("prctl(PR_SET_DUMPABLE)", libc::SYS_prctl, [flags(libc::PR_SET_DUMPABLE), 3]),
        call_with("prctl(PR_SET_PDEATHSIG)", libc::SYS_prctl, [flags(libc::PR_SET_PDEATHSIG), 999]),
        call_with("personality", libc::SYS_personality, [0xffff_ffff]),
        call_with("setresuid", libc::SYS_setresuid, [BAD, BAD, BAD]),
        call_with("setresgid", libc::SYS_setresgid, [BAD, BAD, BAD]),
        call_with("capset", libc::SYS_capset, []),
        call_with("prlimit64 of others", libc::SYS_prlimit64, [parent, 0]),
        call_with("prlimit64 that sets", libc::SYS_prlimit64, [0, 0, 1]),
        call_with("sched_setaffinity", libc::SYS_sched_setaffinity, []),
        call_with("reboot", libc::SYS_reboot, []),
        call_with("init_module", libc::SYS_init_module, []),
        call_with("finit_module", libc::SYS_finit_module, [BAD, 0, BAD]),
        call_with("clock_settime", libc::SYS_clock_settime, [BAD]),
        call_with("sethostname", libc::SYS_sethostname, [0, BAD]),
        call_with("memfd_create", libc::SYS_memfd_create, []),
        call_with("shmget", libc::SYS_shmget, [1]),
        call_with("inotify_init1", libc::SYS_inotify_init1, [BAD]),
        call_with("fanotify_init", libc::SYS_fanotify_init, [BAD]),
        call_with("open_by_handle_at", libc::SYS_open_by_handle_at, [BAD]),
        // Files.
        call_with("openat to write", libc::SYS_openat, [cwd, null, flags(libc::O_WRONLY)]),
        call_with("openat to read and write", libc::SYS_openat, [cwd, null, flags(libc::O_RDWR)]),
        call_with("openat to append", libc::SYS_openat, [cwd, null, flags(libc::O_APPEND)]),
        call_with("openat to create", libc::SYS_openat, [cwd, null, flags(libc::O_CREAT), 0o600]),
        call_with("openat to empty", libc::SYS_openat, [cwd, null, flags(libc::O_TRUNC)]),
        call_with("openat of a path", libc::SYS_openat, [cwd, null, flags(libc::O_PATH)]),
        call_with("openat of a folder", libc::SYS_openat, [cwd, null, flags(libc::O_DIRECTORY)]),
        call_with("openat2", libc::SYS_openat2, []),
        call_with("renameat2", libc::SYS_renameat2, [BAD, 0, BAD, 0]),
        call_with("unlinkat", libc::SYS_unlinkat, [BAD, 0]),
        call_with("linkat", libc::SYS_linkat, [BAD, 0, BAD, 0]),
        call_with("symlinkat", libc::SYS_symlinkat, [0, BAD, 0]),
        call_with("mkdirat", libc::SYS_mkdirat, [BAD, 0]),
        call_with("mknodat", libc::SYS_mknodat, [BAD, 0]),
        call_with("fchmod", libc::SYS_fchmod, [BAD]),
        call_with("fchmodat", libc::SYS_fchmodat, [BAD, 0]),
        call_with("fchown", libc::SYS_fchown, [BAD]),
        call_with("fchownat", libc::SYS_fchownat, [BAD, 0]),
        call_with("setxattr", libc::SYS_setxattr, []),
        call_with("truncate", libc::SYS_truncate, []),
        call_with("getdents64", libc::SYS_getdents64, [BAD]),
        // Descriptors and memory.
        call_with("ioctl(TIOCSTI)", libc::SYS_ioctl, [0, libc::TIOCSTI as usize]),
        call_with("fcntl(F_SETOWN)", libc::SYS_fcntl, [0, flags(libc::F_SETOWN)]),
        call_with("mmap of a program", libc::SYS_mmap, [0, 4096, flags(libc::PROT_EXEC), anywhere, BAD]),
        call_with("mprotect of a program", libc::SYS_mprotect, [0, 0, flags(libc::PROT_EXEC)]),
        call_with("pkey_mprotect", libc::SYS_pkey_mprotect, [0, 0, flags(libc::PROT_EXEC), BAD]),
        // Sockets.
        socket("a TCP socket", libc::AF_INET, libc::SOCK_STREAM, 0),
        socket("a TCP socket of IPv6", libc::AF_INET6, libc::SOCK_STREAM, 0),
        socket("a raw socket", libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP),
        socket("a packet socket", libc::AF_PACKET, libc::SOCK_RAW, 0),
        socket("a Unix socket", libc::AF_UNIX, libc::SOCK_STREAM, 0),
        socket("a Unix socket of datagrams", libc::AF_UNIX, libc::SOCK_DGRAM, 0),
        socket("netlink's of tables", libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_GENERIC),
        call_with("a pair of datagrams", libc::SYS_socketpair, [1, flags(libc::SOCK_DGRAM)]),
        call_with("listen", libc::SYS_listen, [BAD]),
        call_with("accept4", libc::SYS_accept4, [BAD]),
    ];
    calls.into_iter().chain(by_older_names()).collect()
}

/// More of them, which newer architectures do without.
fn by_older_names() -> Vec<Call> {
    #[cfg(target_arch = "x86_64")]
    return vec![
        call_with("a call by its number for x32", libc::SYS_getpid | 0x4000_0000, []),
        call_with("open to write", libc::SYS_open, [c"/dev/null".as_ptr() as usize, libc::O_WRONLY as usize]),
        call_with("creat", libc::SYS_creat, []),
        call_with("rename", libc::SYS_rename, []),
        call_with("unlink", libc::SYS_unlink, []),
        call_with("link", libc::SYS_link, []),
        call_with("symlink", libc::SYS_symlink, []),
        call_with("mkdir", libc::SYS_mkdir, []),
        call_with("rmdir", libc::SYS_rmdir, []),
        call_with("chmod", libc::SYS_chmod, []),
        call_with("chown", libc::SYS_chown, []),
        call_with("iopl", libc::SYS_iopl, [BAD]),
    ];
    #[cfg(not(target_arch = "x86_64"))]
    Vec::new()
}

fn socket(name: &'static str, family: i32, kind: i32, protocol: i32) -> Call {
    call_with(name, libc::SYS_socket, [family, kind, protocol].map(|argument| argument as usize))
}

/// Calls of which the sandbox says nothing or the wrong thing.
fn not_denied(calls: &[Call]) -> Vec<(&'static str, Result<i64, Errno>)> {
    let answers = calls.iter().map(|given| (given.0, call(given)));
    answers.filter(|(_, answer)| *answer != Err(Errno::EPERM)).collect()
}

#[test]
#[ignore = "needs root, for whom no other words of the kernel's are the same"]
fn what_is_forbidden_is_denied_and_by_the_sandbox_alone() {
    alone(|| {
        let calls = forbidden(parent_id() as usize);
        let denied_outside = calls.len() - not_denied(&calls).len();
        assert_eq!(denied_outside, 0, "EPERM means nothing of these");
        enter(|sandbox| sandbox.readable = vec!["/dev/null".into()]);
        assert_eq!(not_denied(&calls), []);
    });
}

#[test]
fn what_is_forbidden_is_denied_whatever_else_is_allowed() {
    alone(|| {
        enter(|sandbox| {
            sandbox.readable = vec!["/dev/null".into()];
            sandbox.names = true;
        });
        assert_eq!(not_denied(&forbidden(parent_id() as usize)), []);
        assert_eq!(Command::new("/bin/true").status().unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    });
}

#[test]
fn threads_are_made_by_the_call_whose_flags_can_be_seen() {
    alone(|| {
        enter(|_| {});
        assert_eq!(call(&call_with("clone3", libc::SYS_clone3, [])), Err(Errno::ENOSYS));
        let threads: Vec<_> = (0..16).map(|number| thread::spawn(move || black_box(number))).collect();
        assert_eq!(threads.into_iter().map(|thread| thread.join().unwrap()).sum::<i32>(), 120);
        // What a thread may not do, those that it makes may not either.
        assert!(thread::spawn(|| File::open("/etc/hosts").is_err()).join().unwrap());
    });
}

#[test]
fn what_is_open_stays_what_it_is() {
    alone(|| {
        let mut file = tempfile::tempfile().unwrap();
        let (mut here, mut there) = UnixStream::pair().unwrap();
        enter(|_| {});
        file.write_all(b"packets").unwrap();
        file.rewind().unwrap();
        let mut read = String::new();
        file.read_to_string(&mut read).unwrap();
        assert_eq!(read, "packets");
        file.set_len(3).unwrap();
        file.sync_all().unwrap();
        assert_eq!(file.metadata().unwrap().len(), 3);

        here.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        there.write_all(b"more").unwrap();
        let mut read = [0; 4];
        here.read_exact(&mut read).unwrap();
        assert_eq!(&read, b"more");
        let mut another = UnixStream::pair().unwrap();
        another.0.write_all(b"more").unwrap();
        another.1.read_exact(&mut read).unwrap();
        let (mut reader, mut writer) = io::pipe().unwrap();
        writer.write_all(b"more").unwrap();
        reader.read_exact(&mut read).unwrap();

        assert!(Instant::now().elapsed() < Duration::from_secs(60));
        assert!(SystemTime::now() > SystemTime::UNIX_EPOCH);
        // More than malloc(3) takes from what it has.
        assert_eq!(black_box(vec![1_u8; 64 << 20]).len(), 64 << 20);
    });
}

#[test]
fn memory_that_others_share_can_be_mapped() {
    alone(|| {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        enter(|_| {});
        let descriptor = file.as_raw_fd() as usize;
        let access = (libc::PROT_READ | libc::PROT_WRITE) as usize;
        let map = call_with("mmap", libc::SYS_mmap, [0, 4096, access, libc::MAP_SHARED as usize, descriptor]);
        assert!(call(&map).is_ok());
    });
}

#[test]
fn without_files_nothing_is_opened() {
    alone(|| {
        enter(|_| {});
        let read_only = ["/etc/hosts", "/dev/null", "/proc/self/status", "/"];
        for path in read_only {
            assert_eq!(File::open(path).unwrap_err().raw_os_error(), Some(libc::EPERM), "{path}");
        }
        assert_eq!(UdpSocket::bind("127.0.0.1:0").unwrap_err().raw_os_error(), Some(libc::EPERM));
    });
}

#[test]
fn files_and_folders_that_are_named_are_read_and_no_others() {
    alone(|| {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("folder")).unwrap();
        for name in ["named", "other", "folder/named"] {
            fs::write(at(name), name).unwrap();
        }
        // Whose the process is then may look into it.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let readable = vec![at("named"), at("folder"), at("missing")];
        enter(|sandbox| sandbox.readable = readable);

        assert_eq!(fs::read_to_string(at("named")).unwrap(), "named");
        assert_eq!(fs::read_to_string(at("folder/named")).unwrap(), "folder/named");
        for path in [&at("other"), Path::new("/etc/hosts"), Path::new("/proc/self/status")] {
            assert_eq!(
                File::open(path).unwrap_err().raw_os_error(),
                Some(libc::EACCES),
                "{}",
                path.display()
            );
        }
        assert_eq!(File::create(at("named")).unwrap_err().raw_os_error(), Some(libc::EPERM));
        assert_eq!(fs::remove_file(at("named")).unwrap_err().raw_os_error(), Some(libc::EPERM));
    });
}

/// What looking up names reads.
fn names(sandbox: &mut Sandbox) {
    sandbox.names = true;
    let files = ["hosts", "host.conf", "nsswitch.conf", "resolv.conf", "services", "protocols", "gai.conf"];
    sandbox.readable = files.map(|file| Path::new("/etc").join(file)).into();
}

#[test]
fn names_are_looked_up_by_datagrams_alone() {
    alone(|| {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let stream = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        // The C library opens its modules for that once; it could not do so later.
        let localhost: Vec<_> = "localhost:80".to_socket_addrs().unwrap().collect();
        enter(names);

        assert_eq!("localhost:80".to_socket_addrs().unwrap().collect::<Vec<_>>(), localhost);
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect(server.local_addr().unwrap()).unwrap();
        client.send(b"question").unwrap();
        let mut read = [0; 8];
        assert_eq!(server.recv(&mut read).unwrap(), 8);
        assert_eq!(TcpStream::connect(stream).unwrap_err().raw_os_error(), Some(libc::EPERM));
    });
}

#[test]
fn no_socket_that_has_a_name_can_be_reached() {
    alone(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let _listener = UnixListener::bind(&path).unwrap();
        enter(names);
        assert_eq!(UnixStream::connect(&path).unwrap_err().raw_os_error(), Some(libc::EPERM));
    });
}

#[test]
fn a_process_may_end_itself() {
    let inside = || {
        enter(|_| {});
        process::abort();
    };
    if role().is_some() {
        inside();
    }
    let output = again(&inside, "abort").output().unwrap();
    assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{output:?}");
    assert!(!output.status.core_dumped());
}

#[test]
fn it_does_not_outlive_its_parent() {
    let inside = || {
        enter(|_| {});
        say_entered();
        // A time that is never waited for if the signal comes.
        thread::sleep(Duration::from_secs(20));
        println!("it outlived its parent");
    };
    match role().as_deref() {
        None => {
            // Both write there, and it ends with both.
            let (mut parent, _) = waiting(again(&inside, "parent"));
            parent.kill().unwrap();
            parent.wait().unwrap();
            let mut rest = String::new();
            parent.stdout.unwrap().read_to_string(&mut rest).unwrap();
            assert!(!rest.contains("outlived"), "{rest}");
        }
        Some("parent") => drop(again(&inside, "child").status()),
        Some(_) => inside(),
    }
}

#[test]
fn a_process_that_is_an_orphan_already_does_not_enter() {
    alone(|| {
        let error = Sandbox::new(process::id()).enter().unwrap_err();
        assert_eq!(error.to_string(), "the process that started this one has ended");
    });
}

/// A line of `/proc/PID/status`, by its name.
fn status(pid: u32, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
}

#[track_caller]
fn assert_powerless(pid: u32) {
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(status(pid, set), "0000000000000000", "{set}");
    }
    assert_eq!(status(pid, "NoNewPrivs"), "1");
    assert_eq!(status(pid, "Seccomp"), "2");
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let core = limits.lines().find_map(|line| line.strip_prefix("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().collect::<Vec<_>>(), ["0", "0", "bytes"]);
}

/// Whether somebody who has no more rights than it, and is the same user, can look into a process.
fn is_seen_by(look: &mut Command, pid: u32) -> bool {
    let output = look.arg(format!("/proc/{pid}/environ")).output().unwrap();
    assert!(output.status.success() || output.stdout.is_empty(), "{output:?}");
    output.status.success()
}

#[test]
#[ignore = "needs root"]
fn it_is_nobody() {
    let inside = || {
        let kept = Sandbox::new(parent_id()).enter().unwrap();
        assert_eq!(kept, []);
        wait();
    };
    if role().is_some() {
        return inside();
    }
    let (mut child, pid) = waiting(with(&["--groups", "1,2"], &again(&inside, "nobody")));
    assert_powerless(pid);
    assert_eq!(status(pid, "CapBnd"), "0000000000000000");
    for id in ["Uid", "Gid"] {
        assert_eq!(status(pid, id), "65534 65534 65534 65534");
    }
    assert_eq!(status(pid, "Groups"), "");
    assert!(!is_seen_by(Command::new("cat").uid(NOBODY).gid(NOBODY), pid));
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Has a process with few rights enter, and looks at what it is then.
#[track_caller]
fn assert_stays_root(rights: &str, inside: impl FnOnce()) {
    if role().is_some() {
        inside();
        return wait();
    }
    let (mut child, pid) = waiting(with(&["--bounding-set", rights], &again(&inside, "root")));
    assert_powerless(pid);
    assert_eq!(status(pid, "Uid"), "0 0 0 0");
    assert!(!is_seen_by(&mut with(&["--bounding-set", "-all"], &Command::new("cat")), pid));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
#[ignore = "needs root"]
fn who_may_not_become_another_says_so_and_is_powerless_all_the_same() {
    assert_stays_root("-setuid,-setgid,-setpcap", || {
        let user = Kept::User { uid: 0, lacks: Lack::ToBecome(Errno::EPERM) };
        assert_eq!(user.to_string(), "it runs as user 0 (no CAP_SETUID: Operation not permitted)");
        assert_eq!(Sandbox::new(parent_id()).enter().unwrap(), [Kept::Groups(Errno::EPERM), user]);
    });
}

#[test]
#[ignore = "needs root"]
fn who_could_not_be_ended_as_another_stays_who_it_is() {
    assert_stays_root("-kill", || {
        let user = Kept::User { uid: 0, lacks: Lack::ToBeEnded };
        assert_eq!(Sandbox::new(parent_id()).enter().unwrap(), [user]);
    });
}
