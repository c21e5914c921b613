//! nfsd's settings that are lost when its threads stop, and how they are restored.
//!
//! With the last thread go the listeners and NFSv4's server scope, and versions and pools may. All of it is read
//! before, kept on disk by the caller, written again in the one order that the kernel takes (what can only be set while
//! there is no server comes first, then listeners, then threads), and compared. Only what differs is written, so that
//! putting back may be done again, by the process that finds it half done.
//!
//! A write to `threads` makes the scope this host's name. So where the kernel tells the scope, the threads are started
//! by netlink, which takes both in one step, and `threads` is not written while there are some.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;

use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};

use super::error::KnfsdError;
use crate::host::{self, FileError, Machine, SocketState};

/// Connections that may wait to be accepted: what rpc.nfsd asks for.
const BACKLOG: i32 = 64;

const THREADS: &str = "proc/fs/nfsd/threads";
const POOLS: &str = "proc/fs/nfsd/pool_threads";
const PORTS: &str = "proc/fs/nfsd/portlist";
/// Set while there is no server, in this order.
const BEFORE: [&str; 4] = [
    "proc/fs/nfsd/versions",
    "proc/fs/nfsd/nfsv4leasetime",
    "proc/fs/nfsd/nfsv4gracetime",
    "proc/fs/nfsd/max_block_size",
];
/// Set at any time.
const AFTER: &str = "proc/fs/nfsd/max_connections";

/// What nfsd listens on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(super) struct Listener {
    /// `tcp`, `udp` or another transport of the kernel's, by its name.
    pub(super) transport: String,
    /// Where; none for a transport whose sockets only the kernel makes.
    pub(super) address: Option<IpAddr>,
    pub(super) port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Settings {
    pub(super) threads: u32,
    pub(super) pools: String,
    pub(super) listeners: Vec<Listener>,
    /// NFSv4's server scope; none where the kernel does not tell it.
    #[serde(default)]
    pub(super) scope: Option<String>,
    /// Other files and their texts.
    pub(super) files: Vec<(String, String)>,
}

