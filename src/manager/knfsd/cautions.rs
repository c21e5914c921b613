//! What is in the way of a drop of all locks, and what an operator should know of it.

use super::v4::{self, V4};
use super::{Knfsd, KnfsdError, scope};
use crate::manager::{Caution, Weight};
use crate::units;

impl Knfsd {
    /// What stands in the way or wants to be known, as far as it can be seen without touching
    /// anything.
    pub(super) fn look_ahead(&self) -> Result<Vec<Caution>, KnfsdError> {
        let mut found = Vec::new();
        if !nix::unistd::geteuid().is_root() {
            found.push(Caution::new(
                "root",
                Weight::Refuse,
                "only root may drive the kernel's lock manager",
                "run this as root",
            ));
        }
        found.extend(self.look_at_statd()?);
        let Some(lockd) = self.machine.lockd()? else {
            found.push(Caution::new(
                "lockd",
                Weight::Refuse,
                "the kernel's lockd does not run, or cannot be seen from this process namespace",
                "start the NFS server with NFSv3, and run this in the host's own namespaces",
            ));
            return Ok(found);
        };
        if self.takes_signal(lockd) {
            found.push(Caution::new(
                "drop",
                Weight::Say,
                "lockd is made to drop every lock by a signal; NFS service goes on",
                "",
            ));
        } else {
            found.push(Caution::new(
                "drop",
                Weight::Say,
                "this kernel's lockd does not drop its locks on a signal, so NFS service stops for about a second; \
                 nfsd's reply cache is lost, so a REMOVE or an exclusive CREATE that is repeated just then can fail",
                "",
            ));
            self.look_at_stopping(&mut found)?;
        }
        found.extend(self.look_at_unsure());
        found.push(Caution::new(
            "local",
            Weight::Say,
            "processes of this host are not bound by grace: one can take a dropped lock's range before its owner \
             reclaims it (it is named then)",
            "",
        ));
        let disturbed = |who: String| {
            Caution::new(
                "nfsv4",
                Weight::Consent,
                format!(
                    "disturb {who}: they wait while grace lasts, must reclaim too if nfsd is stopped, and NFSv4's \
                     grace cannot be ended early then"
                ),
                "wait until they have gone, or agree to it",
            )
        };
        match v4::look(&self.machine)? {
            V4::None => {}
            V4::Some { live, recorded } => {
                found.push(disturbed(format!("NFSv4 clients ({live} here now, {recorded} on record)")));
            }
            V4::NotKnown(why) => found.push(disturbed(format!("NFSv4 clients, if there are any: {why}"))),
        }
        Ok(found)
    }

    /// Their clients do not claim these any more.
    fn look_at_unsure(&self) -> Option<Caution> {
        let unsure = self.unsure();
        let count = unsure.all().count() as u64;
        let locks = units::number(
            count,
            "lock whose client may no longer reclaim it",
            "locks whose clients may no longer reclaim them",
        );
        (count > 0).then(|| {
            let text =
                format!("drop {locks}: a reclaim may have been refused in an earlier run (`nlmctl locks` names them)");
            Caution::new(
                "unsure",
                Weight::Consent,
                text,
                "take the locks again on those clients (nlmctl-lost-locks(7)), or agree to it",
            )
        })
    }

    pub(super) fn look_at_statd(&self) -> Result<Option<Caution>, KnfsdError> {
        if !self.machine.statds()?.is_empty() {
            return Ok(None);
        }
        let only_called_so = match self.machine.named("rpc.statd")?.first() {
            Some(pid) => format!(
                " (process {pid} has that name, but does not count: it does not run as root or as the owner of \
                 statd's `sm`, or not from root's executable)"
            ),
            None => String::new(),
        };
        Ok(Some(Caution::new(
            "statd",
            Weight::Refuse,
            format!("rpc.statd does not run here: lockd could not grant a reclaim without it{only_called_so}"),
            "start it (nfs-utils' rpc-statd.service)",
        )))
    }

    /// What matters only where nfsd is to be stopped. An NFSv3 mount of this host uses the same lockd and keeps it alive
    /// while nfsd is down; NFSv4's server scope may not come back.
    pub(super) fn look_at_stopping(&self, found: &mut Vec<Caution>) -> Result<(), KnfsdError> {
        let mounts = self.machine.nlm_mounts()?;
        if let Some(mount) = mounts.first() {
            found.push(Caution::new(
                "mounts",
                Weight::Refuse,
                format!(
                    "this host has an NFSv3 mount ({} at {}) whose locks keep lockd alive: stopping nfsd would drop \
                     nothing and start no grace",
                    mount.source,
                    mount.mount_point.display()
                ),
                "unmount it, or mount it with nolock or as NFSv4",
            ));
        }
        found.extend(scope::look(&self.machine)?);
        Ok(())
    }
}
