//! The command line.

use std::ffi::OsString;
use std::iter::successors;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use crate::controller::release::OwnerChoice;
use crate::nsm::roster::server_name;
use crate::report::Failure;
use crate::units::{read_age, read_number, read_time};
use crate::wire::control::{Mode, Silent, Unreachable};
use crate::wire::types::{ByteRange, CallerName, OwnerHandle, Svid};

/// Forced resync of NFSv3 (NLM) locks on a live server.
///
/// Every lock becomes pending, the clients are notified and reclaim, as after a reboot, and locks that
/// are not reclaimed are dropped or kept as the policy says. Exit codes: 0 all reclaimed or released, 1
/// failed or aborted, 2 usage, 3 locks were dropped or kept, 4 refused, 5 lock manager unreachable, 6
/// conflicts or unverified locks.
#[derive(Debug, Parser)]
#[command(name = "nlmctl", version, max_term_width = 100, args_override_self = true)]
pub struct Cli {
    #[command(flatten)]
    pub(super) common: Common,
    #[command(subcommand)]
    pub(super) command: Command,
}

/// Common options that may be given more than once. Of a global one clap takes what one level of the command line has, and drops
/// the rest (`nlmctl --name a notify --name b`), so each level has them for its own.
const ADD_UP: [&str; 2] = ["names", "verbose"];

fn at_each_level(command: clap::Command, options: &[Arg]) -> clap::Command {
    command.mut_subcommands(|below| at_each_level(below.args(options), options))
}

impl Cli {
    /// All that is understood, for help and completions.
    pub(super) fn line() -> clap::Command {
        let root = Self::command();
        let adding_up = |option: &&Arg| ADD_UP.contains(&option.get_id().as_str());
        let options: Vec<Arg> = root.get_arguments().filter(adding_up).cloned().collect();
        at_each_level(root, &options)
    }

    /// Reads a command line, the program's name first.
    ///
    /// # Errors
    /// It makes no sense; or help or the version is asked for.
    pub fn read(line: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> Result<Self, clap::Error> {
        let matches = Self::line().try_get_matches_from(line)?;
        let mut cli = Self::from_arg_matches(&matches)?;
        let levels = || successors(Some(&matches), |level| level.subcommand().map(|(_, below)| below));
        let given = |id| levels().filter(move |level| level.value_source(id) == Some(ValueSource::CommandLine));
        let names = given("names").filter_map(|level| level.get_many("names")).flatten();
        let names: Vec<CallerName> = names.cloned().collect();
        if !names.is_empty() {
            cli.common.names = names;
        }
        let counts = given("verbose").map(|level| level.get_count("verbose"));
        // What the command line has not is the variables' and the config file's to say; clap gives false and 0.
        let is_said = |id| matches.value_source(id) == Some(ValueSource::CommandLine);
        cli.common.verbose = counts.reduce(u8::saturating_add);
        cli.common.json = cli.common.json.filter(|_| is_said("json"));
        cli.common.quiet = cli.common.quiet.filter(|_| is_said("quiet"));
        Ok(cli)
    }
}

/// Options of every command. Absent ones come from NLMCTL_* variables, then from the config file.
#[derive(Debug, Args)]
#[command(next_help_heading = "Common options")]
pub(super) struct Common {
    /// Which lock manager to drive [default: auto]
    #[arg(long, global = true, value_enum)]
    pub manager: Option<ManagerKind>,
    /// nlmd's control socket [default: /run/nlmd/control.sock]
    #[arg(long, global = true, value_name = "PATH")]
    pub control: Option<PathBuf>,
    /// The record of runs [default: /var/lib/nlmctl/runs.db as root, else nlmctl/runs.db in the XDG state folder]
    #[arg(long, global = true, value_name = "PATH")]
    pub db: Option<PathBuf>,
    /// A name under which clients know this server; repeat the option for more names [default: full, then short host name]
    // Not global: see ADD_UP.
    #[arg(long = "name", value_name = "NAME", value_delimiter = ',', value_parser = server_name)]
    pub names: Vec<CallerName>,
    /// The port of rpcbind on the clients, and on this host in check [default: 111]
    #[arg(long, global = true, value_name = "N", allow_negative_numbers = true, value_parser = parse_port)]
    pub rpcbind_port: Option<u16>,
    /// Print JSON on stdout
    #[arg(long, global = true, action = ArgAction::SetTrue)]
    pub json: Option<bool>,
    /// Print no status and no progress, and no report of what was done if the exit code is 0
    #[arg(long, short, global = true, action = ArgAction::SetTrue)]
    pub quiet: Option<bool>,
    /// Say more on stderr; twice for debugging
    #[arg(long, short, action = ArgAction::Count)]
    pub verbose: Option<u8>,
    /// The config file [default: /etc/nlmctl.toml]
    #[arg(long, global = true, value_name = "PATH")]
    pub config: Option<PathBuf>,
}

/// `--manager`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ManagerKind {
    /// The lock manager of this host
    Auto,
    /// nlmd, or another lock manager that speaks its control protocol
    Nlmd,
    /// The Linux kernel's lockd
    Knfsd,
    /// NFS-Ganesha, over the system bus
    Ganesha,
}

