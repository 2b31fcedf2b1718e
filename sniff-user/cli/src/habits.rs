//! What tcpdump and dumpcap have and sniff has not: what to type instead.

/// Options, each as it is typed, and what to do without them.
const INSTEAD: &[(&[&str], &str)] = &[
    (
        &["-r"],
        "sniff reads no files: type tcpdump -r FILE, tshark -r FILE or wireshark FILE; for several link types in one file the \
         latter two",
    ),
    (
        &["-z"],
        "no command is run when a file is full: let another program wait for files, as in inotifywait -m -e close_write FOLDER",
    ),
    (&["-P"], "type -w FILE.pcap, or --format pcap"),
    (
        &["-E", "-m", "-M", "-T", "-u", "-#", "--number", "--lengths"],
        "type -w FILE, and tcpdump with this option and -r FILE",
    ),
    (&["-N"], "names are those of pods: leave it out, or type -n for addresses"),
    (
        &["-j", "-J", "--time-stamp-type", "--list-time-stamp-types"],
        "packets have the kernel's time: leave it out",
    ),
    (
        &["--time-stamp-precision", "--micro"],
        "times in files are in nanoseconds, and in lines with --nano: leave it out",
    ),
    (
        &["-L", "-y", "--list-data-link-types", "--linktype"],
        "each interface has one link type, which the file says: leave it out",
    ),
    (&["-I", "-H", "-k", "--monitor-mode"], "no wireless interfaces are captured: leave it out"),
    (
        &["--list-remote-interfaces"],
        "for another machine type ssh MACHINE sniff -D, for a cluster kubectl sniff",
    ),
    (&["--skip"], "type -w FILE, and editcap FILE COPY 1-COUNT"),
    (&["-g"], "a file is its owner's: type chmod g+r FILE when it is there"),
    (&["--capture-comment"], "type editcap --capture-comment TEXT FILE COPY when the file is there"),
    (&["--ifname", "--ifdescr"], "the file says whose an interface is: leave it out"),
    (&["--temp-dir"], "nothing is written elsewhere: type -w FOLDER/FILE"),
    (
        &["--log-level", "--log-fatal", "--log-domains", "--log-debug", "--log-noisy", "--log-file"],
        "type -v or -q, and 2>FILE",
    ),
    (&["--compress-type"], "type --compress gzip, or -w FILE.pcapng.gz"),
];

/// What `sniff` has and `kubectl sniff` has not.
const INSTEAD_IN_A_CLUSTER: &[(&[&str], &str)] = &[
    (&["-D", "--list-interfaces"], "type kubectl get pods -A -o wide"),
    (&["-F"], "type -f \"$(cat FILE)\""),
    (&["-d", "-O", "--no-optimize"], "type sniff -d EXPRESSION on a node"),
    (
        &[
            "-U",
            "-K",
            "--packet-buffered",
            "--immediate-mode",
            "--dont-verify-checksums",
            "--no-promiscuous-mode",
        ],
        "it is so as soon as the order of packets is sure: leave it out",
    ),
    (&["-Z", "--relinquish-privileges"], "files are made with your own rights: leave it out"),
    (&["-a", "--autostop"], "type --duration TIME or --count N"),
    (&["-b", "--ring-buffer"], "type -C SIZE, -G SECONDS or --file-packets N, and -W COUNT"),
];

/// What to type in place of an option, as in `-z`, of tcpdump or dumpcap.
pub fn instead(option: &str) -> Option<String> {
    look_up(INSTEAD, option)
}

/// The same for `kubectl sniff`.
pub fn instead_in_a_cluster(option: &str) -> Option<String> {
    look_up(INSTEAD_IN_A_CLUSTER, option).or_else(|| instead(option))
}

fn look_up(table: &[(&[&str], &str)], option: &str) -> Option<String> {
    let (_, text) = table.iter().find(|(options, _)| options.contains(&option))?;
    Some((*text).to_owned())
}

/// What tests of both programs hold against each other.
#[cfg(any(test, feature = "testing"))]
pub mod testing {
    use clap::{Arg, Command};

    /// Each option of tcpdump 4.99 and dumpcap 4.4, by `--help` and tcpdump's manual.
    pub fn of_tcpdump_and_dumpcap() -> impl Iterator<Item = String> {
        const LETTERS: &str = "#AbBcCdDeEfFgGhHiIjJkKlLmMnNOpPqQrsStTuUvVwWxXyzZa";
        const LONG: &str = "buffer-size count direction dont-verify-checksums immediate-mode interface lengths linktype \
                            list-data-link-types list-interfaces list-remote-interfaces list-time-stamp-types micro \
                            monitor-mode nano no-optimize no-promiscuous-mode number packet-buffered print \
                            relinquish-privileges skip snapshot-length time-stamp-precision time-stamp-type version help \
                            absolute-tcp-sequence-numbers autostop ring-buffer capture-comment temp-dir log-level log-fatal \
                            log-domains log-debug log-noisy log-file compress-type ifname ifdescr";
        let letters = LETTERS.chars().map(|letter| format!("-{letter}"));
        letters.chain(LONG.split_whitespace().map(|name| format!("--{name}")))
    }

    /// All options of a program, as they are typed.
    pub fn offered_by(mut command: Command) -> Vec<String> {
        command.build();
        let names = |arg: &Arg| {
            let letters = arg.get_short_and_visible_aliases().into_iter().flatten();
            let long = arg.get_long_and_visible_aliases().into_iter().flatten();
            let long =
                long.chain(arg.get_all_aliases().into_iter().flatten()).map(|name| format!("--{name}"));
            letters.map(|letter| format!("-{letter}")).chain(long).collect::<Vec<_>>()
        };
        command.get_arguments().flat_map(names).collect()
    }
}
