//! What cannot be done is refused with one line that says what, which and what to do.

use std::{
    fs::{self, File, Permissions},
    io::Read as _,
    os::unix::fs::{PermissionsExt as _, symlink},
    process::Stdio,
};

use nix::pty::openpty;
use sniff_tests::{
    cgroup::MemoryLimit,
    frame,
    machine::{FakePod, Machine},
    netns::{Netns, install},
    node::Node,
    sniff::{self, Sniff},
};

/// Something failed.
const FAILURE: i32 = 1;
/// The command line is wrong.
const USAGE: i32 = 2;

/// Runs sniff with `args` and checks its refusal: exit code, one line, and what the line names.
fn assert_refused(netns: &Netns, args: &[&str], code: i32, names: &[&str]) {
    let outcome = Sniff::in_netns(netns).args(args.iter().copied()).run();
    let line = outcome.refusal(code);
    for name in names {
        assert!(line.contains(name), "{args:?}: no {name:?} in {line:?}");
    }
}

#[test]
fn a_wrong_command_line_is_a_usage_error() {
    let machine = Machine::boot();
    let netns = machine.netns();
    for (args, names) in [
        (&[][..], &["--pod"][..]),
        (&["--pod", "Shop_1/web"], &["Shop_1", "--pod"]),
        (&["--pod", "shop/web/eth0"], &["shop/web/eth0", "--pod"]),
        (&["--pod", "shop/../etc"], &["shop/../etc", "--pod"]),
        (&["-i", "lo", "--count", "many"], &["many", "--count"]),
        (&["-i", "lo", "--count", "0"], &["0", "--count"]),
        (&["-i", "lo", "-s", "262145"], &["262145", "262144"]),
        (&["-i", "lo", "--duration", "soon"], &["soon", "--duration"]),
        (&["-i", "lo", "-B", "64"], &["64", "--buffer-size", "MiB"]),
        (&["-i", "lo", "-B", "1KiB"], &["1KiB", "512KiB"]),
        (&["-i", "lo", "-Q", "sideways"], &["sideways", "inout"]),
        (&["-i", "lo", "--attach", "above"], &["above", "auto"]),
        (&["--pid", "first"], &["first", "--pid"]),
        (&["-i", "lo", "--print", "-w", "-"], &["--print", "-w"]),
        (&["-i", "lo", "--duration", "0s"], &["0s", "--duration"]),
        (&["--list", "--pod", "a/b"], &["--list", "--pod"]),
        (&["-D", "-i", "lo"], &["--list", "--interface"]),
        (&["-D", "-w", "f"], &["--list", "--write"]),
        (&["-D", "tcp"], &["--list", "EXPRESSION"]),
        (&["--nonsense"], &["--nonsense"]),
    ] {
        assert_refused(&netns, args, USAGE, names);
    }
}

#[test]
fn a_buffer_that_finds_no_memory_is_refused_with_what_to_do() {
    let machine = Machine::boot();
    let netns = machine.netns();
    let limit = MemoryLimit::new(64 << 20);
    let script = format!("echo 0 > {} && exec \"$0\" \"$@\"", limit.procs().display());
    let limited = |buffer: &str| {
        let args = ["-i", "lo", "-B", buffer, "--duration", "1ms"];
        let command = ["-c".into(), script.clone().into(), sniff::binary().into_os_string()];
        Sniff::in_netns(&netns).program("sh").args(command).args(args).run()
    };
    for buffer in ["500MiB", "2GiB"] {
        let line = limited(buffer).refusal(FAILURE).to_owned();
        assert!(line.contains("(-B)") && line.contains("memory limit of the pod"), "{line}");
    }
    limited("8MiB").success();
}

#[test]
fn a_target_that_is_not_there_is_named() {
    let machine = Machine::boot();
    let netns = machine.netns();
    let FakePod { .. } = machine.fake_pod("blue", 1);
    for (args, names) in [
        (&["-i", "eth7"][..], &["eth7", "veth-blue"][..]),
        (&["--netns", "blue", "-i", "eth7"], &["eth7", "blue", "eth0"]),
        (&["--netns", "green"], &["green"]),
        (&["--netns", "/etc/passwd"], &["/etc/passwd"]),
        (&["--pid", "99999999"], &["99999999"]),
        (&["--pod", "shop/web"], &["shop/web", "--cri-socket"]),
        (&["--pod", "a/b", "--cri-socket", "/run/no.sock"], &["/run/no.sock"]),
    ] {
        assert_refused(&netns, args, FAILURE, names);
    }
}

#[test]
fn a_pod_that_cannot_be_captured_is_named_and_what_to_do_instead() {
    let node = Node::start();
    let _web = node.pod("shop", "web-7d9f").start();
    let stopped = node.pod("shop", "stopped").start();
    stopped.sandbox.stop();
    let _proxy = node.host_network_pod("kube-system", "proxy");
    for (args, names) in [
        (&["--pod", "shop/web-7d9g"][..], &["shop/web-7d9g", "shop/web-7d9f"][..]),
        (&["--pod", "shpo/web-7d9f"], &["shpo/web-7d9f", "shop/web-7d9f"]),
        (&["--pod", "shop/stopped"], &["shop/stopped", "not running"]),
        (&["--pod", "kube-system/proxy"], &["kube-system/proxy", "host", "-i"]),
        (&["--pod", "shop/web-7d9f", "-i", "eth7"], &["shop/web-7d9f", "eth7", "eth0"]),
        (&["--container-id", "0123456789abcdef"], &["0123456789abcdef"]),
    ] {
        assert_refused(&node.netns, args, FAILURE, names);
    }
}

