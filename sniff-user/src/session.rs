//! A capture from its first classifier to its last block.
//!
//! Order is what makes the accounts exact. Start: describe the interfaces in the output, then attach. End: detach,
//! then empty the ring, then read the counters, then write the statistics.

use std::{process, thread, time::Duration};

use anyhow::{Context as _, Result};
use log::{info, warn};
use sniff_common::{Counters, Direction};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
    time,
};

use crate::{
    args,
    bpf::{
        attach::{Attachment, Mechanism},
        classifier::{self, Arguments},
        object::{Kernel, Sizes},
        wait_for_running_programs,
    },
    clock,
    drain::{Drain, End},
    exit, logging,
    output::{Delivery, Output},
    pcapng::{InterfaceStatistics, SectionHeader},
    system::System,
    tap::Tap,
    target::Interface,
    watch::Watch,
};

/// Bytes that a CPU writes before it wakes the reader, in a ring large enough.
const WAKE_BYTES: u64 = 1 << 20;

/// What is to be captured, and how; everything is found, nothing is touched.
#[derive(Debug)]
pub struct Plan {
    /// What to capture.
    pub interfaces: Vec<Interface>,
    /// Where to attach.
    pub attach: args::Side,
    /// How to attach; `None` leaves it to the kernel's abilities.
    pub mechanism: Option<Mechanism>,
    /// Which directions.
    pub directions: &'static [Direction],
    /// Most bytes kept of a packet.
    pub snaplen: u32,
    /// Bytes of the ring; a power of two.
    pub ring_bytes: u32,
    /// Whether each packet wakes the reader.
    pub packet_buffered: bool,
    /// Packets after which to stop.
    pub count: Option<u64>,
    /// Time after which to stop.
    pub duration: Option<Duration>,
    /// What the file says of this machine.
    pub system: System,
}

/// A running capture.
pub struct Session {
    plan: Plan,
    kernel: Kernel,
    clock_offset: u64,
    drain: Drain,
    /// Those that are attached.
    taps: Vec<Tap>,
    /// When each interface in the file was captured, by its id.
    spans: Vec<Span>,
}

/// Nanoseconds since the epoch.
struct Span {
    start: u64,
    /// Unknown while it is being captured.
    end: Option<u64>,
}

/// Captures until something ends it.
///
/// # Errors
///
/// When the capture cannot start, or the output fails.
pub async fn run(plan: Plan, output: Output) -> Result<()> {
    let mut signals = Signals::new()?;
    let (mut session, drained) = Session::start(plan, output)?;
    let outcome = session.wait(&mut signals, drained).await;
    // A second signal ends at once what the first one asked for politely.
    tokio::spawn(async move {
        signals.next().await;
        warn!("ended at once: packets that were still in the buffer are lost");
        process::exit(exit::FAILURE.into());
    });
    let finished = tokio::task::spawn_blocking(move || session.finish()).await?;
    outcome.and(finished)
}

impl Session {
    fn start(plan: Plan, mut output: Output) -> Result<(Self, oneshot::Receiver<()>)> {
        let mut kernel = Kernel::load(sizes(&plan))?;
        let clock_offset = clock::boot_to_epoch()?;
        let mut block = Vec::new();
        section_header(&plan.system).write(&mut block);
        output.block(&block)?;
        output.flush()?;
        let (drain, drained) = Drain::start(kernel.take_ring()?, output, plan.count)?;
        let mut session = Self {
            plan,
            kernel,
            clock_offset,
            drain,
            taps: Vec::new(),
            spans: Vec::new(),
        };
        let wanted = std::mem::take(&mut session.plan.interfaces);
        let mut taps = Vec::new();
        for interface in wanted {
            taps.push(session.tap(
                interface,
                session.plan.attach,
                session.plan.directions,
                None,
            )?);
        }
        session.attach(taps)?;
        info!("listening on {} interface(s)", session.taps.len());
        Ok((session, drained))
    }

    /// Describes an interface in the output.
    fn tap(
        &mut self,
        interface: Interface,
        wanted: args::Side,
        directions: &'static [Direction],
        comment: Option<String>,
    ) -> Result<Tap> {
        let tap = Tap::new(self.spans.len() as u32, interface, wanted, directions)?;
        let description = tap.describe(&self.plan.system, self.plan.snaplen, comment)?;
        self.drain.add_interface(description)?;
        self.spans.push(Span {
            start: clock::now()?,
            end: None,
        });
        Ok(tap)
    }

