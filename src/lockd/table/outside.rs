//! What an embedding file server is asked, beside the table: who may lock, and its mirror's steps.
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
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::calls::{OpenCall, Parked, is_reclaim};
use super::lines::{Place, Standing};
use super::owner::{Done, Owner};
use crate::lockd::embed::{Admission, Embedding, Mirror, NotTaken, Question};
use crate::locks::{Call, Caller, Coverage, MirrorAnswer, MirrorStep, Outside, Part, Verdict, Wanted};
use crate::wire::types::FileHandle;

/// With a question, and with calls that wait for a step.
const PATIENCE: Duration = Duration::from_secs(5);
/// Questions under way.
const QUESTIONS_MAX: usize = 1_024;
/// Steps of the mirror under way.
const STEPS_AT_ONCE: usize = 128;
/// Files with a slow step, from which on nothing is taken of further ones: each may keep a thread.
const SLOW_MAX: usize = 128;
/// Between two attempts for a waiter that met somebody of the other domain: doubles up to the maximum.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What is under way at the embedding server.
#[derive(Debug)]
pub(super) struct Embedded {
    embedding: Embedding,
    questions: Arc<Semaphore>,
    turns: Arc<Semaphore>,
    /// By file: the call whose step is under way, and the calls behind it, in order.
    steps: HashMap<FileHandle, Waiting>,
    /// Files whose step has taken too long.
    slow: HashSet<FileHandle>,
}

#[derive(Debug, Default)]
struct Waiting {
    asker: Option<(Place, u64)>,
    others: VecDeque<(Place, u64)>,
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

    /// What to ask about a call before the table gets it.
    pub(super) fn question(&self, call: &OpenCall) -> Option<Question> {
        if self.embedding.access.is_none() || call.admission.is_some() {
            return None;
        }
        let (file, exclusive, reclaim) = match &call.incoming.call {
            Call::Test(wanted) => (&wanted.file, wanted.exclusive, false),
            Call::Lock { wanted, reclaim, .. } => (&wanted.file, wanted.exclusive, *reclaim),
            Call::Share { file, access, reclaim, .. } => (file, access & 2 != 0, *reclaim),
            // They take nothing, and must always work.
            Call::Cancel(_) | Call::Unlock(_) | Call::Unshare { .. } | Call::FreeAll => return None,
        };
        Some(Question {
            file: file.clone(),
            address: call.incoming.address,
            name: call.incoming.name.clone(),
            credential: call.incoming.credential.clone(),
            exclusive,
            reclaim,
        })
    }
}

/// The call of a question that is answered.
#[derive(Debug)]
pub(super) enum Asked {
    /// It stands in its line.
    InLine(Place, u64),
    /// TEST keeps no order.
    Test(OpenCall),
}

impl Owner {
    /// Asks whether the caller may lock; the call waits in its line.
    pub(super) fn ask(&mut self, call: OpenCall, question: Question) {
        let Some(access) = self.embedded.embedding.access.clone() else { return };
        let Ok(permit) = self.embedded.questions.clone().try_acquire_owned() else {
            tracing::warn!(client = %question.name, "too many questions to the file server; a call is dropped unanswered");
            return;
        };
        let asked = if matches!(call.incoming.call, Call::Test(_)) {
            Asked::Test(call)
        } else {
            let (place, number) = (call.place(), call.number);
            if !self.stand(Standing::Asking(call)) {
                return;
            }
            Asked::InLine(place, number)
        };
        self.work.spawn(async move {
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
            Done::Asked { asked, admission }
        });
    }

    pub(super) fn asked(&mut self, asked: Asked, admission: Option<Admission>) {
        let answered = |call: OpenCall| admission.map(|admission| OpenCall { admission: Some(admission), ..call });
        match asked {
            Asked::Test(call) => self.again.extend(answered(call).map(Parked::Call)),
            Asked::InLine(place, number) => {
                if admission.is_none() {
                    self.parked = self.parked.saturating_sub(1);
                }
                self.lines.ready(&place, number, answered);
                self.move_up(&place);
            }
        }
        self.drain_again();
    }

