//! The half of sniff that reads what strangers send, in a stranger's hands: whatever it tries, it has nothing but what it was
//! given, and what it says cannot have anything else captured.

use std::{fs, path::Path, time::Duration};

use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use sniff_protocol::message::{CapturePlan, ClientHello, Reason};
use sniff_tests::{
    intruder::{Intruder, front_of, status},
    leftovers::BpfObjects,
    pcap,
    serve::{Serving, hello, node_interface},
    sniff::{self, Outcome, Running, Sniff},
    wait,
};

use crate::{Capture, OnePod};

/// Something failed.
const FAILURE: i32 = 1;
/// How long a process may take to be there, or gone.
const PATIENCE: Duration = Duration::from_secs(20);
const PINGS: u64 = 3;
/// Packets of an echo: it and its answer.
const EACH: u64 = 2;

impl OnePod {
    fn capture(&self, capture: &Capture) -> Sniff<'_> {
        self.sniff(&["-w", capture.arg(), "icmp"])
    }

    /// Tries everything from inside the front half of a running sniff, between packets that are captured.
    #[track_caller]
    fn break_in(&self, sniff: u32) {
        self.ping(PINGS as u32);
        let folder = tempfile::tempdir().expect("a directory");
        let mut intruder = Intruder::of(front_of(sniff));
        let parent = self.machine.pid_inside(sniff);
        let tried = attempts(&mut intruder, parent.into(), folder.path());
        drop(intruder);
        let is_refused = |(_, answer): &(_, _)| matches!(answer, Err(Errno::EPERM | Errno::EACCES));
        let granted: Vec<_> = tried.iter().filter(|attempt| !is_refused(attempt)).collect();
        assert!(granted.is_empty(), "{granted:?}");
        assert_eq!(fs::read_dir(folder.path()).expect("a directory").count(), 0);
        self.ping(PINGS as u32);
    }
}

fn kill_hard(pid: u32) {
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).expect("killing a process of ours");
}

/// What was tried, and what the kernel said to it.
type Attempts = Vec<(String, Result<u64, Errno>)>;

/// Tries what nobody is to do who has taken over the front half.
fn attempts(intruder: &mut Intruder, parent: u64, folder: &Path) -> Attempts {
    let mut tried = files(intruder, parent, folder);
    let program = intruder.place_name("/bin/true");
    let attribute = intruder.place(&[0; 128]);
    let (inet, inet6) = (libc::AF_INET as u64, libc::AF_INET6 as u64);
    let stream = libc::SOCK_STREAM as u64;
    let calls: [(&str, libc::c_long, &[u64]); 22] = [
        ("a program", libc::SYS_execve, &[program, 0, 0]),
        ("a process", libc::SYS_clone, &[libc::SIGCHLD as u64]),
        ("a BPF map", libc::SYS_bpf, &[0, attribute, 128]),
        ("a BPF program", libc::SYS_bpf, &[5, attribute, 128]),
        ("a look at a BPF object", libc::SYS_bpf, &[15, attribute, 128]),
        ("another namespace", libc::SYS_setns, &[0, libc::CLONE_NEWNET as u64]),
        ("a namespace of its own", libc::SYS_unshare, &[libc::CLONE_NEWUSER as u64]),
        ("tracing its parent", libc::SYS_ptrace, &[libc::PTRACE_ATTACH.into(), parent]),
        ("its parent's memory", libc::SYS_process_vm_readv, &[parent, attribute, 1, attribute, 1]),
        ("its parent's descriptors", libc::SYS_pidfd_open, &[parent]),
        ("its parent's end", libc::SYS_kill, &[parent, libc::SIGKILL as u64]),
        ("everybody's end", libc::SYS_kill, &[u64::MAX, libc::SIGKILL as u64]),
        ("a TCP socket", libc::SYS_socket, &[inet, stream]),
        ("a TCP socket of IPv6", libc::SYS_socket, &[inet6, stream]),
        ("a raw socket", libc::SYS_socket, &[inet, libc::SOCK_RAW as u64, 1]),
        ("a packet socket", libc::SYS_socket, &[libc::AF_PACKET as u64, libc::SOCK_RAW as u64]),
        ("a Unix socket", libc::SYS_socket, &[libc::AF_UNIX as u64, stream]),
        ("a mount", libc::SYS_mount, &[program, program, 0, libc::MS_BIND]),
        ("another user", libc::SYS_setresuid, &[0, 0, 0]),
        ("a limit", libc::SYS_prlimit64, &[parent, 0, attribute]),
        ("its own memory as a program", libc::SYS_mprotect, &[attribute & !4095, 4096, 4]),
        ("typing at its terminal", libc::SYS_ioctl, &[0, libc::TIOCSTI, attribute]),
    ];
    tried.extend(calls.map(|(what, number, given)| (what.to_owned(), intruder.call(number, given))));
    tried
}

