//! The clients of a run that are not entered yet. [`roster`](super::roster) enters them.

use std::collections::{HashMap, HashSet};
use std::vec::IntoIter;

use super::api::ClientId;
use super::clients::{Client, Clients};
use super::held::Paths;
use crate::wire::control::ClientRef;

/// What of each client is in question, by the server address that it called for it.
pub(super) type ByClient = HashMap<ClientId, Paths>;

/// The clients that are not entered yet.
#[derive(Debug, Default)]
pub(super) struct Awaited {
    /// Clients of a lower number have had their turn, and those from `end` on came after the mark.
    pub(super) next: u32,
    pub(super) end: u32,
    /// The clients of a scope that names any, or files, in the order of their numbers.
    pub(super) listed: Option<IntoIter<ClientId>>,
    /// What they hold in the files that the scope names, if it names any.
    pub(super) in_files: Option<ByClient>,
    /// Those that were looked at before their turn.
    pub(super) looked_at: HashSet<ClientId>,
    /// Those that the plan named as unreachable. They are looked up when all clients are entered.
    pub(super) may_drop: IntoIter<ClientRef>,
}

/// What the client holds, in those files or at all.
pub(super) fn held_in<'a>(clients: &'a Clients, in_files: Option<&'a ByClient>, id: ClientId) -> Option<&'a Paths> {
    in_files.map_or_else(|| clients.get(id).map(Client::paths), |counts| counts.get(&id))
}
