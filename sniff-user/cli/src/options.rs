//! What a capture can be asked for, wherever it runs: the values of the options that `sniff` and `kubectl sniff` share.

use std::time::Duration;

use bytesize::ByteSize;
use clap::{ArgAction, Args};
use sniff_common::{
    MAX_SNAPLEN, MIN_RING_BYTES,
    flow::{MAX_CUTOFF, MAX_EVERY},
};
use sniff_output::lines::{Color, Dump, Form, Style, Time};
use sniff_protocol::request::{AttachAt, BothEnds, Cutoff, Directions};

/// Options that say what is captured, and how much.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Capture")]
pub struct CaptureArgs {
    /// The filter as one word
    #[arg(
        short,
        long,
        alias = "pcap-filter",
        value_name = "EXPR",
        value_parser = expression,
        allow_hyphen_values = true,
        conflicts_with = "expression",
        display_order = 0,
        help_heading = "Filter"
    )]
    pub filter: Option<String>,

    /// Where to attach: the host end of the pod's veth, the interface inside the pod, or whichever sees all packets
    #[arg(long, value_enum, default_value_t, value_name = "WHERE")]
    pub attach: AttachAt,

    /// Only packets into the pod, out of it, or both
    #[arg(short = 'Q', long, value_enum, default_value_t, value_name = "DIRECTION")]
    pub direction: Directions,

    /// Bytes kept of each packet; 0 is all
    #[arg(short, long = "snapshot-length", alias = "snaplen", value_name = "BYTES", default_value_t = MAX_SNAPLEN,
        value_parser = snaplen, hide_default_value = true)]
    pub snaplen: u32,

    /// Keep only headers: each packet is cut behind its transport header
    #[arg(long)]
    pub headers: bool,

    /// Keep the first bytes of what goes each way in a connection, as in 16KiB, then headers; with `,none` nothing then, with
    /// `,every=N` headers of one packet in N
    #[arg(long, value_name = "SIZE[,THEN]", value_parser = cutoff)]
    pub cutoff: Option<Cutoff>,

    /// Write a packet between two captured pods once, as it is sent, and not again as it comes in
    #[arg(long)]
    pub one_side: bool,

    /// Stop after this many packets
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,

    /// Stop after this time, as in 30s or 5m; a number alone is seconds
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub duration: Option<Duration>,

    /// Memory between the kernel and sniff, over all CPUs, as in 512KiB or 1GiB; a number alone is KiB
    #[arg(short = 'B', long = "buffer-size", value_name = "SIZE", default_value = "64MiB", value_parser = ring_bytes)]
    pub ring_bytes: u32,
}

impl CaptureArgs {
    /// What becomes of packets that are seen at both ends of their way; `None` where that cannot happen, with one target or
    /// one direction.
    pub fn both_ends(&self, are_several: bool) -> Option<BothEnds> {
        match (self.one_side, are_several && self.direction == Directions::Inout) {
            (true, _) => Some(BothEnds::OneSide),
            (false, true) => Some(BothEnds::Marked),
            (false, false) => None,
        }
    }

    /// What clap cannot tell from a single option; says what is wrong.
    ///
    /// # Errors
    ///
    /// When options contradict each other.
    pub fn check(&self) -> Result<(), &'static str> {
        match self.one_side && self.direction != Directions::Inout {
            true => Err("--one-side takes both directions: one has no packet twice; leave out -Q"),
            false => Ok(()),
        }
    }
}

/// Options that say how packets are printed.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Lines")]
pub struct LinesArgs {
    /// Print packets as lines, also when writing a file
    #[arg(long)]
    pub print: bool,

    /// What a packet is printed as, also when writing a file: a line of text, or a JSON object
    #[arg(long, value_enum, value_name = "FORM")]
    pub lines: Option<Form>,

    /// Show MAC addresses and what else is in the link-level header
    #[arg(short = 'e', long)]
    pub link_header: bool,

