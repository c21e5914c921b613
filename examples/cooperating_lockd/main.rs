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
//! What it leaves out: targeted runs and scopes, late reclaims, shared addresses, the record of a run
//! that its own crash cuts short, and paging beyond one page.

mod control;
mod toy;

use std::io::{self, BufRead, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::Parser;
use nlmctl::rpc::server::{Limits, serve_unix};
use nlmctl::wire::control::MAX_RECORD;
use nlmctl::wire::types::{CallerName, FileHandle};
use tokio::net::UnixListener;
use tokio::sync::watch;

use control::Control;
use toy::{Client, Toy};

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
fn parse(line: &str) -> Option<(&str, Client, FileHandle)> {
    let mut words = line.split_whitespace();
    let (verb, name, address, file) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let client = Client { name: CallerName::new(name).ok()?, address: address.parse().ok()? };
    Some((verb, client, FileHandle::new(file.as_bytes()).ok()?))
}

/// Clients' lines, until the end of input.
fn converse(toy: &Mutex<Toy>) -> io::Result<()> {
    for line in io::stdin().lock().lines() {
        let line = line?;
        let answer = parse(&line).map_or("what?", |(verb, client, file)| {
            toy.lock().unwrap_or_else(PoisonError::into_inner).command(verb, client, file)
        });
        writeln!(io::stdout(), "{answer}")?;
    }
    Ok(())
}

async fn serve(flags: Flags) -> io::Result<()> {
    let toy = Arc::new(Mutex::new(Toy::open(&flags.state_dir)?));
    let listener = UnixListener::bind(&flags.control)?;
    // Who can open it can drop locks.
    std::fs::set_permissions(&flags.control, std::fs::Permissions::from_mode(0o600))?;
    let (_stop, stopping) = watch::channel(false);
    let limits = Limits { max_record: MAX_RECORD, ..Limits::default() };
    let control = serve_unix(listener, Arc::new(Control(toy.clone())), limits, stopping);
    let (lines, timed) = (toy.clone(), toy);
    let clients = tokio::task::spawn_blocking(move || converse(&lines));
    let deadlines = async {
        let mut tick = tokio::time::interval(TICK);
        loop {
            tick.tick().await;
            timed.lock().unwrap_or_else(PoisonError::into_inner).due();
        }
    };
    let ended = tokio::select! {
        ended = control => ended,
        ended = clients => ended.map_err(io::Error::other).flatten(),
        () = deadlines => Ok(()),
    };
    std::fs::remove_file(&flags.control)?;
    ended
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
