//! Where packets are missing: from what the kernel side counts to the `epb_dropcount` of packets in the file.
//!
//! A packet in the ring tells how many its interface had lost before it, on all CPUs and in both directions, unless
//! another of the same CPU and direction has told as much. Here, in the order of the file, that becomes what the draft
//! wants: the packets lost since the one before. What nobody has told of by the end was lost behind the last packet.

use sniff_pcapng::change_each;

/// What was told so far.
#[derive(Clone, Debug, Default)]
pub struct Losses {
    /// Of each interface, by its pcapng id.
    told: Vec<u64>,
}

impl Losses {
    /// Goes over whole blocks out of the ring that come next in the file, and has each tell of the packets that were lost
    /// since the one before.
    pub fn tell(&mut self, run: &mut [u8]) {
        change_each(run, |head, block| {
            if let Some(at) = head.dropcount_at(block)
                && let Some(value) = block[at..].first_chunk_mut()
            {
                let lost = self.told_now(head.interface, u64::from_ne_bytes(*value));
                *value = lost.to_ne_bytes();
            }
        });
    }

    /// Lost packets of an interface that packets in the file have told of.
    pub fn told(&self, interface: u32) -> u64 {
        self.told.get(interface as usize).copied().unwrap_or_default()
    }

    /// Notes that an interface had lost `lost` packets; returns how many of them are news.
    fn told_now(&mut self, interface: u32, lost: u64) -> u64 {
        let interface = interface as usize;
        if self.told.len() <= interface {
            self.told.resize(interface + 1, 0);
        }
        let told = &mut self.told[interface];
        let news = lost.saturating_sub(*told);
        *told += news;
        news
    }
}

#[cfg(test)]
mod tests {
    use sniff_pcapng::{EnhancedPacket, testing::RingPacket};

    use super::*;

    fn block(interface: u32, data: &[u8], lost: Option<u64>) -> Vec<u8> {
        RingPacket { interface, data, lost, ..RingPacket::default() }.block()
    }

    fn told(losses: &mut Losses, blocks: &[Vec<u8>]) -> Vec<u64> {
        let mut run = blocks.concat();
        losses.tell(&mut run);
        let packets = sniff_pcapng::blocks(&run).map(|block| EnhancedPacket::parse(block).expect("a packet"));
        packets.map(|packet| packet.dropcount).collect()
    }

    #[test]
    fn each_loss_is_told_by_the_first_packet_behind_it() {
        let mut losses = Losses::default();
        let first = [block(0, b"a", None), block(0, b"bcdef", Some(7)), block(0, b"", Some(9))];
        assert_eq!(told(&mut losses, &first), [0, 7, 2]);
        // Of another CPU that has not told anything yet: no news, and news.
        assert_eq!(told(&mut losses, &[block(0, b"gh", Some(8)), block(0, b"i", Some(19))]), [0, 10]);
        assert_eq!((losses.told(0), losses.told(1)), (19, 0));
    }

    #[test]
    fn interfaces_have_nothing_to_do_with_each_other() {
        let mut losses = Losses::default();
        let run =
            [block(2, b"a", Some(5)), block(0, b"b", Some(3)), block(2, b"c", Some(6)), block(1, b"d", None)];
        assert_eq!(told(&mut losses, &run), [5, 3, 1, 0]);
        assert_eq!([0, 1, 2].map(|interface| losses.told(interface)), [3, 0, 6]);
    }
}
