//! Whom to capture: every way of naming a target finds the same interfaces.

use std::{
    ffi::OsStr,
    io::{BufRead as _, BufReader},
    os::unix::ffi::OsStrExt as _,
    process::{Child, Stdio},
};

use sniff_tests::{
    cgroup::{Cgroup, random_uuid},
    frame,
    machine::{FakePod, Machine},
    netns::{Netns, tool},
    node::Node,
    pcap::{Direction, PcapNg},
    sniff::Sniff,
    traffic,
};

use crate::{Capture, echoes};

/// Runs one sniff for each list of arguments at once, has `traffic` sent, and returns the files.
fn capture_each(node: &Netns, targets: &[&[&str]], traffic: impl FnOnce()) -> Vec<PcapNg> {
    let start = |target: &&[&str]| {
        let capture = Capture::new();
        let args = target.iter().copied().chain(["-w", capture.arg()]);
        (Sniff::in_netns(node).args(args).start(), capture)
    };
    let running: Vec<_> = targets.iter().map(start).collect();
    traffic();
    let stop = |(sniff, capture): (sniff_tests::sniff::Running, Capture)| {
        sniff.stop().success();
        capture.read()
    };
    running.into_iter().map(stop).collect()
}

fn names(file: &PcapNg) -> Vec<&str> {
    file.interfaces.iter().map(|interface| interface.name.as_deref().expect("a name")).collect()
}

#[test]
fn a_pid_and_a_netns_by_name_or_path_and_a_host_interface_can_be_captured() {
    let machine = Machine::boot();
    let node = machine.netns();
    let pod = machine.fake_pod("blue", 1);
    let mut process = pod.netns.spawn(tool("sleep").arg("1000").stdout(Stdio::null()));
    let pid = machine.pid_inside(process.id()).to_string();
    let files = capture_each(
        &node,
        &[&["--pid", &pid], &["--netns", "blue"], &["--netns", "/run/netns/blue"], &["-i", &pod.veth.name]],
        || traffic::ping(&node, pod.ipv4.into(), 3, 56),
    );
    process.kill().and_then(|()| process.wait()).expect("the end of sleep");
    for file in &files {
        assert_eq!(echoes(&file.packets, Direction::In, 56), 3, "{:?}", names(file));
        assert_eq!(echoes(&file.packets, Direction::Out, 56), 3, "{:?}", names(file));
    }
    assert_eq!(names(&files[0]), [format!("pid:{pid}/eth0")]);
    assert_eq!(names(&files[1]), ["netns:blue/eth0"]);
    assert!(matches!(names(&files[2])[..], [name] if name.ends_with("blue/eth0")));
    assert_eq!(names(&files[3]), [&pod.veth.name]);
}

#[test]
fn on_a_host_interface_in_is_what_the_host_receives() {
    let machine = Machine::boot();
    let node = machine.netns();
    let pod = machine.fake_pod("blue", 1);
    let files = capture_each(&node, &[&["-i", &pod.veth.name], &["--netns", "blue"]], || {
        node.run(&format!("ping -n -q -c 1 -s 40 {}", pod.ipv4));
    });
    let request = |file: &PcapNg| {
        const ICMP_TYPE: usize = 14 + 20;
        let echo = |direction| echoes(&file.packets, direction, 40);
        assert_eq!((echo(Direction::In), echo(Direction::Out)), (1, 1));
        let request = file
            .packets
            .iter()
            .find(|packet| packet.original_len == 82 && packet.data.get(ICMP_TYPE) == Some(&8));
        request.and_then(|packet| packet.direction).expect("a request with a direction")
    };
    assert_eq!(request(&files[0]), Direction::Out, "the host has sent it");
    assert_eq!(request(&files[1]), Direction::In, "the pod has received it");
}

