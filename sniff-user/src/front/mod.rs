//! The front half: what reads packets, prints and writes them, and for `sniff serve` reads a client's frames and has libpcap
//! compile its filters. It has no rights: what it works with comes from [the other half](crate::halves).
//!
//! - [`drain`]: when the ring is emptied; [`delivery`]: the way of its packets to an output; [`past`]: a file for what a
//!   recorder holds; [`player`]: such files on their way to a client; [`losses`]: packets of which only the count is there; [`ends`]: packets that two
//!   pods have; [`unsummed`]: packets whose checksum is still to be filled in, where the kernel does not tell;
//!   [`network_layer`]: where both find the IP header.
//! - [`session`]: a client.

mod delivery;
mod drain;
mod ends;
mod losses;
mod network_layer;
mod past;
mod player;
mod session;
mod unsummed;

use std::{
    fs::File,
    io,
    path::PathBuf,
    process,
    sync::{Arc, OnceLock, mpsc},
    thread,
};

use anyhow::{Context as _, Result, bail};
use log::{error, info, warn};
use sniff_filter::expression;
use sniff_output::{
    Delivery, Destination, DnsNames, Output, Prepared, Sink,
    file::{Files, Made},
};
use sniff_pcapng::{InterfaceDescription, LinkType, Names, SectionHeader};
use sniff_protocol::request::Compress;
use sniff_sandbox::{Kept, Sandbox};

use self::{
    delivery::Told,
    drain::{Drain, Message, Save},
    past::{Beginning, Past},
    player::Player,
    session::Client,
};
use crate::{
    bpf::ring::{Gauge, Maps, Ring},
    halves::{
        Board, Ends,
        link::{Receiver, Sender},
        message::{Drained, Draining, End, Fate, FromFront, Play, Played, ToFront},
    },
    system::owner::Owner,
};

/// What takes each kind of name that a filter may have.
const NAMES: &str = "host localhost or tcp port domain";
/// Files that names are looked up in (getaddrinfo(3), getservbyname(3), ether_hostton(3)).
const OF_NAMES: [&str; 9] = [
    "/etc/ethers",
    "/etc/gai.conf",
    "/etc/host.conf",
    "/etc/hosts",
    "/etc/networks",
    "/etc/nsswitch.conf",
    "/etc/protocols",
    "/etc/resolv.conf",
    "/etc/services",
];

/// Where packets go.
#[derive(Debug)]
pub enum Work {
    /// What was named on the command line.
    Capture {
        /// Where to.
        to: Destination,
        /// Whether addresses are called by what DNS answers among the packets say.
        dns_names: bool,
        /// Whose rights it has, if anybody's.
        owner: Option<Owner>,
    },
    /// A client at the other end of stdin and stdout.
    Session,
}

/// Gives up its rights, unless they are to be kept, and does what the other half says until the packets are written.
///
/// # Errors
///
/// When a right cannot be given up, or the system has no thread left.
pub fn run(ends: Ends, work: Work, keeps_rights: bool) -> Result<()> {
    let Ends { orders, news, talk, board, parent } = ends;
    let news = Arc::new(news);
    let sandbox = Sandbox::new(u32::try_from(parent.as_raw())?);
    let give_up = |sandbox: Sandbox| if keeps_rights { Ok(Vec::new()) } else { sandbox.enter() };
    let (outlet, kept) = match work {
        Work::Capture { to, dns_names, owner } => {
            let (uid, gid) = owner.as_ref().map_or((sandbox.uid, sandbox.gid), Owner::ids);
            // It reads the time zone.
            let to = Some(Box::new(to.prepare()));
            (Outlet::Named { to, dns_names }, give_up(Sandbox { uid, gid, ..sandbox })?)
        }
        Work::Session => {
            // libpcap asks the C library for names, which loads what it takes for that the first time.
            let _ = expression::compile(NAMES, LinkType::Ethernet, false);
            let readable = OF_NAMES.iter().map(PathBuf::from).collect();
            let kept = give_up(Sandbox { readable, names: true, ..sandbox })?;
            (Outlet::Client(Client::attend(talk, Arc::clone(&news), board)?), kept)
        }
    };
    kept.iter().for_each(tell_of);
    let (main, tasks) = mpsc::channel();
    let (made, files) = mpsc::channel();
    let reader = Reader { orders, news: Arc::clone(&news), main, made };
    thread::Builder::new().name("orders".to_owned()).spawn(move || reader.run())?;
    let files = Some(RemoteFiles { news: Arc::clone(&news), made: files });
    let (output, drain, player, beginning) = (None, None, None, None);
    Front { outlet, news, board, files, gauge: Arc::default(), output, beginning, drain, player }.work(&tasks)
}

fn tell_of(kept: &Kept) {
    let text = format!("of the process that reads packets: {kept}");
    if matches!(kept, Kept::Calls(_)) { warn!("{text}") } else { info!("{text}") }
}

/// Where packets are to go.
enum Outlet {
    Named { to: Option<Box<Prepared>>, dns_names: bool },
    Client(Client),
}

