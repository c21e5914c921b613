//! The result of a run. It may have a million rows, so it is in pieces, and is read in pages: to put them together takes
//! long.

use super::rows::Rows;
use super::run::Run;
use crate::wire::control::{ClientResult, Counts, FullResult, LockFate, Outcome, PAGE, RunResult};
use crate::wire::xdr::List;

/// The result of a run, in pieces.
#[derive(Debug)]
pub struct SlicedResult {
    /// Its sums.
    pub result: RunResult,
    clients: Clients,
    /// So many of its locks were taken out before, from the first one on.
    taken: usize,
    rows: [Rows; 2],
}

/// What became of each client.
#[derive(Debug)]
enum Clients {
    Written(Vec<ClientResult>),
    Aborted(Box<Run>),
}

impl SlicedResult {
    pub(super) fn settled(result: RunResult, clients: Vec<ClientResult>, taken: usize, rows: [Rows; 2]) -> Self {
        Self { result, clients: Clients::Written(clients), taken, rows }
    }

    /// What was pending is kept.
    pub(super) fn aborted(mut run: Run, unix_ms: u64, reason: &str) -> Self {
        let Counts { pending, dropped, kept, .. } = &mut run.counts;
        (*dropped, *kept) = (0, *pending);
        let result = run.result(unix_ms, Outcome::Aborted, reason);
        let rows = [std::mem::take(&mut run.rows), Rows::default()];
        Self { result, clients: Clients::Aborted(Box::new(run)), taken: 0, rows }
    }

    /// A page of its clients, from one on; empty behind the last.
    #[must_use]
    pub fn clients(&self, after: usize) -> Vec<ClientResult> {
        match &self.clients {
            Clients::Written(clients) => clients.iter().skip(after).take(PAGE).cloned().collect(),
            Clients::Aborted(run) => {
                let clients = run.tallies.iter().zip(&*run.clients).skip(after).take(PAGE);
                clients.map(|(tally, client)| tally.aborted().result(client)).collect()
            }
        }
    }

    /// The number of its first lock: those before it [were taken out](super::LockTable::take_pages).
    #[must_use]
    pub fn first_lock(&self) -> usize {
        self.taken
    }

    /// How many locks it lists.
    #[must_use]
    pub fn count_locks(&self) -> usize {
        self.taken + self.rows.iter().map(Rows::len).sum::<usize>()
    }

    /// A page of its locks, from one on; empty behind the last.
    #[must_use]
    pub fn locks(&self, after: usize) -> &[LockFate] {
        let ([first, others], after) = (&self.rows, after.saturating_sub(self.taken));
        match after.checked_sub(first.len()) {
            None => first.page(after),
            Some(after) => others.page(after),
        }
    }

    /// The result as a whole, if nothing of it was taken out.
    #[must_use]
    pub fn join(self) -> FullResult {
        let mut locks = Vec::with_capacity(self.count_locks());
        let clients = match self.clients {
            Clients::Written(clients) => clients,
            Clients::Aborted(run) => {
                run.tallies.iter().zip(&*run.clients).map(|(tally, client)| tally.aborted().result(client)).collect()
            }
        };
        locks.extend(self.rows.into_iter().flat_map(Rows::into_rows));
        FullResult { result: self.result, clients: List::clipped(clients), locks: List::clipped(locks) }
    }
}

#[cfg(test)]
impl SlicedResult {
    /// As if so many locks before its own had been taken out.
    pub(crate) fn behind(self, taken: usize) -> Self {
        Self { taken, ..self }
    }
}

impl From<FullResult> for SlicedResult {
    fn from(FullResult { result, clients, locks }: FullResult) -> Self {
        let rows = [locks.into_vec().into_iter().collect(), Rows::default()];
        Self::settled(result, clients.into_vec(), 0, rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::control::{Fate, LockRow, RunId};
    use crate::wire::types::ByteRange;

    #[test]
    fn pages_give_each_client_and_each_lock_once_from_wherever_one_begins() {
        let lock = |number| LockFate {
            range: ByteRange { start: number, end: number },
            ..LockFate::sample(LockRow::sample(1, 0, 0), Fate::Kept)
        };
        let page = PAGE as u64;
        for [first, all] in
            [[0, 0], [0, 1], [1, 1], [page, page], [page, 2 * page], [5, page + 5], [page + 1, 3 * page]]
        {
            let clients = (0..u32::try_from(all).unwrap()).map(ClientResult::sample).collect();
            let rows = [(0..first).map(lock).collect(), (first..all).map(lock).collect()];
            let sliced = SlicedResult::settled(RunResult::sample(RunId([1; 16])), clients, 0, rows);
            for begin in [0, 1, 5, page - 1, page, page + 1, all, u64::MAX] {
                let mut after = usize::try_from(begin).unwrap();
                while !sliced.locks(after).is_empty() {
                    let locks = sliced.locks(after);
                    assert!(locks.iter().zip(after..).all(|(lock, number)| lock.range.start == number as u64));
                    after += locks.len();
                }
                assert_eq!(after as u64, begin.max(all));
                after = usize::try_from(begin).unwrap();
                while !sliced.clients(after).is_empty() {
                    let clients = sliced.clients(after);
                    assert!(clients.iter().zip(after..).all(|(client, number)| client.client as usize == number));
                    after += clients.len();
                }
                assert_eq!(after as u64, begin.max(all));
            }
        }
    }
}
