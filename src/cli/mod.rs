//! The command line of `nlmctl`: one file a command, and what all of them share.
//!
//! A command fetches what it shows, makes a value of `report/` of it, and prints that through
//! [`Context::print`]; its `run` gives the exit code or a [`Failure`]. Data go to stdout, status to stderr. Start reading at [`main`].

mod abort;
pub(crate) mod args;
mod check;
mod clients;
mod completions;
mod config;
mod consent;
mod context;
mod demo;
mod discovery;
mod live;
mod locks;
mod metrics;
mod notify;
mod reconcile;
mod release;
mod resync;
mod runs;
#[cfg(test)]
mod schema;
mod signals;
mod status;

use std::ffi::OsString;
use std::io::IsTerminal;
use std::process::ExitCode;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt, registry};

use self::args::{Cli, Command};
use self::config::{PROGRAM, Settings};
use self::context::{Context, json, to_stderr, to_stdout};
use crate::host::{is_off, variable};
use crate::interposer::{child, filter, keeper};
use crate::manager::knfsd;
use crate::report::{ErrorReport, Failure, Render};

/// Tells of a failure, on stderr in words and, with `--json`, on stdout as JSON.
fn fail(failure: &ErrorReport, as_json: bool) -> ExitCode {
    if as_json && let Ok(line) = json(failure) {
        let _ = to_stdout(&line);
    }
    to_stderr(failure.text().trim_end());
    ExitCode::from(failure.error.kind.exit())
}

/// The command line of `nlmctl`, the program's name first.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    // The demo runs itself again as its lock manager. Taken out before clap, whose global options
    // would swallow some of nlmd's.
    if args.get(1).is_some_and(|word| word == "nlmd") {
        return crate::lockd::main(args.into_iter().skip(1));
    }
    if args.get(1).is_some_and(|word| word == knfsd::guard::COMMAND) {
        return knfsd::guard::main(args.into_iter().skip(2));
    }
    if args.get(1).is_some_and(|word| word == knfsd::grace::COMMAND) {
        return keeper::main(args.into_iter().skip(2));
    }
    if args.get(1).is_some_and(|word| word == child::COMMAND) {
        return filter::main(args.into_iter().skip(2));
    }
    let wants_json = args.iter().take_while(|word| *word != "--").any(|word| word == "--json")
        || variable(PROGRAM, "json").is_some_and(|value| !is_off(&value));
    let cli = match Cli::read(args) {
        Ok(cli) => cli,
        Err(error) => return unparsed(&error, wants_json),
    };
    let settings = match Settings::new(&cli.common) {
        Ok(settings) => settings,
        Err(error) => return fail(&error.report(), wants_json),
    };
    let as_json = settings.json;
    set_up_tracing(&settings);
    // What one task does is quicker where no other thread wakes it.
    let mut runtime = match cli.command {
        Command::Notify(_) => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = match runtime.enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            let error = Failure::failed(format!("cannot start: {e}"), "check the limits of processes and open files");
            return fail(&error.report(), as_json);
        }
    };
    let result = runtime.block_on(dispatch(&Context { settings }, cli.command));
    // A thread that blocks (a resolver that stalls) must not delay the end.
    runtime.shutdown_background();
    match result {
        Ok(exit) => ExitCode::from(exit),
        Err(error) => fail(&error.report(), as_json),
    }
}

async fn dispatch(context: &Context, command: Command) -> Result<u8, Failure> {
    match command {
        Command::Resync(args) => {
            args.check()?;
            resync::run(context, args).await
        }
        Command::Status => status::run(context).await,
        Command::Locks(args) => locks::run(context, &args).await,
        Command::Check => check::run(context).await,
        Command::Clients { probe } => clients::run(context, probe).await,
        Command::Abort => abort::run(context).await,
        Command::Notify(args) => notify::run(context, args).await,
        Command::Release(args) => release::run(context, args).await,
        Command::Reconcile(args) => reconcile::run(context, args).await,
        Command::Runs(command) => runs::run(context, command).await,
        Command::Metrics { output } => metrics::run(context, output).await,
        Command::Demo(args) => demo::run(context, args).await,
        Command::Completions { shell } => completions::run(shell),
    }
}

/// Help and version are no errors; anything else is bad usage, with clap's own words and hint.
fn unparsed(error: &clap::Error, as_json: bool) -> ExitCode {
    use clap::error::ErrorKind as Kind;
    if matches!(error.kind(), Kind::DisplayHelp | Kind::DisplayVersion) {
        return match to_stdout(&error.render().to_string()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => fail(&failure.report(), false),
        };
    }
    let rendered = error.render();
    if as_json {
        let words = rendered.to_string();
        let message = words.split("\n\nUsage:").next().unwrap_or_default();
        let message = message.trim().trim_start_matches("error: ");
        let remedy = "see `nlmctl --help` and `nlmctl COMMAND --help`";
        if let Ok(line) = json(&Failure::usage(message, remedy).report()) {
            let _ = to_stdout(&line);
        }
    }
    if has_colors() {
        to_stderr(rendered.ansi().to_string().trim_end());
    } else {
        to_stderr(rendered.to_string().trim_end());
    }
    ExitCode::from(2)
}

/// Whether stderr is a terminal that shows colors, and they are wanted (no-color.org).
fn has_colors() -> bool {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    std::io::stderr().is_terminal() && set("NO_COLOR").is_none() && set("TERM").is_none_or(|term| term != "dumb")
}

fn set_up_tracing(settings: &Settings) {
    let (own, others) = match (settings.quiet, settings.verbose) {
        (true, 0) => (LevelFilter::ERROR, LevelFilter::ERROR),
        (false, 0) => (LevelFilter::WARN, LevelFilter::WARN),
        (_, 1) => (LevelFilter::INFO, LevelFilter::WARN),
        (_, _) => (LevelFilter::DEBUG, LevelFilter::INFO),
    };
    let levels = Targets::new().with_target("nlmctl", own).with_default(others);
    registry().with(fmt::layer().with_writer(std::io::stderr).with_ansi(has_colors()).with_filter(levels)).init();
}