#[test]
fn containers_are_found_by_id_prefix_and_url() {
    let node = Node::start();
    let pod = node.pod("shop", "web").start();
    let other = node.pod("shop", "db").start();
    let container = pod.sandbox.container("main");
    let url = format!("containerd://{}", container.id);
    let files = capture_each(
        &node.netns,
        &[
            &["--container-id", &container.id],
            &["--container-id", &container.id[..12]],
            &["--container-id", &url],
            &["--container-id", &pod.sandbox.id],
        ],
        || {
            traffic::ping(&node.netns, pod.ipv4.into(), 3, 56);
            traffic::ping(&node.netns, other.ipv4.into(), 2, 57);
        },
    );
    for file in &files {
        assert_eq!(file.interfaces.len(), 1, "{:?}", names(file));
        assert_eq!(echoes(&file.packets, Direction::In, 56), 3, "{:?}", names(file));
        assert_eq!(echoes(&file.packets, Direction::In, 57), 0, "{:?}", names(file));
    }
}

/// A shell of the machine that says when it is where the script says, and stays.
fn resident(netns: &Netns, script: &str) -> Child {
    let script = format!("{script}\necho ready\nread forever");
    let mut command = tool("sh");
    let mut child = netns.spawn(command.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped()));
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
    assert_eq!(line, "ready\n");
    child
}

#[test]
fn what_a_container_does_to_itself_does_not_make_it_another() {
    let machine = Machine::boot();
    let node = machine.netns();
    let [blue, red] = [machine.fake_pod("blue", 1), machine.fake_pod("red", 2)];
    let cgroup = Cgroup::named_at_random();
    let [victim, other] = ['a', 'b'].map(|digit| String::from(digit).repeat(64));
    let [pod, other_pod] = [random_uuid(), random_uuid()];
    let enter = |uid: &str, below: &str| format!("echo 0 > {}", cgroup.procs(uid, below).display());
    // The first: of another pod, in a cgroup that it has made and named after the victim.
    let nested = enter(&other_pod, &format!("{other}/kubepods/besteffort/pod{pod}/{victim}"));
    let mut impostor = resident(&red.netns, &nested);
    let mut container = resident(
        &blue.netns,
        // With a part that has a network of its own, and a name that is no text.
        &format!(
            "{}\nmkfifo /run/ready\nunshare --net sh -c 'printf \"\\377\" > /proc/$$/comm; echo > /run/ready; sleep 1000' &\nread go < /run/ready",
            enter(&pod, &victim)
        ),
    );
    let files = capture_each(&node, &[&["--container-id", &victim], &["--container-id", &other]], || {
        traffic::ping(&node, blue.ipv4.into(), 3, 56);
        traffic::ping(&node, red.ipv4.into(), 5, 57);
    });
    for child in [&mut impostor, &mut container] {
        child.kill().and_then(|()| child.wait()).expect("the end of a shell");
    }
    let echoes = |file: &PcapNg, size| echoes(&file.packets, Direction::In, size);
    assert_eq!(names(&files[0]), [format!("{}/eth0", &victim[..12])]);
    assert_eq!((echoes(&files[0], 56), echoes(&files[0], 57)), (3, 0));
    assert_eq!(names(&files[1]), [format!("{}/eth0", &other[..12])]);
    assert_eq!((echoes(&files[1], 56), echoes(&files[1], 57)), (0, 5));
}

