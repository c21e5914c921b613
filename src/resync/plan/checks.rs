//! Checks of a request, and which clients it selects.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use super::summary::some_names;
use super::{LocalMount, Observation, Plan, Request};
use crate::report::{Controller, Failure, in_command};
use crate::units::{self, count, millis, number};
use crate::wire::control::{
    Capabilities, ClientRef, ClientRow, Grace, Info, LockRow, LockState, Mode, Scope, Silent, Status, Unreachable,
};
use crate::wire::types::{Address, CallerName, FileHandle};
use crate::wire::xdr::List;

fn usage<T>(message: impl Into<String>, remedy: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::usage(message, remedy))
}

fn refused<T>(message: impl Into<String>, remedy: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::refused(message, remedy))
}

/// The scope that a request names, before anything is known of the clients.
///
/// # Errors
/// A path or an export where the manager knows only file handles, or too many of a kind.
pub fn scope(request: &Request, info: &Info) -> Result<Scope, Failure> {
    let paths_help = "name files by their handles in hexadecimal: `nlmctl locks --json` shows each as `file`";
    if let Some(export) = request.exports.first() {
        return usage(
            format!("--export {export} cannot be used: {} selects files by their handles only", info.software.as_str()),
            paths_help,
        );
    }
    let mut files = Vec::with_capacity(request.files.len());
    for text in &request.files {
        match hex::decode(text).ok().filter(|bytes| !bytes.is_empty()).map(|bytes| FileHandle::new(&bytes)) {
            Some(Ok(handle)) => files.push(handle),
            Some(Err(e)) => return usage(format!("--file {text}: {e}"), paths_help),
            None => {
                return usage(
                    format!(
                        "--file {text} is not a file handle, and {} does not take paths here",
                        info.software.as_str()
                    ),
                    paths_help,
                );
            }
        }
    }
    let mut clients = Vec::with_capacity(request.clients.len());
    for text in &request.clients {
        match text.parse::<ClientRef>() {
            Ok(client) => clients.push(client),
            Err(e) => {
                return usage(
                    format!("--client {text:?} is neither an address nor a name: {e}"),
                    "see `nlmctl clients`",
                );
            }
        }
    }
    let too_many = "run once over everything (no --client, no --file), or several times";
    let Ok(clients) = List::new(clients) else { return usage("too many --client", too_many) };
    let Ok(files) = List::new(files) else { return usage("too many --file", too_many) };
    Ok(Scope { clients, files })
}

pub(super) fn mode(request: &Request, scope: &Scope, info: &Info) -> Result<Mode, Failure> {
    let everything = scope.is_everything();
    match request.mode.unwrap_or(if everything { Mode::Strict } else { Mode::Targeted }) {
        Mode::Strict if !everything => usage(
            "--mode strict covers everything, and the scope is narrower",
            "leave out --mode strict, or leave out --client, --export and --file",
        ),
        Mode::Targeted if !info.capabilities.targeted => usage(
            format!("{} cannot do a targeted run", info.software.as_str()),
            "resync everything: leave out --mode targeted, --client, --export and --file",
        ),
        mode => Ok(mode),
    }
}

pub(super) fn grace(request: &Request) -> Result<(Duration, Duration), Failure> {
    const DAY: Duration = Duration::from_hours(24);
    let grace = request.grace;
    if grace < Duration::from_millis(1) || grace > DAY {
        return usage("--grace must be between 1ms and 24h", "90s is enough for most servers");
    }
    let max = request.grace_max.unwrap_or(grace.max(Duration::from_mins(3)));
    if max < grace || max > DAY {
        return usage("--grace-max must be between --grace and 24h", "leave it out, or make it longer than --grace");
    }
    Ok((grace, max))
}

