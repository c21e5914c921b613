//! The command line of `nlmctl`: one file a command, and what all of them share.
//!
//! A command fetches what it shows, makes a value of `report/` of it, and prints that through
//! [`Context::print`]; its `run` gives the exit code or a [`CliError`], and [`error`] alone knows which
//! exit code that is. Data go to stdout, status to stderr. Start reading at [`main`].

mod abort;
pub mod args;
mod check;
mod choose;
mod clients;
pub mod config;
pub mod consent;
mod demo;
pub mod error;
pub mod live;
mod locks;
mod notify;
mod release;
mod resync;
mod runs;
mod status;

use std::ffi::OsString;
use std::io::{ErrorKind, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{CommandFactory, FromArgMatches};
use serde::Serialize;
use tracing_subscriber::EnvFilter;

use self::args::{Cli, Command};
use self::config::Settings;
use self::error::CliError;
use crate::manager::{LockManager, knfsd};
use crate::report::{self, ErrorReport, Text};
use crate::store::Store;

/// What every command gets.
#[derive(Debug)]
pub struct Context {
    /// The settings.
    pub settings: Settings,
}

impl Context {
    /// The lock manager that the settings name, or the one that is here.
    pub async fn manager(&self) -> Result<Arc<dyn LockManager>, CliError> {
        choose::manager(&self.settings, false).await
    }

    /// Likewise, for a run whose policy drops nothing (`soft`) or not.
    async fn manager_for(&self, soft: bool) -> Result<Arc<dyn LockManager>, CliError> {
        choose::manager(&self.settings, soft).await
    }

    /// Works with the record, opened (and made, if there is none) for this, off the async threads.
    pub async fn with_store<T: Send + 'static>(
        &self,
        work: impl FnOnce(Store) -> Result<T, CliError> + Send + 'static,
    ) -> Result<T, CliError> {
        let settings = self.settings.clone();
        blocking(move || work(Store::open(&settings.record_path_made()?)?)).await
    }

    /// Prints a value on stdout, as text or as JSON.
    pub fn print<T: Text + Serialize>(&self, value: &T) -> Result<(), CliError> {
        let text = if self.settings.json { json(value)? } else { value.text() };
        to_stdout(&text)
    }

    /// A line of status on stderr, unless `-q`.
    pub fn say(&self, line: &str) {
        if !self.settings.quiet {
            to_stderr(line);
        }
    }
}

/// Blocking work off the async threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CliError> + Send + 'static,
) -> Result<T, CliError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(_) => Err(CliError::failed("a thread of nlmctl died", "please report this with the lines before it")),
    }
}

fn json<T: Serialize>(value: &T) -> Result<String, CliError> {
    report::json(value).map_err(|e| CliError::Failed { message: format!("cannot print JSON: {e}"), remedy: None })
}

/// A closed pipe is quiet: whoever read has seen enough.
fn to_stdout(text: &str) -> Result<(), CliError> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => {
            Err(CliError::failed(format!("cannot write to stdout: {e}"), "check where its output goes"))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn to_stderr(line: &str) {
    // Nobody is left who could be told that stderr is closed.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Tells of a failure, on stderr in words and, with `--json`, on stdout as JSON.
fn fail(failure: &ErrorReport, as_json: bool) -> ExitCode {
    if as_json && let Ok(line) = json(failure) {
        let _ = to_stdout(&line);
    }
    to_stderr(failure.text().trim_end());
    ExitCode::from(failure.error.exit)
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
    let wants_json = args.iter().take_while(|word| *word != "--").any(|word| word == "--json")
        || std::env::var_os("NLMCTL_JSON")
            .is_some_and(|v| !matches!(v.to_str(), Some("" | "0" | "false" | "no" | "off")));
    let cli = match Cli::command().try_get_matches_from(args).and_then(|m| Cli::from_arg_matches(&m)) {
        Ok(cli) => cli,
        Err(error) => return unparsed(&error, wants_json),
    };
    let settings = match Settings::new(&cli.common) {
        Ok(settings) => settings,
        Err(error) => return fail(&error.report(), wants_json),
    };
    let as_json = settings.json;
    set_up_tracing(&settings);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            let error = CliError::failed(format!("cannot start: {e}"), "check the limits of processes and open files");
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

async fn dispatch(context: &Context, command: Command) -> Result<u8, CliError> {
    match command {
        Command::Resync(args) => {
            args.check()?;
            resync::run(context, args).await
        }
        Command::Status => status::run(context).await,
        Command::Locks(args) => locks::run(context, &args).await,
        Command::Check => check::run(context).await,
        Command::Clients => clients::run(context).await,
        Command::Abort => abort::run(context).await,
        Command::Notify(args) => notify::run(context, args).await,
        Command::Release(args) => release::run(context, args).await,
        Command::Runs(command) => runs::run(context, command).await,
        Command::Demo(args) => demo::run(context, args).await,
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
        let remedy = "`nlmctl --help`, and `nlmctl COMMAND --help`, say what is understood";
        if let Ok(line) = json(&ErrorReport::new(2, message, Some(remedy.to_owned()))) {
            let _ = to_stdout(&line);
        }
    }
    if std::io::stderr().is_terminal() {
        to_stderr(rendered.ansi().to_string().trim_end());
    } else {
        to_stderr(rendered.to_string().trim_end());
    }
    ExitCode::from(2)
}

fn set_up_tracing(settings: &Settings) {
    let level = match (settings.quiet, settings.verbose) {
        (true, 0) => "error",
        (false, 0) => "warn",
        (_, 1) => "nlmctl=info,warn",
        (_, _) => "nlmctl=debug,info",
    };
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(level))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}