#[test]
fn an_interface_whose_names_are_no_text_is_captured() {
    let machine = Machine::boot();
    let node = machine.netns();
    let FakePod { netns: pod, veth, ipv4, .. } = machine.fake_pod("blue", 1);
    let rename = |netns: &Netns, from: &str, to: &[u8]| {
        let ip = |words: &[&OsStr]| {
            let mut command = tool("ip");
            let mut child = netns.spawn(command.args(["link", "set", "dev"]).args(words));
            assert!(child.wait().expect("ip").success(), "{words:?}");
        };
        let [from, to, name, alias, down, up] =
            [from.as_bytes(), to, b"name", b"alias", b"down", b"up"].map(OsStr::from_bytes);
        ip(&[from, down]);
        ip(&[from, alias, OsStr::from_bytes(b"\x1b[31m\xfe")]);
        ip(&[from, name, to]);
        ip(&[to, up]);
    };
    rename(&pod, "eth0", b"e\xff0");
    rename(&node, &veth.name, b"v\xfe");
    let targets: [&[&str]; 4] = [
        &["--netns", "blue"],
        &["--netns", "blue", "--attach", "pod"],
        &["--netns", "blue", "-i", "e?0"],
        &["-i", "v?"],
    ];
    let files = capture_each(&node, &targets, || traffic::ping(&node, ipv4.into(), 3, 56));
    for (file, name) in files.iter().zip(["netns:blue/e?0", "netns:blue/e?0", "netns:blue/e?0", "v?"]) {
        assert_eq!(names(file), [name]);
        assert_eq!(echoes(&file.packets, Direction::In, 56), 3, "{name}");
        assert_eq!(echoes(&file.packets, Direction::Out, 56), 3, "{name}");
    }
    let outcome = Sniff::in_netns(&node).args(["--netns", "blue", "--duration", "1ms"]).run();
    outcome.success();
    let is_readable = |line: &String| line.len() < 1000 && !line.contains(char::is_control);
    assert!(outcome.stderr.iter().all(is_readable), "{:#?}", outcome.stderr);
}

#[test]
fn any_is_every_interface() {
    let machine = Machine::boot();
    let node = machine.netns();
    let FakePod { netns: pod, veth, ipv4, gateway4, .. } = machine.fake_pod("blue", 1);
    let files = capture_each(&node, &[&["-i", "any"], &["--netns", "blue", "-i", "any"]], || {
        traffic::ping(&node, ipv4.into(), 3, 56);
        traffic::ping(&pod, gateway4.into(), 2, 57);
        traffic::ping(&node, [127, 0, 0, 1].into(), 1, 58);
    });
    let mut of_node: Vec<String> = node.links().into_iter().map(|link| link.name).collect();
    let mut found = names(&files[0]);
    of_node.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, of_node);
    for (size, count) in [(56, 3), (57, 2)] {
        assert_eq!(echoes(&files[0].packets_of(&veth.name), Direction::In, size), count);
        assert_eq!(echoes(&files[1].packets_of("netns:blue/eth0"), Direction::In, size), count);
    }
    assert!(echoes(&files[0].packets_of("lo"), Direction::In, 58) > 0);
    let mut found = names(&files[1]);
    found.sort_unstable();
    assert_eq!(found, ["netns:blue/eth0", "netns:blue/lo"]);
}

/// The comments of a file's interfaces, and the lines of sniff's stderr, that speak of this.
fn told<'a>(file: &'a PcapNg, stderr: &'a [String], what: &str) -> (Vec<&'a str>, Vec<&'a str>) {
    let comments = file.interfaces.iter().filter_map(|interface| interface.comment.as_deref());
    (
        comments.filter(|comment| comment.contains(what)).collect(),
        stderr.iter().map(String::as_str).filter(|line| line.contains(what)).collect(),
    )
}

#[test]
fn what_a_target_has_and_is_not_captured_is_said() {
    let machine = Machine::boot();
    let node = machine.netns();
    let FakePod { netns: pod, ipv4, .. } = machine.fake_pod("blue", 1);
    frame::tun_device(&pod, "gre7", 778);
    frame::tun_device(&pod, "odd0", 9999);
    pod.run("ip link add net1 type bridge");
    // As the kernel puts them into every namespace.
    pod.run("ip link add tunl0 type bridge");
    let capture = Capture::new();
    let sniff = Sniff::in_netns(&node).args(["--netns", "blue", "-w", capture.arg()]).start();
    traffic::ping(&node, ipv4.into(), 3, 56);
    let outcome = sniff.stop();
    let file = capture.read_whole(&outcome);
    assert_eq!(names(&file), ["netns:blue/eth0"]);
    assert_eq!(echoes(&file.packets, Direction::In, 56), 3);
    let all = "not captured of netns:blue: gre7 (link-layer type 778 (GRE)), odd0 (an unknown link-layer type), net1 (down)";
    assert_eq!(
        told(&file, &outcome.stderr, "not captured"),
        (vec![all], vec![&*format!("sniff: netns:blue/eth0: {all}")])
    );
    for (args, what) in [(["--netns", "blue"], "gre7"), (["--netns", "blue"], "odd0")] {
        let line = Sniff::in_netns(&node).args(args).args(["-i", what]).run().refusal(1).to_owned();
        assert!(line.contains(what) && line.contains("cannot capture"), "{line}");
    }
    let mut sniff = Sniff::in_netns(&node).args(["--netns", "blue", "-i", "net1"]).launch();
    sniff.wait_for_line("net1: it is down");
    sniff.stop().success();
}

