//! Whoever knows tcpdump or dumpcap is at home: what they type runs, or sniff says what to type.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, chown},
    process::Stdio,
};

use nix::unistd::User;
use sniff_tests::{
    machine::Machine,
    netns::{Netns, tool},
    sniff::{self, Sniff},
    traffic,
};

/// What becomes of a command line, and the line.
const HABITS: &str = include_str!("../data/tcpdump-habits.txt");
/// The command line is wrong.
const USAGE: i32 = 2;

/// A shell that becomes sniff, with its options as somebody has typed them.
fn typed<'a>(netns: &'a Netns, options: &str) -> Sniff<'a> {
    let script = format!("cd /run && exec \"$0\" {options}");
    let args = ["-c".into(), script.into(), sniff::binary().into_os_string()];
    Sniff::in_netns(netns).program("sh").args(args)
}

#[test]
fn what_is_typed_from_habit_runs_or_is_told_what_to_type() {
    let machine = Machine::boot();
    let netns = machine.netns();
    let interface = machine.fake_pod("blue", 1).veth.name;
    let lines = HABITS.lines().filter(|line| !line.starts_with('#'));
    let mut count = 0;
    for line in lines {
        let (becomes, line) = line.split_once('\t').expect("what becomes of it, and the line");
        // What others make of its output is theirs.
        let ours = line.split(" | ").next().and_then(|line| line.strip_prefix("sniff ")).expect("sniff");
        let sniff = typed(&netns, &ours.replace("IFACE", &interface));
        match becomes.split_once(' ') {
            None if becomes == "runs" => drop(sniff.start().stop().success()),
            None if becomes == "prints" => {
                let outcome = sniff.run();
                assert!(outcome.status.success() && !outcome.stdout.is_empty(), "{line}: {outcome:#?}");
            }
            Some(("says", part)) => {
                let outcome = sniff.run();
                let refusal = outcome.refusal(USAGE);
                assert!(refusal.contains("type ") && refusal.contains(part), "{line}: {refusal}");
            }
            _ => panic!("{becomes}: {line}"),
        }
        count += 1;
    }
    assert_eq!(count, 34);
}

#[test]
fn a_filter_is_listed_as_tcpdump_lists_it() {
    let machine = Machine::boot();
    let netns = machine.netns();
    let interface = machine.fake_pod("blue", 1).veth.name;
    for form in ["-d", "-dd", "-ddd"] {
        for filter in ["port 80", "icmp6 or arp", "ip[8] > 1"] {
            let args = [form, "-i", &interface, filter];
            let mut tcpdump = tool("tcpdump");
            let tcpdump = netns.spawn(tcpdump.args(args).stdout(Stdio::piped()));
            let expected = tcpdump.wait_with_output().expect("tcpdump's end").stdout;
            let ours = Sniff::in_netns(&netns).args(args).run().stdout;
            let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
            assert_eq!(text(ours), text(expected), "{form} {filter}");
        }
    }
}

#[test]
fn files_are_made_and_written_with_a_users_rights_alone() {
    const NOBODY: &str = "nobody";
    let machine = Machine::boot();
    let netns = machine.netns();
    let pod = machine.fake_pod("blue", 1);
    let nobody = User::from_name(NOBODY).expect("the users").expect("nobody");
    let folder = machine.path("/run/theirs");
    fs::create_dir(&folder).expect("a folder");
    chown(&folder, Some(nobody.uid.as_raw()), None).expect("its owner");
    let capture = |file: &str| {
        Sniff::in_netns(&netns).args(["-i", &pod.veth.name, "-Z", NOBODY, "-c", "4", "-w", file])
    };

    let running = capture("/run/theirs/f.pcapng").start();
    let status = fs::read_to_string(format!("/proc/{}/status", running.pid())).expect("its status");
    assert!(status.lines().any(|line| line.trim_end() == "Groups:"), "{status}");
    traffic::ping(&netns, pod.ipv4.into(), 2, 56);
    assert_eq!(running.wait().success().captured, 4);
    let file = fs::metadata(folder.join("f.pcapng")).expect("the file");
    assert_eq!((file.uid(), file.gid()), (nobody.uid.as_raw(), nobody.gid.as_raw()));

    // Root may write there, and is not asked.
    fs::create_dir(machine.path("/run/ours")).expect("a folder");
    let outcome = capture("/run/ours/f.pcapng").run();
    let refusal = outcome.refusal(1);
    assert!(refusal.contains("/run/ours/f.pcapng") && refusal.contains("ermission denied"), "{refusal}");
    let outcome = Sniff::in_netns(&netns).args(["-i", "lo", "-Z", "nosuch", "-w", "/run/f"]).run();
    assert!(outcome.refusal(1).contains("no user nosuch"), "{outcome:#?}");
}
