//! Drives a run: what [`resync`](crate::resync) decides is done against manager, clients and record.
//!
//! Theory. One controller works with a record at a time
//! ([`ControllerLock`](crate::store::ControllerLock)). Everything that a run may have touched is
//! in the record before it is touched, so that this process may die at any instant: the next
//! command finds the run and closes its books truthfully, or [`resume`] goes on with it.
//!
//! Start reading at [`resync`].

mod error;

pub use error::ControllerError;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::manager::LockManager;
use crate::report::{Progress, RunReport};
use crate::resync::plan::{Consent, Plan, Request};
use crate::store::Store;

/// How a controller works, whatever it does.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long no ack and no reclaim must have come before an early settle.
    pub quiet_time: Duration,
    /// The port of the clients' rpcbind: 111 outside tests and the demo.
    pub rpcbind_port: u16,
    /// How long the plan waits for the clients' statds.
    pub probe_timeout: Duration,
    /// Whether every lock gets a row in the record (`--record all`), not only those whose fate is
    /// worth one.
    pub record_all: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            quiet_time: Duration::from_millis(500),
            rpcbind_port: 111,
            probe_timeout: Duration::from_secs(3),
            record_all: false,
        }
    }
}

/// Signals of the operator, by name: `SIGINT`, say. A closed channel means that none will come.
pub type Signals = mpsc::Receiver<&'static str>;

/// What a run would do. Touches nothing: asks the manager, and every client's statd.
pub async fn plan(manager: &dyn LockManager, request: &Request, options: &Options) -> Result<Plan, ControllerError> {
    let _ = (manager, request, options);
    Err(ControllerError::usage("not built yet", "wait"))
}

/// Brings the results of earlier runs into the record, and closes the books of a run that no
/// controller finished, unless it is still active. Every command with a record does this first.
pub async fn catch_up(manager: &dyn LockManager, store: Store) -> Result<Store, ControllerError> {
    let _ = manager;
    Ok(store)
}

/// Carries the plan out and reports what came of it. Waits for the end of the run, or for a signal.
pub async fn resync(
    manager: Arc<dyn LockManager>,
    store: Store,
    plan: Plan,
    consent: Consent,
    options: Options,
    progress: watch::Sender<Progress>,
    signals: Signals,
) -> Result<RunReport, ControllerError> {
    let _ = (manager, store, plan, consent, options, progress, signals);
    Err(ControllerError::usage("not built yet", "wait"))
}

/// Goes on with the run that the record knows as unfinished; if it ended meanwhile, completes its
/// record.
pub async fn resume(
    manager: Arc<dyn LockManager>,
    store: Store,
    options: Options,
    progress: watch::Sender<Progress>,
    signals: Signals,
) -> Result<RunReport, ControllerError> {
    let _ = (manager, store, options, progress, signals);
    Err(ControllerError::usage("not built yet", "wait"))
}
