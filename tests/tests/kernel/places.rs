//! What is in the way at an interface, or comes between it and the wire: sniff captures elsewhere, or says so.

use sniff_tests::{
    bpf::{Hook, Insn, Kind, Program, redirect_peer},
    kernel,
    machine::{FakePod, Machine},
    netns::Netns,
    pcap::{Direction, PcapNg},
    sniff::{Outcome, Sniff},
    traffic,
};

use crate::{Capture, echoes, time_in, two_pods};

const FAILURE: i32 = 1;

/// Echoes of a payload of 56 bytes into and out of the pod.
fn both_ways(file: &PcapNg) -> (usize, usize) {
    let packets = &file.packets;
    (echoes(packets, Direction::In, 56), echoes(packets, Direction::Out, 56))
}

fn description(file: &PcapNg) -> &str {
    file.interfaces[0].description.as_deref().expect("a description")
}

/// Captures five pings to the pod.
fn capture(node: &Netns, pod: &FakePod, args: &[&str]) -> (PcapNg, Outcome) {
    let capture = Capture::new();
    let sniff = Sniff::in_netns(node).args(args.iter().copied().chain(["-w", capture.arg()])).start();
    traffic::ping(node, pod.ipv4.into(), 5, 56);
    let outcome = sniff.stop();
    (capture.read_counted(&outcome), outcome)
}

fn refusal(node: &Netns, args: &[&str]) -> String {
    Sniff::in_netns(node).args(args).args(["--duration", "1s"]).run().refusal(FAILURE).to_owned()
}

/// A program that lets everything pass.
fn program() -> Program {
    let next = [Insn::new(0xb7, 0x00, 0, -1), Insn::new(0x95, 0x00, 0, 0)];
    Program::load(Kind::Classifier, &next).expect("a program")
}

#[test]
fn clsact_keeps_away_from_an_ingress_qdisc() {
    let machine = Machine::boot();
    let node = machine.netns();
    let pod = machine.fake_pod("blue", 1);
    let veth = pod.veth.name.as_str();
    node.run(&format!("tc qdisc add dev {veth} ingress"));
    let state = || node.run("tc qdisc show") + &node.run(&format!("tc filter show dev {veth} ingress"));
    let before = state();
    let by_clsact = ["--netns", "blue", "--hook", "clsact"];

    let (inside, _) = capture(&node, &pod, &by_clsact);
    assert_eq!(both_ways(&inside), (5, 5));
    assert!(description(&inside).contains("inside the pod"), "{}", description(&inside));

    // One hook is there all the same, and what it gives is true.
    let (out, _) = capture(&node, &pod, &[&by_clsact[..], &["--attach", "host", "-Q", "out"]].concat());
    assert_eq!(both_ways(&out), (0, 5));
    let (received, _) = capture(&node, &pod, &["-i", veth, "--hook", "clsact", "-Q", "in"]);
    assert_eq!(both_ways(&received), (5, 0));

    let host = refusal(&node, &[&by_clsact[..], &["--attach", "host"]].concat());
    assert!(host.contains("netns:blue/eth0: an ingress qdisc is on veth-blue"), "{host}");
    assert!(host.contains("use --attach pod, or -Q out"), "{host}");
    let node_interface = refusal(&node, &["-i", veth, "--hook", "clsact"]);
    assert!(node_interface.contains("veth-blue: an ingress qdisc is on veth-blue"), "{node_interface}");
    assert!(node_interface.contains("-Q in"), "{node_interface}");
    assert_eq!(state(), before);
}

#[test]
fn clsact_keeps_away_from_a_filter_that_nothing_can_precede() {
    let machine = Machine::boot();
    let node = machine.netns();
    let pod = machine.fake_pod("blue", 1);
    let veth = pod.veth.name.as_str();
    node.run(&format!("tc qdisc add dev {veth} clsact"));
    // As the CNI bandwidth plugin's, which redirects all that the pod sends.
    node.run(&format!("tc filter add dev {veth} ingress protocol all prio 1 u32 match u32 0 0"));
    let by_clsact = ["--netns", "blue", "--hook", "clsact"];

    let (inside, _) = capture(&node, &pod, &by_clsact);
    assert_eq!(both_ways(&inside), (5, 5));
    assert!(description(&inside).contains("inside the pod"), "{}", description(&inside));

    let (into, _) = capture(&node, &pod, &[&by_clsact[..], &["--attach", "host", "-Q", "in"]].concat());
    assert_eq!(both_ways(&into), (5, 0));

    let host = refusal(&node, &[&by_clsact[..], &["--attach", "host"]].concat());
    assert!(host.contains("netns:blue/eth0: a u32 filter of priority 1 is on veth-blue"), "{host}");
    assert!(host.contains("use --attach pod, or -Q in"), "{host}");
}