#[test]
fn a_pair_that_a_pod_made_itself_is_told_from_the_nodes() {
    let machine = Machine::boot();
    let node = machine.netns();
    let pod = machine.fake_pod("blue", 1);
    let inner = machine.add_netns("inner");
    pod.netns.run("ip link set eth0 netns inner");
    pod.netns.run("ip link add eth0 type veth peer name forged netns inner");
    for (netns, link, address) in [(&pod.netns, "eth0", "10.9.0.2"), (&inner, "forged", "10.9.0.1")] {
        netns.run(&format!("ip address add {address}/24 dev {link}"));
        netns.run(&format!("ip link set {link} up"));
    }
    let capture = Capture::new();
    let sniff = Sniff::in_netns(&node).args(["--netns", "blue", "-w", capture.arg()]).start();
    traffic::ping(&inner, [10, 9, 0, 2].into(), 3, 56);
    let outcome = sniff.stop();
    let file = capture.read_whole(&outcome);
    assert_eq!(echoes(&file.packets, Direction::In, 56), 3);
    let (comments, lines) = told(&file, &outcome.stderr, "neither in this namespace nor on the node");
    assert_eq!((comments.len(), lines.len()), (1, 1), "{outcome:#?}");
    assert!(lines[0].starts_with("sniff: netns:blue/eth0: "), "{lines:?}");

    // Of the pod as the node made it, nothing is said.
    let other = machine.fake_pod("red", 2);
    let outcome = Sniff::in_netns(&node).args(["--netns", "red", "--duration", "1ms"]).run();
    assert!(outcome.stderr.iter().all(|line| !line.contains("neither")), "{other:?} {outcome:#?}");
}

#[test]
fn a_file_of_two_link_types_says_who_can_read_it_once() {
    let machine = Machine::boot();
    let node = machine.netns();
    let FakePod { netns: pod, .. } = machine.fake_pod("blue", 1);
    for name in ["tun1", "tun2"] {
        frame::tun_device(&pod, name, 0xfffe);
    }
    let capture = Capture::new();
    let args = ["--netns", "blue", "--duration", "1ms"];
    let outcome = Sniff::in_netns(&node).args(args).args(["-w", capture.arg()]).run();
    let file = capture.read_whole(&outcome);
    assert_eq!(names(&file), ["netns:blue/eth0", "netns:blue/tun1", "netns:blue/tun2"]);
    let said = |outcome: &sniff_tests::sniff::Outcome| {
        outcome.stderr.iter().filter(|line| line.contains("two link types")).count()
    };
    assert_eq!(said(&outcome), 1, "{outcome:#?}");
    for args in [&["-w", capture.arg(), "-i", "tun1", "-i", "tun2"][..], &["-w", "/dev/null"], &[]] {
        let outcome = Sniff::in_netns(&node)
            .args(["--netns", "blue", "--duration", "1ms"])
            .args(args.iter().copied())
            .run();
        outcome.success();
        assert_eq!(said(&outcome), 0, "{args:?}: {outcome:#?}");
    }
}