    /// Attaches the classifiers of all `taps`.
    fn attach(&mut self, taps: Vec<Tap>) -> Result<()> {
        let arguments: Vec<Arguments> = taps.iter().flat_map(|tap| self.arguments(tap)).collect();
        let mut classifiers = classifier::load(&self.kernel, &arguments)?.into_iter();
        for mut tap in taps {
            let hooks = tap
                .directions
                .iter()
                .map(|&direction| tap.point.hook(direction));
            let classifiers = hooks.zip(&mut classifiers).collect();
            let attachment = Attachment::new(tap.side()?, classifiers, self.plan.mechanism);
            tap.attachment = Some(attachment.with_context(|| tap.interface.name.clone())?);
            tap.announce()?;
            self.taps.push(tap);
        }
        Ok(())
    }

    fn arguments(&self, tap: &Tap) -> impl Iterator<Item = Arguments> {
        let (interface, snaplen, clock_offset) = (tap.id, self.plan.snaplen, self.clock_offset);
        tap.directions.iter().map(move |&direction| Arguments {
            interface,
            direction,
            snaplen,
            clock_offset,
        })
    }

    /// Whether a capture at the host's end may go on inside the pod: nobody asked for the host's end, and the
    /// direction that would be missed is wanted.
    pub fn may_go_inside(&self) -> bool {
        self.plan.attach == args::Side::Auto && self.plan.directions.contains(&Direction::In)
    }

    /// Returns when something ends the capture.
    async fn wait(&mut self, signals: &mut Signals, drained: oneshot::Receiver<()>) -> Result<()> {
        let mut drained = drained;
        let mut watch = Watch::new(self);
        let mut logger = self.kernel.take_logger(logging::Stderr)?;
        let deadline = time::sleep(self.plan.duration.unwrap_or(Duration::MAX));
        tokio::pin!(deadline);
        loop {
            tokio::select! {
                () = signals.next() => return Ok(()),
                () = &mut deadline => return Ok(()),
                _ = &mut drained => return Ok(()),
                () = watch.tick() => {
                    logger.flush();
                    watch.look(self)?;
                    if self.taps.is_empty() {
                        info!("no interface is left to capture");
                        return Ok(());
                    }
                }
            }
        }
    }

    /// The taps that are attached.
    pub fn taps(&self) -> &[Tap] {
        &self.taps
    }

    /// What was counted for an interface so far.
    ///
    /// # Errors
    ///
    /// When the kernel does not give its counters.
    pub fn counters(&self, interface: u32) -> Result<Counters> {
        self.kernel.counters(interface)
    }

    /// Ends the capture of one interface; the others go on.
    ///
    /// # Errors
    ///
    /// When the clock fails.
    pub fn leave(&mut self, id: u32) -> Result<()> {
        self.taps.retain(|tap| tap.id != id);
        self.spans[id as usize].end = Some(clock::now()?);
        Ok(())
    }

    /// From now on takes what goes into the pod at the pod's own interface, as one interface more in the file;
    /// `comment` tells there why. What leaves the pod is taken at the host's end as before.
    ///
    /// # Errors
    ///
    /// When the pod's interface cannot be attached to; the capture then goes on as before.
    pub fn go_inside(&mut self, id: u32, comment: String) -> Result<()> {
        let Some(at) = self.taps.iter().position(|tap| tap.id == id) else {
            return Ok(());
        };
        let interface = self.taps[at].interface.clone();
        let tap = self.tap(interface, args::Side::Pod, &[Direction::In], Some(comment))?;
        self.attach(vec![tap])?;
        // Last, so that nothing is missed; what passes both ends meanwhile is taken twice.
        let host_end = &mut self.taps[at];
        if let Some(attachment) = &mut host_end.attachment {
            attachment.unhook(host_end.point.hook(Direction::In));
        }
        Ok(())
    }

