//! Whether this host's own mounts allow notices to be sent (statement 12 of the design).

use crate::host::{FileError, Machine, NlmMount};
use crate::report::Failure;
use crate::resync::plan::{LocalMount, only_loopback, own_mounts_allow};
use crate::wire::control::RunClient;

/// A machine's NFSv3 mounts that lock over the network.
pub(crate) fn mounts_of(machine: &Machine) -> Result<Vec<LocalMount>, FileError> {
    Ok(machine.nlm_mounts()?.into_iter().map(local_mount).collect())
}

/// This host's.
///
/// # Errors
/// They cannot be listed: then it is not known what a notice would lose.
pub(super) fn local_mounts() -> Result<Vec<LocalMount>, Failure> {
    mounts_of(&Machine::default()).map_err(|error| {
        Failure::refused(error.to_string(), "if no process here holds locks over NFSv3, say so with --own-locks-lost")
    })
}

fn local_mount(mount: NlmMount) -> LocalMount {
    LocalMount { at: mount.mount_point.display().to_string(), from_self: mount.is_from_this_host(), from: mount.source }
}

/// Whether notices may leave for these clients.
pub(super) fn refuse_own_mounts<'a>(
    own_locks_lost: bool,
    mut clients: impl Iterator<Item = &'a RunClient>,
) -> Result<(), Failure> {
    if own_locks_lost {
        return Ok(());
    }
    own_mounts_let_tell(clients.all(|client| only_loopback(client.addresses.as_slice())))
}

/// Whether notices may leave, where none of this host's own locks may be lost.
pub(crate) fn own_mounts_let_tell(all_loopback: bool) -> Result<(), Failure> {
    own_mounts_allow(false, all_loopback, &local_mounts()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_from_a_server_of_unknown_address_may_be_from_this_host() {
        let mount = |server: Option<&str>| {
            local_mount(NlmMount {
                source: "s:/x".into(),
                mount_point: "/x".into(),
                server: server.map(|s| s.parse().unwrap()),
            })
        };
        assert!(mount(None).from_self);
        assert!(mount(Some("127.0.0.1")).from_self);
        assert!(!mount(Some("192.0.2.1")).from_self);
    }
}
