//! The settings of a lock manager at its start.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::dispatch::Rules;
use crate::locks::Limits;
use crate::wire::rpcbind;
use crate::wire::types::CallerName;

/// The default recovery grace.
const GRACE: Duration = Duration::from_secs(90);

/// The status monitor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "tools", derive(clap::ValueEnum))]
pub enum NsmKind {
    /// nlmd itself.
    Embedded,
    /// This host's rpc.statd.
    Statd,
}

/// The settings of a lock manager at its start: nlmd gets them from its command line, another program sets these
/// fields. [`Settings::new`] has nlmd's defaults.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The directory of the state that must survive a restart.
    pub state_dir: PathBuf,
    /// The Unix socket through which nlmctl drives it.
    pub control: PathBuf,
    /// A second, read-only control socket for all users.
    pub control_ro: Option<PathBuf>,
    /// The addresses to serve; none: every address of both families (of those that the host has).
    pub listen: Vec<IpAddr>,
    /// The names under which clients know this server; none: the full, then the short host name.
    pub names: Vec<CallerName>,
    /// The port of NLM, UDP and TCP; 0 is any free one.
    pub nlm_port: u16,
    /// The status monitor.
    pub nsm: NsmKind,
    /// The folder of this host's rpc.statd, if it is the status monitor; none: where
    /// Linux systems have it.
    pub statd_dir: Option<PathBuf>,
    /// The port of NSM, UDP and TCP; 0 is any free one.
    pub nsm_port: u16,
    /// Whether to register with this host's rpcbind, which rpc.statd needs to find nlmd.
    pub register: bool,
    /// The port of rpcbind, here and on clients.
    pub rpcbind_port: u16,
    /// After a restart, how long clients have to reclaim their locks.
    pub grace: Duration,
    /// The networks whose hosts may call; none: all hosts.
    pub allow: Vec<IpNet>,
    /// Whether calls that change locks or monitoring are accepted from ports below 1024 only.
    pub privileged_ports: bool,
    /// The table's caps.
    pub limits: Limits,
}

impl Settings {
    /// nlmd's defaults, and the settings that have no default for another program.
    pub fn new(state_dir: impl Into<PathBuf>, control: impl Into<PathBuf>) -> Self {
        Self {
            state_dir: state_dir.into(),
            control: control.into(),
            control_ro: None,
            listen: Vec::new(),
            names: Vec::new(),
            nlm_port: 0,
            nsm: NsmKind::Embedded,
            statd_dir: None,
            nsm_port: 0,
            register: true,
            rpcbind_port: rpcbind::PORT,
            grace: GRACE,
            allow: Vec::new(),
            privileged_ports: false,
            limits: Limits::default(),
        }
    }

    /// The settings that the dispatch table needs.
    pub(super) fn rules(&self) -> Rules {
        Rules { privileged_ports: self.privileged_ports, statd: self.nsm == NsmKind::Statd }
    }

    /// The addresses to listen on, and whether one that this host lacks may be left out. rpc.statd
    /// calls back on 127.0.0.1, also for clients of other addresses.
    pub(super) fn listen_addresses(&self) -> (Vec<IpAddr>, bool) {
        if self.listen.is_empty() {
            return (vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()], true);
        }
        let mut addresses = self.listen.clone();
        let reached = |address: &IpAddr| *address == Ipv4Addr::LOCALHOST || *address == Ipv4Addr::UNSPECIFIED;
        if self.nsm == NsmKind::Statd && !addresses.iter().any(reached) {
            addresses.push(Ipv4Addr::LOCALHOST.into());
        }
        (addresses, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_address_is_every_address_and_a_named_one_must_be_there() {
        let mut settings = Settings::new("/s", "/c");
        assert_eq!((settings.listen_addresses().0.len(), settings.listen_addresses().1), (2, true));
        settings.listen = vec!["192.0.2.1".parse().unwrap()];
        assert_eq!(settings.listen_addresses(), (settings.listen.clone(), false));
        settings.nsm = NsmKind::Statd;
        assert!(settings.listen_addresses().0.contains(&IpAddr::from(Ipv4Addr::LOCALHOST)), "statd calls there");
    }
}
