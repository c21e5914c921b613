//! nlmd's command line.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::parser::ValueSource::CommandLine;
use clap::{CommandFactory, Parser};
use ipnet::IpNet;
use tracing_subscriber::filter::{LevelFilter, Targets};

use super::config_file::{self, PROGRAM};
use crate::host::{self, variable};
use crate::lockd::settings::{NsmKind, Settings};
use crate::locks::Limits;
use crate::nsm::roster::server_name;
use crate::shares::Bounds;
use crate::units::{read_number, read_time};
use crate::wire::rpcbind;
use crate::wire::types::CallerName;

/// A lock manager for NFSv3 (NLM) in user space, with its own status monitor (NSM), that can run a
/// forced resync. It arbitrates NLM only, and takes any file handle.
#[derive(Debug, Clone, PartialEq, Parser)]
#[command(name = "nlmd", version, args_override_self = true)]
pub struct Flags {
    /// The directory of its state: its clients, the results of runs, and the NSM state number
    #[arg(long, value_name = "DIR", default_value = "/var/lib/nlmd")]
    pub state_dir: PathBuf,
    /// The control socket for nlmctl, open to root and nlmd's own user only
    #[arg(long, value_name = "PATH", default_value = "/run/nlmd/control.sock")]
    pub control: PathBuf,
    /// A second, read-only control socket for all users
    #[arg(long, value_name = "PATH")]
    pub control_ro: Option<PathBuf>,
    /// An address to serve; repeat it for more [default: 0.0.0.0 and ::]
    #[arg(long, value_name = "ADDR", value_parser = host::address, value_delimiter = ',')]
    pub listen: Vec<IpAddr>,
    /// A name under which clients know this server; repeat it for more [default: the full, then the short host name]
    #[arg(long, value_name = "NAME", value_parser = server_name, value_delimiter = ',')]
    pub name: Vec<CallerName>,
    /// The port of NLM, UDP and TCP; 0 is any free one
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true, value_parser = read_number::<u16>)]
    pub nlm_port: u16,
    /// The status monitor
    #[arg(long, value_enum, default_value_t = NsmKind::Embedded)]
    pub nsm: NsmKind,
    /// With --nsm statd: the directory of rpc.statd's state number [default: where rpc.statd runs, else /var/lib/nfs/statd or /var/lib/nfs]
    #[arg(long, value_name = "DIR")]
    pub statd_dir: Option<PathBuf>,
    /// The port of NSM, UDP and TCP; 0 is any free one
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true, value_parser = read_number::<u16>)]
    pub nsm_port: u16,
    /// Do not register with this host's rpcbind
    #[arg(long)]
    pub no_rpcbind: bool,
    /// The port of rpcbind, here and on clients
    #[arg(long, value_name = "N", default_value_t = rpcbind::PORT, allow_negative_numbers = true, value_parser = read_number::<u16>)]
    pub rpcbind_port: u16,
    /// How long clients may reclaim their locks after nlmd was restarted
    #[arg(long, value_name = "TIME", default_value = "90s", allow_hyphen_values = true, value_parser = read_time)]
    pub grace: Duration,
    /// A network whose hosts may call; repeat it for more. Calls from elsewhere are not answered [default: all hosts]
    #[arg(long, value_name = "CIDR", value_parser = network, value_delimiter = ',')]
    pub allow: Vec<IpNet>,
    /// Accept calls that change locks or monitoring from ports below 1024 only
    #[arg(long)]
    pub privileged_ports: bool,
    /// The most locks and shares of all clients together
    #[arg(long, value_name = "N", default_value_t = Limits::default().locks.all, allow_negative_numbers = true, value_parser = at_least_one)]
    pub max_locks: usize,
    /// The most clients
    #[arg(long, value_name = "N", default_value_t = Limits::default().clients.all, allow_negative_numbers = true, value_parser = at_least_one)]
    pub max_clients: usize,
    /// Write the ports in use to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub ports_file: Option<PathBuf>,
    /// What to log: error, warn, info, debug or trace, or filters by module [default: what RUST_LOG says, or info]
    #[arg(long, value_name = "LEVEL", value_parser = log_level)]
    pub log_level: Option<String>,
    /// Log as JSON lines
    #[arg(long)]
    pub log_json: bool,
    /// The config file; its keys are these flags [default: /etc/nlmd.toml]
    #[arg(long, value_name = "PATH")]
    pub config: Option<PathBuf>,
}

