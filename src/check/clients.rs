//! The clients: whether their statds answer now, and what their names resolve to.

use std::net::IpAddr;
use std::time::Duration;

use super::Places;
use crate::nsm::{self, ProbeOptions, StatdState, Target};
use crate::report::{Finding, Severity, in_command};
use crate::rpc::fanout::Failure;
use crate::rpc::resolver::{self, Resolved, Unresolved};
use crate::units::number;
use crate::wire::control::{Capabilities, ClientRow, Info, Status};

/// How long all names together may take.
const LOOKUPS_PATIENCE: Duration = Duration::from_secs(8);

/// A client with what was seen of it.
struct ProbedClient<'a> {
    row: &'a ClientRow,
    probe: StatdState,
    lookup: &'a Resolved,
}

pub(super) async fn look(info: &Info, status: &Status, clients: &[ClientRow], places: &Places) -> Vec<Finding> {
    let mut findings = unmonitored(info, status);
    if clients.is_empty() {
        let words = "the lock manager knows no client: a run would notify none";
        findings.push(Finding::new(
            "clients",
            Severity::Note,
            words,
            "nothing to do if no client has locked anything yet",
        ));
        return findings;
    }
    let Some(my_name) = places.names.first().or(info.names.as_slice().first()).cloned() else {
        let words = "clients' statds were not asked, because no name of this server is known under which to ask them";
        findings.push(Finding::new("clients", Severity::Warning, words, "give a name with --name"));
        return findings;
    };
    let ask = ProbeOptions { rpcbind_port: places.rpcbind_port, timeout: places.patience, my_name };
    let (probes, lookups) = tokio::join!(
        nsm::probe(Target::asked(clients), ask, |_| ()),
        resolver::each(clients.iter().map(|row| row.name.clone()).collect(), LOOKUPS_PATIENCE)
    );
    let probes = match probes {
        Ok(probes) => probes,
        Err(error) => {
            let words = format!("clients' statds were not asked: {error}");
            findings.push(Finding::new(
                "clients",
                Severity::Warning,
                words,
                "raise the limit of open files (`ulimit -n`)",
            ));
            return findings;
        }
    };
    let none = Err(Unresolved::Unanswered(String::new()));
    let seen: Vec<ProbedClient<'_>> = clients
        .iter()
        .zip(&probes)
        .map(|(row, probe)| ProbedClient { row, probe: *probe, lookup: lookups.get(&row.name).unwrap_or(&none) })
        .collect();
    findings.extend(judge_statds(&seen, &info.capabilities, places.patience, places.rpcbind_port));
    findings.extend(judge_names(&seen));
    findings.extend(judge_shared(&seen));
    findings
}

fn unmonitored(info: &Info, status: &Status) -> Vec<Finding> {
    if status.unmonitored == 0 {
        return Vec::new();
    }
    let locks = number(status.unmonitored, "lock has", "locks have");
    vec![if info.capabilities.begin_releases {
        Finding::new(
            "unmonitored",
            Severity::Problem,
            format!("{locks} no client that can be notified, and a run frees them when it begins"),
            "make their programs unlock them first, or agree to lose them with --include-unmonitored",
        )
    } else {
        Finding::new(
            "unmonitored",
            Severity::Note,
            format!("{locks} no client that can be notified: a run leaves them alone"),
            if info.capabilities.release {
                "--include-unmonitored covers them too; `nlmctl release --file` frees single ones"
            } else {
                "--include-unmonitored covers them too"
            },
        )
    }]
}

fn named(row: &ClientRow) -> String {
    match row.addresses.as_slice().first() {
        Some(address) => format!("{} ({address})", row.name),
        None => row.name.to_string(),
    }
}

/// Clients, each with what is shown of it.
type Shown<'a> = Vec<(&'a ClientRow, String)>;

/// Clients by what their statds said.
#[derive(Default)]
struct Sorted<'a> {
    answers: u64,
    suspects: Shown<'a>,
    /// They may hold locks, and do not answer.
    silent: Shown<'a>,
    idle: Shown<'a>,
}

fn sort<'a>(seen: &[ProbedClient<'a>], begin_releases: bool) -> Sorted<'a> {
    let mut sorted = Sorted::default();
    for client in seen {
        let row = client.row;
        let why = match client.probe {
            Ok(state) => {
                sorted.answers += 1;
                if let Some(now) = state.filter(|now| now.contradicts(row.nsm_state)) {
                    let states = format!("state {now}, its locks carried {}", row.nsm_state);
                    sorted.suspects.push((row, format!("{} ({states})", named(row))));
                } else if !row.suspicions.as_slice().is_empty() {
                    sorted.suspects.push((row, named(row)));
                }
                continue;
            }
            Err(Failure::NoAnswer | Failure::Partial | Failure::Elsewhere) => "no answer",
            Err(Failure::NotSent) => "could not be asked",
            Err(Failure::NotRegistered) => "its rpcbind knows no statd",
            Err(Failure::NameUnknown) => "its name has no address",
            Err(Failure::Refused) => "refused",
        };
        // A manager that does not know owners tells no locks of any: each client on record may hold some.
        let may_hold = row.locks > 0 || begin_releases;
        if may_hold { &mut sorted.silent } else { &mut sorted.idle }.push((row, format!("{}: {why}", named(row))));
    }
    sorted
}

