//! A netlink socket whose messages can be decoded, whatever names interfaces have.
//!
//! The library drops a message that it cannot decode, and with it the interface that the message is about. Names, aliases
//! and labels are bytes in the kernel, which whoever rules a pod's network namespace may choose. So the library gets no
//! more than what is read here: other attributes reach it as unknown ones, and text has a `?` for each byte that makes it
//! no UTF-8.

use std::{
    io,
    task::{Context, Poll, ready},
};

use bytes::{BufMut, BytesMut};
use rtnetlink::sys::{AsyncSocket, Socket, SocketAddr, TokioSocket};

/// Bytes of a `nlmsghdr` and of a `nlattr` (linux/netlink.h).
const MESSAGE_HEADER: usize = 16;
const ATTRIBUTE_HEADER: usize = 4;
/// Messages and attributes begin at multiples of this many bytes.
const ALIGNMENT: usize = 4;
/// The type of an attribute without its flags (`NLA_TYPE_MASK`); as a type, one that the kernel has not.
const TYPE_MASK: u16 = 0x3fff;
/// The largest datagram that the kernel sends is half of this.
const DATAGRAM_ROOM: usize = 64 << 10;

/// What is done with an attribute.
enum Known {
    /// It is a number, an address or a structure, and stays.
    Plain,
    /// It becomes UTF-8.
    Text,
    /// It is made of these.
    Nested(&'static [(u16, Known)]),
}

/// `IFLA_*` (linux/if_link.h).
const LINK: &[(u16, Known)] = &[
    (1, Known::Plain),                        // IFLA_ADDRESS
    (3, Known::Text),                         // IFLA_IFNAME
    (4, Known::Plain),                        // IFLA_MTU
    (5, Known::Plain),                        // IFLA_LINK
    (6, Known::Text),                         // IFLA_QDISC
    (18, Known::Nested(&[(1, Known::Text)])), // IFLA_LINKINFO, IFLA_INFO_KIND
    (23, Known::Plain),                       // IFLA_STATS64
    (37, Known::Plain),                       // IFLA_LINK_NETNSID
];
/// `IFA_*` (linux/if_addr.h).
const ADDRESS: &[(u16, Known)] = &[
    (1, Known::Plain), // IFA_ADDRESS
    (2, Known::Plain), // IFA_LOCAL
];
/// `TCA_*` (linux/rtnetlink.h).
const QUEUEING: &[(u16, Known)] = &[
    (1, Known::Text),   // TCA_KIND
    (11, Known::Plain), // TCA_CHAIN
];
/// The same of a BPF filter, with `TCA_BPF_*` (linux/pkt_cls.h).
const BPF_FILTER: &[(u16, Known)] = &[
    (1, Known::Text),                                            // TCA_KIND
    (2, Known::Nested(&[(7, Known::Text), (11, Known::Plain)])), // TCA_OPTIONS, TCA_BPF_NAME, TCA_BPF_ID
    (11, Known::Plain),                                          // TCA_CHAIN
];

/// The socket; it is for rtnetlink.
pub struct SanitizingSocket(TokioSocket);

impl AsyncSocket for SanitizingSocket {
    fn socket_ref(&self) -> &Socket {
        self.0.socket_ref()
    }

    fn socket_mut(&mut self) -> &mut Socket {
        self.0.socket_mut()
    }

    fn new(protocol: isize) -> io::Result<Self> {
        TokioSocket::new(protocol).map(Self)
    }

    fn poll_send(&self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.0.poll_send(cx, buf)
    }

    fn poll_send_to(&self, cx: &mut Context<'_>, buf: &[u8], to: &SocketAddr) -> Poll<io::Result<usize>> {
        self.0.poll_send_to(cx, buf, to)
    }

    fn poll_recv<B: BufMut>(&self, cx: &mut Context<'_>, buf: &mut B) -> Poll<io::Result<()>> {
        self.poll_recv_from(cx, buf).map_ok(drop)
    }

    fn poll_recv_from<B: BufMut>(&self, cx: &mut Context<'_>, buf: &mut B) -> Poll<io::Result<SocketAddr>> {
        let mut datagram = BytesMut::with_capacity(DATAGRAM_ROOM);
        let from = ready!(self.0.poll_recv_from(cx, &mut datagram))?;
        sanitize(&mut datagram);
        buf.put_slice(&datagram);
        Poll::Ready(Ok(from))
    }

