//! A run as it is on disk.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::compare::Snapshot;
use crate::host::{Machine, unix_ms};
use crate::resync::policy;
use crate::rpc::heartbeat::Moment;
use crate::wire::control::{BeginArgs, ClientProgress, Counts, Delivery, FullResult, InstanceId, RunClient, RunId};
use crate::wire::types::{NsmState, ms};
use crate::wire::xdr::{List, Pack, Unpack, decode, encode};

/// A value of the control protocol, kept as the hexadecimal of its XDR.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coded<T>(pub T);

impl<T: Pack> Serialize for Coded<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(encode(&self.0)))
    }
}

impl<'de, T: Unpack> Deserialize<'de> for Coded<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = hex::decode(text).map_err(de::Error::custom)?;
        decode(&bytes).map(Self).map_err(de::Error::custom)
    }
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// The snapshot is taken; the locks may be dropped from here on.
    Beginning,
    /// They were dropped, and grace is on.
    Grace,
    /// What came back is counted, and grace is being ended.
    Settling,
    Ended,
}

/// The fate of a client's notices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivered {
    /// What the controller said.
    pub delivery: Coded<Delivery>,
    /// When that was seen, milliseconds after the run began.
    pub at_ms: u64,
    /// Whether there is evidence that its locks are stale.
    pub suspect: bool,
}

/// A moment by the clock of a boot of this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Began {
    pub boot: String,
    /// Milliseconds since it, with the time that the machine slept.
    pub ms: u64,
}

impl Began {
    pub fn now() -> Self {
        static BOOT: OnceLock<String> = OnceLock::new();
        let boot = BOOT.get_or_init(|| Machine::default().boot_id().unwrap_or_default()).clone();
        Self { boot, ms: ms(Moment::now().passed) }
    }
}

/// Most clients of a run.
pub type RunClients = List<RunClient, 16_777_216>;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRecord {
    /// As it was asked for.
    pub begin: Coded<BeginArgs>,
    /// Its place among the runs, from 1 on: a clock that is set between two of them must not change their order. 0 in a file
    /// of a version that did not number them.
    #[serde(default)]
    pub number: u64,
    /// How far it is.
    pub phase: Phase,
    /// The manager's life when it began, and what it is told as in the run.
    pub instance: Coded<InstanceId>,
    /// The words of the manager's life: since the drop once that is done, from before it till then.
    pub life: String,
    /// The NSM state number before.
    pub old_state: Coded<NsmState>,
    pub new_state: Coded<NsmState>,
    /// When it began, milliseconds since 1970.
    pub began_unix_ms: u64,
    /// The same by the machine's own clock, which is never set: a wall clock that jumps must not end grace.
    #[serde(default)]
    pub began: Option<Began>,
    /// How long the manager's grace lasts at most, in milliseconds; 0 until it began.
    pub grace_ms: u64,
    /// The deadline that the controller moved it to, milliseconds after it began.
    pub extended_ms: u64,
    /// What was locked just before.
    pub before: Arc<Snapshot>,
    /// The clients to notify.
    pub clients: Arc<Coded<RunClients>>,
    /// What became of their notices, in their order.
    pub deliveries: Vec<Delivered>,
    /// Whether a notice may have left.
    pub notices_begun: bool,
    /// Its result, from settling on.
    pub result: Option<Arc<Coded<FullResult>>>,
    /// Whether the result was fetched.
    pub acknowledged: bool,
    /// Nothing was dropped when it began: what is not reclaimed stays.
    #[serde(default)]
    pub soft: bool,
    /// Its driver died, and left a mark that the drop may have begun.
    #[serde(default)]
    pub may_have_dropped: bool,
    /// Places in `before` of locks that were held right after the drop, before any notice: they
    /// were not dropped, and being held says nothing of a reclaim.
    #[serde(default)]
    pub spared: BTreeSet<usize>,
    /// Names of the clients whose locks an earlier run dropped and that nobody had told when this one began.
    #[serde(default)]
    pub owed: BTreeSet<String>,
}

impl RunRecord {
    /// How long ago it began.
    pub(super) fn elapsed(&self) -> Duration {
        let now = Began::now();
        let here = self.began.as_ref().filter(|began| began.boot == now.boot);
        let by_the_wall = || unix_ms().saturating_sub(self.began_unix_ms);
        Duration::from_millis(here.map_or_else(by_the_wall, |began| now.ms.saturating_sub(began.ms)))
    }
    /// Now, milliseconds since 1970, as long after its beginning as it is.
    pub(super) fn unix_ms(&self) -> u64 {
        self.began_unix_ms.saturating_add(ms(self.elapsed()))
    }
    /// The sums of a run that has only begun.
    pub(super) fn all_pending(&self) -> Counts {
        let in_scope = self.before.locks.len() as u64;
        Counts { in_scope, pending: in_scope, ..Counts::default() }
    }
    pub fn id(&self) -> RunId {
        self.begin.0.run
    }
    /// Whether it is not over.
    pub fn is_active(&self) -> bool {
        self.phase != Phase::Ended
    }
    pub fn clients(&self) -> &[RunClient] {
        self.clients.0.as_slice()
    }
    /// Its clients whose locks were dropped, by it or by a run before, and that were not notified: the next run must do it.
    pub fn owed(&self) -> Vec<RunClient> {
        let told = self.clients().iter().zip(&self.deliveries);
        let untold = told.filter(|(_, told)| told.delivery.0 == Delivery::NotTold).map(|(client, _)| client);
        untold.filter(|client| !self.soft || self.owed.contains(client.name.as_str())).cloned().collect()
    }
    /// Deliveries of clients that were not notified yet.
    pub fn untold(clients: usize) -> Vec<Delivered> {
        vec![Delivered { delivery: Coded(Delivery::NotTold), at_ms: 0, suspect: false }; clients]
    }
    /// Takes a delivery, seen `elapsed` after the beginning less how long ago it was.
    pub fn deliver(&mut self, news: &ClientProgress, elapsed: Duration) {
        if let Some(delivered) = self.deliveries.get_mut(news.client as usize) {
            let at = elapsed.saturating_sub(Duration::from_millis(news.ago_ms));
            *delivered =
                Delivered { delivery: Coded(news.delivery), at_ms: ms(at), suspect: delivered.suspect || news.suspect };
        }
    }
    /// The deadline as it stands and the latest it can become, after the beginning.
    pub fn deadlines(&self, last_reclaim: Option<Duration>) -> (Duration, Duration) {
        let time = Duration::from_millis;
        let args = &self.begin.0;
        let latest = time(args.grace_max_ms.min(self.grace_ms));
        let acked = self.deliveries.iter().filter(|told| told.delivery.0 == Delivery::Acked).map(|told| told.at_ms);
        let deadline = time(args.grace_ms.max(self.extended_ms)).min(latest);
        let last_ack = acked.max().map(time);
        (policy::extended_deadline(deadline, latest, time(args.grace_ms), last_reclaim, last_ack), latest)
    }
}