impl ManagerKind {
    /// The word after `--manager`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Nlmd => "nlmd",
            Self::Knfsd => "knfsd",
            Self::Ganesha => "ganesha",
        }
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run a forced resync
    Resync(ResyncArgs),
    /// Show the state of the lock manager, and the active run
    Status,
    /// List the locks that the lock manager holds, and the requests that wait for a lock
    Locks(LocksArgs),
    /// List the clients that the lock manager knows
    Clients {
        /// Ask each client's statd for its present state number, and compare it with the one that its locks carried
        #[arg(long)]
        probe: bool,
    },
    /// Check for anything that could prevent a run or make it unsafe
    Check,
    /// End the active run: pending locks are held again, nothing is lost
    Abort,
    /// Send reboot notices (SM_NOTIFY) and do nothing else
    Notify(NotifyArgs),
    /// Free stuck locks: all locks of a client, or single ones
    Release(ReleaseArgs),
    /// Look for clients whose locks may be stale, and resync each of them alone; for cron and timers: quiet if all is well
    Reconcile(ReconcileArgs),
    /// Show the record of runs
    #[command(subcommand)]
    Runs(RunsCommand),
    /// Print metrics in the OpenMetrics text format
    Metrics {
        /// Replace this file in one step instead of printing (for node_exporter's textfile collector, use a name that ends in .prom)
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Try nlmctl: a real nlmd, simulated clients, a real run
    Demo(DemoArgs),
    /// Print a completion script for a shell
    Completions {
        /// The shell that reads the script
        shell: clap_complete::Shell,
    },
}