/// What is to be done, one after the other.
enum Task {
    Open { compress: Compress, section: Vec<u8>, names: Vec<u8> },
    Drain(Draining, Maps),
    Tell(Message),
    Play(Play),
    Source(u32, File),
    PlayUntil(u64),
    Stop,
    End(Vec<u8>),
}

/// Hears what the other half says. It never waits for an output.
struct Reader {
    orders: Receiver,
    news: Arc<Sender>,
    main: mpsc::Sender<Task>,
    made: mpsc::Sender<Result<Made>>,
}

impl Reader {
    /// Ends the process with the other half, whatever it is doing.
    fn run(mut self) {
        let read = self.read();
        if let Err(error) = &read {
            error!("the process that captures makes no sense: {error:#}");
        }
        process::exit(i32::from(read.is_err()));
    }

    fn read(&mut self) -> Result<()> {
        while let Some(order) = self.orders.next()? {
            let task = match order {
                ToFront::Made(made) => {
                    let made = match made {
                        Ok(name) => Ok(Made { file: self.orders.descriptor()?.into(), name }),
                        Err(error) => Err(anyhow::Error::msg(error)),
                    };
                    self.made.send(made)?;
                    continue;
                }
                ToFront::Compile { id, text, link_type, optimise } => {
                    self.compile(id, text, link_type, optimise)?;
                    continue;
                }
                ToFront::Open { compress, section, names } => Task::Open { compress, section, names },
                ToFront::Drain(how) => {
                    let mut next = || self.orders.descriptor();
                    Task::Drain(how, Maps { buffer: next()?, cpus: next()?, regions: next()? })
                }
                ToFront::Interface(block) => {
                    let description = InterfaceDescription::parse(&block)?;
                    Task::Tell(Message::Told(Told::Interface(Box::new(description))))
                }
                ToFront::Captured { interface, addresses, since } => {
                    Task::Tell(Message::Told(Told::Captured { interface, addresses, since }))
                }
                ToFront::Left { interface, until } => {
                    Task::Tell(Message::Told(Told::Left { interface, until }))
                }
                ToFront::Names(block) => Task::Tell(Message::Told(Told::Names(names_of(&block)?))),
                ToFront::Watermark => Task::Tell(Message::Watermark),
                ToFront::Save { filled, to } => {
                    let file = |to| Ok::<_, io::Error>((to, self.orders.descriptor()?.into()));
                    Task::Tell(Message::Save(Save { filled, to: to.map(file).transpose()? }))
                }
                ToFront::Play(play) => Task::Play(play),
                ToFront::Source(source) => Task::Source(source, self.orders.descriptor()?.into()),
                ToFront::PlayUntil(horizon) => Task::PlayUntil(horizon),
                ToFront::Stop => Task::Stop,
                ToFront::End(blocks) => Task::End(blocks),
            };
            self.main.send(task)?;
        }
        Ok(())
    }

    /// Has libpcap compile an expression, aside: that may take long.
    fn compile(&self, id: u64, text: String, link_type: u16, optimise: bool) -> Result<()> {
        let link_type = LinkType::of(link_type).context("an unknown link type")?;
        let news = Arc::clone(&self.news);
        let compile = move || {
            let program = expression::encode(&text, link_type, optimise)
                .map(|program| program.iter().map(|it| (it.code, it.jt, it.jf, it.k)).collect())
                .map_err(|error| error.to_string());
            // The other half may have ended.
            let _ = news.send(&FromFront::Compiled { id, program }, &[]);
        };
        thread::Builder::new().name("filter".to_owned()).spawn(compile)?;
        Ok(())
    }
}

/// Files that the other half makes.
struct RemoteFiles {
    news: Arc<Sender>,
    made: mpsc::Receiver<Result<Made>>,
}

impl Files for RemoteFiles {
    fn next(&mut self, begun_ns: u64) -> Result<Made> {
        self.news.send(&FromFront::NextFile { begun_ns }, &[])?;
        self.made.recv().context("nobody makes files any more")?
    }

    fn abandon(&mut self) {
        // If that cannot be told, it stays, and is empty.
        let _ = self.news.send(&FromFront::Abandon, &[]);
    }
}

/// The state of the work.
struct Front {
    outlet: Outlet,
    news: Arc<Sender>,
    board: &'static Board,
    files: Option<RemoteFiles>,
    gauge: Arc<OnceLock<Arc<Gauge>>>,
    /// Before the ring is emptied, and after.
    output: Option<Output>,
    /// What it began with, until the ring is emptied.
    beginning: Option<(SectionHeader, Names)>,
    /// While the ring is emptied.
    drain: Option<Drain>,
    /// Of what was recorded, in place of a ring.
    player: Option<Player>,
}

