//! The demo from start to end: setup, breakage, a real resync through the control socket, and
//! the comparison of what clients believe with what nlmd holds.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::{mpsc, watch};

use super::check::{Check, compare};
use super::setup::{Cast, Setup, StageError};
use crate::controller::{self, ControllerError, Options};
use crate::manager::nlmd::Nlmd;
use crate::manager::{LockManager, ManagerError};
use crate::report::{Failure, Progress, Render, RunReport, View};
use crate::resync::plan::Request;
use crate::store::{Store, StoreError};
use crate::wire::control::{Mode, Unreachable};

/// How long reclaims that were under way when the run ended may take to be answered.
const AFTERMATH: Duration = Duration::from_secs(30);

/// What is played.
#[derive(Debug, Clone)]
pub struct Script {
    /// Who, and who is broken.
    pub cast: Cast,
    pub grace: Duration,
    pub mode: Mode,
    pub unreachable: Unreachable,
    /// Where the record is kept; removed with the demo if absent.
    pub db: Option<PathBuf>,
}

/// What came of it: the run's report, with one more key for what the witness says.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Played {
    /// The run's own report.
    #[serde(flatten)]
    pub report: RunReport,
    /// What the witness says.
    pub check: Check,
    /// Where the run's record is kept.
    #[serde(skip)]
    pub db: Option<PathBuf>,
}

impl Played {
    /// Whether clients and server agree as far as the run says they do: no lock is lost, and none is
    /// stuck beyond those that the run kept.
    pub fn agrees(&self) -> bool {
        self.check.lost == 0 && self.check.stuck <= self.report.locks.kept
    }
    /// The run's exit code; 1 where clients and server disagree, also if the run says 0.
    pub fn exit(&self) -> u8 {
        match self.report.run.exit {
            Some(exit) if self.agrees() => exit,
            _ => 1,
        }
    }
}

impl Render for Played {
    fn show(&self, view: &View) -> String {
        let Check { believed, held, lost, stuck, clients_disagreeing } = self.check;
        let all_of_them = match self.db.as_deref() {
            db @ Some(_) => self.report.all_dropped(db),
            None => "run the demo with `--db FILE`, which keeps the record".to_owned(),
        };
        let mut out = self.report.show_with(&all_of_them, view);
        let _ = writeln!(out, "\ncheck: the simulated clients believe in {believed} locks, nlmd holds {held}");
        let _ = match (self.agrees(), clients_disagreeing) {
            (true, 0) => writeln!(out, "  no client disagrees with nlmd"),
            (true, n) => writeln!(out, "  clients that disagree: {n}, over the {stuck} locks that the run kept"),
            (false, n) => writeln!(
                out,
                "  MISMATCH: {n} clients disagree with nlmd: {lost} locks lost, {stuck} held that no client believes in\n  \
                 the run above is wrong about them: this is a bug in nlmctl or nlmd, please report it"
            ),
        };
        out
    }
}

/// Why a demo did not get to its end.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    #[error(transparent)]
    Setup(#[from] StageError),
    #[error(transparent)]
    Controller(#[from] ControllerError),
    #[error(transparent)]
    Store(#[from] StoreError),
    /// After the run.
    #[error("the locks cannot be compared: {0}")]
    Compare(#[from] ManagerError),
    /// After the run.
    #[error("simulated clients were still reclaiming {} s after the run", AFTERMATH.as_secs())]
    Restless,
}

impl From<DemoError> for Failure {
    fn from(error: DemoError) -> Self {
        match error {
            DemoError::Setup(StageError::Cast(failure)) => failure,
            DemoError::Controller(error) => error.into(),
            DemoError::Store(error) => error.into(),
            DemoError::Compare(ref manager) => Self::failed(error.to_string(), manager.remedy()),
            DemoError::Setup(_) | DemoError::Restless => {
                Self::failed(error.to_string(), "try fewer clients or locks (--clients, --locks); -v says more")
            }
        }
    }
}

/// Plays the script. nlmd is started from the binary `nlmctl`; all that was started is ended, and its
/// files are removed, when this returns or is dropped.
pub async fn play(script: &Script, nlmctl: &Path, progress: watch::Sender<Progress>) -> Result<Played, DemoError> {
    let mut stage = Setup::set(&script.cast, nlmctl).await?;
    stage.break_clients(&script.cast).await?;

    let manager: Arc<dyn LockManager> = Arc::new(Nlmd::new(stage.server.control()));
    let db = script.db.clone().unwrap_or_else(|| stage.server.dir().join("runs.db"));
    let store = controller::catch_up(&*manager, Store::open(&db)?).await?;
    let options = Options { rpcbind_port: stage.farm.rpcbind_port(), ..Options::default() };
    let request =
        Request { grace: script.grace, mode: Some(script.mode), unreachable: script.unreachable, ..Request::default() };
    let plan = controller::plan(&*manager, &request, &options).await?;
    // Only the demo's own nlmd and its simulated clients are touched.
    let consent = plan.agree(true, &mut ()).map_err(ControllerError::from)?;
    // A signal ends the demo as a whole, so the run is not told of any: this channel is closed.
    let (_, signals) = mpsc::channel(1);
    let report = controller::resync(Arc::clone(&manager), store, plan, consent, options, progress, signals).await?;

    if !stage.farm.until(AFTERMATH, super::clients::Farm::at_rest).await {
        return Err(DemoError::Restless);
    }
    let check = compare(&stage.farm, &*manager).await?;
    // Its end is of no more interest: dropping it kills what a request did not end.
    let _ = stage.server.stop().await;
    Ok(Played { report, check, db: script.db.clone() })
}