#[test]
fn one_interface_that_cannot_be_captured_does_not_end_the_capture_of_others() {
    let machine = Machine::boot();
    let node = machine.netns();
    let (blue, red) = (machine.fake_pod("blue", 1), machine.fake_pod("red", 2));
    node.run(&format!("tc qdisc add dev {} ingress", red.veth.name));
    red.netns.run("tc qdisc add dev eth0 ingress");
    let both = ["--netns", "red", "--netns", "blue", "--hook", "clsact"];

    let (file, outcome) = capture(&node, &blue, &both);
    assert_eq!(both_ways(&file), (5, 5));
    assert_eq!(file.interfaces.len(), 1);
    assert_eq!(file.interfaces[0].name.as_deref(), Some("netns:blue/eth0"));
    let said = |text: &str| outcome.stderr.iter().any(|line| line.contains(text));
    assert!(said("not captured: netns:red/eth0: an ingress qdisc is on eth0"), "{outcome:#?}");
    assert!(said("listening on 1 interface(s)"), "{outcome:#?}");

    let alone = refusal(&node, &["--netns", "red", "--hook", "clsact", "-q"]);
    assert!(alone.contains("netns:red/eth0: an ingress qdisc is on eth0"), "{alone}");
}

#[test]
fn a_queue_at_the_host_end_is_gone_around_or_told_of() {
    let machine = Machine::boot();
    let node = machine.netns();
    let pod = machine.fake_pod("blue", 1);
    // Into the pod, as the bandwidth plugin's tbf is.
    node.run(&format!("tc qdisc add dev {} root pfifo limit 100", pod.veth.name));

    let (auto, _) = capture(&node, &pod, &["--netns", "blue"]);
    assert_eq!(both_ways(&auto), (5, 5));
    assert!(description(&auto).contains("inside the pod"), "{}", description(&auto));
    assert_eq!(auto.interfaces[0].comment, None);

    let (host, outcome) = capture(&node, &pod, &["--netns", "blue", "--attach", "host"]);
    assert_eq!(both_ways(&host), (5, 5));
    let told = "what veth-blue sends is captured before its queue (pfifo)";
    let comment = host.interfaces[0].comment.as_deref().unwrap_or_default();
    assert!(comment.contains(told), "{comment}");
    assert!(outcome.stderr.iter().any(|line| line.contains(told)), "{outcome:#?}");

    // What leaves the pod does not wait there.
    let (out, outcome) = capture(&node, &pod, &["--netns", "blue", "--attach", "host", "-Q", "out"]);
    assert_eq!(both_ways(&out), (0, 5));
    assert_eq!(out.interfaces[0].comment, None, "{outcome:#?}");
}

#[test]
fn programs_at_a_host_end_that_was_asked_for_are_told_of() {
    let machine = Machine::boot();
    let node = machine.netns();
    let pod = machine.fake_pod("blue", 1);
    let veth = pod.veth.name.as_str();
    let link = program().attach(&node, pod.veth.index, Hook::Ingress);
    let told = "other BPF programs are on veth-blue, which can hand packets past it";
    for args in [&["--netns", "blue", "--attach", "host"][..], &["-i", veth]] {
        let (file, outcome) = capture(&node, &pod, args);
        let comment = file.interfaces[0].comment.as_deref().unwrap_or_default();
        assert!(comment.contains(told), "{args:?}: {comment}");
        assert!(outcome.stderr.iter().any(|line| line.contains(told)), "{outcome:#?}");
    }
    drop(link);
    let (file, outcome) = capture(&node, &pod, &["-i", veth]);
    assert_eq!(file.interfaces[0].comment, None, "{outcome:#?}");
}

