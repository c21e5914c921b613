//! The hosts file, read once for many names.
//!
//! getaddrinfo(3) reads all of `/etc/hosts` for each name, which takes seconds for a roster of thousands of names that
//! stand in it. Here it is read again only when it has changed. It is asked only where getaddrinfo would ask it first
//! and be content with what it says: nsswitch.conf(5) has `files` as the first source of `hosts`, without an action
//! behind it. What is not in it is left to getaddrinfo, so a name never resolves otherwise than for other programs.

use std::collections::HashMap;
use std::fs::Metadata;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::wire::scope;

/// Longest hosts file that is kept in memory, in bytes. A longer one is left to getaddrinfo.
const MAX_FILE: u64 = 64 << 20;
const HOSTS: &str = "etc/hosts";
const NSSWITCH: &str = "etc/nsswitch.conf";

/// What both files said when they were read last.
#[derive(Debug)]
pub(super) struct HostsFile {
    root: PathBuf,
    read_at: Option<[Stamp; 2]>,
    names: HashMap<String, Vec<IpAddr>>,
}

/// Tells whether a file is the one that was read. `None`: there is none.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

impl HostsFile {
    /// Nothing is read yet. `root` is `/` outside tests.
    pub(super) fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), read_at: None, names: HashMap::new() }
    }

    /// The addresses of `name`, where the file has been read and is as it was then.
    pub(super) fn known(&self, name: &str) -> Option<Vec<IpAddr>> {
        let found = self.names.get(&name.to_ascii_lowercase())?;
        (self.read_at == Some(self.stamps())).then(|| found.clone())
    }

    /// The addresses of `name`. `None`: getaddrinfo has to say.
    pub(super) fn addresses(&mut self, name: &str) -> Option<Vec<IpAddr>> {
        self.refresh();
        self.names.get(&name.to_ascii_lowercase()).cloned()
    }

    /// Reads the file again if it has changed.
    pub(super) fn refresh(&mut self) {
        let stamps = self.stamps();
        if self.read_at != Some(stamps) {
            self.names = self.read();
            self.read_at = Some(stamps);
        }
    }

    fn stamps(&self) -> [Stamp; 2] {
        [HOSTS, NSSWITCH].map(|file| stamp(&self.root.join(file)))
    }

    fn read(&self) -> HashMap<String, Vec<IpAddr>> {
        let hosts = self.root.join(HOSTS);
        let fits = std::fs::metadata(&hosts).is_ok_and(|found| found.is_file() && found.len() <= MAX_FILE);
        let switch = std::fs::read_to_string(self.root.join(NSSWITCH)).unwrap_or_default();
        if !fits || !files_come_first(&switch) {
            return HashMap::new();
        }
        // A name with bytes that are no text is no host's.
        let text = std::fs::read(&hosts).unwrap_or_default();
        parse(&String::from_utf8_lossy(&text))
    }
}

fn stamp(path: &Path) -> Stamp {
    let of = |found: Metadata| (found.dev(), found.ino(), found.len(), found.mtime(), found.mtime_nsec());
    std::fs::metadata(path).ok().map(of)
}

/// Whether the first source of `hosts` is `files`, and its answer is final.
fn files_come_first(nsswitch: &str) -> bool {
    let lines = nsswitch.lines().map(|line| line.split('#').next().unwrap_or_default());
    let hosts = lines.filter_map(|line| line.trim().strip_prefix("hosts:")).next_back();
    let mut sources = hosts.unwrap_or_default().split_whitespace();
    sources.next() == Some("files") && !sources.next().is_some_and(|next| next.starts_with('['))
}

/// All lines count, as they do for getaddrinfo. A line whose address is none is passed over.
fn parse(text: &str) -> HashMap<String, Vec<IpAddr>> {
    let mut names: HashMap<String, Vec<IpAddr>> = HashMap::new();
    for line in text.lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let Some(address) = words.next().and_then(address) else { continue };
        for name in words {
            let known = names.entry(name.to_ascii_lowercase()).or_default();
            if !known.contains(&address) {
                known.push(address);
            }
        }
    }
    names
}

/// A link-local address with its interface is left to getaddrinfo, which knows the interfaces' numbers.
fn address(word: &str) -> Option<IpAddr> {
    let ip: IpAddr = word.parse().ok()?;
    scope::joined(SocketAddr::new(ip, 0)).map(|joined| joined.ip().to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn etc(hosts: &str, nsswitch: &str) -> (tempfile::TempDir, HostsFile) {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("etc")).unwrap();
        std::fs::write(root.path().join(HOSTS), hosts).unwrap();
        std::fs::write(root.path().join(NSSWITCH), nsswitch).unwrap();
        let file = HostsFile::new(root.path());
        (root, file)
    }

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_name_has_the_addresses_of_all_its_lines_in_any_case() {
        let hosts = "192.0.2.1 c1.lab c1 # the first\n2001:db8::1\tC1.lab\n192.0.2.1 c1\n#192.0.2.9 c1\nrubbish c1\n";
        let (_root, mut file) = etc(hosts, "passwd: files\nhosts:\tfiles dns # as ever\n");
        assert_eq!(file.addresses("c1.LAB"), Some(ips(&["192.0.2.1", "2001:db8::1"])));
        assert_eq!(file.addresses("c1"), Some(ips(&["192.0.2.1"])));
        assert_eq!(file.addresses("first"), None, "a word of a comment");
        assert_eq!(file.addresses("c2"), None);
    }

    #[test]
    fn the_file_is_not_asked_where_the_system_would_ask_another_first_or_go_on() {
        for line in
            ["hosts: dns files", "hosts: files [SUCCESS=merge] dns", "hosts: resolve [!UNAVAIL=return] files", ""]
        {
            let (_root, mut file) = etc("192.0.2.1 c1\n", line);
            assert_eq!(file.addresses("c1"), None, "{line:?}");
        }
    }

    #[test]
    fn a_change_of_either_file_is_seen() {
        let (root, mut file) = etc("192.0.2.1 c1\n", "hosts: files dns\n");
        assert_eq!(file.known("c1"), None, "it was not read yet");
        assert_eq!(file.addresses("c1"), Some(ips(&["192.0.2.1"])));
        assert_eq!(file.known("C1"), Some(ips(&["192.0.2.1"])));
        std::fs::write(root.path().join(HOSTS), "192.0.2.22 c1\n").unwrap();
        assert_eq!(file.known("c1"), None, "what it says now was not read yet");
        assert_eq!(file.addresses("c1"), Some(ips(&["192.0.2.22"])));
        std::fs::write(root.path().join(NSSWITCH), "hosts: dns\n").unwrap();
        assert_eq!(file.addresses("c1"), None);
        std::fs::remove_file(root.path().join(NSSWITCH)).unwrap();
        assert_eq!(file.addresses("c1"), None, "what the system does without one differs");
    }
}
