//! Why a node loses packets, and what helps.

use sniff_protocol::message::Stats;

/// Where there is not room enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// In what the packets are written to here.
    Output,
    /// In the connection from the node.
    Connection,
    /// In the node's buffer: packets come faster than the node takes them out.
    Buffer,
    /// Nowhere: the kernel does not give the packets' bytes.
    Unreadable,
}

impl Cause {
    /// Of what was lost since the counts `before`; of most of it, that is. `is_output_slow`: it was, since then.
    pub(super) fn of(before: &Stats, now: &Stats, is_output_slow: bool) -> Self {
        let more = |count: fn(&Stats) -> u64| count(now).saturating_sub(count(before));
        let half = more(|stats| stats.dropped) / 2;
        if more(|stats| stats.unreadable) > half {
            Self::Unreadable
        } else if more(|stats| stats.held_up) <= half {
            Self::Buffer
        } else if is_output_slow {
            Self::Output
        } else {
            Self::Connection
        }
    }

    /// What is wrong, and what to do.
    pub(super) fn advice(self) -> &'static str {
        match self {
            Self::Output => {
                "what they are written to here takes less than is captured; a faster disk, --headers, a smaller -s or a \
                 narrower filter helps"
            }
            Self::Connection => {
                "the connection from there carries less than is captured; --headers, a smaller -s or a narrower filter helps"
            }
            Self::Buffer => {
                "they come faster than they are taken from the buffer; a larger -B, a smaller -s or a narrower filter helps"
            }
            Self::Unreadable => "the kernel there does not give their bytes",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(dropped: u64, unreadable: u64, held_up: u64) -> Stats {
        Stats { dropped, unreadable, held_up, ..Stats::default() }
    }

    #[test]
    fn what_is_lost_while_the_connection_is_slow_is_told_from_the_rest() {
        let before = stats(10, 4, 6);
        let of = |now, is_output_slow| Cause::of(&before, &now, is_output_slow);
        assert_eq!(of(stats(20, 4, 16), false), Cause::Connection);
        assert_eq!(of(stats(20, 4, 12), false), Cause::Connection, "most of it");
        assert_eq!(of(stats(20, 4, 16), true), Cause::Output);
        assert_eq!(of(stats(20, 4, 6), false), Cause::Buffer);
        assert_eq!(of(stats(20, 4, 11), false), Cause::Buffer);
        assert_eq!(of(stats(20, 4, 6), true), Cause::Buffer, "the node was not held up by it");
        assert_eq!(of(stats(20, 14, 16), false), Cause::Unreadable);
        assert_eq!(of(stats(20, 0, 0), false), Cause::Buffer, "of an older sniff, which does not tell");
    }

    #[test]
    fn a_larger_buffer_is_no_advice_for_a_connection() {
        let is_for_buffer = |cause: Cause| cause.advice().contains("-B");
        assert!(is_for_buffer(Cause::Buffer));
        assert!(![Cause::Output, Cause::Connection, Cause::Unreadable].into_iter().any(is_for_buffer));
        for help in ["connection", "--headers", "-s", "filter"] {
            assert!(Cause::Connection.advice().contains(help), "{help}");
        }
    }
}
