//! Where the sequence numbers of TCP connections began, so that they can be shown from there, as tcpdump does.

use std::{
    hash::{BuildHasher as _, RandomState},
    net::IpAddr,
};

/// How many connections one place of the table has room for: as many as a cache line.
const WAYS: usize = 4;
/// Places of the table, a power of two: room for 65,536 connections in 1 MiB.
const PLACES: usize = 1 << 14;

/// The connections seen last.
///
/// The table is of one size, whoever sends what. A connection that others have driven out of it counts as new when it
/// is seen again. Where a connection stands in the table depends on a secret, so that nobody can aim at another's.
pub(super) struct Connections {
    secret: RandomState,
    /// Allocated with the first connection.
    places: Vec<[Connection; WAYS]>,
}

/// One end of a connection and the other: address and port.
pub(super) type End = (IpAddr, u16);

#[derive(Clone, Copy, Default)]
struct Connection {
    /// Stands for both ends and the interface; 0 where there is no connection. That two have the same is as likely as 1
    /// in 2^64 for each pair.
    tag: u64,
    base: Base,
}

/// What numbers are counted from, by the side of the lesser end.
#[derive(Clone, Copy, Default)]
struct Base {
    lesser: u32,
    greater: u32,
}

/// What a segment's numbers are counted from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Origin {
    /// Its sequence number.
    pub(super) seq: u32,
    /// Its acknowledgement, and what it acknowledges selectively.
    pub(super) ack: u32,
}

impl Connections {
    pub(super) fn new() -> Self {
        Self { secret: RandomState::new(), places: Vec::new() }
    }

    /// What the numbers of a segment with ACK are counted from. The first one of a connection and one with SYN show as
    /// they are, and what follows is counted from them.
    ///
    /// `interface` is where it was seen: addresses mean something within a network namespace only.
    pub(super) fn origin(
        &mut self,
        interface: u32,
        (source, destination): (End, End),
        (seq, ack): (u32, u32),
        is_syn: bool,
    ) -> Origin {
        let is_lesser = source < destination;
        let ends = if is_lesser { (source, destination) } else { (destination, source) };
        let tag = self.secret.hash_one((interface, ends)).max(1);
        if self.places.is_empty() {
            self.places = vec![[Connection::default(); WAYS]; PLACES];
        }
        let place = &mut self.places[tag as usize % PLACES];
        let known = place.iter().position(|connection| connection.tag == tag);
        // What is used comes first, and what was not for longest goes.
        place[..=known.unwrap_or(WAYS - 1)].rotate_right(1);
        if known.is_none() || is_syn {
            let own = [seq, ack.wrapping_sub(1)];
            let [lesser, greater] = if is_lesser { own } else { [own[1], own[0]] };
            place[0] = Connection { tag, base: Base { lesser, greater } };
            return Origin::default();
        }
        let Base { lesser, greater } = place[0].base;
        let (seq, ack) = if is_lesser { (lesser, greater) } else { (greater, lesser) };
        Origin { seq, ack }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn end(host: u32, port: u16) -> End {
        (Ipv4Addr::from(host).into(), port)
    }

    #[test]
    fn both_sides_count_from_where_the_connection_began() {
        let mut connections = Connections::new();
        let (client, server) = (end(1, 40_000), end(2, 80));
        let mut of = |from, to, seq, ack, syn| connections.origin(0, (from, to), (seq, ack), syn);
        let as_it_is = Origin::default();
        assert_eq!(of(server, client, 500, 1001, true), as_it_is);
        assert_eq!(of(client, server, 1001, 501, false), Origin { seq: 1000, ack: 500 });
        assert_eq!(of(server, client, 501, 1001, false), Origin { seq: 500, ack: 1000 });
        // The same ports once more.
        assert_eq!(of(server, client, 7, 100, true), as_it_is);
        assert_eq!(of(client, server, 100, 8, false), Origin { seq: 99, ack: 7 });
    }

    #[test]
    fn the_same_addresses_at_another_interface_are_others() {
        let mut connections = Connections::new();
        let ends = (end(1, 1), end(2, 2));
        assert_eq!(connections.origin(0, ends, (5, 5), false), Origin::default());
        assert_eq!(connections.origin(1, ends, (6, 6), false), Origin::default());
        assert_eq!(connections.origin(0, ends, (7, 7), false), Origin { seq: 5, ack: 4 });
    }

    #[test]
    fn many_connections_take_no_more_room_and_drive_out_the_oldest() {
        let mut connections = Connections::new();
        let busy = (end(9, 9), end(8, 8));
        connections.origin(0, busy, (5, 5), false);
        for host in 0..(8 * PLACES * WAYS) as u32 {
            connections.origin(0, (end(host, 1), end(1, 2)), (host, host), false);
            if host % 4 == 0 {
                assert_eq!(connections.origin(0, busy, (host, host), false), Origin { seq: 5, ack: 4 });
            }
        }
        assert_eq!((connections.places.len(), connections.places.capacity()), (PLACES, PLACES));
        assert_eq!(size_of::<[Connection; WAYS]>() * PLACES, 1 << 20);
        let first = connections.origin(0, (end(1, 1), end(1, 2)), (7, 7), false);
        assert_eq!(first, Origin::default());
    }
}
