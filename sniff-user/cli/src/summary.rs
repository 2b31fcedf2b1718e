//! The counts at the end of a capture: tcpdump's three lines, and others where those leave something out.

use sniff_protocol::message::Seen;

/// Packets, by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Written or printed.
    pub captured: u64,
    /// Accepted by the filter.
    pub matched: u64,
    /// Lost on their way out of the kernel.
    pub dropped: u64,
    /// Taken from the kernel, and not written.
    pub unwritten: u64,
    /// Left out, since another copy of each was written.
    pub left_out: u64,
    /// Left out behind the cutoff of their flow.
    pub cut_off: u64,
    /// Recorded, and written over by later ones.
    pub aged_out: u64,
}

impl Summary {
    /// The lines. `least` stands in front of counts that may be more, as in `at least `, and `missing` behind what was
    /// captured; both are empty where all is known.
    pub fn lines(&self, least: &str, missing: &str) -> String {
        let Self { captured, matched, dropped, unwritten, left_out, cut_off, aged_out } = self;
        let mut lines = format!(
            "{captured} packets captured{missing}\n{least}{matched} packets received by filter\n\
             {least}{dropped} packets dropped by kernel\n"
        );
        if *unwritten > 0 {
            lines += &format!("{least}{unwritten} packets received but not written\n");
        }
        if *left_out > 0 {
            lines += &format!("{least}{left_out} packets left out, which are here where they were sent\n");
        }
        if *cut_off > 0 {
            lines += &format!("{least}{cut_off} packets left out by the cutoff\n");
        }
        if *aged_out > 0 {
            lines += &format!("{least}{aged_out} packets too old to be held\n");
        }
        lines
    }
}

/// The lines on packets whose two ends are captured; `between` says whose, where that is not clear.
pub fn seen(Seen { at_both, only_sent, forgotten }: Seen, between: &str) -> String {
    let mut lines = format!("{at_both} packets seen at both ends, {only_sent} only where sent{between}\n");
    if forgotten > 0 {
        lines += &format!("{forgotten} sent packets were not followed: too many were on their way\n");
    }
    lines
}