    /// Show TCP's sequence numbers as they are, not from where the connection began
    #[arg(short = 'S', long = "absolute-tcp-sequence-numbers")]
    pub absolute_numbers: bool,

    /// No time; -tt: in seconds since 1970; -ttt: since the packet before; -tttt: with the date; -ttttt: since the first
    #[arg(short = 't', action = ArgAction::Count)]
    pub time: u8,

    /// Show times to the nanosecond
    #[arg(long)]
    pub nano: bool,

    /// Print the bytes of each packet in hexadecimal and as text; twice: with the link-level header
    #[arg(short = 'X', long, action = ArgAction::Count)]
    pub hex_and_ascii: u8,

    /// Tell interfaces apart by colours
    #[arg(long, value_enum, default_value_t, value_name = "WHEN")]
    pub color: Color,
}

/// What other options say about lines.
#[derive(Clone, Copy, Debug, Default)]
pub struct Printing {
    /// How often the bytes in hexadecimal are asked for.
    pub hex: u8,
    /// How often they are asked for as text.
    pub ascii: u8,
    /// Whether all is to be told.
    pub verbose: bool,
    /// Whether little is to be told.
    pub brief: bool,
    /// Whether checksums are not to be verified.
    pub unverified: bool,
    /// Whether no address is to show as its name.
    pub numeric: bool,
}

impl LinesArgs {
    /// Whether lines are asked for where there would be none.
    pub fn is_printing(&self) -> bool {
        self.print || self.lines.is_some()
    }

    /// What lines are to look like.
    pub fn style(&self, also: Printing) -> Style {
        Style {
            form: self.lines.unwrap_or_default(),
            verbose: also.verbose,
            brief: also.brief,
            link_header: self.link_header,
            absolute_numbers: self.absolute_numbers,
            unverified: also.unverified,
            numeric: also.numeric,
            time: Time::of_option(self.time),
            nanoseconds: self.nano,
            dump: Dump::of_options(also.hex, self.hex_and_ascii, also.ascii),
            color: self.color,
        }
    }
}

fn snaplen(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(0) => Ok(MAX_SNAPLEN),
        Ok(bytes) if bytes <= MAX_SNAPLEN => Ok(bytes),
        Err(_) if text.starts_with('/') => {
            Err("this is how many bytes are kept of each packet; no runtime's socket need be named for that"
                .to_owned())
        }
        Err(_) if text.contains("://") => {
            Err("this is how many bytes are kept of each packet; an API server is named with --server"
                .to_owned())
        }
        _ => Err(format!("a snapshot length is a number from 0 to {MAX_SNAPLEN}")),
    }
}

/// As in `16KiB`, `16KiB,none` or `1M,every=100`; a number alone is bytes.
///
/// # Errors
///
/// When it is no cutoff.
pub fn cutoff(text: &str) -> Result<Cutoff, String> {
    let (bytes, then) = text.split_once(',').unwrap_or((text, "headers"));
    let bytes = u32::try_from(size(bytes)?).unwrap_or(u32::MAX);
    let every = match then {
        "headers" => Some(1),
        "none" => Some(0),
        _ => then.strip_prefix("every=").and_then(|every| every.parse().ok()).filter(|&every| every > 0),
    };
    let every = every.ok_or("behind the size comes headers, none, or every=N, as in 16KiB,every=100")?;
    let cutoff = Cutoff { bytes, every };
    let most = ByteSize(MAX_CUTOFF.into()).display().iec_short();
    cutoff
        .is_sound()
        .then_some(cutoff)
        .ok_or(format!("a cutoff has 1 byte to {most}, and every={MAX_EVERY} at most"))
}

/// A filter may begin with a minus, as in `-ip[8] > 1`; but what looks like an option is one, and the filter forgotten.
fn expression(text: &str) -> Result<String, String> {
    let name = text.trim_start_matches('-').split('=').next().unwrap_or_default();
    let is_name = name.starts_with(|char: char| char.is_ascii_alphabetic())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if text.starts_with('-') && is_name {
        return Err("that is an option, and no filter".to_owned());
    }
    Ok(text.to_owned())
}

