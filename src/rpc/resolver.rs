//! Names to addresses, by the system's resolver.
//!
//! # Theory
//! getaddrinfo(3) blocks a thread and cannot be interrupted: with dead name servers it takes half a minute, and the
//! caller has long given up by then. So this process has [`PLACES`] places for look-ups, and a look-up keeps its
//! place until getaddrinfo really returns: names that hang cost a bounded number of threads however often they are
//! asked for. Waiting for a place is not a failure of the name that waits; it is one only if the resolver has
//! answered nothing for [`STUCK_AFTER`]. A name in the hosts file costs no call of getaddrinfo (`hosts_file`), and neither
//! thread nor place once that file was read.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::pin::pin;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use dns_lookup::{AddrInfoHints, LookupError, LookupErrorKind, SockType};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use super::hosts_file::HostsFile;
use crate::wire::scope;
use crate::wire::types::CallerName;

/// Most names being resolved at a time: each takes a thread.
const PLACES: usize = 32;
/// How long the resolver may take for a name that something waits for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// Most addresses of a name that count (getaddrinfo gives each once for each kind of socket).
const MOST_ADDRESSES: usize = 3 * 16;
/// A resolver that answers nothing for so long is stuck, as far as a name can tell that waits for a place.
const STUCK_AFTER: Duration = Duration::from_secs(5);
/// Longest wait for the hosts file.
const READ_PATIENCE: Duration = Duration::from_secs(1);

/// Why a name has no address. The text is for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unresolved {
    /// The resolver said that it has none, or that it failed.
    Unknown(String),
    /// The resolver said nothing yet: the name may have one.
    Unanswered(String),
}

/// What became of a look-up.
pub(crate) type Resolved = Result<Vec<IpAddr>, Unresolved>;

/// The places, and what was seen of them.
#[derive(Debug)]
struct Resolver {
    places: Arc<Semaphore>,
    /// When a look-up ended last, with or without an answer.
    ended: Arc<Mutex<Option<Instant>>>,
    hosts: Arc<Mutex<HostsFile>>,
}

static RESOLVER: LazyLock<Resolver> = LazyLock::new(|| Resolver::new(PLACES));

/// The addresses of a name, each once, in the resolver's order. Waits for a place as long as other look-ups end,
/// and then `patience` for the answer. It may be dropped at any time.
pub(crate) async fn addresses(name: &CallerName, patience: Duration) -> Resolved {
    RESOLVER.addresses(name, patience).await
}

/// What the hosts file says of the name, if it was read before and has not changed. Does not wait.
pub(crate) fn known(name: &CallerName) -> Option<Vec<IpAddr>> {
    RESOLVER.known(name.host()?)
}

/// Reads the hosts file, so that its names are [`known`]. Gives up after a second.
pub(crate) async fn read_hosts_file() {
    let hosts = RESOLVER.hosts.clone();
    let _ = timeout(READ_PATIENCE, tokio::task::spawn_blocking(move || lock(&hosts).refresh())).await;
}

/// [`addresses`] where it does not matter why a name has none. Takes no longer than `within` in all.
pub(crate) async fn look_up(name: &CallerName, within: Duration) -> Vec<IpAddr> {
    timeout(within, addresses(name, within)).await.ok().and_then(Result::ok).unwrap_or_default()
}

/// The same for many names at once. What is not known `within` that time is unanswered.
pub(crate) async fn each(names: BTreeSet<CallerName>, within: Duration) -> HashMap<CallerName, Resolved> {
    let deadline = Instant::now() + within;
    let mut tasks = JoinSet::new();
    for name in names {
        tasks.spawn(async move {
            let found = timeout_at(deadline, addresses(&name, within)).await;
            let late = |_| Err(Unresolved::Unanswered(format!("no answer within {} s", within.as_secs())));
            (name, found.unwrap_or_else(late))
        });
    }
    let mut found = HashMap::new();
    while let Some(done) = tasks.join_next().await {
        found.extend(done.ok());
    }
    found
}