/// Tries to open, make and remove files.
fn files(intruder: &mut Intruder, parent: u64, folder: &Path) -> Attempts {
    let memory = format!("/proc/{parent}/mem");
    let open = ["/etc/shadow", "/etc/passwd", "/proc/1/environ", "/proc/self/mem", "/", &memory];
    let cwd = libc::AT_FDCWD as u64;
    let mut tried = Attempts::new();
    for path in open {
        let name = intruder.place_name(path);
        tried.push((path.to_owned(), intruder.call(libc::SYS_openat, &[cwd, name, 0])));
    }
    let new = intruder.place_name(folder.join("new").to_str().expect("a plain path"));
    let creat = (libc::O_CREAT | libc::O_WRONLY) as u64;
    let calls: [(&str, libc::c_long, &[u64]); 5] = [
        ("a new file", libc::SYS_openat, &[cwd, new, creat, 0o666]),
        ("a folder", libc::SYS_mkdirat, &[cwd, new, 0o777]),
        ("a link", libc::SYS_symlinkat, &[new, cwd, new]),
        ("a file's end", libc::SYS_unlinkat, &[cwd, new, 0]),
        ("a file's mode", libc::SYS_fchmodat, &[cwd, new, 0o777]),
    ];
    tried.extend(calls.map(|(what, number, given)| (what.to_owned(), intruder.call(number, given))));
    tried
}

#[test]
fn a_file_is_written_by_somebody_who_can_do_nothing_else() {
    let place = OnePod::new();
    let capture = Capture::new();
    let sniff = place.capture(&capture).start();
    place.break_in(sniff.pid());
    // Another file, as for a series.
    forge(front_of(sniff.pid()), &[2, 0, 0, 0, 3, 0]);
    place.ping(PINGS as u32);
    let file = capture.read_whole(&sniff.stop());
    assert_eq!(file.packets.len() as u64, 3 * PINGS * EACH);
    let folder = capture.path().parent().expect("a directory");
    assert_eq!(fs::read_dir(folder).expect("a directory").count(), 1);
}

#[test]
fn lines_are_printed_by_somebody_who_can_do_nothing_else() {
    let place = OnePod::new();
    let sniff = place.sniff(&["icmp"]).start();
    place.break_in(sniff.pid());
    let outcome = sniff.stop();
    assert_eq!(outcome.success().captured, 2 * PINGS * EACH);
    assert_eq!(outcome.stdout.split(|byte| *byte == b'\n').count() as u64 - 1, 2 * PINGS * EACH);
}

#[test]
fn a_client_is_served_by_somebody_who_can_do_nothing_else() {
    let place = OnePod::new();
    let mut serving = Serving::start(&place.node);
    // Names are looked up in files, by what has no other files.
    let filter = r"icmp or (host localhost and port domain and ip proto \ospf)".to_owned();
    let plan = CapturePlan { filter: Some(filter), ..CapturePlan::default() };
    serving.begin(ClientHello { plan, ..hello(vec![node_interface(&place.pod.veth.name)]) });
    place.break_in(serving.pid());
    let outcome = serving.stop();
    assert_eq!(outcome.end().reason, Reason::Stopped);
    assert_eq!(outcome.file().packets.len() as u64, 2 * PINGS * EACH);
}

fn has_open(pid: u32, path: &str) -> bool {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("a live process").flatten();
    open.filter_map(|entry| fs::read_link(entry.path()).ok()).any(|it| it == Path::new(path))
}

