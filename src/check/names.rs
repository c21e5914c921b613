//! The names by which clients know this server, forward and back.
//!
//! Clients other than Linux match a notice by its name alone, and Linux by that or by the address
//! it comes from; so the names that notices carry should be those by which clients mounted.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use tokio::task::JoinSet;

use super::Places;
use crate::host::{is_own_address, own_names};
use crate::report::{Finding, Severity};
use crate::rpc::resolver::{self, Unresolved};
use crate::wire::control::{ClientRow, Info};
use crate::wire::types::CallerName;

/// Most addresses that are looked up back to a name.
const MAX_ADDRESSES: usize = 64;

/// What the resolver says of a name of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Forward {
    Ours,
    Others(Vec<IpAddr>),
    Unknown(String),
}

pub(super) async fn look(info: &Info, clients: &[ClientRow], places: &Places) -> Vec<Finding> {
    let given = if places.names.is_empty() { info.names.as_slice() } else { &places.names };
    let names = match own_names(given).await {
        Ok(names) => names,
        Err(error) => {
            return vec![Finding::new("names", Severity::Problem, error.to_string(), "give the names with --name")];
        }
    };
    let called: BTreeSet<IpAddr> =
        clients.iter().flat_map(|client| client.server_addresses.as_slice()).map(|a| a.0.to_canonical()).collect();
    let mut findings = not_here(&called);
    findings.extend(judge_placeholders(&names));
    let (forward, back) = tokio::join!(forward(&names, places.patience), back(&called, places.patience));
    findings.extend(judge_forward(&names, &forward));
    findings.extend(judge_back(&names, &back));
    findings
}

/// Addresses that clients called and this host does not have: no notice can leave from them.
fn not_here(called: &BTreeSet<IpAddr>) -> Vec<Finding> {
    let gone: Vec<&IpAddr> = called.iter().filter(|ip| !is_own_address(**ip)).collect();
    if gone.is_empty() {
        return Vec::new();
    }
    vec![
        Finding::new(
            "server-addresses",
            Severity::Warning,
            "clients called server addresses that this host does not have now: no notice can leave from there",
            "if the addresses moved, bring them up here first; otherwise clients that match by address will not \
             understand",
        )
        .of(gone),
    ]
}

/// Names that every host has, or that a host has which was given none: a client that gets a notice under
/// such a name takes it for its own host's, or for no host's.
fn judge_placeholders(names: &[CallerName]) -> Option<Finding> {
    let no_name = |name: &&CallerName| {
        let name = name.as_str().trim_end_matches('.').to_ascii_lowercase();
        matches!(name.split('.').next(), Some("localhost" | "localhost6" | "(none)" | ""))
    };
    let found: Vec<&CallerName> = names.iter().filter(no_name).collect();
    (!found.is_empty()).then(|| {
        Finding::new(
            "names",
            Severity::Problem,
            "this host's name does not identify it: clients cannot tell from a notice under this name which server \
             restarted",
            "give this host a name (`hostnamectl hostname NAME`) and restart rpc.statd, or name it with --name",
        )
        .of(found)
    })
}

async fn forward(names: &[CallerName], patience: Duration) -> Vec<Forward> {
    let mut found = resolver::each(names.iter().cloned().collect(), patience).await;
    let judge = |name: &CallerName| match found.remove(name) {
        Some(Ok(ips)) if ips.iter().any(|ip| is_own_address(*ip)) => Forward::Ours,
        Some(Ok(ips)) => Forward::Others(ips.into_iter().collect::<BTreeSet<_>>().into_iter().collect()),
        Some(Err(Unresolved::Unknown(why) | Unresolved::Unanswered(why))) => Forward::Unknown(why),
        None => Forward::Unknown("not looked up".to_owned()),
    };
    names.iter().map(judge).collect()
}

/// The names that the resolver has for the addresses; loopback ones say nothing.
async fn back(called: &BTreeSet<IpAddr>, patience: Duration) -> Vec<(IpAddr, String)> {
    let mut tasks = JoinSet::new();
    for ip in called.iter().copied().filter(|ip| !ip.is_loopback()).take(MAX_ADDRESSES) {
        tasks.spawn(async move {
            let looking = tokio::task::spawn_blocking(move || dns_lookup::lookup_addr(&ip).ok());
            let name = tokio::time::timeout(patience, looking).await.ok()?.ok()??;
            Some((ip, name))
        });
    }
    let mut found = Vec::new();
    while let Some(done) = tasks.join_next().await {
        found.extend(done.ok().flatten());
    }
    found.sort();
    found
}