impl Resolver {
    fn new(places: usize) -> Self {
        Self {
            places: Arc::new(Semaphore::new(places)),
            ended: Arc::default(),
            hosts: Arc::new(Mutex::new(HostsFile::new("/"))),
        }
    }

    /// Nothing is known as long as another thread reads the file.
    fn known(&self, host: &str) -> Option<Vec<IpAddr>> {
        self.hosts.try_lock().ok()?.known(host)
    }

    async fn addresses(&self, name: &CallerName, patience: Duration) -> Resolved {
        let Some(host) = name.host() else {
            return Err(Unresolved::Unknown("it has bytes that no host's name has".to_owned()));
        };
        if let Some(found) = self.known(host) {
            return Ok(found);
        }
        let (hosts, host) = (self.hosts.clone(), host.to_owned());
        let look_up = move || match lock(&hosts).addresses(&host) {
            Some(found) => Ok(found),
            None => getaddrinfo(&host),
        };
        self.ask(patience, look_up).await
    }

    async fn ask(&self, patience: Duration, look_up: impl FnOnce() -> Resolved + Send + 'static) -> Resolved {
        let unanswered = |why: String| Err(Unresolved::Unanswered(why));
        let mut free = pin!(self.places.clone().acquire_owned());
        let place = loop {
            match timeout(STUCK_AFTER, &mut free).await {
                Ok(Ok(place)) => break place,
                // Never closed.
                Ok(Err(_)) => return unanswered("the resolver is shut down".to_owned()),
                Err(_) if lock(&self.ended).is_some_and(|at| at.elapsed() < STUCK_AFTER) => {}
                Err(_) => return unanswered("the resolver does not answer for other names either".to_owned()),
            }
        };
        let ended = self.ended.clone();
        let looking = tokio::task::spawn_blocking(move || {
            let found = look_up();
            *lock(&ended) = Some(Instant::now());
            drop(place);
            found
        });
        match timeout(patience, looking).await {
            Ok(Ok(found)) => found,
            Ok(Err(_)) => unanswered("a thread died".to_owned()),
            Err(_) => unanswered(format!("the resolver gave no answer within {} s", patience.as_secs())),
        }
    }
}

fn getaddrinfo(host: &str) -> Resolved {
    let hints = AddrInfoHints { socktype: SockType::Stream.into(), ..Default::default() };
    match dns_lookup::getaddrinfo(Some(host), None, Some(hints)) {
        Ok(found) => {
            let sockets = found.filter_map(Result::ok).map(|info| info.sockaddr);
            Ok(each_once(scope::found(sockets).take(MOST_ADDRESSES)))
        }
        // No name server answered, or one has trouble: that says nothing about the name.
        Err(error) if matches!(error.kind(), LookupErrorKind::Again) => Err(Unresolved::Unanswered(said(error))),
        Err(error) => Err(Unresolved::Unknown(said(error))),
    }
}

