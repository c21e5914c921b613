//! Questions to an embedding file server, beside the table: who may lock, and its mirror's steps.
//!
//! Nothing here waits in the owner's task. A question to [`Access`](crate::lockd::embed::Access) is
//! dropped after [`PATIENCE`], and so is its call, unanswered: the client repeats it, and a reclaim is
//! not refused because of a slow disk. A step of the mirror cannot be taken back, so it goes on;
//! after [`PATIENCE`] the calls that wait for it are dropped, and later ones that need it too, until
//! it has ended. At most [`QUESTIONS_MAX`] questions and [`STEPS_AT_ONCE`] steps are under way; one
//! question more is dropped with its call, a step more waits for its turn (there is at most one
//! for a file). A step that hangs gives its turn back after [`PATIENCE`]; what is to be taken is not
//! begun any more after [`PATIENCE`] without a turn, nor while [`SLOW_MAX`] files are slow.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::{JoinError, JoinHandle};

use super::incoming::Incoming;
use super::queue::Place;
use crate::lockd::embed::{Admission, Embedding, Mirror, NotTaken, Question};
use crate::locks::{Call, Coverage, MirrorAnswer, MirrorStep, Part, Verdict, Wanted};
use crate::wire::types::FileHandle;

/// With a question, and with calls that wait for a step: shorter than the 15 s after which a client repeats its call.
const PATIENCE: Duration = Duration::from_secs(5);
/// Questions under way: a server that answers in a millisecond takes a million a second, one that hangs keeps so many tasks.
const QUESTIONS_MAX: usize = 1_024;
/// Steps of the mirror under way: a slow one may keep a thread, and the runtime has 512.
const STEPS_AT_ONCE: usize = 128;
/// Files with a slow step, from which on nothing is taken of further ones: each may keep a thread.
const SLOW_MAX: usize = 128;
/// Between two attempts for a waiter that met a holder of the other domain: doubles up to the maximum.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What is under way at the embedding server.
#[derive(Debug)]
pub(super) struct Embedded {
    embedding: Embedding,
    questions: Arc<Semaphore>,
    turns: Arc<Semaphore>,
    /// By file: the calls that wait for a step, in order. The one that asked for it is the first, and marked.
    steps: HashMap<FileHandle, VecDeque<(Place, bool)>>,
    /// Files whose step has taken too long.
    slow: HashSet<FileHandle>,
}

/// What has become of a step of the mirror.
#[derive(Debug)]
pub(super) enum Stepped {
    Ended(MirrorAnswer),
    /// It takes long, and goes on.
    Slow(JoinHandle<MirrorAnswer>),
}

impl Embedded {
    pub(super) fn new(embedding: Embedding) -> Self {
        Self {
            embedding,
            questions: Arc::new(Semaphore::new(QUESTIONS_MAX)),
            turns: Arc::new(Semaphore::new(STEPS_AT_ONCE)),
            steps: HashMap::new(),
            slow: HashSet::new(),
        }
    }

    // --- questions

    /// What to ask about a call before the table gets it.
    pub(super) fn question(&self, incoming: &Incoming) -> Option<Question> {
        self.embedding.access.as_ref()?;
        let (file, exclusive, reclaim) = match &incoming.call {
            Call::Test(wanted) => (&wanted.file, wanted.exclusive, false),
            Call::Lock { wanted, reclaim, .. } => (&wanted.file, wanted.exclusive, *reclaim),
            Call::Share { file, access, reclaim, .. } => (file, access & 2 != 0, *reclaim),
            // They take nothing, and must always work.
            Call::Cancel(_) | Call::Unlock(_) | Call::Unshare { .. } | Call::FreeAll => return None,
        };
        Some(Question {
            file: file.clone(),
            address: incoming.address,
            name: incoming.name.clone(),
            credential: incoming.credential.clone(),
            exclusive,
            reclaim,
        })
    }

    /// Asks whether the caller may lock. `None`: too many questions are under way.
    pub(super) fn ask(&self, question: Question) -> Option<impl Future<Output = Option<Admission>> + use<>> {
        let access = self.embedding.access.clone()?;
        let Ok(permit) = self.questions.clone().try_acquire_owned() else {
            tracing::warn!(client = %question.name, "too many questions to the file server; a call is dropped unanswered");
            return None;
        };
        Some(async move {
            let name = question.name.clone();
            // In a task of its own: a panic in it must not lose the call's place in its line.
            let mut answer = tokio::spawn(async move { access.may_lock(&question).await });
            let admission = match tokio::time::timeout(PATIENCE, &mut answer).await {
                Ok(Ok(admission)) => Some(admission),
                Ok(Err(error)) => {
                    tracing::error!(client = %name, %error, "the file server failed to say whether a file may be locked");
                    None
                }
                Err(_) => {
                    answer.abort();
                    tracing::warn!(client = %name, "the file server does not say whether a file may be locked");
                    None
                }
            };
            drop(permit);
            admission
        })
    }

    // --- the mirror

