//! What is demanded of a capture, whatever its options say; pure.

/// What of an interface may be captured at most. The kernel side keeps to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Demands {
    /// Packets that match this as well.
    pub filter: Option<String>,
    /// Most bytes kept of a packet.
    pub snaplen: Option<u32>,
    /// Whether only headers are kept.
    pub headers: bool,
}

impl Demands {
    /// Most bytes kept of a packet where `asked` were asked for.
    pub fn snaplen(&self, asked: u32) -> u32 {
        self.snaplen.map_or(asked, |most| most.min(asked))
    }

    /// Each in words, for people.
    pub fn in_words(&self) -> impl Iterator<Item = String> {
        let Self { filter, snaplen, headers } = self;
        let filter = filter.as_ref().map(|filter| format!("only packets that match '{filter}'"));
        let snaplen = snaplen.map(|most| format!("at most {most} bytes of each packet"));
        let headers = headers.then(|| "only headers".to_owned());
        filter.into_iter().chain(snaplen).chain(headers)
    }
}

/// The expression that decides what is captured, of what is asked for, what is left out of that, and what is demanded. What
/// stands last holds for all before it: libpcap takes `and` and `or` from left to right.
pub(super) fn expression(asked: Option<&str>, left_out: Option<&str>, demands: &Demands) -> Option<String> {
    let terms = [
        asked.map(|asked| format!("({asked})")),
        left_out.map(|left_out| format!("not ({left_out})")),
        demands.filter.as_ref().map(|filter| format!("({filter})")),
    ];
    let terms: Vec<String> = terms.into_iter().flatten().collect();
    match (&terms[..], asked) {
        ([], _) => None,
        // As it was asked for.
        ([_], Some(asked)) => Some(asked.to_owned()),
        _ => Some(terms.join(" and ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_demanded_holds_for_all_that_is_asked_for() {
        let demands = Demands { filter: Some("not port 53".into()), ..Demands::default() };
        let none = Demands::default();
        let of = |asked, left_out, demands| expression(asked, left_out, demands).unwrap_or_default();
        assert_eq!(of(None, None, &none), "");
        assert_eq!(of(Some("tcp or udp"), None, &none), "tcp or udp");
        assert_eq!(of(None, Some("port 1"), &none), "not (port 1)");
        assert_eq!(of(Some("tcp"), Some("port 1"), &none), "(tcp) and not (port 1)");
        assert_eq!(of(None, None, &demands), "(not port 53)");
        assert_eq!(of(Some("tcp or udp"), None, &demands), "(tcp or udp) and (not port 53)");
        let all = "(tcp or udp) and not (port 1) and (not port 53)";
        assert_eq!(of(Some("tcp or udp"), Some("port 1"), &demands), all);
    }

    #[test]
    fn a_snaplen_is_cut_and_not_made_longer() {
        let demands = Demands { snaplen: Some(96), headers: true, ..Demands::default() };
        assert_eq!((demands.snaplen(64), demands.snaplen(1500)), (64, 96));
        assert_eq!(Demands::default().snaplen(1500), 1500);
        let words: Vec<String> = demands.in_words().collect();
        assert_eq!(words, ["at most 96 bytes of each packet", "only headers"]);
    }
}