    /// The verdict that the embedding server's answer makes by itself.
    pub(super) fn refused_by_server(&self, call: &OpenCall) -> Option<Verdict> {
        match call.admission? {
            Admission::Allowed => None,
            Admission::Stale => Some(Verdict::Stale),
            Admission::Denied if self.may_be_known_reclaim(call) => None,
            Admission::Denied => {
                tracing::info!(client = %call.incoming.name, "the file server does not let it lock that file");
                Some(Verdict::Denied)
            }
        }
    }

    /// A reclaim of what the table knows as the caller's; or of a caller who may turn out to be a client
    /// that is known from another address.
    fn may_be_known_reclaim(&self, call: &OpenCall) -> bool {
        let (address, name) = (call.incoming.address, &call.incoming.name);
        let Some(client) = self.table.find(address, name) else {
            return is_reclaim(&call.incoming.call) && !self.table.namesakes(name).is_empty();
        };
        let caller = Caller { client, via: call.incoming.via };
        match &call.incoming.call {
            Call::Lock { wanted, reclaim: true, .. } => self.table.knows_range(caller, wanted),
            Call::Share { file, oh, reclaim: true, .. } => self.table.knows_share(caller, file, oh),
            _ => false,
        }
    }

    /// Puts a call into its line. False: too many wait, it is dropped unanswered.
    pub(super) fn stand(&mut self, standing: Standing) -> bool {
        let (place, number) = match &standing {
            Standing::Asking(call) | Standing::Mirror(call) | Standing::Ready(Parked::Call(call)) => {
                (call.place(), call.number)
            }
            Standing::Ready(Parked::Reboot(notice)) => ((notice.source, notice.name.clone()), notice.number),
        };
        if !self.has_room(&place.1) {
            return false;
        }
        self.parked += 1;
        self.lines.stand(place, number, standing);
        true
    }

    /// Lets those go on who are first in their line and wait for nothing more.
    pub(super) fn move_up(&mut self, place: &Place) {
        while let Some(next) = self.lines.next(place) {
            self.parked = self.parked.saturating_sub(1);
            // Before anything else: whatever is behind it in the line must not overtake it.
            self.again.push_front(next);
            self.drain_again();
        }
    }

    // --- the mirror

    /// The table gave back a call that needs more of the mirror.
    pub(super) fn await_step(&mut self, call: OpenCall, asked: bool) {
        let Call::Lock { wanted, .. } = &call.incoming.call else { return };
        let (file, place, number) = (wanted.file.clone(), call.place(), call.number);
        if self.embedded.slow.contains(&file) {
            tracing::debug!(client = %call.incoming.name, "the file's mirror is slow; a call is dropped unanswered");
            return;
        }
        let call = OpenCall { outside: Outside::Unasked, ..call };
        if self.stand(Standing::Mirror(call)) {
            let waiting = self.embedded.steps.entry(file).or_default();
            if asked {
                waiting.asker = Some((place, number));
            } else {
                waiting.others.push_back((place, number));
            }
        }
    }

    /// Has the mirror do a step.
    pub(super) fn mirror(&mut self, file: FileHandle, step: MirrorStep) {
        let Some(mirror) = self.embedded.embedding.mirror.clone() else { return };
        let takes = matches!(step, MirrorStep::Take(_));
        if takes && self.embedded.slow.len() >= SLOW_MAX {
            tracing::warn!(%file, "too many files' mirrors are slow; a lock is not taken there");
            self.work.spawn(async { Done::Mirrored { file, answer: MirrorAnswer::NotBegun } });
            return;
        }
        let (turns, of) = (self.embedded.turns.clone(), file.clone());
        let doing = tokio::spawn(async move {
            // What is given up has to be done some time; calls for what is taken are dropped by then.
            let turn = if takes {
                let Ok(turn) = tokio::time::timeout(PATIENCE, turns.acquire_owned()).await else {
                    return MirrorAnswer::NotBegun;
                };
                turn
            } else {
                turns.acquire_owned().await
            };
            let mut doing = std::pin::pin!(do_step(&*mirror, &of, &step));
            if let Ok(answer) = tokio::time::timeout(PATIENCE, &mut doing).await {
                return answer;
            }
            // Others must not lack its turn for as long as it hangs.
            drop(turn);
            doing.await
        });
        self.work.spawn(async move {
            let mut doing = doing;
            match tokio::time::timeout(PATIENCE, &mut doing).await {
                Ok(answer) => Done::Mirrored { file, answer: or_failed(answer) },
                Err(_) => Done::MirrorSlow { file, doing },
            }
        });
    }