/// The C library's words.
fn said(error: LookupError) -> String {
    std::io::Error::from(error).to_string()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Addresses in one spelling, without repeats.
pub(super) fn each_once(addresses: impl IntoIterator<Item = IpAddr>) -> Vec<IpAddr> {
    let mut known: Vec<IpAddr> = Vec::new();
    for address in addresses {
        let address = address.to_canonical();
        if !known.contains(&address) {
            known.push(address);
        }
    }
    known
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(2);

    fn name(text: &str) -> CallerName {
        CallerName::of_bytes(text.as_bytes()).unwrap()
    }

    /// A resolver that hangs until the test lets it go.
    fn hanging() -> (mpsc::Sender<()>, impl FnOnce() -> Resolved + Send + 'static) {
        let (go, gone) = mpsc::channel();
        (go, move || {
            let _ = gone.recv();
            Ok(Vec::new())
        })
    }

    #[tokio::test]
    async fn a_name_of_the_hosts_file_takes_no_place() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("etc")).unwrap();
        std::fs::write(root.path().join("etc/hosts"), "192.0.2.1 c1.lab\n").unwrap();
        std::fs::write(root.path().join("etc/nsswitch.conf"), "hosts: files dns\n").unwrap();
        let hosts = Arc::new(Mutex::new(HostsFile::new(root.path())));
        let resolver = Resolver { hosts: hosts.clone(), ..Resolver::new(0) };
        let found = timeout(Duration::from_millis(10), resolver.addresses(&name("c1.lab"), PATIENCE)).await;
        assert!(found.is_err(), "the file was not read, and to read it takes a place");
        lock(&hosts).refresh();
        assert_eq!(resolver.addresses(&name("c1.lab"), PATIENCE).await, Ok(vec!["192.0.2.1".parse().unwrap()]));
    }

    #[tokio::test]
    async fn a_look_up_keeps_its_place_until_it_really_ends() {
        let resolver = Resolver::new(1);
        let (go, look_up) = hanging();
        let given_up = resolver.ask(Duration::from_millis(10), look_up).await;
        assert_eq!(given_up, Err(Unresolved::Unanswered("the resolver gave no answer within 0 s".into())));
        assert_eq!(resolver.places.available_permits(), 0, "its thread still runs");
        drop(go);
        let ip: IpAddr = "192.0.2.1".parse().unwrap();
        assert_eq!(resolver.ask(PATIENCE, move || Ok(vec![ip])).await, Ok(vec![ip]));
    }

    #[tokio::test]
    async fn a_caller_that_goes_away_takes_no_place_with_it() {
        let resolver = Resolver::new(1);
        let (go, look_up) = hanging();
        let _ = timeout(Duration::from_millis(10), resolver.ask(PATIENCE, look_up)).await.unwrap_err();
        drop(go);
        assert_eq!(resolver.ask(PATIENCE, || Ok(Vec::new())).await, Ok(Vec::new()));
        assert_eq!(resolver.places.available_permits(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_waits_for_a_place_as_long_as_other_names_are_answered() {
        let resolver = Arc::new(Resolver::new(1));
        let place = resolver.places.clone().try_acquire_owned().unwrap();
        let waiting = tokio::spawn({
            let resolver = resolver.clone();
            async move { resolver.ask(PATIENCE, || Ok(Vec::new())).await }
        });
        for _ in 0..10 {
            tokio::time::sleep(STUCK_AFTER * 3 / 4).await;
            *lock(&resolver.ended) = Some(Instant::now());
        }
        assert!(!waiting.is_finished(), "it waits for longer than a stuck resolver would make it");
        drop(place);
        assert_eq!(waiting.await.unwrap(), Ok(Vec::new()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_gives_up_its_wait_for_a_stuck_resolver() {
        let resolver = Resolver::new(0);
        let why = "the resolver does not answer for other names either";
        assert_eq!(resolver.ask(PATIENCE, || Ok(Vec::new())).await, Err(Unresolved::Unanswered(why.into())));
    }

    #[tokio::test]
    async fn no_resolver_is_asked_for_a_name_that_no_host_has() {
        let resolver = Resolver::new(0);
        for odd in [&b"\xfc"[..], b"", b"a b", b"nul\0", b"a\\032b"] {
            let name = CallerName::of_bytes(odd).unwrap();
            let why = "it has bytes that no host's name has";
            assert_eq!(resolver.addresses(&name, PATIENCE).await, Err(Unresolved::Unknown(why.into())), "{odd:?}");
        }
    }

    #[tokio::test]
    async fn an_address_is_its_own_name() {
        let found = Resolver::new(1).addresses(&name("127.0.0.9"), PATIENCE).await;
        assert_eq!(found, Ok(vec!["127.0.0.9".parse().unwrap()]));
    }

    #[tokio::test]
    async fn many_names_are_asked_at_once() {
        let names = ["127.0.0.1", "::1", "a b"].map(name);
        let found = each(names.clone().into(), PATIENCE).await;
        let said = names.map(|name| found.get(&name).cloned().unwrap());
        assert_eq!(said[0], Ok(vec!["127.0.0.1".parse().unwrap()]));
        assert_eq!(said[1], Ok(vec!["::1".parse().unwrap()]));
        assert!(matches!(said[2], Err(Unresolved::Unknown(_))), "{:?}", said[2]);
    }
}