impl Settings {
    /// As they are now.
    ///
    /// # Errors
    /// Something cannot be read, or it cannot be told at which addresses nfsd listens.
    pub(super) fn read(machine: &Machine) -> Result<Self, FileError> {
        let mut files = Vec::new();
        for file in BEFORE.into_iter().chain([AFTER]) {
            match machine.word(file) {
                Ok(text) => files.push((file.to_owned(), text)),
                // Not every kernel has every one.
                Err(error) if error.is_missing() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self {
            threads: machine.nfsd_threads()?,
            pools: machine.word(POOLS)?,
            listeners: listeners(machine)?,
            scope: machine.nfsd_scope()?,
            files,
        })
    }

    fn get(&self, file: &str) -> Option<&str> {
        self.files.iter().find(|(name, _)| name == file).map(|(_, text)| text.as_str())
    }

    /// Writes what differs, and says what is different still. The service comes first: neither a lease
    /// time nor a connection limit may keep it down.
    ///
    /// # Errors
    /// There are no threads, or not every listener is there.
    pub(super) fn put_back(&self, machine: &Machine) -> Result<Vec<String>, KnfsdError> {
        let now = Self::read(machine)?;
        let put = |file: &str| match (self.get(file), now.get(file)) {
            (Some(wanted), found) if found != Some(wanted) => machine.write(file, &format!("{wanted}\n")),
            _ => Ok(()),
        };
        let mut failed = Vec::new();
        let mut note = |outcome: Result<(), FileError>| failed.extend(outcome.err());
        if now.threads == 0 {
            for file in BEFORE {
                note(put(file));
            }
        }
        for listener in missing(&self.listeners, &now.listeners) {
            note(listener.open(machine));
        }
        note(put(AFTER));
        if now.threads != self.threads {
            note(self.put_threads_back(machine, now.threads));
        }
        if machine.word(POOLS)? != self.pools {
            note(machine.write(POOLS, &format!("{}\n", self.pools)));
        }
        let now = Self::read(machine)?;
        let serves = now.threads > 0 && missing(&self.listeners, &now.listeners).is_empty();
        let differences = self.differences(&now);
        if serves || (self.threads == 0 && differences.is_empty()) {
            for error in &failed {
                tracing::warn!(%error, "cannot put a setting of nfsd back");
            }
            return Ok(differences);
        }
        Err(failed.into_iter().next().map_or_else(|| KnfsdError::Stuck(differences.join("; ")), KnfsdError::from))
    }

    fn put_threads_back(&self, machine: &Machine, now: u32) -> Result<(), FileError> {
        let write = || machine.write(THREADS, &format!("{}\n", self.threads));
        match &self.scope {
            Some(scope) if now == 0 && self.threads > 0 => machine.start_nfsd(self.threads, scope).or_else(|error| {
                tracing::warn!(%error, "nfsd starts without its server scope");
                write()
            }),
            // The file of the pools is written instead, which leaves the scope as it is.
            Some(_) if self.threads > 0 => Ok(()),
            Some(_) | None => write(),
        }
    }

    fn differences(&self, now: &Self) -> Vec<String> {
        let mut found = Vec::new();
        let mut compare = |what: &str, was: String, is: String| {
            if was != is {
                found.push(format!("nfsd's {what} was {was} and is {is}"));
            }
        };
        compare("number of threads", self.threads.to_string(), now.threads.to_string());
        compare("pools", self.pools.clone(), now.pools.clone());
        compare("list of listeners", format!("{:?}", self.listeners), format!("{:?}", now.listeners));
        if let Some(was) = &self.scope {
            compare("server scope", was.clone(), now.scope.clone().unwrap_or_else(|| "not known".into()));
        }
        for (file, was) in &self.files {
            let is = now.get(file).unwrap_or("not there");
            compare(file, was.clone(), is.to_owned());
        }
        found
    }
}

impl Listener {
    /// Makes the socket and gives it to nfsd, which keeps it.
    fn open(&self, machine: &Machine) -> Result<(), FileError> {
        let Some(ip) = self.address else {
            return machine.write(PORTS, &format!("{} {}\n", self.transport, self.port));
        };
        let path = machine.path(PORTS);
        let address = SocketAddr::new(ip, self.port);
        let open = || {
            let tcp = self.transport == "tcp";
            let (kind, protocol) = if tcp { (Type::STREAM, Protocol::TCP) } else { (Type::DGRAM, Protocol::UDP) };
            let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
            if ip.is_ipv6() {
                socket.set_only_v6(true)?;
            }
            if tcp {
                // Connections of a moment ago still have the port.
                socket.set_reuse_address(true)?;
            }
            socket.bind(&address.into())?;
            if tcp {
                socket.listen(BACKLOG)?;
            }
            Ok(socket)
        };
        let socket: Socket = open().map_err(|source| FileError::Io("open a listener for", path, source))?;
        machine.write(PORTS, &format!("{}\n", socket.as_raw_fd()))
    }
}

/// Those of `wanted` that are not in `have`, each as often as it is missing.
fn missing<'a>(wanted: &'a [Listener], have: &[Listener]) -> Vec<&'a Listener> {
    let mut have: Vec<&Listener> = have.iter().collect();
    wanted
        .iter()
        .filter(|listener| match have.iter().position(|found| found == listener) {
            Some(place) => {
                have.swap_remove(place);
                false
            }
            None => true,
        })
        .collect()
}

/// nfsd names transports and ports; the addresses are in the lists of sockets.
fn listeners(machine: &Machine) -> Result<Vec<Listener>, FileError> {
    let path = machine.path(PORTS);
    let odd = |what: String| FileError::Odd(path.clone(), what);
    let mut listeners = Vec::new();
    let mut named = parse_ports(&machine.read(PORTS)?).map_err(odd)?;
    named.sort();
    for group in named.chunk_by(|a, b| a == b) {
        let Some((transport, port)) = group.first() else { continue };
        if !matches!(transport.as_str(), "tcp" | "udp") {
            listeners.extend(group.iter().map(|_| Listener {
                transport: transport.clone(),
                address: None,
                port: *port,
            }));
            continue;
        }
        let sockets = machine.sockets("proc/net", transport)?.into_iter();
        let serves = |socket: &host::Socket| socket.local.port() == *port && socket.state == SocketState::Serving;
        let found: Vec<_> = sockets.filter(serves).map(|socket| socket.local.ip()).collect();
        if found.len() != group.len() {
            return Err(odd(format!(
                "{} listeners at {transport} port {port}, and {} such sockets on this host",
                group.len(),
                found.len()
            )));
        }
        listeners.extend(found.into_iter().map(|ip| Listener {
            transport: transport.clone(),
            address: Some(ip),
            port: *port,
        }));
    }
    listeners.sort();
    Ok(listeners)
}

