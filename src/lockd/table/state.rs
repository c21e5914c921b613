//! The owner's state, and the answers that it gets from work beside the table.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use super::archive::Archive;
use super::embedder::{Embedded, Stepped};
use super::incoming::Clock;
use super::moves::{self, Moves};
use super::phase::Runs;
use super::queue::{Place, Queue};
use super::records::{NotRecorded, Recorded, Records};
use super::refusals::Refusals;
use super::watches::Watches;
use crate::lockd::callbacks::{Callbacks, Unconfirmed};
use crate::lockd::embed::Admission;
use crate::lockd::persist::{MonitorRecord, Persist, PersistError, Watch};
use crate::locks::{Cap, ClientId, LockTable, OfferAnswer, OfferId};
use crate::rpc::control::Timeline;
use crate::rpc::heartbeat::Heartbeat;
use crate::wire::types::{FileHandle, NsmState};

/// What came back from work outside.
#[derive(Debug)]
pub(super) enum Done {
    Nothing,
    Asked { place: Place, admission: Option<Admission> },
    Recorded { place: Place, client: ClientId, record: MonitorRecord, asked: Vec<Watch>, outcome: Recorded },
    // Asked beside a reclaim.
    Watched { asked: Watch, outcome: Recorded },
    Left(IpAddr),
    Offered { offer: OfferId, outcome: Result<OfferAnswer, Unconfirmed> },
    Stepped { file: FileHandle, stepped: Stepped },
    AskAgain(FileHandle),
    Moved(moves::MoveAnswer),
    QuietOver(Cap),
    BeginDurable(Result<NsmState, NotRecorded>),
    Raised(Result<NsmState, PersistError>),
    PagesDurable(Result<(), PersistError>),
    ResultDurable(Result<(), PersistError>),
    TakenBack(Result<(), PersistError>),
}

#[derive(Debug)]
pub(super) struct Owner {
    pub(super) clock: Clock,
    pub(super) table: LockTable,
    pub(super) persist: Persist,
    pub(super) callbacks: Callbacks,
    pub(super) nsm_state: watch::Sender<NsmState>,
    pub(super) queue: Queue,
    pub(super) records: Records,
    pub(super) refusals: Refusals,
    pub(super) watches: Watches,
    pub(super) embedded: Embedded,
    pub(super) moves: Moves,
    pub(super) runs: Runs,
    /// When locks were last freed that their clients had not given up, by a release or a run.
    pub(super) took_away: Option<Duration>,
    pub(super) timeline: Timeline,
    pub(super) work: JoinSet<Done>,
    /// How many orders of clients it has had.
    pub(super) from_clients: u64,
    pub(super) offers: HashMap<OfferId, AbortHandle>,
    pub(super) archive: Arc<Archive>,
    /// Of the owner's loop, while a deadline is awaited.
    pub(super) pulse: Heartbeat,
}

impl Owner {
    pub(super) fn nsm_state(&self) -> NsmState {
        *self.nsm_state.borrow()
    }
}
