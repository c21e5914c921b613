//! What this host's own mounts say about sending notices (statement 12 of the design).

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::Path;

use super::ControllerError;
use crate::nsm::mounts;
use crate::resync::plan::{LocalMount, own_mounts_allow};

/// This host's NFSv3 mounts that lock over the network.
///
/// # Errors
/// They cannot be listed: then nobody knows what a notice would lose.
pub(super) fn local_mounts() -> Result<Vec<LocalMount>, ControllerError> {
    let path = Path::new(mounts::MOUNTINFO);
    let found = mounts::read_nlm_mounts(path).map_err(|error| {
        ControllerError::refused(
            error.to_string(),
            "if no process here holds locks over NFSv3, say so with --own-locks-lost",
        )
    })?;
    if found.is_empty() {
        return Ok(Vec::new());
    }
    let own = own_addresses();
    // A server that cannot be told from this host may be this host.
    let is_own = |ip: IpAddr| ip.is_loopback() || own.as_ref().is_none_or(|own| own.contains(&ip));
    Ok(found
        .into_iter()
        .map(|mount| LocalMount {
            at: mount.mount_point.display().to_string(),
            from: mount.source,
            from_self: mount.server.is_none_or(|ip| is_own(ip.to_canonical())),
        })
        .collect())
}

/// Whether notices may leave for these addresses.
pub(super) fn refuse_own_mounts(
    own_locks_lost: bool,
    mut addresses: impl Iterator<Item = IpAddr>,
) -> Result<(), ControllerError> {
    if own_locks_lost {
        return Ok(());
    }
    let all_loopback = addresses.all(|ip| ip.to_canonical().is_loopback());
    Ok(own_mounts_allow(false, all_loopback, &local_mounts()?)?)
}

/// None where they cannot be listed.
fn own_addresses() -> Option<HashSet<IpAddr>> {
    let all = nix::ifaddrs::getifaddrs().ok()?;
    let addresses = all.filter_map(|interface| interface.address).filter_map(|address| {
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::from(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::from(v6.ip())))
    });
    Some(addresses.map(|ip| ip.to_canonical()).collect())
}