/// Refuses while a run or another grace period is active. `controller`: who works with the record of that run, if
/// that is known.
///
/// # Errors
/// One is active.
pub fn refuse_busy(status: &Status, can: &Capabilities, controller: Option<Controller>) -> Result<(), Failure> {
    if let Some(run) = &status.run.0 {
        let by = controller.map_or_else(String::new, |controller| format!("; {controller}"));
        let remedy = match controller {
            Some(Controller { alive: true, .. }) => {
                "wait until that nlmctl has ended; if the run is still active then, resume it (`nlmctl resync --resume`)"
            }
            Some(Controller { alive: false, .. }) => "resume it (`nlmctl resync --resume`)",
            None => "wait for its end (`nlmctl status`), resume it if its nlmctl has ended (`nlmctl resync --resume`)",
        };
        let or =
            if can.begin_releases { ": its locks have already been freed" } else { ", or abort it (`nlmctl abort`)" };
        return refused(
            format!("run {} is active, for another {} at least{by}", run.run, millis(run.remaining_ms)),
            format!("{remedy}{or}"),
        );
    }
    match status.grace {
        Grace::Open => Ok(()),
        Grace::Recovery | Grace::Strict | Grace::Targeted | Grace::Settling => {
            let left = match status.grace_remaining_ms {
                0 => String::new(),
                left => format!(", for another {}", millis(left)),
            };
            refused(
                format!("the lock manager is in a grace period of its own{left}: clients are reclaiming already"),
                "wait until it is over (`nlmctl status`)",
            )
        }
    }
}

/// A client's locks in scope.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct InScope {
    pub(super) monitored: u64,
    pub(super) unmonitored: u64,
}

/// Most clients that are not known for which similar ones are looked for.
const MOST_NEAR: usize = 10;

/// Refuses a client in the request that is not known. `asked` has the words of the request.
///
/// # Errors
/// A client is not known; the message names it, and the remedy names similar ones.
pub fn refuse_unknown(scope: &Scope, asked: &[String], clients: &[ClientRow]) -> Result<(), Failure> {
    unknown(scope, asked, clients).next().map_or(Ok(()), Err)
}

/// The same for each that is not known.
pub fn unknown(scope: &Scope, asked: &[String], clients: &[ClientRow]) -> impl Iterator<Item = Failure> {
    let mut known = Index::default();
    for row in clients {
        known.add_name(&row.name);
        known.addresses.extend(row.addresses.as_slice());
    }
    let is_unknown = move |(wanted, _): &(&ClientRef, &String)| match (&wanted.name.0, &wanted.address.0) {
        (None, None) => true,
        (Some(name), None) => !known.has_name(name),
        (None, Some(address)) => !known.addresses.contains(address),
        (Some(_), Some(_)) => !clients.iter().any(|row| names(wanted, row)),
    };
    scope.clients.as_slice().iter().zip(asked).filter(is_unknown).enumerate().map(|(number, (_, text))| {
        // Each of these is a walk through all clients.
        let near = if number < MOST_NEAR { near(text, clients) } else { Vec::new() };
        let remedy = if near.is_empty() {
            "`nlmctl clients` lists the clients that it knows".to_owned()
        } else {
            format!("did you mean {}?", near.join(" or "))
        };
        Failure::usage(format!("the lock manager knows no client {text}"), remedy)
    })
}

/// Refuses a short name in the request that several clients have before different domains: they are different hosts, and only
/// one is meant. A full name, also where a client calls itself by the short one, means one host.
///
/// # Errors
/// Refused: the message names the clients, with their addresses.
pub fn refuse_ambiguous(scope: &Scope, asked: &[String], clients: &[ClientRow]) -> Result<(), Failure> {
    let mut full: HashMap<String, BTreeMap<String, &ClientRow>> = HashMap::new();
    for row in clients {
        let (whole, short) = row.name.folded();
        if whole != short {
            full.entry(short).or_default().insert(whole, row);
        }
    }
    for (wanted, text) in scope.clients.as_slice().iter().zip(asked) {
        let (Some(name), None) = (&wanted.name.0, &wanted.address.0) else { continue };
        let (whole, short) = name.folded();
        let Some(hosts) = full.get(&short).filter(|hosts| whole == short && hosts.len() > 1) else { continue };
        let shown = hosts.values().map(|row| match row.addresses.as_slice().first() {
            Some(address) => format!("{} ({address})", row.name),
            None => row.name.to_string(),
        });
        return refused(
            format!("--client {text} means several clients: {}", units::first(shown, 5)),
            "give the full name or the address of the client",
        );
    }
    Ok(())
}

