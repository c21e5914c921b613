//! What the operator reads and agrees to, and the fingerprint of it.

use sha2::{Digest, Sha256};

use super::{Plan, PlannedClient};
use crate::units::count;
use crate::wire::control::Silent;
use crate::wire::xdr::encode;

pub(super) fn consent(plan: &Plan) -> Vec<String> {
    let mut wanted = Vec::new();
    if !plan.may_drop.is_empty() {
        let unreachable = plan.unreachable_holders();
        let locks = plan.unreachable_locks().map_or_else(|| "all locks".to_owned(), |locks| count(locks, "lock"));
        wanted.push(format!(
            "drop {locks} of {} that {} not answer ({}) if {} until the end; should one still run, its processes go on \
             as if they held them",
            count(unreachable.len() as u64, "client"),
            if unreachable.len() == 1 { "does" } else { "do" },
            some_names(&unreachable),
            if unreachable.len() == 1 { "it stays silent" } else { "they stay silent" },
        ));
    }
    if plan.policy.silent == Silent::Drop {
        wanted.push(format!(
            "drop the locks of clients that ack and reclaim nothing, in all or through one server address, however many \
             they are (--silent drop): up to {} in use would be lost if the notices are not understood",
            count(plan.in_scope, "lock")
        ));
    }
    if plan.policy.include_unmonitored {
        wanted.push(format!(
            "put {} in scope, whose clients may not understand the notices (--include-unmonitored): what they do not \
             reclaim can be dropped, and processes that still hold them are not warned",
            count(plan.unmonitored, "unmonitored lock")
        ));
    }
    wanted
}

/// The first few of them.
pub(super) fn some_names(clients: &[&PlannedClient]) -> String {
    let shown: Vec<_> = clients.iter().take(5).map(|client| client.name.to_string()).collect();
    let more = clients.len().saturating_sub(shown.len());
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", shown.join(", "))
}

pub(super) fn fingerprint(plan: &Plan) -> String {
    fn digest_sorted<T: crate::wire::xdr::Pack>(hash: &mut Sha256, items: &[T]) {
        let mut encoded: Vec<_> = items.iter().map(encode).collect();
        encoded.sort();
        encoded.dedup();
        hash.update((encoded.len() as u64).to_be_bytes());
        // XDR of these types is self-delimiting, so the sequence is unambiguous.
        for item in &encoded {
            hash.update(item);
        }
    }
    let mut hash = Sha256::new();
    hash.update(b"nlmctl plan 1");
    digest_sorted(&mut hash, plan.scope.clients.as_slice());
    digest_sorted(&mut hash, plan.scope.files.as_slice());
    hash.update(encode(&plan.mode));
    hash.update(encode(&plan.policy));
    hash.update(encode(&plan.instance));
    hash.update(encode(&plan.nsm_state));
    digest_sorted(&mut hash, &plan.may_drop);
    hex::encode(hash.finalize())
}
