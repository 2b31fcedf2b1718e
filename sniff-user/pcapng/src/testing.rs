//! Blocks as they come out of the ring, for the tests of what becomes of them.

use sniff_common::{Direction, epb};

/// A packet, as the kernel side writes it.
#[derive(Clone, Copy, Debug, Default)]
pub struct RingPacket<'a> {
    /// pcapng interface id.
    pub interface: u32,
    /// Nanoseconds since the epoch.
    pub time_ns: u64,
    /// What was captured of it.
    pub data: &'a [u8],
    /// Its length in bytes, beyond what was captured.
    pub cut: u32,
    /// Packets that its interface had lost by then, if it tells.
    pub lost: Option<u64>,
    /// Whether it goes out of the pod, and not into it.
    pub is_sent: bool,
    /// Whether there is room for its id.
    pub has_packetid: bool,
}

impl RingPacket<'_> {
    /// Its block.
    pub fn block(&self) -> Vec<u8> {
        let Self { interface, time_ns, data, cut, lost, is_sent, has_packetid } = *self;
        let len = data.len() as u32;
        let total = epb::block_len(len, has_packetid, lost.is_some());
        let time = [(time_ns >> 32) as u32, time_ns as u32];
        let head = [epb::BLOCK_TYPE, total, interface, time[0], time[1], len, len + cut];
        let mut block: Vec<u8> = head.into_iter().flat_map(u32::to_ne_bytes).collect();
        block.extend(data);
        block.resize(block.len().next_multiple_of(4), 0);
        block.extend(epb::option_header(epb::OPT_FLAGS, 4).to_ne_bytes());
        let direction = if is_sent { Direction::Out } else { Direction::In };
        block.extend((direction as u32).to_ne_bytes());
        if has_packetid {
            block.extend(epb::option_header(epb::OPT_PACKETID, 8).to_ne_bytes());
            block.extend([0; 8]);
        }
        if let Some(lost) = lost {
            block.extend(epb::option_header(epb::OPT_DROPCOUNT, 8).to_ne_bytes());
            block.extend(lost.to_ne_bytes());
        }
        block.extend([0; 4]);
        block.extend(total.to_ne_bytes());
        block
    }
}