/// Refuses a file in the request that has no lock. A handle with a wrong digit is unknown to everyone:
/// a run over it would do nothing and report success.
fn refuse_unlocked(scope: &Scope, asked: &[String], locks: &[LockRow]) -> Result<(), Failure> {
    let held = locks.iter().filter(|lock| lock.state != LockState::Waiting);
    let locked: HashSet<&FileHandle> = held.map(|lock| &lock.file).collect();
    let unlocked = scope.files.as_slice().iter().zip(asked).find(|(file, _)| !locked.contains(file));
    let Some((_, text)) = unlocked else { return Ok(()) };
    let who = if scope.clients.as_slice().is_empty() { "nobody" } else { "none of these clients" };
    usage(
        format!("no lock is selected: {who} has a lock on --file {text}"),
        "see `nlmctl locks`; with --json it shows the handle of each locked file as `file`",
    )
}

/// Names and addresses, indexed: a request may name ten thousand clients of as many.
#[derive(Debug, Default)]
struct Index {
    full: HashSet<String>,
    short: HashSet<String>,
    addresses: HashSet<Address>,
}

impl Index {
    fn add_name(&mut self, name: &CallerName) {
        let (full, short) = name.folded();
        self.full.insert(full);
        self.short.insert(short);
    }
    /// Whether it has one that matches.
    fn has_name(&self, name: &CallerName) -> bool {
        let (full, short) = name.folded();
        self.full.contains(&full) || self.full.contains(&short) || self.short.contains(&full)
    }
}

/// The clients that the scope names.
fn named<'a>(wanted: &[ClientRef], clients: &'a [ClientRow]) -> Vec<&'a ClientRow> {
    let (mut index, mut by_both) = (Index::default(), Vec::new());
    for client in wanted {
        match (&client.name.0, client.address.0) {
            (Some(name), None) => index.add_name(name),
            (None, Some(address)) => drop(index.addresses.insert(address)),
            (Some(_), Some(_)) | (None, None) => by_both.push(client),
        }
    }
    let is_named = |row: &&ClientRow| {
        index.has_name(&row.name)
            || row.addresses.as_slice().iter().any(|address| index.addresses.contains(address))
            || by_both.iter().any(|client| names(client, row))
    };
    clients.iter().filter(is_named).collect()
}

pub(super) fn chosen<'a>(
    request: &Request,
    scope: &Scope,
    seen: &Observation<'a>,
) -> Result<Vec<(&'a ClientRow, InScope)>, Failure> {
    refuse_unknown(scope, &request.clients, seen.clients)?;
    refuse_ambiguous(scope, &request.clients, seen.clients)?;
    refuse_unlocked(scope, &request.files, seen.locks.unwrap_or_default())?;
    let listed = seen.locks.map(count_by_owner);
    let counts = |row: &ClientRow| match &listed {
        None => InScope { monitored: row.locks.saturating_sub(row.unmonitored), unmonitored: row.unmonitored },
        Some(listed) => {
            let of = |address: &Address| listed.get(&(row.name.clone(), address.0)).copied();
            row.addresses.as_slice().iter().filter_map(of).fold(InScope::default(), std::ops::Add::add)
        }
    };
    let wanted = scope.clients.as_slice();
    let rows = if wanted.is_empty() { seen.clients.iter().collect() } else { named(wanted, seen.clients) };
    Ok(rows.into_iter().map(|row| (row, counts(row))).collect())
}

impl std::ops::Add for InScope {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self { monitored: self.monitored + other.monitored, unmonitored: self.unmonitored + other.unmonitored }
    }
}

fn count_by_owner(locks: &[LockRow]) -> HashMap<(CallerName, IpAddr), InScope> {
    let mut by_owner: HashMap<_, InScope> = HashMap::new();
    for lock in locks {
        match lock.state {
            LockState::Waiting => {}
            LockState::Held | LockState::Pending | LockState::Offered => {
                let counts = by_owner.entry((lock.owner.name.clone(), lock.owner.address.0)).or_default();
                if lock.monitored {
                    counts.monitored += 1;
                } else {
                    counts.unmonitored += 1;
                }
            }
        }
    }
    by_owner
}

/// All locks in scope. A manager that does not know owners counts them for no client.
pub(super) fn in_scope(chosen: &[(&ClientRow, InScope)], seen: &Observation<'_>) -> InScope {
    if seen.info.capabilities.knows_owners {
        return chosen.iter().fold(InScope::default(), |sum, (_, one)| sum + *one);
    }
    let Status { locks, unmonitored, .. } = *seen.status;
    InScope { monitored: locks.saturating_sub(unmonitored), unmonitored }
}

