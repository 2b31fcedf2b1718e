//! The way of packets from the ring to an output, and what is told of their interfaces meanwhile.

use std::{io, net::IpAddr};

use sniff_output::Output;
use sniff_pcapng::{InterfaceDescription, Names, PacketHead, blocks};
use sniff_protocol::request::BothEnds;

use super::{ends::Ends, losses::Losses, unsummed::Unsummed};
use crate::halves::{Board, message::Draining};

/// What is told of interfaces and addresses.
#[derive(Clone, Debug)]
pub enum Told {
    /// This is the next interface.
    Interface(Box<InterfaceDescription>),
    /// What goes to these addresses comes in there, since then in nanoseconds since the epoch.
    Captured { interface: u32, addresses: Vec<IpAddr>, since: u64 },
    /// And until then.
    Left { interface: u32, until: u64 },
    /// What addresses are called.
    Names(Names),
}

/// Where records are handed over.
pub struct Delivery {
    pub output: Output,
    /// What the packets in it tell of those that were lost.
    pub losses: Losses,
    /// Whether packets may have something to tell of losses. They are not looked at until then.
    pub any_lost: bool,
    /// Where packets that are seen at both ends are told.
    pub ends: Option<Ends>,
    /// Whether packets were left because a person insists on the end.
    pub hurried: bool,
    /// Packets that may still be delivered.
    left: u64,
    /// Where the kernel does not say which packets' checksums are not ready.
    unsummed: Option<Unsummed>,
    /// Whether those that come in are left out where both ends are seen.
    one_side: bool,
    board: &'static Board,
}

impl Delivery {
    /// To an output that has no interface yet.
    pub fn new(output: Output, how: &Draining, board: &'static Board) -> Self {
        Self {
            output,
            losses: Losses::default(),
            any_lost: false,
            ends: how.both_ends.map(|_| Ends::default()),
            hurried: false,
            left: how.count.unwrap_or(u64::MAX),
            unsummed: how.marks_unsummed.then(Unsummed::default),
            one_side: how.both_ends == Some(BothEnds::OneSide),
            board,
        }
    }

    /// Takes what is told before the packets come that it is about.
    ///
    /// # Errors
    ///
    /// When the output fails.
    pub fn hear(&mut self, told: &Told) -> io::Result<()> {
        match told {
            Told::Names(names) => self.output.names(names)?,
            Told::Captured { interface, addresses, since } => {
                if let Some(ends) = &mut self.ends {
                    ends.captured(*interface, addresses.clone(), *since);
                }
            }
            Told::Left { interface, until } => {
                if let Some(ends) = &mut self.ends {
                    ends.left(*interface, *until);
                }
            }
            Told::Interface(description) => {
                if let Some(unsummed) = &mut self.unsummed {
                    unsummed.interface(description);
                }
                if let Some(ends) = &mut self.ends {
                    ends.interface(description);
                }
                self.output.interface(description)?;
            }
        }
        Ok(())
    }

    /// Whether as many packets were delivered as were asked for.
    pub fn is_enough(&self) -> bool {
        self.left == 0
    }

    /// Delivers nothing more: packets are counted.
    pub fn end(&mut self) {
        self.left = 0;
    }

    /// Delivers a run of whole blocks, which come next, as far as they are wanted.
    ///
    /// # Errors
    ///
    /// When the output fails; what was not written is counted.
    pub fn deliver(&mut self, run: &mut [u8]) -> io::Result<()> {
        if self.board.is_in_a_hurry() {
            self.hurried = true;
            self.output.discard(run);
            return Ok(());
        }
        match self.ends.take() {
            Some(mut ends) => {
                let delivered = self.deliver_marked(run, &mut ends);
                self.ends = Some(ends);
                delivered
            }
            None => {
                let (wanted, beyond) = run.split_at_mut(self.wanted(run));
                self.output.discard(beyond);
                self.hand_on(wanted)
            }
        }
    }

    /// Hands on a run whose packets have ids, without those to be left out. They are no part of what may be delivered.
    fn deliver_marked(&mut self, run: &mut [u8], ends: &mut Ends) -> io::Result<()> {
        let (mut begin, mut end) = (0, 0);
        while self.left > 0
            && let Ok(head) = PacketHead::parse(&run[end..])
        {
            let next = end + head.total_len;
            if ends.mark(head, &mut run[end..next]) && self.one_side {
                self.output.leave_out(&run[end..next]);
                self.hand_on(&mut run[begin..end]).inspect_err(|_| self.output.discard(&run[next..]))?;
                begin = next;
            } else if self.left != u64::MAX {
                self.left -= 1;
            }
            end = next;
        }
        self.output.discard(&run[end..]);
        self.hand_on(&mut run[begin..end])
    }

    /// Hands packets that come next to the output.
    fn hand_on(&mut self, run: &mut [u8]) -> io::Result<()> {
        if self.any_lost {
            self.losses.tell(run);
        }
        if let Some(unsummed) = &self.unsummed {
            unsummed.mark(run);
        }
        if run.is_empty() { Ok(()) } else { self.output.packets(run) }
    }

    /// How much of a run may still be delivered. Nothing is counted without a limit.
    fn wanted(&mut self, run: &[u8]) -> usize {
        if self.left == u64::MAX {
            return run.len();
        }
        let mut end = 0;
        for block in blocks(run) {
            if self.left == 0 {
                break;
            }
            self.left -= 1;
            end += block.len();
        }
        end
    }
}