impl Flags {
    /// Of the command line, the NLMD_* variables and the config file, in this order, and checks what they say together.
    pub fn parse_whole(args: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let mut args: Vec<OsString> = args.into_iter().collect();
        let given = Self::command().try_get_matches_from(&args)?;
        let is_typed = |key: &str| {
            let flag = key.replace('-', "_");
            given.ids().any(|id| id.as_str() == flag) && given.value_source(&flag) == Some(CommandLine)
        };
        let error = |kind, words: String| Self::command().error(kind, words);
        let refused = |words| error(ErrorKind::Io, words);
        args.extend(config_file::of_variables(&Self::command(), is_typed, is_understood).map_err(refused)?);
        let named = given.get_one("config").cloned().or_else(|| variable(PROGRAM, "config").map(PathBuf::from));
        let is_given = |key: &str| is_typed(key) || variable(PROGRAM, key).is_some();
        args.extend(config_file::of_file(named.as_deref(), is_given, is_understood).map_err(refused)?);
        let flags = Self::try_parse_from(args)?;
        let wrong = |words: &str| Err(error(ErrorKind::ArgumentConflict, words.to_owned()));
        match flags.nsm {
            NsmKind::Statd if flags.no_rpcbind => {
                wrong("--nsm statd needs rpcbind: rpc.statd finds nlmd through it; leave out --no-rpcbind")
            }
            NsmKind::Embedded if flags.statd_dir.is_some() => wrong("--statd-dir is for --nsm statd"),
            NsmKind::Statd | NsmKind::Embedded => Ok(flags),
        }
    }

    /// What has changed and holds after a restart only: all but names, `--allow` and the log's level.
    pub fn wanting_a_restart(&self, new: &Self) -> Vec<&'static str> {
        let Self { state_dir, control, control_ro, listen, nlm_port, nsm, statd_dir, nsm_port, no_rpcbind, .. } = self;
        let Self { rpcbind_port, grace, privileged_ports, max_locks, max_clients, ports_file, log_json, .. } = self;
        let changed = [
            ("state-dir", *state_dir != new.state_dir),
            ("control", *control != new.control),
            ("control-ro", *control_ro != new.control_ro),
            ("listen", *listen != new.listen),
            ("nlm-port", *nlm_port != new.nlm_port),
            ("nsm", *nsm != new.nsm),
            ("statd-dir", *statd_dir != new.statd_dir),
            ("nsm-port", *nsm_port != new.nsm_port),
            ("no-rpcbind", *no_rpcbind != new.no_rpcbind),
            ("rpcbind-port", *rpcbind_port != new.rpcbind_port),
            ("grace", *grace != new.grace),
            ("privileged-ports", *privileged_ports != new.privileged_ports),
            ("max-locks", *max_locks != new.max_locks),
            ("max-clients", *max_clients != new.max_clients),
            ("ports-file", *ports_file != new.ports_file),
            ("log-json", *log_json != new.log_json),
        ];
        changed.into_iter().filter_map(|(name, has_changed)| has_changed.then_some(name)).collect()
    }

    /// The table's caps. However high the total is, one host gets no more than [`Limits::default`] allows it.
    pub fn limits(&self) -> Limits {
        let default = Limits::default();
        let of = |all: usize, default: Bounds| Bounds { all, host: default.host.min(all) };
        Limits { locks: of(self.max_locks, default.locks), clients: of(self.max_clients, default.clients), ..default }
    }
}

/// Whether nlmd has a flag for this key of its config file, and takes these values of it.
fn is_understood(key: &str, arguments: &[OsString]) -> Result<(), String> {
    let line = std::iter::once(OsString::from("nlmd")).chain(arguments.iter().cloned());
    let Err(error) = Flags::try_parse_from(line) else { return Ok(()) };
    if error.kind() == ErrorKind::UnknownArgument {
        return Err(format!("`{key}` is not a key of this file; nlmd.toml(5) lists them"));
    }
    let words = error.to_string();
    let first = words.lines().next().unwrap_or_default();
    Err(first.trim_start_matches("error: ").to_owned())
}

