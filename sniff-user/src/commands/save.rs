//! `sniff save`.

use std::{
    io::{self, IsTerminal as _, Write as _},
    os::fd::AsFd as _,
    time::Duration,
};

use anyhow::{Result, bail, ensure};
use log::{info, warn};
use sniff_cli::{logging, options::duration, summary::Summary};
use sniff_output::{
    To,
    file::{Files as _, NamedFiles},
    rotate::Rotation,
};
use sniff_pcapng::time;

use crate::{
    capture::recorder::{
        Request,
        ask::{Recorder, running},
    },
    halves::message::Saved,
    system::privileges,
};

#[derive(Debug, clap::Args)]
pub struct SaveArgs {
    /// Write to a file, or to standard output with `-`: pcapng, or what the name ends with of .pcap, .zst and .gz
    #[arg(short, long, visible_short_alias = 'o', value_name = "FILE|-", required = true)]
    pub write: To,

    /// Only the packets of the last time, as in 5m or 30s (default: all that is held)
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub last: Option<Duration>,

    /// The recorder's process, where there are several, or the name of its socket
    #[arg(long, value_name = "PID|NAME")]
    pub recorder: Option<String>,

    /// Say only what is wrong, and the counts
    #[arg(short, long)]
    pub quiet: bool,
}

/// Has a recorder write a file.
///
/// # Errors
///
/// When there is none, it is not clear which one is meant, or the file cannot be written.
pub(super) fn run(args: SaveArgs) -> Result<()> {
    let SaveArgs { write, last, recorder, quiet } = args;
    logging::start(quiet, 0);
    privileges::check()?;
    let asked = choose(running()?, recorder.as_deref())?.greet()?;
    let saved = match write {
        To::StandardOutput => {
            let to = io::stdout();
            ensure!(!to.is_terminal(), "packets are not for a terminal: write to a file or a pipe");
            asked.save_through(
                Request { last, ..Request::default() },
                to.as_fd().try_clone_to_owned()?.into(),
            )?
        }
        To::File(path) => {
            let is_new = !path.exists();
            let mut files = NamedFiles::new(path, Rotation::default());
            let made = files.next(0)?;
            let request = Request { name: Some(made.name), last, ..Request::default() };
            if made.file.metadata()?.is_file() {
                let saved = asked.save(request, made.file.as_fd());
                let is_empty = made.file.metadata().is_ok_and(|file| file.len() == 0);
                if saved.is_err() && is_new && is_empty {
                    files.abandon();
                }
                saved?
            } else {
                asked.save_through(request, made.file)?
            }
        }
    };
    tell(&saved, last);
    Ok(())
}

/// Says what is in the file, and what is not.
fn tell(saved: &Saved, last: Option<Duration>) {
    let Saved { packets, left_out, cut_off, older, aged_out, lost, since, until, .. } = *saved;
    let from = since.map_or_else(|| "the recording began".to_owned(), time);
    info!("saved: the packets since {from} up to {}", time(until));
    let wanted = last.map(|last| until.saturating_sub(u64::try_from(last.as_nanos()).unwrap_or(u64::MAX)));
    if let (Some(wanted), Some(since)) = (wanted, since)
        && since > wanted
    {
        warn!("what was wanted begins at {}, which is not held any more: it takes more memory", time(wanted));
    }
    let matched = saved.matched();
    let summary =
        Summary { captured: packets, matched, dropped: lost, unwritten: 0, left_out, cut_off, aged_out };
    let mut lines = summary.lines("", "");
    if older > 0 {
        lines += &format!("{older} packets older than what was asked for\n");
    }
    // A closed stderr is no reason to fail.
    let _ = io::stderr().write_all(lines.as_bytes());
}

/// The one that is meant.
fn choose(mut running: Vec<Recorder>, meant: Option<&str>) -> Result<Recorder> {
    if let Some(meant) = meant {
        running.retain(|recorder| recorder.id() == meant);
    }
    match (running.len(), meant) {
        (1, _) => Ok(running.remove(0)),
        (0, None) => bail!(
            "no recorder runs here: `sniff --pod NS/POD --record 256MiB` is one, in the same network namespace"
        ),
        (0, Some(meant)) => bail!("{meant} is no recorder here"),
        (count, _) => {
            let lines = running.into_iter().map(|recorder| format!("\n  --recorder {}", recorder.describe()));
            bail!("{count} recorders run here: say which one is meant{}", lines.collect::<String>())
        }
    }
}