    pub(super) fn mirror_slow(&mut self, file: FileHandle, doing: JoinHandle<MirrorAnswer>) {
        tracing::warn!(%file, "a step of the file's mirror takes long; calls that need it go unanswered");
        self.embedded.slow.insert(file.clone());
        let waiting = self.embedded.steps.remove(&file).unwrap_or_default();
        for (place, number) in waiting.asker.into_iter().chain(waiting.others) {
            if self.lines.ready(&place, number, |_| None) {
                self.parked = self.parked.saturating_sub(1);
            }
            self.move_up(&place);
        }
        self.work.spawn(async move { Done::Mirrored { file, answer: or_failed(doing.await) } });
        let _ = self.apply_effects();
        self.drain_again();
    }

    pub(super) fn mirrored(&mut self, file: &FileHandle, answer: MirrorAnswer) {
        self.embedded.slow.remove(file);
        self.table.mirror_answered(file, answer);
        let outside = match answer {
            MirrorAnswer::Done | MirrorAnswer::NotBegun => Outside::Unasked,
            MirrorAnswer::Conflict => Outside::Conflict,
            MirrorAnswer::Failed => Outside::Failed,
        };
        // First, while what it asked for is not given up again.
        let asker = self.embedded.steps.get_mut(file).and_then(|waiting| waiting.asker.take());
        if let Some((place, number)) = asker {
            // A client that is refused a reclaim forgets the lock, and nobody is in its way.
            let unanswered = |call: &OpenCall| match answer {
                MirrorAnswer::Done | MirrorAnswer::Conflict => false,
                MirrorAnswer::Failed => is_reclaim(&call.incoming.call),
                MirrorAnswer::NotBegun => true,
            };
            let mut dropped = false;
            self.lines.ready(&place, number, |call| {
                dropped = unanswered(&call);
                (!dropped).then_some(OpenCall { outside, ..call })
            });
            if dropped {
                self.parked = self.parked.saturating_sub(1);
            }
            self.move_up(&place);
        }
        let _ = self.apply_effects();
        while !self.table.is_mirror_busy(file)
            && let Some((place, number)) = self.embedded.steps.get_mut(file).and_then(|w| w.others.pop_front())
        {
            self.lines.ready(&place, number, Some);
            self.move_up(&place);
            let _ = self.apply_effects();
        }
        if self.embedded.steps.get(file).is_some_and(|w| w.asker.is_none() && w.others.is_empty()) {
            self.embedded.steps.remove(file);
        }
        self.drain_again();
    }

    /// A waiter met somebody of the other domain: the table is to try again later.
    pub(super) fn ask_again_later(&mut self, file: FileHandle, refusals: u32) {
        let pause = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(refusals)).min(LONGEST_PAUSE);
        self.work.spawn(async move {
            tokio::time::sleep(pause).await;
            Done::AskAgain(file)
        });
    }

    /// TEST found nobody here: somebody of the other domain may be in the way.
    pub(super) fn test_outside(&mut self, wanted: &Wanted, answer: oneshot::Sender<Verdict>) {
        let Some(mirror) = self.embedded.embedding.mirror.clone() else {
            let _ = answer.send(Verdict::Granted);
            return;
        };
        let Ok(permit) = self.embedded.questions.clone().try_acquire_owned() else { return };
        let (file, part) =
            (wanted.file.clone(), Part { range: wanted.range, coverage: Coverage::of(wanted.exclusive) });
        self.work.spawn(async move {
            if let Ok(holder) = tokio::time::timeout(PATIENCE, mirror.holder(&file, part)).await {
                let _ = answer.send(holder.map_or(Verdict::Granted, Verdict::Holder));
            }
            drop(permit);
            Done::Nothing
        });
    }
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

fn or_failed(answer: Result<MirrorAnswer, tokio::task::JoinError>) -> MirrorAnswer {
    answer.unwrap_or_else(|error| {
        tracing::error!(%error, "a step of a mirror failed");
        MirrorAnswer::Failed
    })
}