    fn poll_recv_from_full(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Vec<u8>, SocketAddr)>> {
        let (mut datagram, from) = ready!(self.0.poll_recv_from_full(cx))?;
        sanitize(&mut datagram);
        Poll::Ready(Ok((datagram, from)))
    }
}

/// An interface's name as it is known here.
pub fn sanitize_name(mut name: Vec<u8>) -> String {
    make_text(&mut name);
    // There is nothing left to lose.
    String::from_utf8_lossy(&name).into_owned()
}

/// Goes through the messages of a datagram.
fn sanitize(mut datagram: &mut [u8]) {
    while datagram.len() >= MESSAGE_HEADER {
        let len = u32::from_ne_bytes([datagram[0], datagram[1], datagram[2], datagram[3]]) as usize;
        let kind = u16::from_ne_bytes([datagram[4], datagram[5]]);
        if len < MESSAGE_HEADER || len > datagram.len() {
            break;
        }
        let (message, rest) = datagram.split_at_mut(len.next_multiple_of(ALIGNMENT).min(datagram.len()));
        // The length of what is in front of the attributes: ifinfomsg, ifaddrmsg, tcmsg.
        let fixed = match kind {
            libc::RTM_NEWLINK | libc::RTM_DELLINK => 16,
            libc::RTM_NEWADDR | libc::RTM_DELADDR => 8,
            libc::RTM_NEWQDISC | libc::RTM_DELQDISC | libc::RTM_NEWTFILTER | libc::RTM_DELTFILTER => 20,
            _ => len - MESSAGE_HEADER,
        };
        if let Some(attributes) = message.get_mut(MESSAGE_HEADER + fixed..len) {
            let known = match fixed {
                16 => LINK,
                8 => ADDRESS,
                _ if is_bpf(attributes) => BPF_FILTER,
                _ => QUEUEING,
            };
            go_through(attributes, known);
        }
        datagram = rest;
    }
}

/// Whether the first attribute, which is TCA_KIND, says so.
fn is_bpf(attributes: &[u8]) -> bool {
    attributes.get(ATTRIBUTE_HEADER..).is_some_and(|value| value.starts_with(b"bpf\0"))
}

fn go_through(mut attributes: &mut [u8], known: &[(u16, Known)]) {
    while attributes.len() >= ATTRIBUTE_HEADER {
        let len = usize::from(u16::from_ne_bytes([attributes[0], attributes[1]]));
        let kind = u16::from_ne_bytes([attributes[2], attributes[3]]) & TYPE_MASK;
        if len < ATTRIBUTE_HEADER || len > attributes.len() {
            break;
        }
        let (attribute, rest) =
            attributes.split_at_mut(len.next_multiple_of(ALIGNMENT).min(attributes.len()));
        let (header, value) = attribute[..len].split_at_mut(ATTRIBUTE_HEADER);
        match known.iter().find(|(number, _)| *number == kind) {
            Some((_, Known::Plain)) => {}
            Some((_, Known::Text)) => make_text(value),
            Some((_, Known::Nested(inner))) => go_through(value, inner),
            None => header[2..].copy_from_slice(&TYPE_MASK.to_ne_bytes()),
        }
        attributes = rest;
    }
}

fn make_text(bytes: &mut [u8]) {
    let mut start = 0;
    while let Err(error) = str::from_utf8(&bytes[start..]) {
        start += error.valid_up_to();
        bytes[start] = b'?';
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let len = (ATTRIBUTE_HEADER + value.len()) as u16;
        let mut bytes = [len.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        bytes
    }

    fn message(kind: u16, fixed: usize, attributes: &[Vec<u8>]) -> Vec<u8> {
        let attributes = attributes.concat();
        let len = (MESSAGE_HEADER + fixed + attributes.len()) as u32;
        let mut bytes = [&len.to_ne_bytes()[..], &kind.to_ne_bytes()].concat();
        bytes.resize(MESSAGE_HEADER + fixed, 0);
        bytes.extend(attributes);
        bytes
    }

    #[test]
    fn text_keeps_its_length_and_what_is_plain() {
        for (bytes, expected) in [
            (&b"eth0"[..], "eth0"),
            (b"\xff", "?"),
            (b"a\xff\xfeb\xe2\x82", "a??b??"),
            ("ü\u{1b}[31m".as_bytes(), "ü\u{1b}[31m"),
            (b"", ""),
        ] {
            assert_eq!(sanitize_name(bytes.to_vec()), expected);
        }
    }

    #[test]
    fn each_message_of_a_datagram_is_sanitized() {
        let of = |name: &[u8], alias_kind: u16, kind: &[u8], data_kind: u16| {
            let info = attribute(18 | 0x8000, &[attribute(1, kind), attribute(data_kind, b"\xff")].concat());
            let attributes =
                [attribute(3, name), attribute(alias_kind, b"\xff\0"), attribute(1, &[0xff; 6]), info];
            message(libc::RTM_NEWLINK, 16, &attributes)
        };
        let mut datagram = [of(b"a\xff\0", 20, b"ve\xff\0", 2), of(b"b\xfe\0", 20, b"veth\0", 2)].concat();
        sanitize(&mut datagram);
        let expected =
            [of(b"a?\0", TYPE_MASK, b"ve?\0", TYPE_MASK), of(b"b?\0", TYPE_MASK, b"veth\0", TYPE_MASK)];
        assert!(datagram == expected.concat());
    }

    #[test]
    fn of_filters_only_those_of_bpf_show_what_they_are() {
        let of = |kind: &[u8], options: u16, name: &[u8]| {
            let options = attribute(options, &[attribute(7, name), attribute(11, &[1, 0, 0, 0])].concat());
            message(libc::RTM_NEWTFILTER, 20, &[attribute(1, kind), options])
        };
        let mut datagram = [of(b"bpf\0", 2, b"\xff\0"), of(b"u32\0", 2, b"\xff\0")].concat();
        sanitize(&mut datagram);
        assert!(datagram == [of(b"bpf\0", 2, b"?\0"), of(b"u32\0", TYPE_MASK, b"\xff\0")].concat());
    }

    #[test]
    fn what_is_cut_or_of_another_kind_stays_as_it_is() {
        let whole = message(libc::RTM_NEWLINK, 16, &[attribute(20, b"\xff\xff\xff\xff")]);
        for len in 0..whole.len() {
            let mut cut = whole[..len].to_vec();
            sanitize(&mut cut);
            assert!(cut == whole[..len]);
        }
        let other = message(libc::RTM_NEWNSID, 4, &[attribute(20, b"\xff")]);
        let mut datagram = other.clone();
        sanitize(&mut datagram);
        assert!(datagram == other);
    }
}