/// A time as in `30s`, which is longer than none; a number alone is seconds.
///
/// # Errors
///
/// When it is no time, or none.
pub fn duration(text: &str) -> Result<Duration, String> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let seconds = if is_number { "s" } else { "" };
    match humantime::parse_duration(&format!("{text}{seconds}")) {
        Ok(Duration::ZERO) => Err("a time is longer than 0s".to_owned()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(error.to_string()),
    }
}

/// A number of bytes, as in `1500`, `64MiB` or `50MB`; `k`, `m`, `g` and `t` alone are powers of 1024.
///
/// # Errors
///
/// When it is no size.
pub fn size(text: &str) -> Result<u64, String> {
    let is_short = text.ends_with(['k', 'K', 'm', 'M', 'g', 'G', 't', 'T']);
    let ByteSize(bytes) = format!("{text}{}", if is_short { "iB" } else { "" }).parse()?;
    Ok(bytes)
}

/// A size; a number alone is KiB, as tcpdump has it.
/// An amount of memory, in bytes.
///
/// # Errors
///
/// When it is none, too little or too much.
pub fn ring_bytes(text: &str) -> Result<u32, String> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    let bytes = size(&format!("{text}{}", if is_number { "KiB" } else { "" }))?;
    if bytes < u64::from(MIN_RING_BYTES) || bytes > 1 << 31 {
        return Err("a buffer has 512KiB to 2GiB, as in 64MiB; a number alone is KiB".to_owned());
    }
    Ok(bytes as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snaplen_zero_means_everything() {
        assert_eq!(snaplen("0"), Ok(MAX_SNAPLEN));
        assert_eq!(snaplen("96"), Ok(96));
        assert_eq!(snaplen("262144"), Ok(262_144));
        for bad in ["262145", "-1", "x", ""] {
            assert!(snaplen(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_cutoff_is_a_size_and_what_comes_then() {
        for (text, bytes, every) in [
            ("16KiB", 16 << 10, 1),
            ("16k,headers", 16 << 10, 1),
            ("1000,none", 1000, 0),
            ("1GiB,every=100", 1 << 30, 100),
        ] {
            assert_eq!(cutoff(text), Ok(Cutoff { bytes, every }), "{text}");
        }
        for bad in [
            "",
            "0",
            "2GiB",
            "1GiB,",
            "8G,none",
            "1k,every=0",
            "1k,every=1000001",
            "1k,every=",
            "1k,some",
            "x,none",
        ] {
            assert!(cutoff(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_filter_may_begin_with_a_minus() {
        for filter in ["-ip[8] > 1", "-ip[8]>1", "-len < 5", "- 1 = 1", "-(ip[8])=1", "tcp", ""] {
            assert_eq!(expression(filter), Ok(filter.to_owned()));
        }
        for option in ["-w", "--print", "-i", "--count=5", "-vv"] {
            assert!(expression(option).is_err(), "{option}");
        }
    }

    #[test]
    fn no_time_is_not_enough() {
        assert_eq!(duration("1500ms"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        for bad in ["0s", "0", "0ms", "soon", "-1s", ""] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ring_size_is_in_kib_as_tcpdump_has_it_or_in_its_unit() {
        assert_eq!(ring_bytes("4096"), Ok(4 << 20));
        assert_eq!(ring_bytes("4M"), Ok(4 << 20));
        assert_eq!(ring_bytes("1g"), Ok(1 << 30));
        assert_eq!(ring_bytes("64MiB"), Ok(64 << 20));
        assert_eq!(ring_bytes("100MiB"), Ok(100 << 20));
        assert_eq!(ring_bytes("512KiB"), Ok(512 << 10));
        for bad in ["64", "1KiB", "4GiB", "MiB", ""] {
            assert!(ring_bytes(bad).is_err(), "{bad}");
        }
    }
}
