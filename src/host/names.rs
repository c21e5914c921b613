//! The names under which clients know this host.
//!
//! A client that mounted by an alias is matched only by a notice with a name, or from an address,
//! that fits that alias; so notices go out under each name: the full one first, then the short one.

use std::net::IpAddr;
use std::time::Duration;

use crate::wire::types::CallerName;

/// Longest wait for the resolver. A resolver that stalls must not delay a run.
const RESOLVER_PATIENCE: Duration = Duration::from_secs(2);

/// This host's name could not be learned.
#[derive(Debug, thiserror::Error)]
pub enum OwnNameError {
    #[error("cannot learn this host's name: {0}; give it with --name")]
    Hostname(#[source] std::io::Error),
    /// The name is not usable in a notice.
    #[error("this host's name {0:?} cannot be sent in a notice; give another with --name")]
    Unusable(String),
}

/// The names given, or if none are, this host's full and short name, without repeats.
pub async fn own_names(given: &[CallerName]) -> Result<Vec<CallerName>, OwnNameError> {
    if !given.is_empty() {
        return Ok(without_repeats(given.to_vec()));
    }
    let node = nix::unistd::gethostname().map_err(|e| OwnNameError::Hostname(e.into()))?;
    let node = node.to_string_lossy().into_owned();
    let full = if node.contains('.') { None } else { full_name(&node).await };
    names_of(full.as_deref(), &node)
}

/// Full name first, then the host's name as it is, then short ones.
fn names_of(full: Option<&str>, node: &str) -> Result<Vec<CallerName>, OwnNameError> {
    let node = CallerName::new(node).map_err(|_| OwnNameError::Unusable(node.to_owned()))?;
    let full = full.and_then(|name| CallerName::new(name).ok());
    let short = CallerName::typed(node.short()).ok();
    Ok(without_repeats(full.into_iter().chain([node]).chain(short).collect()))
}

fn without_repeats(names: Vec<CallerName>) -> Vec<CallerName> {
    let mut unique: Vec<CallerName> = Vec::new();
    for name in names {
        if !unique.iter().any(|known| known.as_str().eq_ignore_ascii_case(name.as_str())) {
            unique.push(name);
        }
    }
    unique
}

/// The canonical name that the resolver has for `node`, if it has a fuller one.
async fn full_name(node: &str) -> Option<String> {
    let asked = node.to_owned();
    let look_up = tokio::task::spawn_blocking(move || canonical_name(&asked));
    let canonical = tokio::time::timeout(RESOLVER_PATIENCE, look_up).await.ok()?.ok()??;
    is_fuller(&canonical, node).then_some(canonical)
}

fn canonical_name(node: &str) -> Option<String> {
    let hints = dns_lookup::AddrInfoHints {
        flags: nix::libc::AI_CANONNAME,
        socktype: dns_lookup::SockType::DGram.into(),
        ..Default::default()
    };
    let found = dns_lookup::getaddrinfo(Some(node), None, Some(hints)).ok()?;
    found.filter_map(Result::ok).find_map(|info| info.canonname)
}

/// Whether `canonical` is `node` with a domain. Hosts files often make it "localhost" or an alias
/// that no client has ever seen.
fn is_fuller(canonical: &str, node: &str) -> bool {
    canonical.parse::<IpAddr>().is_err()
        && canonical
            .split_once('.')
            .is_some_and(|(host, domain)| host.eq_ignore_ascii_case(node) && !domain.trim_matches('.').is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(full: Option<&str>, node: &str) -> Vec<String> {
        names_of(full, node).unwrap().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_full_name_comes_before_the_short_one() {
        assert_eq!(names(Some("filer.example.org"), "filer"), ["filer.example.org", "filer"]);
        assert_eq!(names(None, "filer.example.org"), ["filer.example.org", "filer"]);
        assert_eq!(names(None, "filer"), ["filer"]);
        assert_eq!(names(Some("Filer"), "filer"), ["Filer"]);
    }

    #[test]
    fn a_canonical_name_of_another_host_is_not_ours() {
        assert!(is_fuller("filer.example.org", "filer"));
        for other in ["localhost", "localhost.localdomain", "filer", "filer.", "127.0.1.1", "filer2.example.org"] {
            assert!(!is_fuller(other, "filer"), "{other}");
        }
    }

    #[tokio::test]
    async fn given_names_are_taken_as_they_are() {
        let given: Vec<_> = ["b", "a.example.org", "B"].iter().map(|n| CallerName::new(n).unwrap()).collect();
        let names = own_names(&given).await.unwrap();
        assert_eq!(names.iter().map(CallerName::as_str).collect::<Vec<_>>(), ["b", "a.example.org"]);
    }

    #[tokio::test]
    async fn this_host_has_a_name() {
        assert!(!own_names(&[]).await.unwrap().is_empty());
    }
}