#[test]
fn a_filter_is_shown_as_it_is_for_the_interface() {
    let machine = Machine::boot();
    let node = machine.netns();
    let FakePod { netns: pod, veth, .. } = machine.fake_pod("blue", 1);
    frame::tun_device(&pod, "tun1", 0xfffe);
    let dump = |args: &[&str]| {
        let outcome = Sniff::in_netns(&node).args(args.iter().copied()).args(["-d", "tcp"]).run();
        assert_eq!(outcome.status.code(), Some(0), "{outcome:#?}");
        String::from_utf8(outcome.stdout).expect("UTF-8")
    };
    let (ethernet, raw) = (dump(&[]), dump(&["--netns", "blue", "-i", "tun1"]));
    assert_ne!(ethernet, raw);
    // libpcap looks at the Ethernet type there, and at the IP version here.
    assert!(ethernet.contains("[12]") && !raw.contains("[12]"), "{ethernet}{raw}");
    assert_eq!(dump(&["-i", &veth.name]), ethernet);
    assert_eq!(dump(&["--netns", "blue"]), format!("; Ethernet\n{ethernet}; Raw\n{raw}"));
}

#[test]
fn without_a_runtime_the_list_is_of_the_machines_interfaces() {
    let machine = Machine::boot();
    let node = machine.netns();
    let pod = machine.fake_pod("blue", 1);
    for option in ["-D", "--list"] {
        let outcome = Sniff::in_netns(&node).args([option]).run();
        assert_eq!(outcome.status.code(), Some(0), "{outcome:#?}");
        let table = String::from_utf8(outcome.stdout).expect("UTF-8");
        let row = |name: &str| {
            let mut rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
            rows.find(|words| words.contains(&name)).unwrap_or_else(|| panic!("no {name}:\n{table}"))
        };
        row("lo");
        let veth = row(&pod.veth.name);
        assert!(veth.contains(&&*pod.veth.index.to_string()), "{veth:?}");
        assert!(veth.iter().any(|cell| cell.contains(&pod.gateway4.to_string())), "{veth:?}");
    }
}

#[test]
fn several_pods_are_captured_together_and_a_pod_named_twice_once() {
    let node = Node::start();
    let web = node.pod("shop", "web").start();
    let db = node.pod("shop", "db").cni("bridge").start();
    let args = ["--pod", "shop/web", "--pod", "shop/db", "--container-id", &web.sandbox.id];
    let files = capture_each(&node.netns, &[&args], || {
        traffic::ping(&node.netns, web.ipv4.into(), 3, 56);
        traffic::ping(&node.netns, db.ipv4.into(), 5, 57);
    });
    let [file] = files.as_slice() else { unreachable!("one capture was started") };
    assert_eq!(names(file), ["shop/web/eth0", "shop/db/eth0"]);
    let (of_web, of_db) = (file.packets_of("shop/web/eth0"), file.packets_of("shop/db/eth0"));
    assert_eq!(echoes(&of_web, Direction::In, 56), 3);
    assert_eq!(echoes(&of_web, Direction::In, 57), 0);
    assert_eq!(echoes(&of_db, Direction::In, 57), 5);
    assert_eq!(echoes(&of_db, Direction::In, 56), 0);
    assert_eq!(file.statistics.len(), 2);
}

