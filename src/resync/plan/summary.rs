//! What the operator reads and agrees to, and the fingerprint of it.

use sha2::{Digest, Sha256};

use super::{Plan, PlannedClient};
use crate::report::in_command;
use crate::units::{self, count, duration};
use crate::wire::control::{Capabilities, Mode, Silent, Unreachable};
use crate::wire::types::Address;
use crate::wire::xdr::encode;

pub(super) fn consent(plan: &Plan, can: &Capabilities) -> Vec<String> {
    let mut wanted = Vec::new();
    if !plan.may_drop.is_empty() {
        let holders = plan.untellable();
        let locks = plan.untellable_locks().map_or_else(|| "all locks".to_owned(), |locks| count(locks, "lock"));
        wanted.push(format!(
            "drop {locks} of {} that {} ({}) unless {} before the run ends; a process that still runs there continues as if it \
             held its lock",
            count(holders.len() as u64, "client"),
            plan.why_untellable(),
            some_names(&holders),
            if holders.len() == 1 { "it answers" } else { "they answer" },
        ));
    }
    if plan.policy.silent == Silent::Drop {
        wanted.push(format!(
            "drop the locks of clients that ack and reclaim nothing, overall or through one server address, however \
             many clients these are (--silent drop): up to {} in use would be lost if the notices are not understood",
            in_scope(plan)
        ));
    }
    if plan.policy.include_unmonitored {
        wanted.push(format!(
            "put {} in scope, whose clients may not understand the notices (--include-unmonitored): locks that they \
             do not reclaim can be dropped, and processes that still hold them are not warned",
            count(plan.unmonitored, "unmonitored lock")
        ));
    }
    if can.begin_releases {
        wanted.push(format!(
            "free all {} when the run begins: from then on the run cannot be aborted, and locks that are not \
             reclaimed are lost{}",
            in_scope(plan),
            if plan.locks_listed {
                ""
            } else {
                "; it cannot be seen which locks these are, and the run ends as unverified (exit code 6)"
            },
        ));
    }
    wanted
}

/// How many locks are in scope, as far as that is known.
fn in_scope(plan: &Plan) -> String {
    match plan.in_scope {
        locks if plan.locks_listed => count(locks, "lock"),
        0 => "locks (how many is not known)".to_owned(),
        locks => format!("{} and those that cannot be listed", count(locks, "lock")),
    }
}

/// What users and operators will notice of the run, the most important first. `said`: what the lock manager adds.
pub(super) fn effects(plan: &Plan, can: &Capabilities, said: Vec<String>) -> Vec<String> {
    let grace = duration(plan.grace);
    let max = if plan.grace_max > plan.grace && can.settle_early {
        format!(", or up to {} while reclaims still come", duration(plan.grace_max))
    } else {
        String::new()
    };
    let mut effects = vec![match plan.mode {
        Mode::Strict if can.settle_early => {
            format!("New locks are refused until clients have reclaimed theirs: for up to {grace}{max}.")
        }
        Mode::Strict => format!("New locks are refused until {} ends its grace period.", plan.manager),
        Mode::Targeted => format!(
            "New locks are refused only if they conflict with a lock that its owner has not reclaimed yet: for up to \
             {grace}{max}."
        ),
    }];
    effects.extend(said);
    effects.extend(unreachable(plan, can));
    if plan.policy.silent != Silent::Keep && (plan.in_scope > 0 || !plan.locks_listed) {
        effects.push("A lock that its client does not reclaim is dropped.".to_owned());
    }
    effects
}

/// What happens to the locks of clients that cannot be notified now.
fn unreachable(plan: &Plan, can: &Capabilities) -> Option<String> {
    let holders = plan.untellable();
    let [first, others @ ..] = holders.as_slice() else { return None };
    let who = some_names(&holders);
    let (what, are) = match plan.untellable_locks() {
        Some(1) => ("1 lock".to_owned(), "is"),
        Some(locks) => (count(locks, "lock"), "are"),
        None => ("All locks".to_owned(), "are"),
    };
    if plan.policy.unreachable == Unreachable::Drop {
        return Some(format!("{what} of {who} {are} dropped unless an answer comes before the run ends."));
    }
    if can.begin_releases {
        return None;
    }
    let which = if others.is_empty() { "it".to_owned() } else { format!("{}, for example,", first.name) };
    let release = if can.release {
        let client = in_command(first.name.as_str(), first.addresses.first().copied().map(Address));
        format!("; if {which} is gone for good: `nlmctl release --client {client}`")
    } else {
        String::new()
    };
    Some(format!("{what} of {who} {are} kept, because no statd answers there{release}."))
}

/// The first few of them.
pub(super) fn some_names(clients: &[&PlannedClient]) -> String {
    units::first(clients.iter().map(|client| &client.name), 5)
}

/// `cautions`: what the manager's own wishes for consent are about. Their text may have counts, which change all the time.
pub(super) fn fingerprint(plan: &Plan, mut cautions: Vec<&str>) -> String {
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
    cautions.sort_unstable();
    cautions.dedup();
    hash.update(cautions.join("\n"));
    hex::encode(hash.finalize())
}
