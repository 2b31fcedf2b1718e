//! What is measured: which traffic, how much of it is captured, and of how many pods.

use std::time::Duration;

/// One kind of traffic and one way to capture it.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// For the command line and the results.
    pub name: &'static str,
    /// For people.
    pub title: &'static str,
    /// What the pod sends.
    pub load: Load,
    /// Bytes kept of each packet; all when `None`.
    pub snaplen: Option<u32>,
    /// Which packets are captured.
    pub filter: Filter,
    /// How many pods are captured together; only the first has traffic.
    pub pods: usize,
    /// Whether packets are printed as lines of text, in place of being written to a capture file.
    pub prints: bool,
    /// Whether the capture goes into a pipe, as for `kubectl sniff`, instead of into a file.
    pub is_stream: bool,
    /// Whether only the last packets are kept: as many as [`RECORDING`] holds.
    pub is_recording: bool,
}

/// What a pod sends.
#[derive(Clone, Copy, Debug)]
pub enum Load {
    /// Frames of one size.
    Frames {
        /// Of each frame, without the frame check sequence.
        len: usize,
        /// With IPv6 in them; otherwise IPv4.
        ipv6: bool,
        /// In all.
        count: u64,
        /// How many CPUs send at the same time.
        senders: usize,
        /// Frames a second; as fast as they go when `None`.
        per_second: Option<u32>,
        /// What is in them.
        payload: Payload,
    },
    /// UDP datagrams that leave the pod 44 in a packet, as segmentation offload (GSO) makes them.
    SuperPackets {
        /// How many such packets.
        count: u64,
        /// Packets a second; as fast as they go when `None`.
        per_second: Option<u32>,
    },
    /// One TCP connection of iperf3, forwarded by the node.
    Tcp {
        /// Sent by the pod.
        bytes: u64,
    },
    /// Nothing.
    Silence {
        /// For so long.
        time: Duration,
    },
}

/// What packets carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// The same in all.
    Zeros,
    /// Requests that differ in little: it compresses.
    Text,
    /// As TLS has it: it does not compress.
    Random,
}

/// Which packets of the load are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// All, without a filter.
    Everything,
    /// None.
    Nothing,
    /// Each 100th, which belongs to another flow than the rest.
    OnePercent,
}

impl Scenario {
    /// Whether it is about many pods, captured or not.
    pub fn is_about_pods(&self) -> bool {
        self.name.starts_with("pods-")
    }
}

/// Bytes that a recording may take.
pub const RECORDING: u64 = 64 << 20;
/// Pods on the node where it is about many.
pub const MANY_PODS: usize = 250;
/// Destination port of the packets.
pub const PORT: u16 = 9;
/// Destination port of each 100th packet when one per cent is wanted.
pub const RARE_PORT: u16 = 53;

impl Filter {
    /// In tcpdump's language, which all tools understand that have filters.
    pub fn expression(self) -> Option<String> {
        match self {
            Self::Everything => None,
            Self::Nothing => Some("tcp port 443".into()),
            Self::OnePercent => Some(format!("udp port {RARE_PORT}")),
        }
    }

    /// How many of `sent` packets a capture should hold.
    pub fn wanted(self, sent: u64) -> u64 {
        match self {
            Self::Everything => sent,
            Self::Nothing => 0,
            Self::OnePercent => sent / 100,
        }
    }
}

const fn frames(name: &'static str, title: &'static str, len: usize, count: u64) -> Scenario {
    Scenario {
        name,
        title,
        load: Load::Frames { len, ipv6: false, count, senders: 1, per_second: None, payload: Payload::Zeros },
        snaplen: None,
        filter: Filter::Everything,
        pods: 1,
        prints: false,
        is_stream: false,
        is_recording: false,
    }
}

const fn stream(
    name: &'static str,
    title: &'static str,
    per_second: u32,
    count: u64,
    payload: Payload,
) -> Scenario {
    let load =
        Load::Frames { len: 1514, ipv6: false, count, senders: 1, per_second: Some(per_second), payload };
    Scenario { load, is_stream: true, ..frames(name, title, 0, 0) }
}

const fn recording(name: &'static str, title: &'static str, len: usize, per_second: Option<u32>) -> Scenario {
    let load =
        Load::Frames { len, ipv6: false, count: SMALL, senders: 1, per_second, payload: Payload::Random };
    Scenario { load, is_recording: true, ..frames(name, title, 0, 0) }
}

const fn tcp(name: &'static str, title: &'static str, snaplen: Option<u32>) -> Scenario {
    Scenario { load: Load::Tcp { bytes: 3_000_000_000 }, snaplen, ..frames(name, title, 0, 0) }
}

const fn pods(name: &'static str, title: &'static str, pods: usize) -> Scenario {
    Scenario { pods, ..frames(name, title, 64, SMALL) }
}