/// A lock that is freed at begin and has no client to reclaim it is lost, even if the policy keeps.
pub(super) fn refuse_what_begin_loses(plan: &Plan, can: &Capabilities) -> Result<(), Failure> {
    let software = &plan.manager;
    let holders = plan.untellable();
    let may_lose = plan.in_scope > 0 || !plan.locks_listed;
    if plan.policy.unreachable == Unreachable::Keep && may_lose && !holders.is_empty() {
        return refused(
            format!(
                "{software} frees every lock when a run begins, so the locks of {} that cannot be notified now ({}) \
                 cannot be kept",
                count(holders.len() as u64, "client"),
                some_names(&holders)
            ),
            match holders.first() {
                Some(first) if can.release => format!(
                    "make their statd answer; first free the locks of a client that is gone for good, for example `nlmctl \
                     release --client {}`; or agree to lose the locks with --unreachable drop",
                    in_command(first.name.as_str(), first.addresses.first().copied().map(Address))
                ),
                _ => "make their statd answer, or agree to lose their locks with --unreachable drop".to_owned(),
            },
        );
    }
    if plan.policy.silent == Silent::Keep {
        return refused(
            format!("{software} frees every lock when a run begins, so --silent keep is not possible"),
            "leave out --silent keep",
        );
    }
    if plan.unmonitored > 0 && !plan.policy.include_unmonitored {
        return refused(
            format!(
                "{software} frees every lock when a run begins, and {} no recorded client to notify",
                number(plan.unmonitored, "lock has", "locks have")
            ),
            "find out who holds them (`nlmctl locks`), or agree to lose them with --include-unmonitored",
        );
    }
    Ok(())
}

/// Whether a reference names this client. One without name and address names none.
pub fn names(wanted: &ClientRef, row: &ClientRow) -> bool {
    let by_name = wanted.name.0.as_ref().map(|name| name.matches(&row.name));
    let by_address = wanted.address.0.map(|address| row.addresses.as_slice().contains(&address));
    match (by_name, by_address) {
        (None, None) => false,
        (name, address) => name.unwrap_or(true) && address.unwrap_or(true),
    }
}

/// The clients whose name or address is most similar to the typed text, the most similar first, three at most.
fn near(text: &str, clients: &[ClientRow]) -> Vec<String> {
    let typed = text.to_lowercase();
    let likeness = |candidate: &str| {
        let candidate = candidate.to_lowercase();
        if candidate.contains(&typed) { 1.0 } else { strsim::jaro_winkler(&typed, &candidate) }
    };
    let mut scored: Vec<(f64, String)> = clients
        .iter()
        .flat_map(|row| {
            let addresses = row.addresses.as_slice().iter().map(ToString::to_string);
            std::iter::once(row.name.to_string()).chain(addresses)
        })
        .map(|candidate| (likeness(&candidate), candidate))
        .filter(|(score, _)| *score > 0.85)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    scored.dedup();
    scored.truncate(3);
    scored.into_iter().map(|(_, candidate)| candidate).collect()
}

/// A notice from this host tells the peers of this host's own mounts, too, that their locks are
/// gone: their servers would free what processes here still hold.
pub(super) fn refuse_own_mounts(
    request: &Request,
    chosen: &[(&ClientRow, InScope)],
    mounts: &[LocalMount],
) -> Result<(), Failure> {
    let all_loopback = chosen.iter().all(|(row, _)| only_loopback(row.addresses.as_slice()));
    own_mounts_allow(request.own_locks_lost, all_loopback, mounts)
}

/// Whether a client with these addresses is this host itself. A client without an address may be anywhere.
pub fn only_loopback(addresses: &[Address]) -> bool {
    !addresses.is_empty() && addresses.iter().all(|address| address.0.to_canonical().is_loopback())
}