/// `nlmctl runs`.
#[derive(Debug, Subcommand)]
pub(super) enum RunsCommand {
    /// List runs, the newest first
    List {
        /// Show at most this many
        #[arg(long, default_value = "20", value_name = "N", allow_negative_numbers = true, value_parser = parse_limit)]
        limit: NonZeroU32,
        #[command(flatten)]
        only: RunsArgs,
    },
    /// List what `nlmctl release` freed, the newest first
    Releases {
        /// Show at most this many
        #[arg(long, default_value = "20", value_name = "N", allow_negative_numbers = true, value_parser = parse_limit)]
        limit: NonZeroU32,
    },
    /// Show a run with its locks and its timeline, or a release
    Show {
        /// Its id, or the first characters of it
        id: String,
        #[command(flatten)]
        only: RunsArgs,
    },
    /// Write a run as one HTML page, with a chart of its course
    Report {
        /// Its id, or the first characters of it [default: the newest run]
        id: Option<String>,
        /// Write to this file instead of stdout
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Print every run with its locks and its timeline as a line of JSON, the newest first
    Export {
        /// Print at most this many [default: all]
        #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = parse_limit)]
        limit: Option<NonZeroU32>,
    },
    /// Delete old runs and releases from the record, except runs that have not ended; with both options, only those that are
    /// old and not among the newest N
    #[command(group = clap::ArgGroup::new("which").required(true).multiple(true).args(["older_than", "keep"]))]
    Prune {
        /// Delete runs and releases that began longer ago than this
        #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = read_age)]
        older_than: Option<Duration>,
        /// Delete all but the newest N
        #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = read_number::<u32>)]
        keep: Option<u32>,
    },
}

/// Which clients and locks of the record are shown.
#[derive(Debug, Clone, Args)]
pub(super) struct RunsArgs {
    /// Only this client: the runs that it took part in, and its own part of a run; repeat the option for more clients
    #[arg(long = "client", value_name = "NAME|ADDR")]
    pub clients: Vec<String>,
    /// Leave out reclaimed and released locks: show only dropped, kept, unverified, resurrected and conflicting locks, and clients with a note
    #[arg(long)]
    pub changed: bool,
}

/// `nlmctl resync`.
#[derive(Debug, Clone, Args)]
pub struct ResyncArgs {
    /// How long clients may reclaim
    #[arg(long, default_value = "90s", value_name = "TIME", allow_hyphen_values = true, value_parser = read_time)]
    pub grace: Duration,
    /// The longest grace: it is extended while reclaims arrive [default: 3m, or --grace if that is longer]
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = read_time)]
    pub grace_max: Option<Duration>,
    /// Settle early only after no ack and no reclaim has come for this long [default: 500ms]
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = read_time)]
    pub quiet_time: Option<Duration>,
    /// Refuse every ordinary lock request, or only those that conflict with a pending lock [default: strict for everything, else targeted]
    #[arg(long, value_parser = mode_parser())]
    pub mode: Option<Mode>,
    /// How a run over the kernel's lockd is done [default: grace; --resume keeps the method of the run]
    #[arg(long, value_enum)]
    pub method: Option<Method>,
    /// What happens to locks of clients that do not answer
    #[arg(long, default_value = "keep", value_parser = unreachable_parser())]
    pub unreachable: Unreachable,
    /// What happens to locks of clients that ack and reclaim nothing
    #[arg(long, default_value = "auto", value_parser = silent_parser())]
    pub silent: Silent,
    /// Only this client; repeat the option for more clients
    #[arg(long = "client", value_name = "NAME|ADDR")]
    pub clients: Vec<String>,
    /// Only files of this export; repeat the option for more exports
    #[arg(long = "export", value_name = "PATH")]
    pub exports: Vec<String>,
    /// Only this file, by its handle in hexadecimal (or by its path, if the lock manager takes paths in a run); repeat the option for more files
    #[arg(long = "file", value_name = "HANDLE|PATH")]
    pub files: Vec<String>,
    /// Consent to losing the locks that this host's own processes hold on other servers
    #[arg(long)]
    pub own_locks_lost: bool,
    /// Include unmonitored locks (NM_LOCK)
    #[arg(long)]
    pub include_unmonitored: bool,
    /// Which locks get a row in the record
    #[arg(long, default_value = "changes", value_enum)]
    pub record: RecordRows,
    /// Print the plan and change nothing
    #[arg(long, short = 'n', conflicts_with = "resume")]
    pub dry_run: bool,
    /// Answer yes to the question about the plan, so that no terminal is needed
    #[arg(long, short = 'y')]
    pub yes: bool,
    /// Continue a run whose nlmctl ended before the run did, with the options that it was begun with
    // The run keeps the options that it was begun with: another policy on the command line would have no effect, and look
    // as if it had.
    #[arg(long, conflicts_with_all = [
        "grace", "grace_max", "mode", "unreachable", "silent", "clients", "exports", "files", "include_unmonitored", "record",
    ])]
    pub resume: bool,
}