impl Front {
    fn work(mut self, tasks: &mpsc::Receiver<Task>) -> Result<()> {
        for task in tasks {
            match task {
                Task::Open { compress, section, names } => {
                    let opened = self.open(compress, &section, &names).map_err(Into::into);
                    self.tell(&FromFront::Opened(opened))?;
                }
                Task::Drain(how, maps) => {
                    let draining = self.drain(how, maps).map_err(|error| format!("{error:#}"));
                    self.tell(&FromFront::Draining(draining))?;
                }
                Task::Tell(message) => {
                    if let (Some(player), Message::Watermark) = (&mut self.player, &message) {
                        player.promise_watermark();
                    }
                    if let Some(drain) = &self.drain {
                        drain.tell(message);
                    }
                }
                Task::Play(play) => self.player = Some(Player::new(play, self.board)),
                Task::Source(source, file) => {
                    if let Some(player) = &mut self.player {
                        player.take(source, file);
                    }
                }
                Task::PlayUntil(horizon) => {
                    let played = self.play(horizon).map_err(Into::into);
                    self.tell(&FromFront::Played(played))?;
                }
                Task::Stop => {
                    let drained = self.stop()?;
                    self.tell(&FromFront::Drained(drained))?;
                }
                Task::End(blocks) => {
                    let finished = self.end(&blocks).map_err(Into::into);
                    self.tell(&FromFront::Finished(finished))?;
                }
            }
        }
        Ok(())
    }

    fn tell(&self, news: &FromFront) -> Result<()> {
        Ok(self.news.send(news, &[])?)
    }

    /// Opens the output. One that takes nothing is found out here, before anything is attached.
    fn open(&mut self, compress: Compress, section: &[u8], names: &[u8]) -> Result<()> {
        let sink: Box<dyn Sink> = match &mut self.outlet {
            Outlet::Client(client) => client.packets(Arc::clone(&self.gauge), compress)?,
            Outlet::Named { to, dns_names } => {
                let to = to.take().context("the output is open")?;
                let files = self.files.take().map(|files| Box::new(files) as Box<dyn Files>);
                let sink = to.open(files)?;
                if *dns_names { Box::new(DnsNames::new(sink)) } else { sink }
            }
        };
        let mut output = Output::new(sink, &self.board.written);
        let names = names_of(names)?;
        output.block(section)?;
        output.names(&names)?;
        output.flush()?;
        self.beginning = Some((SectionHeader::parse(section)?, names));
        self.output = Some(output);
        Ok(())
    }

    fn drain(&mut self, how: Draining, maps: Maps) -> Result<()> {
        let output = self.output.take().context("there is no output")?;
        let [news, ended, saved] = [(); 3].map(|()| Arc::clone(&self.news));
        let give_back = move |regions| news.send(&FromFront::Read(regions), &[]);
        let ring = Ring::open(how.shape, maps, how.sorting, how.clock, Box::new(give_back))?;
        // It is the only one.
        let _ = self.gauge.set(ring.gauge());
        let ended = move || {
            // Nobody listens any more when the capture is being stopped.
            let _ = ended.send(&FromFront::Ended, &[]);
        };
        let (section, names) = self.beginning.take().context("the output is not open")?;
        let past = how.shape.records.then(|| {
            let saved = move |became| {
                // As above.
                let _ = saved.send(&FromFront::Saved(became), &[]);
            };
            let dns_names = matches!(self.outlet, Outlet::Named { dns_names: true, .. });
            let beginning = Beginning { section, names, dns_names };
            (Past::new(beginning, how, self.board), Box::new(saved) as drain::Report)
        });
        self.drain = Some(Drain::start(ring, output, how, self.board, past, ended)?);
        Ok(())
    }

    /// Empties the ring, and tells what became of its packets.
    fn stop(&mut self) -> Result<Drained> {
        let drain = self.drain.take().context("nothing is being captured")?;
        drain.tell(Message::Stop);
        let drain::Drained { output, losses, ends, held, end } = drain.join()?;
        let is_all = matches!(end, End::Asked);
        let seen = ends.map(|ends| if is_all { ends.all_seen() } else { ends.seen() });
        let fate = |(interface, delivery): (u32, &Delivery)| {
            let &Delivery { delivered, discarded, left_out } = delivery;
            Fate { delivered, discarded, left_out, told_lost: losses.told(interface) }
        };
        let interfaces = (0..).zip(output.deliveries()).map(fate).collect();
        self.output = Some(output);
        Ok(Drained { end, interfaces, seen, held })
    }

    fn play(&mut self, horizon: u64) -> Result<Played> {
        let (Some(player), Some(output)) = (&mut self.player, &mut self.output) else {
            bail!("nothing is being played")
        };
        player.play(horizon, output)
    }

    fn end(&mut self, blocks: &[u8]) -> Result<()> {
        let Some(mut output) = self.output.take() else { bail!("there is no output") };
        output.block(blocks)?;
        if let Some(player) = self.player.take() {
            output.block(&player.statistics(&output))?;
        }
        Ok(output.flush()?)
    }
}

fn names_of(block: &[u8]) -> Result<Names> {
    if block.is_empty() { Ok(Names::default()) } else { Ok(Names::parse(block)?) }
}