/// `portlist`: transport and port, a line each.
fn parse_ports(text: &str) -> Result<Vec<(String, u16)>, String> {
    text.lines()
        .map(|line| line.trim_matches(|c: char| c.is_whitespace() || c == '\0'))
        .filter(|line| !line.is_empty())
        .map(|line| {
            let parsed = line.split_once(' ').and_then(|(name, port)| Some((name.to_owned(), port.parse().ok()?)));
            parsed.ok_or_else(|| format!("{line:?} is not a transport and a port"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::{fs, io};

    use super::*;
    use crate::host::Netlink;
    use crate::wire::netlink::Attribute;

    const TCP: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   5: 00000000:0801 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 468 1 00000000a30437fe 100 0 0 10 0
   7: 0100000A:AE0C 0900000A:270F 06 00000000:00000000 03:0000143B 00000000     0        0 0 3 0000000067563608
  10: 0100000A:0801 0B00000A:033D 01 00000000:00000000 00:00000000 00000000     0        0 513 1 00000000d05a2e9b 21 4 31 10 -1
";
    const TCP6: &str = "\
  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   5: 00000000000000000000000000000000:0801 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 485 1 00000000d1c845b8 100 0 0 10 0
";

    fn server(ports: &str) -> (tempfile::TempDir, Machine) {
        Machine::fake(&[
            (PORTS, ports),
            (THREADS, "2\n"),
            (POOLS, "2\n"),
            ("proc/fs/nfsd/versions", "+3 -4 -4.0 -4.1 -4.2\n"),
            ("proc/fs/nfsd/nfsv4leasetime", "90\n"),
            ("proc/net/tcp", TCP),
            ("proc/net/tcp6", TCP6),
        ])
    }

    #[test]
    fn listeners_are_found_with_their_addresses() {
        let (_root, machine) = server("tcp 2049\ntcp 2049\nrdma 20049\n");
        let settings = Settings::read(&machine).unwrap();
        let tcp = |ip: &str| Listener { transport: "tcp".into(), address: Some(ip.parse().unwrap()), port: 2049 };
        let rdma = Listener { transport: "rdma".into(), address: None, port: 20049 };
        assert_eq!(settings.listeners, [rdma, tcp("0.0.0.0"), tcp("::")]);
        assert_eq!(settings.threads, 2);
        assert_eq!(settings.get("proc/fs/nfsd/versions"), Some("+3 -4 -4.0 -4.1 -4.2"));
    }

    #[test]
    fn a_socket_that_cannot_be_told_from_nfsds_is_an_error() {
        let (_root, machine) = server("tcp 2049\n");
        let error = Settings::read(&machine).unwrap_err().to_string();
        assert!(error.contains("1 listeners at tcp port 2049, and 2 such sockets"), "{error}");
    }

    #[test]
    fn a_portlist_that_is_not_understood_is_an_error() {
        for odd in ["tcp\n", "ipv4 tcp 0.0.0.0 2049\n", "tcp 99999\n"] {
            let (_root, machine) = server(odd);
            assert!(Settings::read(&machine).is_err(), "{odd}");
        }
    }

    #[test]
    fn what_is_the_same_is_not_written_and_what_cannot_be_put_back_is_told() {
        let (root, machine) = server("tcp 2049\ntcp 2049\n");
        let settings = Settings::read(&machine).unwrap();
        let lease = root.path().join("proc/fs/nfsd/nfsv4leasetime");
        let before = fs::metadata(&lease).unwrap().modified().unwrap();
        assert_eq!(settings.put_back(&machine).unwrap(), [""; 0]);
        assert_eq!(fs::metadata(&lease).unwrap().modified().unwrap(), before);
        let pools = root.path().join(POOLS);
        fs::remove_file(&pools).unwrap();
        fs::create_dir(&pools).unwrap();
        assert!(settings.put_back(&machine).is_err(), "what cannot be read cannot be compared");
    }

    #[test]
    fn a_setting_that_does_not_stick_keeps_no_service_down_and_is_named() {
        let (root, machine) = server("tcp 2049\ntcp 2049\n");
        let read = Settings::read(&machine).unwrap();
        let mut wanted = read.clone();
        wanted
            .files
            .iter_mut()
            .filter(|(file, _)| file.ends_with("leasetime"))
            .for_each(|(_, text)| *text = "77".into());
        // With threads there the kernel takes no other lease time, and it is not even tried.
        assert_eq!(wanted.put_back(&machine).unwrap(), ["nfsd's proc/fs/nfsd/nfsv4leasetime was 77 and is 90"]);
        fs::write(root.path().join(THREADS), "0\n").unwrap();
        assert_eq!(wanted.put_back(&machine).unwrap(), [""; 0]);
        assert_eq!(Settings::read(&machine).unwrap(), wanted);
    }

    /// A kernel that knows the family `nfsd`, with its threads in the machine's file.
    #[derive(Debug)]
    struct Nfsd {
        threads: std::path::PathBuf,
        scope: Mutex<String>,
        takes_scope: bool,
    }

    impl Nfsd {
        fn count(&self) -> u32 {
            fs::read_to_string(&self.threads).unwrap().trim().parse().unwrap()
        }
    }

    impl Netlink for Nfsd {
        fn ask(&self, family: &str, command: u8, attributes: &[Attribute]) -> io::Result<Vec<Attribute>> {
            let failed = |number| Err(io::Error::from_raw_os_error(number));
            let get = |kind| Attribute::find(attributes, kind);
            match (family, command) {
                (host::NFSD, host::THREADS_GET) => Ok(vec![
                    Attribute::number(3, 90),
                    Attribute::text(host::SERVER_SCOPE, &self.scope.lock().unwrap()),
                    Attribute::number(host::SERVER_THREADS, self.count()),
                ]),
                (host::NFSD, host::THREADS_SET) if self.count() > 0 => failed(nix::libc::EBUSY),
                (host::NFSD, host::THREADS_SET) if !self.takes_scope => failed(nix::libc::EPERM),
                (host::NFSD, host::THREADS_SET) => {
                    let threads = get(host::SERVER_THREADS).unwrap().as_number().unwrap();
                    *self.scope.lock().unwrap() = get(host::SERVER_SCOPE).unwrap().as_text().unwrap().to_owned();
                    fs::write(&self.threads, format!("{threads}\n")).map(|()| Vec::new())
                }
                _ => failed(nix::libc::ENOENT),
            }
        }
    }

    fn with_scope(takes_scope: bool) -> (tempfile::TempDir, Machine, Arc<Nfsd>) {
        let (root, machine) = server("tcp 2049\ntcp 2049\n");
        let scope = Mutex::new("ha-cluster".to_owned());
        let nfsd = Arc::new(Nfsd { threads: root.path().join(THREADS), scope, takes_scope });
        (root, machine.answered_by(nfsd.clone()), nfsd)
    }

    /// What a write of 0 to `threads` does.
    fn stop(nfsd: &Nfsd) {
        fs::write(&nfsd.threads, "0\n").unwrap();
        *nfsd.scope.lock().unwrap() = "filer".into();
    }

    #[test]
    fn the_server_scope_comes_back_in_the_step_that_starts_the_threads() {
        let (_root, machine, nfsd) = with_scope(true);
        let settings = Settings::read(&machine).unwrap();
        assert_eq!(settings.scope.as_deref(), Some("ha-cluster"));
        let kept: Settings = serde_json::from_str(&serde_json::to_string(&settings).unwrap()).unwrap();
        stop(&nfsd);
        assert_eq!(kept.put_back(&machine).unwrap(), [""; 0]);
        assert_eq!(Settings::read(&machine).unwrap(), settings);
        assert_eq!(kept.put_back(&machine).unwrap(), [""; 0], "it may be done again");
    }

    #[test]
    fn a_scope_that_does_not_come_back_keeps_no_service_down_and_is_named() {
        let (_root, machine, nfsd) = with_scope(false);
        let settings = Settings::read(&machine).unwrap();
        stop(&nfsd);
        assert_eq!(settings.put_back(&machine).unwrap(), ["nfsd's server scope was ha-cluster and is filer"]);
        assert_eq!(machine.nfsd_threads().unwrap(), 2);
    }

    #[test]
    fn while_there_are_threads_their_number_is_not_written_where_that_would_lose_the_scope() {
        let (root, machine, nfsd) = with_scope(true);
        let settings = Settings::read(&machine).unwrap();
        fs::write(root.path().join(THREADS), "1\n").unwrap();
        fs::write(root.path().join(POOLS), "1\n").unwrap();
        let differences = settings.put_back(&machine).unwrap();
        assert_eq!(fs::read_to_string(root.path().join(POOLS)).unwrap(), "2\n", "the kernel's threads follow");
        assert_eq!((differences.len(), nfsd.count()), (1, 1));
        assert_eq!(*nfsd.scope.lock().unwrap(), "ha-cluster");
    }

    #[test]
    fn what_an_older_nlmctl_kept_has_no_scope_and_is_put_back_without_one() {
        let (root, machine) = server("tcp 2049\ntcp 2049\n");
        let mut kept = serde_json::to_value(Settings::read(&machine).unwrap()).unwrap();
        kept.as_object_mut().unwrap().remove("scope");
        let kept: Settings = serde_json::from_value(kept).unwrap();
        fs::write(root.path().join(THREADS), "0\n").unwrap();
        assert_eq!(kept.put_back(&machine).unwrap(), [""; 0]);
        assert_eq!(machine.nfsd_threads().unwrap(), 2);
    }

    #[test]
    fn only_listeners_that_are_missing_are_opened_again() {
        let at = |port| Listener { transport: "tcp".into(), address: None, port };
        let (wanted, have) = ([at(1), at(1), at(2)], [at(1), at(3)]);
        assert_eq!(missing(&wanted, &have), [&at(1), &at(2)]);
    }
}