    fn finish(mut self) -> Result<()> {
        self.warn_of_programs_ahead();
        self.detach_all();
        self.drain.stop();
        let Self {
            drain,
            kernel,
            spans,
            ..
        } = self;
        let (mut output, end) = drain.join()?;
        let accounts = accounts(&kernel, output.deliveries())?;
        let written = write_statistics(&mut output, &accounts, &spans);
        print_summary(&accounts);
        match end {
            End::Failed(error) => Err(error),
            // A reader that is gone needs no statistics.
            End::Closed => Ok(()),
            End::Asked | End::Count => written.context("cannot write the statistics at the end"),
        }
    }

    /// Each detach waits for the kernel's grace period; together they wait for the same ones.
    fn detach_all(&mut self) {
        thread::scope(|scope| {
            for tap in self.taps.drain(..) {
                scope.spawn(move || drop(tap));
            }
        });
        wait_for_running_programs();
    }

    fn warn_of_programs_ahead(&self) {
        for tap in &self.taps {
            if let Some(attachment) = &tap.attachment {
                let ahead = attachment.programs_ahead().unwrap_or_default();
                if !ahead.is_empty() {
                    warn!(
                        "{}: BPF program {ahead:?} was put in front of sniff meanwhile; what it did not pass on is not in the capture",
                        tap.interface.name
                    );
                }
            }
        }
    }
}

/// What became of the packets that the kernel side matched on one interface.
#[derive(Clone, Copy, Debug)]
struct Account {
    counters: Counters,
    delivery: Delivery,
}

fn accounts(kernel: &Kernel, deliveries: &[Delivery]) -> Result<Vec<Account>> {
    let of = |(interface, &delivery): (usize, &Delivery)| {
        let counters = kernel.counters(interface as u32)?;
        Ok(Account { counters, delivery })
    };
    deliveries.iter().enumerate().map(of).collect()
}

fn write_statistics(output: &mut Output, accounts: &[Account], spans: &[Span]) -> Result<()> {
    let now = clock::now()?;
    for (interface, (Account { counters, delivery }, span)) in
        accounts.iter().zip(spans).enumerate()
    {
        let statistics = InterfaceStatistics {
            interface: interface as u32,
            timestamp_ns: now,
            start_ns: Some(span.start),
            end_ns: Some(span.end.unwrap_or(now)),
            ifrecv: Some(counters.matched),
            ifdrop: Some(0),
            filteraccept: Some(counters.matched),
            osdrop: Some(counters.lost()),
            usrdeliv: Some(delivery.delivered),
            comment: None,
        };
        let mut block = Vec::new();
        statistics.write(&mut block);
        output.block(&block)?;
    }
    Ok(output.flush()?)
}

/// tcpdump's three lines, and a fourth where they leave something out.
fn print_summary(accounts: &[Account]) {
    let (mut counters, mut delivery) = (Counters::default(), Delivery::default());
    for account in accounts {
        counters += account.counters;
        delivery.delivered += account.delivery.delivered;
        delivery.discarded += account.delivery.discarded;
    }
    eprintln!("{} packets captured", delivery.delivered);
    eprintln!("{} packets received by filter", counters.matched);
    eprintln!("{} packets dropped by kernel", counters.lost());
    if delivery.discarded > 0 {
        eprintln!("{} packets received but not written", delivery.discarded);
    }
    let told = delivery.delivered + delivery.discarded + counters.lost();
    if told != counters.matched {
        warn!(
            "the counts do not add up ({} of {} packets): that is a bug in sniff",
            told, counters.matched
        );
    }
}

fn sizes(plan: &Plan) -> Sizes {
    let wake_bytes = if plan.packet_buffered {
        1
    } else {
        WAKE_BYTES.min(u64::from(plan.ring_bytes) / 8)
    };
    // Twice as many: each can be captured a second time, at its other end.
    Sizes {
        ring_bytes: plan.ring_bytes,
        wake_bytes,
        interfaces: plan.interfaces.len() as u32 * 2,
    }
}

fn section_header(system: &System) -> SectionHeader {
    SectionHeader {
        hardware: Some(system.hardware.clone()),
        os: Some(system.os.clone()),
        application: format!("sniff {}", env!("CARGO_PKG_VERSION")),
        comment: None,
    }
}

/// What a person or the system sends to end a capture.
struct Signals([Signal; 3]);

impl Signals {
    fn new() -> Result<Self> {
        let of = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self([
            of(SignalKind::interrupt())?,
            of(SignalKind::terminate())?,
            of(SignalKind::hangup())?,
        ]))
    }

    async fn next(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}