    pub(super) fn has_mirror(&self) -> bool {
        self.embedding.mirror.is_some()
    }

    /// TEST found no holder here: is one of the other domain in the way? Without an answer the call has none.
    pub(super) fn test(&self, wanted: &Wanted) -> Option<impl Future<Output = Option<Verdict>> + use<>> {
        let mirror = self.embedding.mirror.clone()?;
        let permit = self.questions.clone().try_acquire_owned().ok()?;
        let part = Part { range: wanted.range, coverage: Coverage::of(wanted.exclusive) };
        let file = wanted.file.clone();
        Some(async move {
            let holder = tokio::time::timeout(PATIENCE, mirror.holder(&file, part)).await.ok();
            drop(permit);
            holder.map(|holder| holder.map_or(Verdict::Granted, Verdict::Holder))
        })
    }

    /// Whether a call that needs a step of the file would wait in vain.
    pub(super) fn is_slow(&self, file: &FileHandle) -> bool {
        self.slow.contains(file)
    }

    /// The call at `place` waits for a step of the file; it `asked` for the one that is under way.
    pub(super) fn await_step(&mut self, file: FileHandle, place: Place, asked: bool) {
        let waiting = self.steps.entry(file).or_default();
        if asked { waiting.push_front((place, true)) } else { waiting.push_back((place, false)) }
    }

    /// Has the mirror do a step.
    pub(super) fn step(&self, file: FileHandle, step: MirrorStep) -> Option<impl Future<Output = Stepped> + use<>> {
        let mirror = self.embedding.mirror.clone()?;
        let turns = self.turns.clone();
        let takes = matches!(step, MirrorStep::Take(_));
        let too_many = takes && self.slow.len() >= SLOW_MAX;
        Some(async move {
            if too_many {
                tracing::warn!(%file, "too many files' mirrors are slow; a lock is not taken there");
                return Stepped::Ended(MirrorAnswer::NotBegun);
            }
            let mut doing = tokio::spawn(async move {
                // What is given up has to be done some time; calls for what is taken are dropped by then.
                let turn = if takes {
                    let Ok(turn) = tokio::time::timeout(PATIENCE, turns.acquire_owned()).await else {
                        return MirrorAnswer::NotBegun;
                    };
                    turn
                } else {
                    turns.acquire_owned().await
                };
                let mut doing = std::pin::pin!(do_step(&*mirror, &file, &step));
                if let Ok(answer) = tokio::time::timeout(PATIENCE, &mut doing).await {
                    return answer;
                }
                // Others must not lack its turn for as long as it hangs.
                drop(turn);
                doing.await
            });
            match tokio::time::timeout(PATIENCE, &mut doing).await {
                Ok(answer) => Stepped::Ended(or_failed(answer)),
                Err(_) => Stepped::Slow(doing),
            }
        })
    }

    /// A step takes long. Gives the calls that wait for one of that file.
    pub(super) fn slow(&mut self, file: &FileHandle) -> impl Iterator<Item = Place> + use<> {
        tracing::warn!(%file, "a step of the file's mirror takes long; calls that need it go unanswered");
        self.slow.insert(file.clone());
        self.steps.remove(file).unwrap_or_default().into_iter().map(|(place, _)| place)
    }

    /// A step has ended. Gives the call that asked for it.
    pub(super) fn ended(&mut self, file: &FileHandle) -> Option<Place> {
        self.slow.remove(file);
        self.steps.get_mut(file)?.pop_front_if(|(_, asked)| *asked).map(|(place, _)| place)
    }

    /// The next of the calls that wait for a step of the file.
    pub(super) fn next_for(&mut self, file: &FileHandle) -> Option<Place> {
        let next = self.steps.get_mut(file)?.pop_front();
        if next.is_none() {
            self.steps.remove(file);
        }
        next.map(|(place, _)| place)
    }
}

/// How long to wait before a waiter that met a holder of the other domain is tried again.
pub(super) fn pause(refusals: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(refusals)).min(LONGEST_PAUSE)
}

async fn do_step(mirror: &dyn Mirror, file: &FileHandle, step: &MirrorStep) -> MirrorAnswer {
    match step {
        MirrorStep::Take(parts) => match mirror.take(file, parts).await {
            Ok(()) => MirrorAnswer::Done,
            Err(NotTaken::Conflict) => MirrorAnswer::Conflict,
            Err(error @ NotTaken::Failed(_)) => {
                tracing::error!(%file, "{error}; a new lock is refused (DENIED_NOLOCKS), a reclaim goes unanswered");
                MirrorAnswer::Failed
            }
        },
        MirrorStep::GiveUp { parts, nothing_left } => {
            mirror.give_up(file, parts, *nothing_left).await;
            MirrorAnswer::Done
        }
    }
}

pub(super) fn or_failed(answer: Result<MirrorAnswer, JoinError>) -> MirrorAnswer {
    answer.unwrap_or_else(|error| {
        tracing::error!(%error, "a step of a mirror failed");
        MirrorAnswer::Failed
    })
}
