//! nlmd's command line.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Parser, ValueEnum};
use ipnet::IpNet;

use crate::host;
use crate::locks::Limits;
use crate::shares::Bounds;
use crate::wire::rpcbind;
use crate::wire::types::CallerName;

/// Longest recovery grace.
const MAX_GRACE: Duration = Duration::from_hours(24);

/// A lock manager for NFSv3 (NLM) in user space, with its own status monitor (NSM), that can run a
/// forced resync. It arbitrates NLM only, and takes any file handle.
#[derive(Debug, Clone, Parser)]
#[command(name = "nlmd", version, args_override_self = true)]
pub struct Flags {
    /// Where it keeps what it must know after a restart
    #[arg(long, value_name = "DIR", default_value = "/var/lib/nlmd")]
    pub state_dir: PathBuf,
    /// The Unix socket by which nlmctl drives it (root and its own user only)
    #[arg(long, value_name = "PATH", default_value = "/run/nlmd/control.sock")]
    pub control: PathBuf,
    /// A second control socket, for everybody, that only shows
    #[arg(long, value_name = "PATH")]
    pub control_ro: Option<PathBuf>,
    /// An address to serve, any number of times [default: 0.0.0.0 and ::]
    #[arg(long, value_name = "ADDR", value_parser = host::address)]
    pub listen: Vec<IpAddr>,
    /// A name under which clients know this server, any number of times [default: the full, then the short host name]
    #[arg(long, value_name = "NAME", value_parser = host_name)]
    pub name: Vec<CallerName>,
    /// The port of NLM, UDP and TCP; 0 is any free one
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub nlm_port: u16,
    /// Who is the status monitor: nlmd itself, or this host's rpc.statd
    #[arg(long, value_enum, default_value_t = NsmKind::Embedded)]
    pub nsm: NsmKind,
    /// With --nsm statd: where rpc.statd has its state number [default: where it runs, else /var/lib/nfs/statd or /var/lib/nfs]
    #[arg(long, value_name = "DIR")]
    pub statd_dir: Option<PathBuf>,
    /// The port of NSM, UDP and TCP; 0 is any free one
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub nsm_port: u16,
    /// Do not register with this host's rpcbind
    #[arg(long)]
    pub no_rpcbind: bool,
    /// The port of rpcbind, here and on clients
    #[arg(long, value_name = "N", default_value_t = rpcbind::PORT)]
    pub rpcbind_port: u16,
    /// After a restart, how long clients have to reclaim their locks
    #[arg(long, value_name = "TIME", default_value = "90s", value_parser = grace)]
    pub grace: Duration,
    /// A network whose hosts may call, any number of times; the others are not answered [default: everybody]
    #[arg(long, value_name = "CIDR", value_parser = network)]
    pub allow: Vec<IpNet>,
    /// Takes what changes locks or monitoring from ports below 1024 only
    #[arg(long)]
    pub privileged_ports: bool,
    /// Most locks and shares in all
    #[arg(long, value_name = "N", default_value_t = Limits::default().locks.all, value_parser = at_least_one)]
    pub max_locks: usize,
    /// Most clients in all
    #[arg(long, value_name = "N", default_value_t = Limits::default().clients.all, value_parser = at_least_one)]
    pub max_clients: usize,
    /// Once everything listens, the ports are written here as JSON
    #[arg(long, value_name = "FILE")]
    pub ports_file: Option<PathBuf>,
    /// Log as JSON lines
    #[arg(long)]
    pub log_json: bool,
}

/// Who tells of reboots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum NsmKind {
    /// nlmd itself.
    Embedded,
    /// This host's rpc.statd.
    Statd,
}

impl Flags {
    /// Parses them, and what they say together.
    pub fn parse_whole(args: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let flags = Self::try_parse_from(args)?;
        let wrong = |words: &str| Err(clap::Command::new("nlmd").error(ErrorKind::ArgumentConflict, words));
        match flags.nsm {
            NsmKind::Statd if flags.no_rpcbind => {
                wrong("--nsm statd needs rpcbind: rpc.statd finds nlmd by it; leave --no-rpcbind out")
            }
            NsmKind::Embedded if flags.statd_dir.is_some() => wrong("--statd-dir is for --nsm statd"),
            NsmKind::Statd | NsmKind::Embedded => Ok(flags),
        }
    }

    /// The table's caps. However high the total is, one host gets no more than [`Limits::default`] allows it.
    pub fn limits(&self) -> Limits {
        let default = Limits::default();
        let of = |all: usize, default: Bounds| Bounds { all, host: default.host.min(all) };
        Limits { locks: of(self.max_locks, default.locks), clients: of(self.max_clients, default.clients), ..default }
    }
}

fn host_name(text: &str) -> Result<CallerName, String> {
    CallerName::new(text).map_err(|error| error.to_string())
}

fn grace(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if time.is_zero() || time > MAX_GRACE {
        return Err("it must be more than nothing and at most 24h".into());
    }
    Ok(time)
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

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("not a number above 0".into()),
        Ok(number) => Ok(number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            &["--nsm", "other"],
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
}
