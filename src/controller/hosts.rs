//! What this host's own mounts say about sending notices (statement 12 of the design).

use std::path::Path;

use crate::nsm::mounts;
use crate::report::Failure;
use crate::resync::plan::{LocalMount, only_loopback, own_mounts_allow};
use crate::wire::control::RunClient;

/// This host's NFSv3 mounts that lock over the network.
///
/// # Errors
/// They cannot be listed: then nobody knows what a notice would lose.
pub(super) fn local_mounts() -> Result<Vec<LocalMount>, Failure> {
    let path = Path::new(mounts::MOUNTINFO);
    let found = mounts::read_nlm_mounts(path).map_err(|error| {
        Failure::refused(error.to_string(), "if no process here holds locks over NFSv3, say so with --own-locks-lost")
    })?;
    Ok(found
        .into_iter()
        .map(|mount| LocalMount {
            at: mount.mount_point.display().to_string(),
            from_self: mount.is_from_this_host(),
            from: mount.source,
        })
        .collect())
}

/// Whether notices may leave for these clients.
pub(super) fn refuse_own_mounts<'a>(
    own_locks_lost: bool,
    mut clients: impl Iterator<Item = &'a RunClient>,
) -> Result<(), Failure> {
    if own_locks_lost {
        return Ok(());
    }
    let all_loopback = clients.all(|client| only_loopback(client.addresses.as_slice()));
    own_mounts_allow(false, all_loopback, &local_mounts()?)
}
