//! The frames that are sent.

use anyhow::{Context as _, Result};
use etherparse::PacketBuilder;

use crate::net;

/// A UDP datagram in an Ethernet frame of `len` bytes, for a host that is not there.
///
/// # Errors
/// `len` is too short for the headers.
pub fn udp(len: usize, ipv6: bool, port: u16) -> Result<Vec<u8>> {
    const SOURCE_PORT: u16 = 40_000;
    const TTL: u8 = 64;
    let ethernet = PacketBuilder::ethernet2(net::POD_MAC, net::SINK_MAC);
    let ip = if ipv6 {
        ethernet.ipv6(net::POD.to_ipv6_mapped().octets(), net::SINK.to_ipv6_mapped().octets(), TTL)
    } else {
        ethernet.ipv4(net::POD.octets(), net::SINK.octets(), TTL)
    };
    let udp = ip.udp(SOURCE_PORT, port);
    let payload = len.checked_sub(udp.size(0)).with_context(|| format!("{len} bytes are not enough"))?;
    let mut frame = Vec::with_capacity(len);
    udp.write(&mut frame, &vec![0; payload])?;
    Ok(frame)
}

#[cfg(test)]
mod tests {
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};

    use super::udp;

    #[test]
    fn a_frame_has_the_length_and_port_asked_for() {
        for (len, ipv6) in [(64, false), (1514, false), (64, true)] {
            let frame = udp(len, ipv6, 53).unwrap();
            assert_eq!(frame.len(), len);
            let packet = SlicedPacket::from_ethernet(&frame).unwrap();
            assert_eq!(matches!(packet.net, Some(NetSlice::Ipv6(_))), ipv6);
            let Some(TransportSlice::Udp(udp)) = packet.transport else { panic!("no UDP") };
            assert_eq!(udp.destination_port(), 53);
        }
        assert!(udp(41, false, 53).is_err());
    }
}
