//! What a capture may leave behind, and the proof that it has not.

use std::{
    collections::BTreeSet, fs, os::unix::fs::MetadataExt as _, path::Path, process::Output, time::Duration,
};

use serde_json::Value;

use crate::{
    bpf, kernel,
    machine::Machine,
    netns::{Netns, tool},
    wait,
};

/// BPF objects are freed an RCU grace period after their last user has gone.
const GRACE: Duration = Duration::from_secs(10);

/// The kinds of BPF object as `/proc/PID/fdinfo` and `bpftool` call them.
const KINDS: [(&str, &str); 3] = [("prog_id:", "prog"), ("map_id:", "map"), ("link_id:", "link")];

/// The BPF objects that a process has open, by kind and id. Ids are unique on the whole system and
/// are not given out again soon, so other tests do not disturb.
#[derive(Debug)]
pub struct BpfObjects {
    objects: BTreeSet<(&'static str, u64)>,
}

impl BpfObjects {
    /// What the process `pid` has open now.
    ///
    /// # Panics
    ///
    /// When it has no map: then there is nothing to prove.
    pub fn held_by(pid: u32) -> Self {
        let mut objects = BTreeSet::new();
        let descriptors = fs::read_dir(format!("/proc/{pid}/fdinfo")).expect("a live process");
        for descriptor in descriptors.flatten() {
            // A descriptor may be closed between the two calls.
            let info = fs::read_to_string(descriptor.path()).unwrap_or_default();
            objects.extend(info.lines().filter_map(parse_fdinfo));
        }
        // Programs are held through TCX links, or by clsact filters alone.
        assert!(objects.iter().any(|object| object.0 == "map"), "process {pid} holds no map");
        Self { objects }
    }

    /// The ids of the links among them.
    pub fn links(&self) -> Vec<u64> {
        self.objects.iter().filter(|(kind, _)| *kind == "link").map(|&(_, id)| id).collect()
    }

    /// How many maps are among them.
    pub fn maps(&self) -> usize {
        self.objects.iter().filter(|(kind, _)| *kind == "map").count()
    }

    /// Waits until all of them are gone.
    ///
    /// # Panics
    ///
    /// When some are still there after a while.
    pub fn assert_gone(&self) {
        wait::until(&format!("the end of {:?}", self.objects), GRACE, || {
            self.objects.is_disjoint(&loaded()?).then_some(())
        });
    }
}

/// What is attached and configured in some namespaces of a machine, and what runs on it.
#[derive(Debug)]
pub struct Snapshot<'a> {
    machine: &'a Machine,
    namespaces: Vec<Netns>,
    before: String,
}

impl<'a> Snapshot<'a> {
    /// Notes programs on interfaces, qdiscs, named namespaces and processes of `program`.
    pub fn take(machine: &'a Machine, namespaces: &[&Netns], program: &Path) -> Self {
        let namespaces: Vec<_> = namespaces.iter().map(|&netns| netns.clone()).collect();
        assert_eq!(processes(machine, program), 0, "{} runs already", program.display());
        let before = describe(machine, &namespaces);
        Self { machine, namespaces, before }
    }

    /// Waits until all is as it was.
    ///
    /// # Panics
    ///
    /// When it is not after a while; the message shows both states.
    pub fn assert_unchanged(&self, program: &Path) {
        let Self { machine, namespaces, before } = self;
        let mut now = String::new();
        let what = format!("the state before: {before}");
        wait::until(&what, GRACE, || {
            now = describe(machine, namespaces);
            (now == *before && processes(machine, program) == 0).then_some(())
        });
    }
}

fn parse_fdinfo(line: &str) -> Option<(&'static str, u64)> {
    let (_, kind) = KINDS.iter().find(|(key, _)| line.starts_with(key))?;
    let id = line.split_whitespace().nth(1)?.parse().ok()?;
    Some((kind, id))
}

/// Every BPF object on the system, or nothing when one went away while bpftool listed them.
fn loaded() -> Option<BTreeSet<(&'static str, u64)>> {
    let mut objects = BTreeSet::new();
    for (_, kind) in KINDS {
        let Output { status, stdout, .. } =
            tool("bpftool").args(["--json", kind, "show"]).output().expect("bpftool");
        if !status.success() {
            return None;
        }
        let list: Value = serde_json::from_slice(&stdout).expect("JSON from bpftool");
        let ids = list.as_array().into_iter().flatten().filter_map(|object| object["id"].as_u64());
        objects.extend(ids.map(|id| (kind, id)));
    }
    Some(objects)
}

fn describe(machine: &Machine, namespaces: &[Netns]) -> String {
    let mut state = machine.netns().run("ip netns list");
    for netns in namespaces {
        state += &netns.run("tc qdisc show");
        state += &netns.run("bpftool --json net show");
        // bpftool lists TCX programs only since 7.3, and filters always.
        for link in netns.links().into_iter().filter(|_| kernel::has_tcx()) {
            state += &format!("{} {:?}; ", link.name, bpf::tcx_programs(netns, link.index));
        }
    }
    state
}

/// The processes on the machine whose executable is `program`, whatever they call themselves.
fn processes(machine: &Machine, program: &Path) -> usize {
    let identity = |path: &Path| fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
    let program = identity(program).expect("the program");
    let all = fs::read_dir(machine.path("/proc")).expect("the machine's /proc").flatten();
    all.filter(|process| identity(&process.path().join("exe")) == Some(program)).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bpf::redirect_peer;

    #[test]
    fn an_attached_program_and_a_qdisc_are_noticed() {
        let machine = Machine::boot();
        let pod = machine.fake_pod("blue", 1);
        let node = machine.netns();
        let both = [node.clone(), pod.netns];
        let clean = describe(&machine, &both);
        let link = redirect_peer(&node, pod.veth.index, pod.veth.index);
        assert_ne!(describe(&machine, &both), clean);
        drop(link);
        assert_eq!(describe(&machine, &both), clean);
        both[1].run("tc qdisc add dev eth0 clsact");
        assert_ne!(describe(&machine, &both), clean);
    }

    #[test]
    fn a_detached_program_and_an_ended_process_are_not() {
        let machine = Machine::boot();
        let pod = machine.fake_pod("blue", 1);
        let node = machine.netns();
        let sleep = Path::new("/usr/bin/sleep");
        let mut child = node.spawn(tool("sleep").arg("0.2"));
        wait::until("sleep", GRACE, || (processes(&machine, sleep) == 1).then_some(()));
        child.wait().expect("the end of sleep");
        let snapshot = Snapshot::take(&machine, &[&node], sleep);
        drop(redirect_peer(&node, pod.veth.index, pod.veth.index));
        snapshot.assert_unchanged(sleep);
    }

    #[test]
    fn objects_are_found_in_fdinfo() {
        assert_eq!(parse_fdinfo("prog_id:\t42"), Some(("prog", 42)));
        assert_eq!(parse_fdinfo("link_id:\t7"), Some(("link", 7)));
        assert_eq!(parse_fdinfo("pos:\t0"), None);
    }
}
