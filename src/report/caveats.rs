//! What does not hold with a lock manager, from what it says it can do.

use crate::wire::control::{Capabilities, Info};

/// A sentence for each promise of a run that this manager cannot keep; none where all hold.
pub fn caveats(info: &Info) -> Vec<String> {
    let can = info.capabilities;
    let Capabilities { mark, begin_releases, knows_owners, knows_reclaims, settle_early, late_reclaims, .. } = can;
    let sentences = [
        (
            begin_releases,
            "frees every lock when the run begins: none can be kept, the run cannot be aborted from then on, and until \
             it is reclaimed a lock does not protect its range",
        ),
        (
            !mark && !begin_releases,
            "does not mark locks: locks that are not reclaimed stay, and their number is not known",
        ),
        (
            !knows_owners,
            "does not tell a run who owns a lock: reclaimed locks are known by file and range only, and clients have \
             no counts",
        ),
        (!knows_reclaims, "does not tell which locks were reclaimed: nlmctl compares the locks before and after"),
        (!settle_early, "cannot end grace early: new locks wait until it is over"),
        (!late_reclaims, "refuses a reclaim that comes after grace: that client's lock is lost"),
    ];
    let software = info.software.as_str();
    sentences.into_iter().filter(|(applies, _)| *applies).map(|(_, what)| format!("{software} {what}")).collect()
}