#[test]
fn programs_that_come_to_a_host_end_that_was_asked_for_are_told_of_once() {
    let machine = Machine::boot();
    let node = machine.netns();
    let pod = machine.fake_pod("blue", 1);
    let veth = pod.veth.name.as_str();
    let told = "capturing at veth-blue is not enough: a BPF program came there";
    let cases = [
        (&["--netns", "blue", "--attach", "host"][..], "--attach pod captures them"),
        (&["-i", veth], "they are in a capture of the pod"),
    ];
    for (args, way_out) in cases {
        let capture = Capture::new();
        let mut sniff = Sniff::in_netns(&node).args(args).args(["-w", capture.arg()]).start();
        let link = program().attach(&node, pod.veth.index, Hook::Ingress);
        let line = sniff.wait_for_line(told);
        assert!(line.contains(way_out), "{line}");
        traffic::ping(&node, pod.ipv4.into(), 5, 56);
        drop(link);
        let outcome = sniff.stop();
        let file = capture.read_counted(&outcome);
        assert_eq!(both_ways(&file), (5, 5));
        assert_eq!(outcome.stderr.iter().filter(|line| line.contains(told)).count(), 1, "{outcome:#?}");
        let comment = file.statistics[0].comment.as_deref().unwrap_or_default();
        let since = time_in(comment, "packets into the pod may be missing since ");
        assert!(since >= file.statistics[0].start_ns.expect("a time"), "{comment}");
    }
}

#[test]
fn packets_that_come_past_a_host_end_that_was_asked_for_are_told_of() {
    let machine = Machine::boot();
    let node = machine.netns();
    let (a, b) = two_pods(&machine);
    let capture = Capture::new();
    // Nothing of the program is to be seen at b's own host end.
    let args = ["--netns", "b", "--attach", "host", "-w", capture.arg()];
    let mut sniff = Sniff::in_netns(&node).args(args).start();
    let _link = redirect_peer(&node, a.veth.index, b.veth.index);
    traffic::ping(&a.netns, b.ipv4.into(), 5, 56);
    if kernel::counts_redirected() {
        let line = sniff.wait_for_line("packet(s) came past it unseen");
        assert!(line.contains("netns:b/eth0: capturing at veth-b is not enough"), "{line}");
    }
    let file = capture.read_counted(&sniff.stop());
    assert_eq!(both_ways(&file), (0, 5));
    let comment = file.statistics[0].comment.as_deref().unwrap_or_default();
    assert_eq!(comment.contains("may be missing since"), kernel::counts_redirected(), "{comment}");
}

#[test]
fn programs_that_run_before_clsact_are_told_of() {
    let machine = Machine::boot();
    let node = machine.netns();
    let pod = machine.fake_pod("blue", 1);
    let _link = program().attach(&pod.netns, pod.eth0.index, Hook::Ingress);
    let told = "other BPF programs on eth0 run before clsact's";
    for &hook in kernel::hooks() {
        let (file, outcome) = capture(&node, &pod, &["--netns", "blue", "--attach", "pod", "--hook", hook]);
        let comment = file.interfaces[0].comment.as_deref();
        // Where there is only clsact, sniff's filter is in front.
        if hook == "clsact" && kernel::has_tcx() {
            assert!(comment.is_some_and(|comment| comment.contains(told)), "{comment:?}");
            assert!(outcome.stderr.iter().any(|line| line.contains(told)), "{outcome:#?}");
        } else {
            assert_eq!(comment, None, "{outcome:#?}");
        }
    }
}

#[test]
fn programs_behind_sniff_on_an_uplink_are_told_of() {
    let machine = Machine::boot();
    let node = machine.netns();
    let pod = machine.fake_pod("blue", 1);
    node.run(&format!("ip link add link {} name up0 type macvlan mode bridge", pod.veth.name));
    node.run("ip link set up0 up");
    let comment = |args: &[&str]| {
        let (file, outcome) = capture(&node, &pod, args);
        let comment = file.interfaces[0].comment.clone();
        let is_told =
            comment.as_deref().is_some_and(|told| outcome.stderr.iter().any(|line| line.contains(told)));
        assert_eq!(is_told, comment.is_some(), "{outcome:#?}");
        comment.unwrap_or_default()
    };
    let index = node.link("up0").index;
    let link = program().attach(&node, index, Hook::Egress);
    let told = comment(&["-i", "up0"]);
    assert!(told.contains("what up0 sends is captured before other BPF programs there"), "{told}");
    assert!(told.contains("(on veth-blue, which it is stacked upon, it is as they leave it)"), "{told}");
    assert_eq!(comment(&["-i", "up0", "-Q", "in"]), "");
    drop(link);
    // At ingress, sniff sees what the wire brought.
    let _link = program().attach(&node, index, Hook::Ingress);
    assert_eq!(comment(&["-i", "up0"]), "");
}
