//! The result of a run. It may have a million rows, so it is in pieces; to put them together takes long, and is done
//! where no request waits for it.

use super::rows::Rows;
use super::run::Run;
use super::tally::Tally;
use crate::wire::control::{ClientResult, Counts, FullResult, Outcome, RunResult};
use crate::wire::xdr::List;

/// The result of a run, in pieces.
#[derive(Debug)]
pub struct SlicedResult {
    /// Its sums.
    pub result: RunResult,
    clients: Clients,
    rows: [Rows; 2],
}

/// What became of each client.
#[derive(Debug)]
enum Clients {
    Written(Vec<ClientResult>),
    Aborted(Box<Run>),
}

impl SlicedResult {
    pub(super) fn settled(result: RunResult, clients: Vec<ClientResult>, rows: [Rows; 2]) -> Self {
        Self { result, clients: Clients::Written(clients), rows }
    }

    /// What was pending is kept.
    pub(super) fn aborted(mut run: Run, unix_ms: u64, reason: &str) -> Self {
        let Counts { pending, dropped, kept, .. } = &mut run.counts;
        (*dropped, *kept) = (0, *pending);
        let result = run.result(unix_ms, Outcome::Aborted, reason);
        let rows = [std::mem::take(&mut run.rows), Rows::default()];
        Self { result, clients: Clients::Aborted(Box::new(run)), rows }
    }

    /// The result as a whole.
    #[must_use]
    pub fn join(self) -> FullResult {
        let mut locks = Vec::with_capacity(self.rows.iter().map(Rows::len).sum());
        locks.extend(self.rows.into_iter().flat_map(Rows::into_rows));
        let clients = match self.clients {
            Clients::Written(clients) => clients,
            Clients::Aborted(mut run) => {
                run.tallies.iter_mut().for_each(Tally::aborted);
                run.tallies.iter().zip(&*run.clients).map(|(tally, client)| tally.result(client)).collect()
            }
        };
        FullResult { result: self.result, clients: List::clipped(clients), locks: List::clipped(locks) }
    }
}
