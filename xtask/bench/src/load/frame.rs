//! The frames that are sent.

use std::iter;

use anyhow::{Context as _, Result};
use etherparse::PacketBuilder;

use crate::{net, scenario::Payload};

/// A UDP datagram in an Ethernet frame of `len` bytes, for a host that is not there; the one of this `number`.
///
/// # Errors
/// `len` is too short for the headers.
pub fn udp(len: usize, ipv6: bool, port: u16, payload: Payload, number: usize) -> Result<Vec<u8>> {
    const SOURCE_PORT: u16 = 40_000;
    const TTL: u8 = 64;
    let ethernet = PacketBuilder::ethernet2(net::POD_MAC, net::SINK_MAC);
    let ip = if ipv6 {
        ethernet.ipv6(net::POD.to_ipv6_mapped().octets(), net::SINK.to_ipv6_mapped().octets(), TTL)
    } else {
        ethernet.ipv4(net::POD.octets(), net::SINK.octets(), TTL)
    };
    let udp = ip.udp(SOURCE_PORT, port);
    let room = len.checked_sub(udp.size(0)).with_context(|| format!("{len} bytes are not enough"))?;
    let mut frame = Vec::with_capacity(len);
    udp.write(&mut frame, &fill(payload, number, room))?;
    Ok(frame)
}

/// What a packet of this number carries: `len` bytes.
fn fill(payload: Payload, number: usize, len: usize) -> Vec<u8> {
    match payload {
        Payload::Zeros => vec![0; len],
        Payload::Text => {
            let request =
                format!("GET /items/{number} HTTP/1.1\r\nHost: shop.example\r\nAccept: */*\r\n\r\n");
            request.bytes().cycle().take(len).collect()
        }
        Payload::Random => {
            let mut state = (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            // xorshift64 (Marsaglia).
            let next = || {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 32) as u8
            };
            iter::repeat_with(next).take(len).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};

    use super::udp;
    use crate::scenario::Payload;

    #[test]
    fn a_frame_has_the_length_and_port_asked_for() {
        for (len, ipv6) in [(64, false), (1514, false), (64, true)] {
            let frame = udp(len, ipv6, 53, Payload::Zeros, 0).unwrap();
            assert_eq!(frame.len(), len);
            let packet = SlicedPacket::from_ethernet(&frame).unwrap();
            assert_eq!(matches!(packet.net, Some(NetSlice::Ipv6(_))), ipv6);
            let Some(TransportSlice::Udp(udp)) = packet.transport else { panic!("no UDP") };
            assert_eq!(udp.destination_port(), 53);
        }
        let random = |number| udp(1514, false, 53, Payload::Random, number).unwrap();
        assert_eq!(random(1), random(1));
        assert_ne!(random(1)[42..100], random(2)[42..100]);
        assert!(udp(41, false, 53, Payload::Zeros, 0).is_err());
    }
}
