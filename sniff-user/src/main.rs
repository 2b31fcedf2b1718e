//! The `sniff` command: parse, run, exit status.

#[cfg(not(target_os = "linux"))]
compile_error!(
    "sniff captures on Linux only; what runs elsewhere is kubectl-sniff: cargo build --bin kubectl-sniff"
);

use std::{
    env,
    io::{self, Write as _},
    process::ExitCode,
};

use anyhow::{Result, ensure};
use clap::{CommandFactory as _, Parser as _, error::ErrorKind};
use sniff_cli::{exit, logging, manual, options::CaptureArgs};
use sniff_filter::{
    Filters,
    compile::{self, Hook},
    expression,
};
use sniff_output::{To, Wanted};
use sniff_pcapng::LinkType;
use sniff_user::{
    agent,
    args::{Args, Command},
    bpf::ring::Order,
    capture::{Plan, tap::link_type},
    serve,
    system::{System, privileges, signals::Signals},
    targets,
};
use tokio::runtime;

/// Interfaces that may come in the course of a capture: whoever makes one after the other does not fill the memory.
const MOST_TO_COME: u32 = 4096;

fn main() -> ExitCode {
    if Command::is_meant(env::args_os().nth(1).as_deref()) {
        return match Command::try_parse() {
            Ok(command) => status(block_on(obey(command))),
            Err(error) => exit::usage("sniff", &error),
        };
    }
    let args = match Args::try_parse().and_then(|args| check_combination(&args).map(|()| args)) {
        Ok(args) => args,
        Err(error) => return exit::usage("sniff", &error),
    };
    logging::start(args.quiet, args.verbose);
    status(block_on(run(args)))
}

/// Runs it in a runtime, whose open files are among those that it takes to begin.
fn block_on(task: impl Future<Output = Result<()>>) -> Result<()> {
    privileges::ensure_open_files()?;
    runtime::Builder::new_current_thread().enable_all().build()?.block_on(task)
}

fn status(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::from(exit::SUCCESS),
        Err(error) if is_closed_pipe(&error) => ExitCode::from(exit::SUCCESS),
        Err(error) => {
            log::error!("{:#}", privileges::advise(error));
            ExitCode::from(exit::FAILURE)
        }
    }
}

async fn obey(command: Command) -> Result<()> {
    match command {
        Command::Serve(args) => {
            logging::start(false, args.verbose);
            serve::run(args).await
        }
        Command::Agent(args) => {
            logging::start(false, args.verbose);
            agent::run(args).await
        }
        Command::Completions { shell } => manual::print_completions(Args::whole(), shell),
        Command::Manual { folder } => manual::write_pages(Args::whole(), &folder),
    }
}

async fn run(args: Args) -> Result<()> {
    if args.dump > 0 {
        return dump(&args).await;
    }
    privileges::check()?;
    privileges::raise_limits();
    if args.list {
        let _grant = agent::guest::list(args.agent_socket.as_deref()).await?;
        let rows = targets::list(&options(&args)).await?;
        return Ok(io::stdout().write_all(targets::table(&rows).as_bytes())?);
    }
    let signals = Signals::take_over()?.attend()?;
    let scopes = targets::scopes(&args.targets(), &options(&args)).await?;
    let interfaces = targets::interfaces_of(&scopes)?;
    ensure!(!interfaces.is_empty(), "there is nothing to capture");
    let agent_socket = args.agent_socket.clone();
    let output = Wanted::of(args.write.clone(), args.print);
    let plan = plan(args, scopes, interfaces)?;
    agent::guest::capture(plan, Box::new(move || output.open()), agent_socket, signals).await
}

/// What clap cannot tell from a single option.
fn check_combination(args: &Args) -> Result<(), clap::Error> {
    let wrong = if args.targets().is_empty() && !args.list && args.dump == 0 {
        "name a target: --pod NS/POD, --container-id, --pid, --netns or --interface; --list shows the pods of this node"
    } else if args.print && args.write == Some(To::StandardOutput) {
        "--print and --write - would mix lines into the packets: write to a file"
    } else {
        return Ok(());
    };
    Err(Args::command().error(ErrorKind::ArgumentConflict, wrong))
}

/// Prints the filter as it is compiled for the interfaces, or for Ethernet without any; a remark goes before each
/// program when there are several.
async fn dump(args: &Args) -> Result<()> {
    let text = args.filter_source().read()?.unwrap_or_default();
    let interfaces = targets::interfaces_of(&targets::scopes(&args.targets(), &options(args)).await?)?;
    let mut link_types: Vec<LinkType> = interfaces.iter().map(link_type).collect();
    link_types.sort_by_key(|link_type| *link_type as u16);
    link_types.dedup();
    if link_types.is_empty() {
        link_types.push(LinkType::Ethernet);
    }
    for link_type in &link_types {
        let program = expression::compile(&text, *link_type, !args.no_optimize)?;
        let shown = if args.dump == 1 {
            program.to_string()
        } else {
            compile::fragment(&program, Hook { link_type: *link_type, outgoing: false })?.to_string()
        };
        if link_types.len() > 1 {
            writeln!(io::stdout(), "; {link_type:?}")?;
        }
        writeln!(io::stdout(), "{shown}")?;
    }
    Ok(())
}

fn options(args: &Args) -> targets::Options {
    targets::Options {
        cri_socket: args.cri_socket.clone(),
        interfaces: args.interfaces.clone(),
        node_name: args.node_name.clone(),
    }
}

fn plan(args: Args, scopes: Vec<targets::Scope>, interfaces: Vec<targets::Interface>) -> Result<Plan> {
    let filter = args.filter_source();
    let CaptureArgs { attach, direction, snaplen, headers, count, duration, ring_bytes, .. } = args.capture;
    Ok(Plan {
        interfaces,
        scopes,
        room: MOST_TO_COME,
        attach,
        mechanism: args.hook,
        directions: direction.each(),
        filter,
        filters: Filters::new(args.no_optimize),
        headers,
        snaplen,
        ring: args.ring,
        ring_bytes,
        order: if args.unsorted { Order::Unsorted } else { Order::Time },
        packet_buffered: args.packet_buffered,
        count,
        duration,
        system: System::this(args.node_name.as_deref())?,
    })
}

/// A reader that has seen enough is no failure.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