fn judge_forward(names: &[CallerName], forward: &[Forward]) -> Vec<Finding> {
    let seen = || names.iter().zip(forward);
    let mut findings = Vec::new();
    let unknown: Vec<String> = seen()
        .filter_map(|(name, seen)| match seen {
            Forward::Unknown(why) => Some(format!("{name} ({why})")),
            Forward::Ours | Forward::Others(_) => None,
        })
        .collect();
    if !unknown.is_empty() {
        findings.push(
            Finding::new(
                "names",
                Severity::Warning,
                "names that notices carry do not resolve here; clients may know them even so",
                "with --name, give the names under which clients mounted, full name first",
            )
            .of(unknown),
        );
    }
    let others: Vec<String> = seen()
        .filter_map(|(name, seen)| match seen {
            Forward::Others(ips) => {
                Some(format!("{name} ({})", ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")))
            }
            Forward::Ours | Forward::Unknown(_) => None,
        })
        .collect();
    if !others.is_empty() {
        findings.push(
            Finding::new(
                "names",
                Severity::Warning,
                "names that notices carry resolve to addresses that this host does not have",
                "if another host has that name, leave it out (--name)",
            )
            .of(others),
        );
    }
    if findings.is_empty() {
        findings.push(Finding::ok("names", "the names that notices carry resolve to addresses of this host").of(names));
    }
    findings
}

fn judge_back(names: &[CallerName], back: &[(IpAddr, String)]) -> Vec<Finding> {
    let known = |found: &str| CallerName::new(found).is_ok_and(|found| names.iter().any(|name| name.matches(&found)));
    let missing: Vec<String> =
        back.iter().filter(|(_, name)| !known(name)).map(|(ip, name)| format!("{name} ({ip})")).collect();
    if missing.is_empty() {
        return Vec::new();
    }
    vec![
        Finding::new(
            "names",
            Severity::Warning,
            "addresses that clients called have names here that no notice carries",
            "add them with --name: clients other than Linux that mounted under such a name match by it alone",
        )
        .of(missing),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Vec<CallerName> {
        list.iter().map(|name| CallerName::new(name).unwrap()).collect()
    }

    #[test]
    fn a_name_of_ours_that_resolves_elsewhere_or_not_at_all_is_a_warning() {
        let ours = names(&["nas.example.org", "nas", "old"]);
        assert_eq!(judge_forward(&ours[..1], &[Forward::Ours])[0].severity, Severity::Ok);
        let elsewhere = Forward::Others(vec!["192.0.2.1".parse().unwrap()]);
        let found = judge_forward(&ours, &[Forward::Ours, Forward::Unknown("no such name".into()), elsewhere]);
        assert_eq!(found.iter().map(|f| f.severity).collect::<Vec<_>>(), [Severity::Warning; 2]);
        assert_eq!((&found[0].items[0], &found[1].items[0]), (&"nas (no such name)".into(), &"old (192.0.2.1)".into()));
    }

    #[test]
    fn a_name_that_clients_may_have_mounted_by_is_missed() {
        let ip = "192.0.2.1".parse().unwrap();
        let back = |name: &str| judge_back(&names(&["nas.example.org"]), &[(ip, name.to_owned())]);
        assert!(back("nas.example.org").is_empty() && back("nas").is_empty());
        assert_eq!(back("files.example.org")[0].items, ["files.example.org (192.0.2.1)"]);
    }

    #[test]
    fn a_host_that_is_called_localhost_or_nothing_is_a_problem() {
        for name in
            ["localhost", "LOCALHOST.", "localhost.localdomain", "localhost6", "(none)", "(none).example.org", "."]
        {
            let found = judge_placeholders(&names(&["nas.example.org", name])).unwrap();
            assert_eq!((found.severity, &found.items[..]), (Severity::Problem, &[name.to_owned()][..]));
        }
        assert!(judge_placeholders(&names(&["nas", "localhosts", "my-localhost.example.org"])).is_none());
    }

    #[test]
    fn an_address_that_is_not_here_can_send_nothing() {
        let called = ["127.0.0.1", "192.0.2.1"].map(|ip| ip.parse().unwrap()).into();
        let found = not_here(&called);
        assert_eq!((found.len(), &found[0].items[..]), (1, &["192.0.2.1".to_owned()][..]));
    }
}