/// `nlmctl reconcile`.
#[derive(Debug, Clone, Args)]
pub struct ReconcileArgs {
    /// How long each suspect may reclaim
    #[arg(long, default_value = "90s", value_name = "TIME", allow_hyphen_values = true, value_parser = read_time)]
    pub grace: Duration,
    /// Make no run if the suspects that are due together hold more locks than this
    #[arg(long, default_value = "1000", value_name = "N", allow_negative_numbers = true, value_parser = read_number::<u64>)]
    pub max_drop: u64,
    /// Print what would be done and change nothing
    #[arg(long, short = 'n')]
    pub dry_run: bool,
}

impl ResyncArgs {
    /// Whether the run covers everything.
    pub fn is_everything(&self) -> bool {
        self.clients.is_empty() && self.exports.is_empty() && self.files.is_empty()
    }
    /// Refuses values that exclude each other, which the parser cannot see.
    pub fn check(&self) -> Result<(), Failure> {
        if let Some(max) = self.grace_max
            && max < self.grace
        {
            return Err(Failure::usage(
                format!(
                    "--grace-max {} is shorter than --grace {}",
                    humantime::format_duration(max),
                    humantime::format_duration(self.grace)
                ),
                "make --grace-max at least as long as --grace, or leave it out",
            ));
        }
        if let Some(quiet) = self.quiet_time
            && quiet > self.grace
            && !self.resume
        {
            return Err(Failure::usage(
                format!(
                    "--quiet-time {} is longer than --grace {}: the run could not end early",
                    humantime::format_duration(quiet),
                    humantime::format_duration(self.grace)
                ),
                "make --quiet-time at most as long as --grace, or leave it out",
            ));
        }
        if self.mode == Some(Mode::Strict) && !self.is_everything() {
            return Err(Failure::usage(
                "--mode strict covers everything: it cannot be combined with --client, --export or --file",
                "leave out --mode, or use --mode targeted",
            ));
        }
        Ok(())
    }
}

/// `--method`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Method {
    /// lockd keeps every lock; a process in front of it refuses ordinary requests until clients have reclaimed
    Grace,
    /// lockd drops every lock and starts grace, as after a reboot
    Reboot,
}

/// `--record`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RecordRows {
    /// Dropped, kept, conflicting and resurrected locks
    Changes,
    /// Every lock in scope, also reclaimed and released ones
    All,
}

/// `nlmctl locks`.
#[derive(Debug, Clone, Args)]
pub struct LocksArgs {
    /// Only locks of this client; repeat the option for more clients
    #[arg(long = "client", value_name = "NAME|ADDR")]
    pub clients: Vec<String>,
    /// Only locks on this file, or on files below this path if paths are known; repeat the option for more files
    #[arg(long = "file", value_name = "HANDLE|PATH")]
    pub files: Vec<String>,
    /// Only locks that have not been reclaimed yet in the active run
    #[arg(long)]
    pub pending: bool,
    /// Only requests that wait for a lock
    #[arg(long)]
    pub waiting: bool,
    /// Only locks that have been held, and requests that have waited, for longer than this (90s, 12h, 30days)
    #[arg(long, value_name = "TIME", allow_hyphen_values = true, value_parser = read_age)]
    pub older_than: Option<Duration>,
    /// Also show the owner's handle, the server address that it called, the transport and the NLM version
    #[arg(long)]
    pub wide: bool,
}

