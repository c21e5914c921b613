//! One's own lock manager, made to cooperate: a toy that serves the control protocol
//! (`src/wire/control.x`), so that `nlmctl resync` can drive it as it drives nlmd.
//!
//! ```sh
//! cargo run --example cooperating_lockd -- --control /tmp/toy.sock --state-dir /tmp/toy
//! ```
//! Its locks are whole files, asked for on stdin, one line each, answered on stdout:
//! `lock NAME ADDRESS FILE`, `reclaim NAME ADDRESS FILE`, `unlock NAME ADDRESS FILE`. A real one gets
//! them by NLM. What is worth reading is what a run asks of it:
//!
//! - `begin`: the new state number is on disk *before* every lock is marked, which is one step with
//!   grace; the same run once more is answered as the first time;
//! - in grace a pending lock still protects its file, and a reclaim is refused only for a conflict;
//! - `progress` tells whose notices were acked; a run whose controller is gone at the deadline is settled
//!   alone, one that never notified anybody is aborted;
//! - `settle`: what is dropped is the library's word ([`judge`]); the result is on disk *before*
//!   anything is dropped; it is kept until `acknowledge`.
//!
//! `toy` has the locks and the runs, `control` the protocol.
//!
//! What it leaves out: targeted runs and scopes, late reclaims, shared addresses, and the record of a run
//! that its own crash cuts short.

mod control;
mod toy;

use std::io::{self, BufRead, Write};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clap::Parser;
use nlmctl::rpc::control::ControlSocket;
use nlmctl::wire::control::OwnerRow;
use nlmctl::wire::types::{Address, CallerName, FileHandle, OwnerHandle, Svid, Transport};
use tokio::sync::watch;

use control::Shared;
use toy::Toy;

/// How often deadlines are looked at.
const TICK: Duration = Duration::from_millis(50);

/// A toy lock manager that cooperates with nlmctl.
#[derive(Debug, Parser)]
struct Flags {
    /// The Unix socket by which nlmctl drives it
    #[arg(long, value_name = "PATH")]
    control: PathBuf,
    /// Where it keeps its state number and its results
    #[arg(long, value_name = "DIR")]
    state_dir: PathBuf,
}

/// `VERB NAME ADDRESS FILE`
fn parse(line: &str) -> Option<(&str, OwnerRow, FileHandle)> {
    let mut words = line.split_whitespace();
    let (verb, name, address, file) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let owner = OwnerRow {
        name: CallerName::new(name).ok()?,
        address: Address(address.parse().ok()?),
        server_address: Address(Ipv4Addr::LOCALHOST.into()),
        transport: Transport::Tcp,
        version: 4,
        svid: Svid(0),
        oh: OwnerHandle::new(name.as_bytes()).ok()?,
    };
    Some((verb, owner, FileHandle::new(file.as_bytes()).ok()?))
}

/// Clients' lines, until the end of input.
fn converse(toy: &Shared) -> io::Result<()> {
    for line in io::stdin().lock().lines() {
        let line = line?;
        let answer = parse(&line).map_or("what?", |(verb, owner, file)| toy.change().command(verb, owner, file));
        writeln!(io::stdout(), "{answer}")?;
    }
    Ok(())
}

async fn serve(flags: Flags) -> io::Result<()> {
    let toy = Arc::new(Shared(Mutex::new(Toy::open(&flags.state_dir)?)));
    let socket = ControlSocket::bind(&flags.control, false).await.map_err(io::Error::other)?;
    let (_stop, stopping) = watch::channel(false);
    let control = socket.serve(toy.clone(), stopping);
    let (lines, timed) = (toy.clone(), toy);
    let clients = tokio::task::spawn_blocking(move || converse(&lines));
    let deadlines = async {
        let mut tick = tokio::time::interval(TICK);
        loop {
            tick.tick().await;
            timed.look().due();
        }
    };
    tokio::select! {
        ended = control => ended,
        ended = clients => ended.map_err(io::Error::other).flatten(),
        () = deadlines => Ok(()),
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(io::stderr).init();
    match serve(Flags::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}
