//! Targets that are asked once: their answers, or what became of them, when all have said something.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::pin::pin;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::driver::{DriverError, run};
use super::target::{Event, Failure, Heard, News, Program, RunOptions, Target};

/// What came of a target that was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The results of its calls, in their order; `None`: not answered.
    pub results: Vec<Option<Vec<u8>>>,
    /// Why not all of them were answered, and what was heard of the host then.
    pub failure: Option<(Failure, Heard)>,
}

/// After how long [`ask`] tells whom it waits for.
pub const TELLS_AFTER: Duration = Duration::from_secs(1);

/// Calls every target until it has answered or is in trouble, for `timeout` at most. The outcomes are in
/// the targets' order. `waits` is told once, after [`TELLS_AFTER`], which of them have done neither.
pub async fn ask(
    targets: Vec<Target>,
    program: Program,
    rpcbind_port: u16,
    timeout: Duration,
    has_address: fn(IpAddr) -> bool,
    waits: impl FnOnce(&[u32]),
) -> Result<Vec<Outcome>, DriverError> {
    let unsent = Some((Failure::NotSent, Heard::Nothing));
    let unasked = |t: &Target| (t.id, Outcome { results: vec![None; t.calls.len()], failure: unsent });
    let ids: Vec<u32> = targets.iter().map(|target| target.id).collect();
    let mut outcomes: HashMap<u32, Outcome> = targets.iter().map(unasked).collect();
    let options =
        RunOptions { program, keep_on: false, rpcbind_port, end: timeout, no_answer_after: timeout, has_address };
    let (sender, mut receiver) = mpsc::channel::<Event>(256);
    let mut open: BTreeSet<u32> = ids.iter().copied().collect();
    let gather = async {
        let mut late = pin!(tokio::time::sleep(TELLS_AFTER));
        let mut waits = Some(waits);
        loop {
            let event = tokio::select! {
                event = receiver.recv() => event,
                () = &mut late, if waits.is_some() => {
                    if let Some(waits) = waits.take().filter(|_| !open.is_empty()) {
                        waits(&open.iter().copied().collect::<Vec<_>>());
                    }
                    continue;
                }
            };
            let Some(event) = event else { break };
            if event.news.is_last() {
                open.remove(&event.id);
            }
            if let Some(outcome) = outcomes.get_mut(&event.id) {
                outcome.learn(event.news);
            }
        }
    };
    let (ran, ()) = tokio::join!(run(targets, options, Instant::now(), sender), gather);
    ran?;
    Ok(ids.iter().filter_map(|id| outcomes.remove(id)).collect())
}

impl Outcome {
    pub(super) fn learn(&mut self, news: News) {
        match news {
            News::Answered { call, results, answered, of, .. } => {
                if let Some(place) = self.results.get_mut(call) {
                    *place = Some(results);
                }
                if answered == of {
                    self.failure = None;
                }
            }
            News::GivenUp { failure, heard, .. } => self.failure = Some((failure, heard)),
            News::SentAgain => {}
        }
    }
}