#[test]
fn every_interface_of_a_pod_is_captured_or_the_one_that_is_named() {
    let node = Node::start();
    let pod = node.pod("shop", "web").start();
    // The other end of net1 is on the node, that of net2 is in a third namespace.
    let third = node.machine.add_netns("third");
    let path = pod.netns.path().display();
    node.netns.run(&format!("ip link add host1 type veth peer name net1 netns {path}"));
    third.run(&format!("ip link add far2 type veth peer name net2 netns {path}"));
    for (netns, link, address) in [
        (&node.netns, "host1", "10.1.0.1"),
        (&pod.netns, "net1", "10.1.0.2"),
        (&third, "far2", "10.2.0.1"),
        (&pod.netns, "net2", "10.2.0.2"),
    ] {
        netns.run(&format!("ip address add {address}/24 dev {link}"));
        netns.run(&format!("ip link set {link} up"));
    }
    let targets: [&[&str]; 2] = [&["--pod", "shop/web"], &["--pod", "shop/web", "-i", "net2"]];
    let files = capture_each(&node.netns, &targets, || {
        traffic::ping(&node.netns, pod.ipv4.into(), 2, 56);
        traffic::ping(&pod.netns, [10, 1, 0, 1].into(), 3, 57);
        traffic::ping(&pod.netns, [10, 2, 0, 1].into(), 4, 58);
    });
    let mut all = names(&files[0]);
    all.sort_unstable();
    assert_eq!(all, ["shop/web/eth0", "shop/web/net1", "shop/web/net2"]);
    for (name, size, count) in [("eth0", 56, 2), ("net1", 57, 3), ("net2", 58, 4)] {
        let packets = files[0].packets_of(&format!("shop/web/{name}"));
        for direction in [Direction::In, Direction::Out] {
            assert_eq!(echoes(&packets, direction, size), count, "{name} {direction:?}");
        }
    }
    assert_eq!(names(&files[1]), ["shop/web/net2"]);
    assert_eq!(echoes(&files[1].packets, Direction::Out, 58), 4);
}

#[test]
fn an_interface_without_a_host_end_is_captured_inside_the_pod() {
    let machine = Machine::boot();
    let node = machine.netns();
    let wire = machine.add_netns("wire");
    let red = machine.add_netns("red");
    node.run("ip link add parent type veth peer name eth0 netns wire");
    node.run("ip link set parent up");
    node.run("ip link add link parent name eth0 netns red type macvlan mode bridge");
    for (netns, address) in [(&wire, "10.3.0.1"), (&red, "10.3.0.2")] {
        netns.run(&format!("ip address add {address}/24 dev eth0"));
        netns.run("ip link set eth0 up");
    }
    let capture = Capture::new();
    let mut sniff = Sniff::in_netns(&node).args(["--netns", "red", "-w", capture.arg()]).launch();
    let reason = sniff.wait_for_line("macvlan");
    assert!(reason.contains("netns:red/eth0"), "{reason}");
    sniff.wait_for_line("listening on 1 interface(s)");
    traffic::ping(&red, [10, 3, 0, 1].into(), 3, 56);
    sniff.stop().success();
    let file = capture.read();
    assert_eq!(echoes(&file.packets, Direction::Out, 56), 3);
    assert_eq!(echoes(&file.packets, Direction::In, 56), 3);
}

#[test]
fn the_list_shows_the_pods_of_the_node_with_their_interfaces() {
    let node = Node::start();
    let web = node.pod("shop", "web").start();
    let db = node.pod("data", "db").cni("bridge").start();
    let _proxy = node.host_network_pod("kube-system", "proxy");
    for option in ["-D", "--list"] {
        let outcome = Sniff::in_netns(&node.netns).args([option]).run();
        assert_eq!(outcome.status.code(), Some(0), "{outcome:#?}");
        let table = String::from_utf8(outcome.stdout).expect("UTF-8");
        let row = |namespace: &str, pod: &str| {
            let is_row = |line: &&str| {
                let words: Vec<_> = line.split_whitespace().collect();
                words.contains(&namespace) && words.contains(&pod)
            };
            table.lines().find(is_row).unwrap_or_else(|| panic!("no {namespace}/{pod}:\n{table}"))
        };
        for (pod, row) in [(&web, row("shop", "web")), (&db, row("data", "db"))] {
            let mac = pod.eth0.mac.map(|byte| format!("{byte:02x}")).join(":");
            let index = pod.veth.index.to_string();
            let addresses = [pod.ipv4.to_string(), pod.ipv6.to_string()];
            for cell in ["eth0", &pod.veth.name, &index, &mac, &addresses[0], &addresses[1]] {
                assert!(row.contains(cell), "no {cell} in {row:?}");
            }
        }
        assert!(row("kube-system", "proxy").contains("host network"), "{table}");
        assert!(row("-", "lo").contains("127.0.0.1"), "{table}");
        assert_eq!(table.matches(&web.veth.name).count(), 1, "{table}");
    }
}