/// Refuses if this host's own mounts forbid notices.
///
/// # Errors
/// They forbid notices; the message names the mounts.
pub fn own_mounts_allow(own_locks_lost: bool, all_loopback: bool, mounts: &[LocalMount]) -> Result<(), Failure> {
    if own_locks_lost || mounts.is_empty() || (all_loopback && mounts.iter().all(|mount| !mount.from_self)) {
        return Ok(());
    }
    let shown = units::first(mounts.iter().map(|mount| format!("{} at {}", mount.from, mount.at)), 3);
    refused(
        format!(
            "this host has NFSv3 mounts that lock over the network ({shown}): a notice from here also tells those \
             servers that this host's own processes have lost their locks"
        ),
        "unmount them, mount them with nolock or NFSv4, or agree to lose those locks with --own-locks-lost",
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::xdr::Maybe;

    fn wanted(name: Option<String>, address: Option<String>) -> ClientRef {
        let name = name.map(|name| CallerName::new(&name).unwrap());
        ClientRef { name: Maybe(name), address: Maybe(address.map(|address| Address(address.parse().unwrap()))) }
    }

    fn a_name() -> impl Strategy<Value = String> {
        proptest::collection::vec(prop::sample::select(vec!["a", "A", "b", "10", "0", "1", "x"]), 1..5)
            .prop_flat_map(|parts| any::<bool>().prop_map(move |dot| parts.join(".") + if dot { "." } else { "" }))
    }

    fn an_address() -> impl Strategy<Value = String> {
        (1..5_u8).prop_map(|last| format!("10.0.0.{last}"))
    }

    proptest! {
        #[test]
        fn those_named_are_those_that_each_reference_alone_would_name(
            rows in proptest::collection::vec((a_name(), an_address()), 0..8),
            refs in proptest::collection::vec((proptest::option::of(a_name()), proptest::option::of(an_address())), 0..6),
        ) {
            let rows: Vec<ClientRow> = rows.iter().map(|(name, address)| ClientRow::sample(name, address)).collect();
            let refs: Vec<ClientRef> = refs.into_iter().map(|(name, address)| wanted(name, address)).collect();
            let by_walk: Vec<&ClientRow> =
                rows.iter().filter(|row| refs.iter().any(|client| names(client, row))).collect();
            prop_assert_eq!(named(&refs, &rows), by_walk);
            for client in refs {
                let is_known = rows.iter().any(|row| names(&client, row));
                let scope = Scope { clients: List::clipped(vec![client]), files: List::default() };
                prop_assert_eq!(refuse_unknown(&scope, &["it".to_owned()], &rows).is_ok(), is_known);
            }
        }
    }

    #[test]
    fn a_short_name_of_two_hosts_is_refused_and_both_are_named() {
        let rows = [("node1.a.test", "192.0.2.1"), ("Node1.b.test", "192.0.2.2"), ("node2.a.test", "192.0.2.3")]
            .map(|(name, address)| ClientRow::sample(name, address));
        let mut rows = rows.to_vec();
        // One name at several addresses, in other letters, or called by the short one, is one host.
        rows.extend(
            [
                ("node2.a.test", "192.0.2.4"),
                ("NODE2.A.test.", "192.0.2.4"),
                ("node2", "192.0.2.3"),
                ("node1", "192.0.2.1"),
            ]
            .map(|(name, address)| ClientRow::sample(name, address)),
        );
        let of = |text: &str| {
            let scope = Scope { clients: List::clipped(vec![text.parse().unwrap()]), files: List::default() };
            refuse_ambiguous(&scope, &[text.to_owned()], &rows)
        };
        for text in ["node1", "NODE1."] {
            let refusal = of(text).unwrap_err();
            assert_eq!(refusal.kind.exit(), 4);
            assert!(refusal.message.contains("node1.a.test (192.0.2.1), Node1.b.test (192.0.2.2)"), "{refusal}");
        }
        for text in ["node1.a.test", "192.0.2.1", "node2", "node2.a.test", "node3"] {
            of(text).unwrap();
        }
    }

    #[test]
    fn a_hundred_thousand_names_are_found_among_as_many_clients_without_a_walk_for_each() {
        let each = 0..100_000_u32;
        let rows: Vec<ClientRow> = each
            .clone()
            .map(|n| {
                ClientRow::sample(
                    &format!("node{n}.Example.org"),
                    &std::net::Ipv4Addr::from(0x0a00_0000 + n).to_string(),
                )
            })
            .collect();
        let asked: Vec<String> =
            each.map(|n| format!("NODE{n}{}", if n % 2 == 0 { "" } else { ".example.org." })).collect();
        let refs: Vec<ClientRef> = asked.iter().map(|name| wanted(Some(name.clone()), None)).collect();
        assert_eq!(named(&refs, &rows).len(), rows.len());
        let scope = Scope { clients: List::clipped(refs), files: List::default() };
        refuse_unknown(&scope, &asked, &rows).unwrap();
    }
}