#[test]
fn what_was_left_open_stays_with_who_has_the_rights() {
    let place = OnePod::new();
    let shell = ["-c", r#"exec "$0" "$@" 9< /etc/shadow"#];
    let sniff = Sniff::in_netns(&place.node).program("sh").args(shell).args([sniff::binary()]);
    let sniff = sniff.args(["--netns", "blue", "-w", "/dev/null"]).start();
    assert!(has_open(sniff.pid(), "/etc/shadow"));
    assert!(!has_open(front_of(sniff.pid()), "/etc/shadow"));
    sniff.stop().success();
}

#[test]
fn who_has_the_rights_takes_no_order_from_who_has_none() {
    let place = OnePod::new();
    let before = place.snapshot();
    for (what, forged, words) in [
        ("4 GiB", &[0xff; 4][..], "makes no sense"),
        ("no message", &[1, 0, 0, 0, 0x7f], "makes no sense"),
        ("answers to nothing", &[2, 0, 0, 0, 7, 0, 2, 0, 0, 0, 7, 0], "was not asked"),
        ("a region that there is not", &[7, 0, 0, 0, 2, 1, 0xff, 0xff, 0xff, 0xff, 0x0f], "makes no sense"),
    ] {
        let capture = Capture::new();
        // Nor can it always kill whom it does not trust.
        let sniff = place.capture(&capture).without(&["kill"]).start();
        place.ping(PINGS as u32);
        let objects = BpfObjects::held_by(sniff.pid());
        forge(front_of(sniff.pid()), forged);
        let outcome = sniff.wait();
        assert_eq!(outcome.status.code(), Some(FAILURE), "{what}: {outcome:#?}");
        assert!(outcome.stderr.iter().any(|line| line.contains(words)), "{what}: {outcome:#?}");
        objects.assert_gone();
        before.assert_unchanged(&sniff::binary());
    }
}

/// Writes a message to whoever hears the process `front`, as sniff's `halves` have them: a length and postcard's bytes.
fn forge(front: u32, bytes: &[u8]) {
    let mut intruder = Intruder::of(front);
    let at = intruder.place(bytes);
    for socket in intruder.unix_sockets() {
        // One that nobody reads is closed; and after the right one, the process may be gone.
        let given = [socket, at, bytes.len() as u64, libc::MSG_NOSIGNAL as u64, 0, 0];
        if intruder.try_call(libc::SYS_sendto, &given).is_none() {
            return;
        }
    }
}

/// What a capture whose front half was killed says and leaves behind.
#[track_caller]
fn assert_ended_without_front(sniff: Running) -> Outcome {
    let outcome = sniff.wait();
    assert_eq!(outcome.status.code(), Some(FAILURE), "{outcome:#?}");
    let said = outcome.stderr.iter().filter(|line| line.contains("was killed by SIGKILL"));
    assert_eq!(said.count(), 1, "{outcome:#?}");
    outcome
}

#[test]
fn without_its_front_half_a_capture_detaches_and_fails() {
    let place = OnePod::new();
    let before = place.snapshot();
    let capture = Capture::new();
    // By clsact, whose filters do not go with the process.
    let sniff = place.capture(&capture).args(["--hook", "clsact"]).start();
    let objects = BpfObjects::held_by(sniff.pid());
    place.ping(PINGS as u32);
    kill_hard(front_of(sniff.pid()));
    assert_ended_without_front(sniff);
    objects.assert_gone();
    before.assert_unchanged(&sniff::binary());
    pcap::read_cut_pcapng(capture.path());
}

#[test]
fn the_front_half_does_not_outlive_the_other_one() {
    let place = OnePod::new();
    let before = place.snapshot();
    // Without the right to send signals to others, the kernel does not kill it for its parent.
    for without in [None, Some("kill")] {
        let capture = Capture::new();
        let sniff = place.capture(&capture);
        let sniff = match without {
            None => sniff.start(),
            Some(capability) => sniff.without(&[capability]).start(),
        };
        let (objects, front) = (BpfObjects::held_by(sniff.pid()), front_of(sniff.pid()));
        kill_hard(sniff.pid());
        assert_eq!(sniff.wait().signal(), Some(Signal::SIGKILL as i32));
        wait::until("the end of the front half", PATIENCE, || {
            status(front, "State").is_none_or(|state| state.starts_with('Z')).then_some(())
        });
        objects.assert_gone();
        before.assert_unchanged(&sniff::binary());
    }
}