/// A finding about some clients, if there are any: `words` and how many they are.
fn about(
    topic: &str,
    severity: Severity,
    clients: Vec<String>,
    words: impl FnOnce(u64) -> String,
    remedy: &str,
) -> Option<Finding> {
    let count = clients.len() as u64;
    (count > 0).then(|| Finding::new(topic, severity, words(count), remedy).of(clients))
}

fn judge_statds(seen: &[ProbedClient<'_>], can: &Capabilities, patience: Duration, rpcbind_port: u16) -> Vec<Finding> {
    let Sorted { answers, suspects, silent, idle } = sort(seen, can.begin_releases);
    let name = |row: &ClientRow| in_command(row.name.as_str(), row.addresses.as_slice().first());
    let first = |shown: &Shown<'_>| shown.first().map(|(row, _)| name(row)).unwrap_or_default();
    let (suspicious, gone) = (first(&suspects), first(&silent));
    let within = super::within(patience);
    let (severity, loss, remedy) = if can.begin_releases {
        (
            Severity::Problem,
            "a run frees their locks when it begins, and they would not reclaim",
            format!(
                "make their statds answer; free the locks of a client that is gone for good, for example `nlmctl release \
                 --client {gone}`; or agree to lose the locks with --unreachable drop"
            ),
        )
    } else {
        (
            Severity::Warning,
            "a run keeps their locks, and exits with 3",
            format!(
                "start statd there, or let packets to its rpcbind (port {rpcbind_port}) and statd pass; free the locks \
                 of a client that is gone for good, for example `nlmctl release --client {gone}`"
            ),
        )
    };
    let untold = |n| {
        let who = number(n, "client that may hold locks cannot", "clients that may hold locks cannot");
        format!("{who} be notified now ({within}): {loss}")
    };
    let no_locks = |n| {
        let who = number(n, "client without a lock does", "clients without a lock do");
        format!("{who} not answer ({within})")
    };
    let suspect = |n| {
        let who = number(n, "client is suspect: its", "clients are suspect: their");
        format!("{who} locks may be stale")
    };
    let nothing = "nothing to do: they have no lock here, unless the server has lost one";
    let stale = if can.targeted {
        format!(
            "`nlmctl clients --probe` shows why; a run over such a client frees the locks that it does not reclaim, for \
             example `nlmctl resync --client {suspicious}`"
        )
    } else {
        "`nlmctl clients --probe` shows why; a run (`nlmctl resync`) frees the locks that they do not reclaim"
            .to_owned()
    };
    let labels = |shown: Shown<'_>| shown.into_iter().map(|(_, label)| label).collect();
    let all = number(seen.len() as u64, "client", "clients");
    let answer = Finding::ok("clients", format!("the statds of {answers} of {all} answer"));
    let others = [
        about("clients", severity, labels(silent), untold, &remedy),
        about("clients", Severity::Note, labels(idle), no_locks, nothing),
        about("suspects", Severity::Note, labels(suspects), suspect, &stale),
    ];
    [answer].into_iter().chain(others.into_iter().flatten()).collect()
}

fn judge_names(seen: &[ProbedClient<'_>]) -> Vec<Finding> {
    let (mut unknown, mut elsewhere, mut slow) = (Vec::new(), Vec::new(), Vec::new());
    for ProbedClient { row, lookup, .. } in seen {
        let known = |ips: &[IpAddr]| row.addresses.as_slice().iter().any(|a| ips.contains(&a.0.to_canonical()));
        match lookup {
            Ok(ips) if row.addresses.as_slice().is_empty() || known(ips) => {}
            Ok(ips) => {
                let ips: Vec<String> = ips.iter().map(ToString::to_string).collect();
                elsewhere.push(format!("{} is {}", named(row), ips.join(" ")));
            }
            Err(Unresolved::Unknown(_)) if row.name.host().is_none() => {
                unknown.push(format!("{}: not a host name", named(row)));
            }
            Err(Unresolved::Unknown(_)) => unknown.push(named(row)),
            Err(Unresolved::Unanswered(_)) => slow.push(row.name.to_string()),
        }
    }
    let no_name = |n| {
        let who = number(n, "client's name does", "clients' names do");
        format!("{who} not resolve here: such a client is notified at the addresses it called from, if those are known")
    };
    let moved = |n| {
        let who = number(n, "client calls", "clients call");
        format!("{who} from an address that its name does not resolve to (NAT, a moved host, another host's name)")
    };
    let late = |n| {
        let (names, limit) = (number(n, "name was", "names were"), LOOKUPS_PATIENCE.as_secs());
        format!("{names} not resolved within {limit} s: the resolver is slow, or does not answer")
    };
    let add = "add them to DNS or /etc/hosts: rpc.statd matches reboot notices by name, and a client whose address is \
               not known cannot be notified if its name does not resolve";
    let correct = "correct DNS or /etc/hosts if the host has moved";
    let mut findings: Vec<Finding> = [
        about("client-names", Severity::Note, unknown, no_name, add),
        about("client-names", Severity::Note, elsewhere, moved, correct),
        about("client-names", Severity::Warning, slow, late, "see /etc/resolv.conf and its servers"),
    ]
    .into_iter()
    .flatten()
    .collect();
    if findings.is_empty() {
        findings.push(Finding::ok("client-names", "every client's name resolves to an address it calls from"));
    }
    findings
}

fn judge_shared(seen: &[ProbedClient<'_>]) -> Option<Finding> {
    let shared: Vec<String> =
        seen.iter().filter(|client| client.row.shared_address).map(|client| named(client.row)).collect();
    let words = |n| {
        let who = number(n, "client calls", "clients call");
        format!("{who} from an address that others call from too: an ack from there is evidence for none of them")
    };
    about("nat", Severity::Note, shared, words, "nothing to do: locks that they do not reclaim are kept")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::types::{CallerName, NsmState};
    use crate::wire::xdr::List;

    fn client(n: u8, locks: u64) -> ClientRow {
        let row = ClientRow::sample(&format!("host{n}"), &format!("192.0.2.{n}"));
        ClientRow { server_addresses: List::default(), shared_address: n == 9, locks, ..row }
    }

    fn statds(rows: &[(ClientRow, StatdState)], begin_releases: bool) -> Vec<(Severity, usize)> {
        let found = findings(rows, begin_releases);
        found.iter().map(|finding| (finding.severity, finding.items.len())).collect()
    }

    fn findings(rows: &[(ClientRow, StatdState)], begin_releases: bool) -> Vec<Finding> {
        let lookup = Err(Unresolved::Unknown(String::new()));
        let can = Capabilities { begin_releases, ..Capabilities::COOPERATES };
        let seen: Vec<_> =
            rows.iter().map(|(row, probe)| ProbedClient { row, probe: *probe, lookup: &lookup }).collect();
        judge_statds(&seen, &can, Duration::from_secs(3), 1111)
    }

    #[test]
    fn a_remedy_names_a_client_and_the_port_that_was_asked() {
        let silent = (client(2, 2), Err(Failure::NoAnswer));
        let suspect = (client(4, 1), Ok(Some(NsmState(7))));
        for begin_releases in [false, true] {
            let found = findings(&[silent.clone(), suspect.clone()], begin_releases);
            let remedies: Vec<&str> = found.iter().filter_map(|finding| finding.remedy.as_deref()).collect();
            assert!(remedies[0].contains("`nlmctl release --client host2`"), "{remedies:?}");
            assert!(begin_releases || remedies[0].contains("(port 1111)"), "{remedies:?}");
        }
        let found = findings(&[suspect], false);
        let remedy = found.iter().find_map(|finding| finding.remedy.as_deref());
        assert!(remedy.unwrap().contains("`nlmctl resync --client host4`"), "{remedy:?}");
        let odd = |n, probe| (ClientRow { name: CallerName::new("$(reboot)").unwrap(), ..client(n, 1) }, probe);
        for finding in findings(&[odd(2, Err(Failure::NoAnswer)), odd(4, Ok(Some(NsmState(7))))], false) {
            assert!(!finding.remedy.unwrap_or_default().contains("reboot"));
        }
    }

    #[test]
    fn silence_weighs_as_much_as_a_run_would_lose() {
        let answers = Ok(Some(NsmState(3)));
        let rows = [
            (client(1, 2), answers),
            (client(2, 2), Err(Failure::NoAnswer)),
            (client(3, 0), Err(Failure::NotRegistered)),
            (client(4, 1), Ok(Some(NsmState(7)))),
        ];
        assert_eq!(
            statds(&rows, false),
            [(Severity::Ok, 0), (Severity::Warning, 1), (Severity::Note, 1), (Severity::Note, 1)],
            "kept; nothing to lose; a suspect"
        );
        assert_eq!(
            statds(&rows, true),
            [(Severity::Ok, 0), (Severity::Problem, 2), (Severity::Note, 1)],
            "where begin frees everything, who is not told loses"
        );
    }

    #[test]
    fn names_are_told_apart_by_what_the_resolver_said() {
        let row = client(1, 1);
        let judge = |lookup: &Resolved| {
            let found = judge_names(&[ProbedClient { row: &row, probe: Err(Failure::NoAnswer), lookup }]);
            (found.len(), found[0].severity, found[0].items.clone())
        };
        let ip = |n| IpAddr::from([192, 0, 2, n]);
        assert_eq!(judge(&Ok(vec![ip(5), ip(1)])), (1, Severity::Ok, vec![]));
        assert_eq!(judge(&Ok(vec![ip(5)])), (1, Severity::Note, vec!["host1 (192.0.2.1) is 192.0.2.5".into()]));
        assert_eq!(judge(&Err(Unresolved::Unknown("no".into()))).1, Severity::Note);
        assert_eq!(judge(&Err(Unresolved::Unanswered("busy".into()))).1, Severity::Warning);
    }
}
