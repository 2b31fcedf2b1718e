//! Whether a checksum is right, where all that it is of was captured (RFC 1071).

use std::net::IpAddr;

use etherparse::checksum::Sum16BitWords;

use crate::lines::out::{Hex, Out};

/// What a transport's checksum turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// As it should be.
    Correct,
    /// That of the pseudo-header alone: the rest is added by the device that sends the packet.
    NotFilledIn,
    /// Wrong: it should be this one.
    Incorrect(u16),
    /// Something was cut off.
    Unknown,
}

/// Judges the checksum that is at `at` in a segment, datagram or message of which `len` bytes were in the kernel.
pub(super) fn judge(
    (source, destination): (IpAddr, IpAddr),
    protocol: u8,
    bytes: &[u8],
    len: usize,
    at: usize,
) -> Verdict {
    let mut pseudo = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            Sum16BitWords::new().add_4bytes(source.octets()).add_4bytes(destination.octets())
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            Sum16BitWords::new().add_16bytes(source.octets()).add_16bytes(destination.octets())
        }
        _ => return Verdict::Unknown,
    };
    // As the kernel adds it, lengths of more than 16 bits included.
    let pseudo = pseudo.add_4bytes((len as u32).to_be_bytes()).add_2bytes([0, protocol]);
    let Some(found) = super::u16_at(bytes, at) else { return Verdict::Unknown };
    if found == !pseudo.ones_complement().to_be() {
        return Verdict::NotFilledIn;
    }
    if bytes.len() < len {
        return Verdict::Unknown;
    }
    judge_sum(pseudo, bytes, at, found)
}

/// Judges the checksum at `at` in a message that has no pseudo-header.
pub(super) fn judge_plain(bytes: &[u8], len: usize, at: usize) -> Verdict {
    match super::u16_at(bytes, at) {
        Some(found) if bytes.len() >= len => judge_sum(Sum16BitWords::new(), bytes, at, found),
        _ => Verdict::Unknown,
    }
}

fn judge_sum(start: Sum16BitWords, bytes: &[u8], at: usize, found: u16) -> Verdict {
    let sum = start.add_slice(&bytes[..at]).add_slice(&bytes[at + 2..]);
    let expected = sum.ones_complement().to_be();
    // 0 and 0xffff are the same number, and UDP writes the latter.
    if expected == found || (expected == 0 && found == u16::MAX) {
        Verdict::Correct
    } else {
        Verdict::Incorrect(expected)
    }
}

/// Tells a verdict behind the checksum, if it is asked for.
pub(super) fn verify(out: &mut impl Out, judge: impl FnOnce() -> Verdict) {
    if out.verifies() {
        judge().describe(out);
    }
}

impl Verdict {
    fn describe(self, out: &mut impl Out) {
        match self {
            Self::Correct => {
                out.words(" (correct)");
                out.detail("checksum_status", "correct");
            }
            Self::NotFilledIn => {
                out.words(" (not filled in yet)");
                out.detail("checksum_status", "not filled in yet");
            }
            Self::Incorrect(expected) => {
                out.words(" (incorrect -> ");
                out.field("checksum_expected", Hex::<4>(expected.into()));
                out.words(")");
                out.detail("checksum_status", "incorrect");
            }
            Self::Unknown => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_is_right_wrong_or_left_to_the_device() {
        let ends: (IpAddr, IpAddr) = ("10.88.0.7".parse().unwrap(), "10.88.0.5".parse().unwrap());
        // A datagram from port 1 to port 2 with an odd byte, as the kernel sent it.
        let mut datagram = [0, 1, 0, 2, 0, 9, 0, 0, b'x'];
        let Verdict::Incorrect(right) = judge(ends, 17, &datagram, 9, 6) else { panic!() };
        datagram[6..8].copy_from_slice(&right.to_be_bytes());
        assert_eq!(judge(ends, 17, &datagram, 9, 6), Verdict::Correct);
        assert_eq!(judge(ends, 17, &datagram[..8], 9, 6), Verdict::Unknown);
        // 10 + 88 and so on: 0x0a58 * 2 + 7 + 5 + 17 + 9.
        datagram[6..8].copy_from_slice(&0x14d6_u16.to_be_bytes());
        assert_eq!(judge(ends, 17, &datagram, 9, 6), Verdict::NotFilledIn);
        assert_eq!(judge_plain(&[8, 0, 0xf7, 0xff, 0, 0, 0, 0], 8, 2), Verdict::Correct);
    }
}