#[test]
fn an_output_that_cannot_be_written_is_named() {
    let machine = Machine::boot();
    machine.fake_pod("blue", 1);
    for path in ["/run/nowhere/f.pcapng", "/run", "/proc/version"] {
        assert_refused(&machine.netns(), &["--netns", "blue", "-w", path], FAILURE, &[path]);
    }
}

#[test]
fn a_file_is_for_its_owner_and_no_link_is_followed_to_it() {
    let machine = Machine::boot();
    machine.fake_pod("blue", 1);
    let capture = |path: &str| {
        let args = ["--netns", "blue", "--duration", "1ms", "-w", path];
        Sniff::in_netns(&machine.netns()).args(args).run()
    };
    capture("/run/new").success();
    let mode = |path| fs::metadata(machine.path(path)).expect("a file").permissions().mode() & 0o777;
    assert_eq!(mode("/run/new"), 0o600);
    // One that is there is overwritten, and its owner has chosen its mode.
    fs::set_permissions(machine.path("/run/new"), Permissions::from_mode(0o640)).expect("a mode");
    capture("/run/new").success();
    assert_eq!(mode("/run/new"), 0o640);

    let shared = machine.path("/run/shared");
    fs::create_dir(&shared).expect("a folder");
    fs::set_permissions(&shared, Permissions::from_mode(0o1777)).expect("a mode");
    fs::write(machine.path("/run/secret"), "secret").expect("a file");
    symlink("/run/secret", shared.join("laid")).expect("a link");
    symlink("/run/made", shared.join("dangling")).expect("a link");
    for path in ["/run/shared/laid", "/run/shared/dangling"] {
        let outcome = capture(path);
        let line = outcome.refusal(FAILURE);
        assert!(line.contains(path) && line.contains("symbolic link"), "{line}");
    }
    assert_eq!(fs::read_to_string(machine.path("/run/secret")).expect("a file"), "secret");
    assert!(!machine.path("/run/made").exists());
    for path in ["/dev/null", "/dev/stdout"] {
        capture(path).success();
    }
}

#[test]
fn too_few_open_files_are_told_with_their_limit() {
    let machine = Machine::boot();
    let node = machine.netns();
    let pod = machine.fake_pod("blue", 1).netns;
    let limited = |limit: u32| {
        let script = format!("ulimit -n {limit} && exec \"$0\" \"$@\"");
        let command = ["-c".into(), script.into(), sniff::binary().into_os_string()];
        let args = ["--netns", "blue", "--duration", "1ms"];
        Sniff::in_netns(&node).program("sh").args(command).args(args).run()
    };
    limited(64).success();
    for number in 0..30 {
        frame::tun_device(&pod, &format!("tun{number}"), 0xfffe);
    }
    for limit in [12, 63, 64, 80] {
        let outcome = limited(limit);
        assert_eq!(outcome.status.code(), Some(FAILURE), "{outcome:#?}");
        let line = outcome.stderr.last().expect("a line");
        assert!(line.contains(&format!(" {limit}, ")) && line.contains("ulimit -n"), "{outcome:#?}");
    }
    limited(1000).success();
}

#[test]
fn a_capture_that_cannot_start_leaves_an_older_file_as_it_is() {
    const OLD: &[u8] = b"an older capture";
    let machine = Machine::boot();
    let pod = machine.fake_pod("blue", 1);
    let file = machine.path("/run/old.pcapng");
    fs::write(&file, OLD).expect("an older file");
    for target in [
        &["-i", &pod.veth.name, "--attach", "pod"][..],
        &["--netns", "green"],
        &["--netns", "blue", "-i", "eth7"],
        &["--netns", "blue", "--pid", "99999999"],
    ] {
        let args = [target, &["-w", "/run/old.pcapng"]].concat();
        Sniff::in_netns(&machine.netns()).args(args).run().refusal(FAILURE);
        assert!(fs::read(&file).expect("the file") == OLD, "{target:?} has changed the file");
    }
}

#[test]
fn packets_are_not_written_to_a_terminal_as_bytes() {
    let machine = Machine::boot();
    machine.fake_pod("blue", 1);
    for path in ["-", "/dev/stdout"] {
        let pty = openpty(None, None).expect("a pseudo-terminal");
        let outcome = Sniff::in_netns(&machine.netns())
            .args(["--netns", "blue", "-w", path])
            .stdout(Stdio::from(pty.slave))
            .run();
        let line = outcome.refusal(FAILURE);
        assert!(line.contains("terminal"), "{path}: {line}");
        // With its other end closed, a terminal that got nothing answers with an error.
        let read = File::from(pty.master).read(&mut [0; 64]);
        assert!(!matches!(read, Ok(1..)), "{path}: bytes on the terminal");
    }
}

#[test]
fn without_privileges_the_capability_that_is_missing_is_named() {
    const NOBODY: u32 = 65534;
    let machine = Machine::boot();
    machine.fake_pod("blue", 1);
    // Where it was built, nobody but root may be able to look.
    let copy = machine.path("/run/sniff");
    install(&sniff::binary(), &copy);
    let netns = machine.netns();
    let sniff = Sniff::in_netns(&netns).program("/run/sniff").args(["--netns", "blue"]);
    let outcome = sniff.user(NOBODY).run();
    let line = outcome.refusal(FAILURE);
    assert!(line.contains("CAP_NET_ADMIN") && line.contains("root"), "{line}");
}
