//! Words of filters (pcap-filter(7)) that the names of pods, interfaces and namespaces could be, too. Pure.

/// Those that are filters without others.
const FILTERS: &str = "aarp ah arp atalk broadcast clnp decnet esis esp geneve icmp icmp6 igmp igrp inbound ip ip6 ipx isis iso \
                       lat mopdl moprc mpls multicast netbeui outbound pim pppoed pppoes rarp sctp stp tcp udp vlan vrrp";
/// Those that filters have besides.
const PARTS: &str =
    "and dst ether gateway greater host less link net not or port portrange proto protochain src tcp6 vxlan";

/// Whether a word is a filter without others; libpcap would take any other for a host, and ask DNS.
pub(super) fn is_a_filter(word: &str) -> bool {
    is_in(FILTERS, word)
}

/// Whether a word may be in a filter that is no host's name.
pub(super) fn may_be_in_a_filter(word: &str) -> bool {
    is_a_filter(word) || is_in(PARTS, word)
}

fn is_in(words: &str, word: &str) -> bool {
    words.split(' ').any(|it| it == word)
}