/// `nlmctl notify`.
#[derive(Debug, Clone, Args)]
#[command(group = clap::ArgGroup::new("roster").args(["sm_dir", "targets"]))]
#[command(override_usage = "nlmctl notify [OPTIONS] --name <NAME> --state <N>")]
pub struct NotifyArgs {
    /// Notify the hosts that a statd recorded here: its folder or the sm/ in it (Linux, illumos), or its
    /// statd.status (FreeBSD); read, never changed [default: where this host's servers keep these records]
    #[arg(long, value_name = "PATH")]
    pub sm_dir: Option<PathBuf>,
    /// Notify the hosts listed in this file instead: one address or name on each line
    #[arg(long, value_name = "FILE")]
    pub targets: Option<PathBuf>,
    /// The NSM state number to send: odd, and not the last one that these clients were sent
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = read_number::<i32>)]
    pub state: i32,
    /// When to stop trying
    #[arg(long, default_value = "15m", value_name = "TIME", allow_hyphen_values = true, value_parser = read_time)]
    pub deadline: Duration,
    /// Consent to making these clients reclaim
    #[arg(long, short = 'y')]
    pub yes: bool,
    /// Another host is in grace for these clients, so nlmctl does not look for a grace period here
    #[arg(long)]
    pub grace_elsewhere: bool,
    /// Consent to losing the locks that this host's own processes hold on other servers
    #[arg(long)]
    pub own_locks_lost: bool,
}

/// `nlmctl release`.
#[derive(Debug, Clone, Args)]
#[command(group = clap::ArgGroup::new("whose").required(true).multiple(true).args(["clients", "exports", "files"]))]
pub struct ReleaseArgs {
    /// Only locks of this client (all of them, unless another option selects some); repeat the option for more clients
    #[arg(long = "client", value_name = "NAME|ADDR")]
    pub clients: Vec<String>,
    /// Only locks on files of this export; repeat the option for more exports
    #[arg(long = "export", value_name = "PATH")]
    pub exports: Vec<String>,
    /// Only locks on this file; repeat the option for more files
    #[arg(long = "file", value_name = "HANDLE|PATH")]
    pub files: Vec<String>,
    /// Only locks of this process, as `nlmctl locks` shows it; repeat the option for more processes
    #[arg(long = "owner", value_name = "SVID[:OH]", allow_hyphen_values = true, value_parser = parse_owner)]
    pub owners: Vec<OwnerChoice>,
    /// Only locks of exactly these bytes (length 0: to the end of the file); repeat the option for more ranges
    #[arg(long = "range", value_name = "OFF:LEN", value_parser = parse_range)]
    pub ranges: Vec<ByteRange>,
    /// Consent to taking locks from a client that answers, or that could not be asked
    #[arg(long)]
    pub live: bool,
    /// Exit with 0 if there is nothing to release, or if the client is not known
    #[arg(long)]
    pub if_held: bool,
    /// Print the plan and change nothing
    #[arg(long, short = 'n')]
    pub dry_run: bool,
    /// Answer yes to the question about the plan, so that no terminal is needed
    #[arg(long, short = 'y')]
    pub yes: bool,
}

/// `nlmctl demo`.
#[derive(Debug, Clone, Args)]
pub struct DemoArgs {
    /// Number of simulated clients, each with an address of its own
    #[arg(long, default_value_t = 50, value_name = "N", allow_negative_numbers = true, value_parser = read_number::<u32>)]
    pub clients: u32,
    /// Number of locks that each client takes
    #[arg(long, default_value_t = 20, value_name = "N", allow_negative_numbers = true, value_parser = read_number::<u32>)]
    pub locks: u32,
    /// Number of clients that never answer
    #[arg(long, default_value_t = 0, value_name = "N", allow_negative_numbers = true, value_parser = read_number::<u32>)]
    pub dead: u32,
    /// Number of clients that have forgotten one lock each
    #[arg(long, default_value_t = 0, value_name = "N", allow_negative_numbers = true, value_parser = read_number::<u32>)]
    pub stale: u32,
    /// Number of clients that rebooted, and whose reboot notice to the server was lost
    #[arg(long, default_value_t = 0, value_name = "N", allow_negative_numbers = true, value_parser = read_number::<u32>)]
    pub rebooted: u32,
    /// Number of clients that hold one lock each that the server has forgotten
    #[arg(long, default_value_t = 0, value_name = "N", allow_negative_numbers = true, value_parser = read_number::<u32>)]
    pub lost: u32,
    /// How long clients may reclaim
    #[arg(long, default_value = "5s", value_name = "TIME", allow_hyphen_values = true, value_parser = read_time)]
    pub grace: Duration,
    /// Strict or targeted grace
    #[arg(long, default_value = "strict", value_parser = mode_parser())]
    pub mode: Mode,
    /// What happens to locks of clients that do not answer
    #[arg(long, default_value = "drop", value_parser = unreachable_parser())]
    pub unreachable: Unreachable,
    /// Choose which clients break by this number; the same number repeats a demo
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = read_number::<u64>)]
    pub seed: Option<u64>,
}

