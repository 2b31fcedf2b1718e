//! What each capability is for, as docs/cluster.md tells it.

use sniff_tests::{
    machine::{FakePod, Machine},
    netns::Netns,
    sniff::Sniff,
    traffic,
};

use crate::Capture;

/// Something failed.
const FAILURE: i32 = 1;

/// Captures three echoes and their answers without some capabilities, and returns what was said on the way.
fn capture_without(machine: &Netns, pod: &FakePod, without: &[&str]) -> Vec<String> {
    let capture = Capture::new();
    let sniff = Sniff::in_netns(machine)
        .args(["--netns", "blue", "-w", capture.arg(), "icmp"])
        .without(without)
        .start();
    traffic::ping(machine, pod.ipv4.into(), 3, 56);
    let outcome = sniff.stop();
    assert_eq!(capture.read_whole(&outcome).packets.len(), 6, "{without:?}: {outcome:?}");
    outcome.stderr
}

/// A capture without these says as much as one with all others.
fn assert_nothing_is_missed(machine: &Netns, pod: &FakePod, without: &[&str]) {
    let usual = capture_without(machine, pod, &["wake_alarm"]);
    let said = capture_without(machine, pod, without);
    assert_eq!(said.len(), usual.len(), "{said:#?}");
}

#[test]
fn without_a_capability_that_it_takes_sniff_names_it() {
    let machine = Machine::boot();
    machine.fake_pod("blue", 1);
    let netns = machine.netns();
    for (capability, name) in [
        ("net_admin", "CAP_NET_ADMIN (attach to interfaces)"),
        ("sys_ptrace", "CAP_SYS_PTRACE (look at other users' processes)"),
        ("sys_admin", "CAP_SYS_ADMIN (enter a pod's network namespace)"),
    ] {
        let outcome =
            Sniff::in_netns(&netns).args(["--netns", "blue", "-w", "-"]).without(&[capability]).run();
        let line = outcome.refusal(FAILURE);
        assert!(line.ends_with(&format!("with {name}")), "{line}");
    }
}

#[test]
fn what_sys_admin_stands_for_can_be_left_out() {
    let machine = Machine::boot();
    let pod = machine.fake_pod("blue", 1);
    assert_nothing_is_missed(&machine.netns(), &pod, &["bpf", "perfmon"]);
}

#[test]
fn without_net_broadcast_interfaces_that_come_later_are_said_not_to_be_captured() {
    let machine = Machine::boot();
    let pod = machine.fake_pod("blue", 1);
    let said = capture_without(&machine.netns(), &pod, &["net_broadcast"]);
    let warned = "interfaces that come later are not captured";
    assert!(
        said.iter().any(|line| line.contains(warned) && line.ends_with("CAP_NET_BROADCAST")),
        "{said:#?}"
    );
}

#[test]
fn without_the_right_to_become_another_user_packets_are_read_as_this_one_which_is_said() {
    let machine = Machine::boot();
    let pod = machine.fake_pod("blue", 1);
    for (without, why) in [("setuid", "no CAP_SETUID"), ("kill", "no CAP_KILL")] {
        let said = capture_without(&machine.netns(), &pod, &[without]);
        let told = "of the process that reads packets: it runs as user 0";
        assert!(said.iter().any(|line| line.contains(told) && line.contains(why)), "{said:#?}");
    }
}

/// All that the container of the overlay `least-privilege` lacks of root's.
#[test]
fn no_other_capability_is_missed() {
    let machine = Machine::boot();
    let pod = machine.fake_pod("blue", 1);
    let others = [
        "audit_control",
        "audit_read",
        "audit_write",
        "block_suspend",
        "checkpoint_restore",
        "chown",
        "dac_override",
        "dac_read_search",
        "fowner",
        "fsetid",
        "ipc_lock",
        "ipc_owner",
        "lease",
        "linux_immutable",
        "mac_admin",
        "mac_override",
        "mknod",
        "net_bind_service",
        "net_raw",
        "setfcap",
        "setpcap",
        "sys_boot",
        "sys_chroot",
        "sys_module",
        "sys_nice",
        "sys_pacct",
        "sys_rawio",
        "sys_resource",
        "sys_time",
        "sys_tty_config",
        "syslog",
        "wake_alarm",
    ];
    assert_nothing_is_missed(&machine.netns(), &pod, &others);
}