fn network(text: &str) -> Result<IpNet, String> {
    let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    network.map(canonical).map_err(|_| "not a network like 192.0.2.0/24 or an address".into())
}

/// An IPv4 network in IPv6 clothes is IPv4's: callers are known by that.
fn canonical(network: IpNet) -> IpNet {
    let plain = network.addr().to_canonical();
    let len = network.prefix_len().checked_sub(96).filter(|_| plain.is_ipv4() != network.addr().is_ipv4());
    len.and_then(|len| IpNet::new(plain, len).ok()).unwrap_or(network)
}

/// As the filter of the log reads it. That takes a misspelt level for a module, and would log nothing.
fn log_level(text: &str) -> Result<String, String> {
    let is_module = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':');
    for part in text.split(',') {
        let (module, level) = part.rsplit_once('=').unwrap_or(("all", part));
        let is_level = !level.is_empty() && level.parse::<LevelFilter>().is_ok();
        if module.is_empty() || !module.chars().all(is_module) || !is_level {
            return Err(format!("{part:?} is neither error, warn, info, debug, trace or off, nor MODULE=LEVEL"));
        }
    }
    text.parse::<Targets>().map(|_| text.to_owned()).map_err(|error| error.to_string())
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("write a whole number of 1 or more".into()),
        Ok(number) => Ok(number),
    }
}