fn mode_parser() -> impl TypedValueParser<Value = Mode> {
    PossibleValuesParser::new(["strict", "targeted"])
        .map(|word| if word == "strict" { Mode::Strict } else { Mode::Targeted })
}

fn unreachable_parser() -> impl TypedValueParser<Value = Unreachable> {
    PossibleValuesParser::new(["keep", "drop"])
        .map(|word| if word == "keep" { Unreachable::Keep } else { Unreachable::Drop })
}

fn silent_parser() -> impl TypedValueParser<Value = Silent> {
    PossibleValuesParser::new(["auto", "keep", "drop"]).map(|word| match word.as_str() {
        "keep" => Silent::Keep,
        "drop" => Silent::Drop,
        _ => Silent::Auto,
    })
}

/// A process: its number and, after a colon, its owner handle in hexadecimal.
fn parse_owner(text: &str) -> Result<OwnerChoice, String> {
    let (svid, oh) = text.split_once(':').map_or((text, None), |(svid, oh)| (svid, Some(oh)));
    let svid = svid.parse().map_err(|_| "write a process number as `nlmctl locks` shows it")?;
    let handle = |oh: &str| {
        let bytes = hex::decode(oh).map_err(|e| format!("its handle {oh:?}: {e}"))?;
        OwnerHandle::new(&bytes).map_err(|e| format!("its handle: {e}"))
    };
    Ok(OwnerChoice { svid: Svid(svid), oh: oh.map(handle).transpose()? })
}

/// Bytes as NLM names them: offset and length, where length 0 is "to the end of the file".
fn parse_range(text: &str) -> Result<ByteRange, String> {
    let numbers = text.split_once(':').and_then(|(start, len)| Some((start.parse().ok()?, len.parse().ok()?)));
    let (start, len) = numbers.ok_or("write an offset and a length in bytes: 0:100")?;
    ByteRange::from_offset_len(start, len).ok_or_else(|| "it ends beyond 2^64".to_owned())
}

fn parse_port(text: &str) -> Result<u16, String> {
    read_number(text).ok().filter(|port| *port > 0).ok_or_else(|| "write a port: 1 to 65535".to_owned())
}