/// Frames of 64 bytes: about a second's worth.
const SMALL: u64 = 800_000;
/// Frames of 1514 bytes: half a gigabyte.
const LARGE: u64 = 400_000;

/// Frames of 1514 bytes that make 1 Gbit in a second.
const GIGABIT: u32 = 82_562;

/// Packets a second of which a recording is to take hardly any time.
pub const RECORDED_A_SECOND: u32 = 100_000;

/// All of them.
pub const ALL: &[Scenario] = &[
    frames("64", "64 B", 64, SMALL),
    frames("1514", "1514 B", 1514, LARGE),
    Scenario { snaplen: Some(96), ..frames("1514-snap96", "1514 B, snaplen 96", 1514, SMALL) },
    Scenario { filter: Filter::Nothing, ..frames("no-match", "64 B, none matches", 64, SMALL) },
    Scenario { filter: Filter::OnePercent, ..frames("1-percent", "64 B, 1 % match", 64, SMALL) },
    Scenario {
        load: Load::Frames {
            len: 64,
            ipv6: true,
            count: SMALL,
            senders: 1,
            per_second: None,
            payload: Payload::Zeros,
        },
        ..frames("ipv6", "64 B, IPv6", 0, 0)
    },
    Scenario {
        load: Load::SuperPackets { count: 250_000, per_second: None },
        snaplen: Some(96),
        ..frames("gso-snap96", "61.6 KB GSO, snaplen 96", 0, 0)
    },
    Scenario {
        load: Load::SuperPackets { count: 30_000, per_second: Some(20_000) },
        ..frames("gso-paced", "61.6 KB GSO, 20 000/s", 0, 0)
    },
    Scenario {
        load: Load::Frames {
            len: 64,
            ipv6: false,
            count: 2 * SMALL,
            senders: 2,
            per_second: None,
            payload: Payload::Zeros,
        },
        ..frames("2-senders", "64 B, two senders", 0, 0)
    },
    pods("pods-1", "64 B, 1 pod of 250", 1),
    pods("pods-50", "64 B, 50 pods of 250", 50),
    pods("pods-250", "64 B, 250 pods of 250", 250),
    tcp("tcp-snap96", "TCP, snaplen 96", Some(96)),
    tcp("tcp", "TCP", None),
    Scenario { prints: true, ..tcp("tcp-lines", "TCP, as lines", Some(96)) },
    stream("stream-random", "1 Gbit/s, random", GIGABIT, LARGE, Payload::Random),
    stream("stream-text", "1 Gbit/s, text", GIGABIT, LARGE, Payload::Text),
    stream("stream-quiet", "100 packets/s", 100, 1_000, Payload::Text),
    recording("record-64", "64 B, recorded", 64, None),
    recording("record-1514", "1514 B, recorded", 1514, None),
    recording("record-paced", "64 B, 100 000/s, recorded", 64, Some(RECORDED_A_SECOND)),
    Scenario { load: Load::Silence { time: Duration::from_secs(10) }, ..frames("idle", "no traffic", 0, 0) },
];

/// Those of a short run.
pub const QUICK: &[&str] = &["64", "1514", "no-match"];

/// The scenario of that name, or those whose names go on behind it: `stream` stands for `stream-random` and the like.
pub fn named(name: &str) -> Vec<&'static Scenario> {
    let goes_on = |it: &&Scenario| it.name.strip_prefix(name).is_some_and(|rest| rest.starts_with('-'));
    find(name).map_or_else(|| ALL.iter().filter(goes_on).collect(), |scenario| vec![scenario])
}

/// The scenario of that name.
pub fn find(name: &str) -> Option<&'static Scenario> {
    ALL.iter().find(|scenario| scenario.name == name)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::{ALL, Filter, QUICK, find, named};

    #[test]
    fn a_name_stands_for_a_scenario_or_for_several() {
        let names = |name| named(name).iter().map(|scenario| scenario.name).collect::<Vec<_>>();
        assert_eq!(names("stream"), ["stream-random", "stream-text", "stream-quiet"]);
        assert_eq!(names("tcp"), ["tcp"], "not tcp-snap96 too");
        assert!(names("str").is_empty() && names("").is_empty());
    }

    #[test]
    fn names_are_unique_and_the_short_run_has_only_known_ones() {
        let names: HashSet<_> = ALL.iter().map(|scenario| scenario.name).collect();
        assert_eq!(names.len(), ALL.len());
        assert!(QUICK.iter().all(|name| find(name).is_some()));
        assert!(find("65").is_none());
    }

    #[test]
    fn a_filter_wants_its_part() {
        assert_eq!(Filter::Everything.wanted(1_000), 1_000);
        assert_eq!(Filter::Nothing.wanted(1_000), 0);
        assert_eq!(Filter::OnePercent.wanted(1_000), 10);
        assert_eq!(Filter::OnePercent.expression().as_deref(), Some("udp port 53"));
    }
}