impl From<Flags> for Settings {
    fn from(flags: Flags) -> Self {
        let limits = flags.limits();
        Self {
            state_dir: flags.state_dir,
            control: flags.control,
            control_ro: flags.control_ro,
            listen: flags.listen,
            names: flags.name,
            nlm_port: flags.nlm_port,
            nsm: flags.nsm,
            statd_dir: flags.statd_dir,
            nsm_port: flags.nsm_port,
            register: !flags.no_rpcbind,
            rpcbind_port: flags.rpcbind_port,
            grace: flags.grace,
            allow: flags.allow,
            privileged_ports: flags.privileged_ports,
            limits,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_starts_with_the_defaults_of_the_command_line() {
        let flags = Flags::try_parse_from(["nlmd", "--state-dir", "/s", "--control", "/c"]).unwrap();
        assert_eq!(format!("{:?}", Settings::from(flags)), format!("{:?}", Settings::new("/s", "/c")));
    }

    fn parse(args: &[&str]) -> Result<Flags, clap::Error> {
        Flags::parse_whole([&["nlmd"], args].concat().into_iter().map(OsString::from))
    }

    #[test]
    fn defaults_are_those_of_the_contract() {
        let flags = parse(&[]).unwrap();
        assert_eq!(flags.state_dir.to_str(), Some("/var/lib/nlmd"));
        assert_eq!(flags.control.to_str(), Some("/run/nlmd/control.sock"));
        assert_eq!((flags.rpcbind_port, flags.grace), (111, Duration::from_secs(90)));
        assert_eq!(flags.limits(), Limits::default());
    }

    #[test]
    fn the_last_of_a_repeated_flag_counts_and_lists_add_up() {
        let flags = parse(&["--grace", "1s", "--grace", "2s", "--name", "a", "--name", "b"]).unwrap();
        assert_eq!((flags.grace, flags.name.len()), (Duration::from_secs(2), 2));
    }

    #[test]
    fn values_that_make_no_sense_are_usage_errors() {
        for bad in [
            &["--grace", "0s"][..],
            &["--grace", "2d"],
            &["--max-locks", "0"],
            &["--allow", "nowhere"],
            &["--listen", "host"],
            &["--name", ""],
            &["--name", "a b"],
            &["--nsm", "other"],
            &["--log-level", "nlmctl=loud"],
            &["--log-level", "loud"],
            &["--log-level", "info,"],
            &["--log-level", "=info"],
            &["--log-level", "info, nlmctl=debug"],
            &["--log-level", "=,"],
            &["--nsm", "statd", "--no-rpcbind"],
            &["--statd-dir", "/var/lib/nfs"],
            &["extra"],
        ] {
            assert_eq!(parse(bad).unwrap_err().exit_code(), 2, "{bad:?}");
        }
        for allowed in ["192.0.2.1", "::ffff:192.0.2.1", "::ffff:192.0.2.1/128"] {
            assert_eq!(parse(&["--allow", allowed]).unwrap().allow, ["192.0.2.1/32".parse().unwrap()]);
        }
    }

    fn with_file(text: &str, args: &[&str]) -> Result<Flags, clap::Error> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nlmd.toml");
        std::fs::write(&path, text).unwrap();
        parse(&[&["--config", path.to_str().unwrap()], args].concat())
    }

    #[test]
    fn the_config_file_sets_what_the_command_line_leaves_open() {
        let file =
            "nlm-port = 4045\nname = [\"a\", \"b\"]\nallow = '192.0.2.0/24'\nno-rpcbind = true\nlog-json = false\n";
        let flags = with_file(file, &["--name", "c"]).unwrap();
        assert_eq!((flags.nlm_port, flags.no_rpcbind, flags.log_json), (4045, true, false));
        assert_eq!(flags.name, [CallerName::new("c").unwrap()], "not added to the file's");
        assert_eq!(flags.allow, ["192.0.2.0/24".parse().unwrap()]);
    }

    #[test]
    fn an_error_in_the_config_file_names_the_file_the_line_and_the_key() {
        for (file, words) in [
            ("nlm-prot = 1\n", ", line 1: `nlm-prot`"),
            ("log-json = true\n\nnlm-prot = false\n", ", line 3: `nlm-prot`"),
            ("grace = '2d'\n", ", line 1: invalid value '2d' for '--grace"),
            ("name = []\ngrace = 1.5\n", ", line 2: `grace` is neither"),
            ("name = []\nallow = []\n", ", line 2: `allow` is an empty list: give it a value, or remove this line"),
            ("listen = []\n", ", line 1: `listen` is an empty list"),
            ("allow = ''\n", ", line 1: "),
            ("listen = ''\n", ", line 1: "),
            ("grace = false\n", "--grace"),
            ("name = [1]\n", "`name` is a list of values that are not strings"),
            ("# ports\nnlm-port = 70000\n", ", line 2: invalid value '70000'"),
            ("config = 'x'\n", "`config` belongs on the command line"),
            ("grace\n", "line 1"),
        ] {
            let error = with_file(file, &[]).unwrap_err();
            let said = error.to_string();
            assert!(said.contains("nlmd.toml") && said.contains(words), "{file:?}: {said}");
            assert_eq!(error.exit_code(), 2);
        }
        let missing = parse(&["--config", "/nowhere/nlmd.toml"]).unwrap_err().to_string();
        assert!(missing.contains("cannot read the config file /nowhere/nlmd.toml"), "{missing}");
    }

    #[test]
    fn only_names_networks_and_the_logs_level_change_without_a_restart() {
        let old = parse(&["--name", "a"]).unwrap();
        let reloaded = ["--name", "b", "--allow", "192.0.2.1", "--log-level", "nlmctl::locks=debug,warn"];
        assert_eq!(old.wanting_a_restart(&parse(&reloaded).unwrap()), Vec::<&str>::new());
        let at_once = ["name", "allow", "log-level", "config"];
        let values = |name: &str| match name {
            "no-rpcbind" | "privileged-ports" | "log-json" => None,
            "grace" => Some("1s"),
            "nsm" => Some("statd"),
            "listen" => Some("192.0.2.1"),
            "statd-dir" => Some("/statd"),
            _ => Some("7"),
        };
        for argument in Flags::command().get_arguments().filter_map(|argument| argument.get_long()) {
            if at_once.contains(&argument) || argument == "help" || argument == "version" {
                continue;
            }
            let flag = values(argument).map_or(format!("--{argument}"), |value| format!("--{argument}={value}"));
            let new = Flags::try_parse_from(["nlmd", "--name", "a", &flag]).unwrap();
            assert_eq!(old.wanting_a_restart(&new), [argument]);
        }
    }
}