fn parse_limit(text: &str) -> Result<NonZeroU32, String> {
    text.parse().map_err(|_| "write a whole number of 1 or more".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resync(args: &[&str]) -> Result<ResyncArgs, String> {
        let line = ["nlmctl", "resync"].into_iter().chain(args.iter().copied());
        match Cli::read(line).map_err(|e| e.to_string())?.command {
            Command::Resync(args) => Ok(args),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::line().debug_assert();
    }

    #[test]
    fn defaults_are_those_of_the_contract() {
        let args = resync(&[]).unwrap();
        assert_eq!((args.grace, args.grace_max), (Duration::from_secs(90), None));
        assert_eq!(args.quiet_time, None);
        assert_eq!((args.mode, args.unreachable, args.silent), (None, Unreachable::Keep, Silent::Auto));
        assert_eq!(args.record, RecordRows::Changes);
        args.check().unwrap();
    }

    #[test]
    fn a_resume_takes_nothing_that_the_run_was_begun_with() {
        for begun_with in [
            &["--grace", "90s"][..],
            &["--grace-max", "3m"],
            &["--mode", "strict"],
            &["--unreachable", "keep"],
            &["--silent", "keep"],
            &["--client", "x"],
            &["--export", "/x"],
            &["--file", "00"],
            &["--include-unmonitored"],
            &["--record", "all"],
            &["--dry-run"],
        ] {
            let refused = resync(&[&["--resume"], begun_with].concat()).unwrap_err();
            assert!(refused.contains("--resume") && refused.contains("cannot be used with"), "{refused}");
        }
        let taken = ["--resume", "--quiet-time", "1s", "--method", "grace", "--own-locks-lost", "--yes"];
        assert!(resync(&taken).unwrap().resume);
        assert!(resync(&["--resume"]).is_ok(), "what is a default was not given");
    }

    #[test]
    fn grace_max_below_grace_is_refused_only_when_it_was_given() {
        assert!(resync(&["--grace", "10m"]).unwrap().check().is_ok());
        assert!(resync(&["--grace", "90s", "--grace-max", "89s"]).unwrap().check().is_err());
        assert!(resync(&["--grace", "90s", "--grace-max", "90s"]).unwrap().check().is_ok());
    }

    #[test]
    fn a_quiet_time_longer_than_grace_is_refused_only_when_it_was_given_and_the_grace_is_known() {
        assert!(resync(&["--quiet-time", "91s"]).unwrap().check().is_err());
        assert!(resync(&["--quiet-time", "90s"]).unwrap().check().is_ok());
        assert!(resync(&["--grace", "100ms"]).unwrap().check().is_ok());
        assert!(resync(&["--quiet-time", "2m", "--resume"]).unwrap().check().is_ok());
    }

    #[test]
    fn strict_does_not_go_with_a_narrower_scope() {
        for narrow in ["--client", "--export", "--file"] {
            assert!(resync(&["--mode", "strict", narrow, "x"]).unwrap().check().is_err(), "{narrow}");
            assert!(resync(&["--mode", "targeted", narrow, "x"]).unwrap().check().is_ok(), "{narrow}");
        }
        assert!(resync(&["--mode", "targeted"]).unwrap().check().is_ok());
    }

    #[test]
    fn a_release_says_whose_locks_and_names_processes_and_bytes_as_nlm_does() {
        let parse = |args: &[&str]| match Cli::read(["nlmctl", "release"].iter().chain(args)) {
            Ok(Cli { command: Command::Release(args), .. }) => Some(args),
            _ => None,
        };
        for nobody in [&[][..], &["--yes"], &["--owner", "7"], &["--range", "0:1"]] {
            assert!(parse(nobody).is_none(), "{nobody:?}");
        }
        let args = parse(&["--client", "a", "--owner", "-7:6f68", "--range", "10:5", "--range", "3:0"]).unwrap();
        assert_eq!(args.owners[0].svid, Svid(-7));
        assert_eq!(args.owners[0].oh.as_ref().unwrap().as_slice(), b"oh");
        assert_eq!(args.ranges[0], ByteRange { start: 10, end: 14 });
        assert_eq!(args.ranges[1], ByteRange { start: 3, end: u64::MAX });
        for bad in [
            ["--owner", "x"],
            ["--owner", "7:xyz"],
            ["--range", "10"],
            ["--range", "-1:2"],
            ["--range", "9:18446744073709551615"],
        ] {
            assert!(parse(&[&["--client", "a"][..], &bad].concat()).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn notify_takes_one_roster_at_most() {
        let parse =
            |args: &[&str]| Cli::read(["nlmctl", "notify", "--name", "s", "--state", "5"].iter().chain(args)).is_ok();
        assert!(parse(&[]), "it looks where servers keep theirs");
        assert!(parse(&["--sm-dir", "d"]));
        assert!(parse(&["--targets", "f"]));
        assert!(!parse(&["--targets", "f", "--sm-dir", "d"]));
    }
}
