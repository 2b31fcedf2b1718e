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
    (
        &["-C", "-G", "-W"],
        "sniff writes one file: type -w - | dumpcap -i - -b filesize:KB -b duration:SECONDS -b files:COUNT -w FILE",
    ),
    (&["-P"], "sniff writes pcapng: type -w FILE, and editcap -F nsecpcap FILE COPY"),
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
    (&["--compress-type"], "type -w - | gzip > FILE.pcapng.gz"),
];

/// What to type in place of an option, as in `-z`, of tcpdump or dumpcap.
pub fn instead(option: &str) -> Option<String> {
    let (_, text) = INSTEAD.iter().find(|(options, _)| options.contains(&option))?;
    Some((*text).to_owned())
}
