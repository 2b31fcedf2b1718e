//! NTP (RFC 5905): who asks and who answers.

use super::udp::Datagram;
use crate::lines::out::Out;

const PORT: u16 = 123;

/// Describes a datagram, if it is NTP's; returns whether it is.
pub(super) fn describe(out: &mut impl Out, datagram: &Datagram<'_>) -> bool {
    let [head, stratum, ..] = datagram.payload else { return false };
    let mode = match head & 7 {
        1 => "symmetric active",
        2 => "symmetric passive",
        3 => "Client",
        4 => "Server",
        5 => "Broadcast",
        6 => "Control Message",
        7 => "Private",
        _ => return false,
    };
    if !datagram.is_of(PORT) {
        return false;
    }
    out.open("ntp");
    out.say("NTPv", "version", head >> 3 & 7);
    out.say(", ", "mode", mode);
    if matches!(head & 7, 4 | 5) {
        out.say(", stratum ", "stratum", *stratum);
    } else {
        out.detail("stratum", *stratum);
    }
    // A clock that is not set says so.
    if head >> 6 == 3 {
        out.words(", unsynchronised");
        out.detail("unsynchronised", true);
    }
    out.close();
    out.words(", length ");
    out.aside(datagram.len);
    true
}
