//! The stages of an NLM call, and of a reboot notice. Each stage hands the call on to the next, answers it,
//! or puts it into the queue. When its wait is over the call goes on with the stage that is next: no call
//! comes back to a stage that it has passed.
//!
//! ```text
//! call -> in turn -> identify -> record -> handle -> reply
//! ```

use std::net::IpAddr;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::embedder::{Stepped, or_failed};
use super::incoming::Incoming;
use super::moves::MoveAnswer;
use super::queue::{Entry, OpenCall, OpenNotice, Place, Wait};
use super::records::{NotRecorded, Recorded};
use super::state::{Done, Owner};
use crate::lockd::embed::{Admission, Question};
use crate::lockd::persist::{self, Change, MonitorRecord, Watch, durably};
use crate::locks::{Call, Caller, Cap, ClientId, Full, Handled, MirrorAnswer, Move, OtherDomain, Reboot, Verdict};
use crate::wire::scope::{self, Shown};
use crate::wire::types::{CallerName, FileHandle, NsmState};

impl Owner {
    // --- its turn

    pub(super) fn call(&mut self, incoming: Incoming, answer: oneshot::Sender<Verdict>) {
        let question = self.embedded.question(&incoming);
        let (number, outside) = (self.queue.next_number(), OtherDomain::Unasked);
        let call = OpenCall { incoming, answer, number, admission: None, client: None, outside };
        match question {
            Some(question) => self.ask(call, question),
            None => self.in_turn(Entry::Call(call)),
        }
    }

    pub(super) fn reboot(
        &mut self,
        source: IpAddr,
        name: &CallerName,
        state: NsmState,
        answer: oneshot::Sender<Reboot>,
    ) {
        let number = self.queue.next_number();
        let name = self.table.name_in_calls(source, name);
        self.in_turn(Entry::Notice(OpenNotice { source, name, state, answer, number }));
    }

    fn in_turn(&mut self, entry: Entry) {
        if self.queue.holds_up(&entry) {
            self.queue.put(Wait::Turn, entry);
        } else {
            self.go_on(entry);
        }
    }

    /// From behind the stage at which it waited.
    fn go_on(&mut self, entry: Entry) {
        match entry {
            Entry::Notice(notice) => self.notice(notice),
            Entry::Call(call) => match call.client {
                None => self.identify(call),
                Some(client) if self.table.find(call.incoming.address, &call.incoming.name) != Some(client) => {
                    self.pushed_out(call);
                }
                Some(_) if self.is_denied(&call) => deny(call),
                Some(client) => self.handle(client, call),
            },
        }
    }

    /// The wait at `place` is over: `change` says how the call goes on, `None` drops it unanswered. Then those
    /// behind it have their turn.
    pub(super) fn resume(&mut self, place: &Place, change: impl FnOnce(OpenCall) -> Option<OpenCall>) {
        self.queue.ready(place, change);
        while let Some(entry) = self.queue.next(place) {
            self.go_on(entry);
        }
    }

    /// A run's end is durable, or it goes on.
    pub(super) fn after_commit(&mut self) {
        for place in self.queue.until_commit() {
            self.resume(&place, Some);
        }
    }

    // --- may the caller lock it?

    /// Asks an embedding server, also while earlier calls wait: its answer does not depend on them.
    fn ask(&mut self, call: OpenCall, question: Question) {
        let Some(asking) = self.embedded.ask(question) else { return };
        let Some(place) = self.queue.put(Wait::Answer, Entry::Call(call)) else { return };
        self.work.spawn(async move { Done::Asked { place, admission: asking.await } });
    }

    pub(super) fn asked(&mut self, place: &Place, admission: Option<Admission>) {
        self.resume(place, |call| admission.map(|admission| OpenCall { admission: Some(admission), ..call }));
    }

    /// Whether it may not lock. A reclaim of what the table knows as the caller's needs no permission.
    fn is_denied(&self, call: &OpenCall) -> bool {
        call.admission == Some(Admission::Denied) && !self.knows(call)
    }

    /// Whether it reclaims what the table knows as the caller's.
    fn knows(&self, call: &OpenCall) -> bool {
        call.is_reclaim() && self.table.knows_all_of(call.incoming.address, &call.incoming.call)
    }

    // --- who is it?

    /// Only a call that takes a lock (or takes over what it has under another spelling) makes its caller a client,
    /// and only if it may lock: others must not push a client out of a full table.
    fn identify(&mut self, call: OpenCall) {
        if call.admission == Some(Admission::Stale) {
            return call.answer(Verdict::Stale);
        }
        if self.is_denied(&call) {
            return deny(call);
        }
        let (address, name) = (call.incoming.address, &call.incoming.name);
        if call.incoming.call == Call::FreeAll {
            return match self.table.free_all(address, name) {
                Handled::Reply(verdict) => {
                    let _ = self.apply_effects();
                    call.answer(verdict);
                }
                Handled::More => {
                    let _ = self.apply_effects();
                    self.queue.put_off(Entry::Call(call));
                }
                Handled::Wait | Handled::OtherDomain { .. } | Handled::HasMoved(_) => {
                    self.queue.put(Wait::Commit, Entry::Call(call));
                }
            };
        }
        let client = match self.table.find(address, name) {
            Some(client) => client,
            None if !call.takes_a_lock() && !self.takes_over(&call) => return self.stranger(call),
            // It would be refused, and no other client is to make room for that.
            None if !call.is_reclaim() && self.table.refuses_ordinary() => {
                return call.answer(Verdict::Grace);
            }
            None => {
                let Ok(client) = self.add(&call) else {
                    let file = call.incoming.call.file().cloned().unwrap_or_default();
                    self.refused(Cap::Clients, &format!("{name} at {address}, file {file}"));
                    return call.answer(Verdict::NoLocks);
                };
                client
            }
        };
        self.record(client, OpenCall { client: Some(client), ..call });
    }

    /// Whether its locks under another spelling become those of the client that it calls itself now.
    fn takes_over(&self, call: &OpenCall) -> bool {
        let Incoming { address, name, via, call, .. } = &call.incoming;
        !matches!(call, Call::Test(_)) && self.table.meets_its_own(*address, name, *via, call)
    }

    /// No cap refuses a reclaim of what is known, by any name of its host.
    fn add(&mut self, call: &OpenCall) -> Result<ClientId, Full> {
        let (address, name) = (call.incoming.address, &call.incoming.name);
        let added = self.table.add_client(address, name);
        let _ = self.apply_effects();
        added.or_else(|full| if self.knows(call) { self.table.add_beyond_caps(address, name) } else { Err(full) })
    }

    /// Answers a caller that has nothing here and takes nothing.
    fn stranger(&mut self, call: OpenCall) {
        let Incoming { address, name, via, call: asked, .. } = &call.incoming;
        self.table.given_up_by_stranger(*address, name, *via, asked);
        let is_its_own = self.table.meets_its_own(*address, name, *via, asked);
        let _ = self.apply_effects();
        let wanted = match &call.incoming.call {
            Call::Test(_) if is_its_own => return self.reply(call, Verdict::Granted),
            Call::Test(wanted) => wanted,
            Call::Cancel(_) => return call.answer(Verdict::Denied),
            _ => return call.answer(Verdict::Granted),
        };
        match self.table.test_by_stranger(&wanted.file, wanted.range, wanted.exclusive) {
            Handled::Reply(verdict) => self.reply(call, verdict),
            // No lock is granted here, so nothing has to be mirrored, and none is freed.
            Handled::Wait | Handled::OtherDomain { .. } | Handled::HasMoved(_) | Handled::More => {
                self.queue.put(Wait::Commit, Entry::Call(call));
            }
        }
    }

    /// While the call waited, its client, that had no lock, made room for another one in a full table. Let in
    /// again it would push that one out, and so on.
    fn pushed_out(&mut self, call: OpenCall) {
        if !call.takes_a_lock() {
            self.stranger(call);
        } else if !call.is_reclaim() {
            call.answer(Verdict::NoLocks);
        }
        // A reclaim is unanswered: its client repeats it, and would forget a lock that is refused.
    }

    // --- persist before promising

    fn record(&mut self, client: ClientId, call: OpenCall) {
        let (address, server_address) = (call.incoming.address, call.incoming.via.server_address);
        let durable = self.records.is_durable(client, server_address);
        if !durable {
            self.table.called(client, server_address);
        }
        let promises = call.promises() || (!durable && self.takes_over(&call));
        if !promises || (durable && self.watches.hears_of(address)) {
            self.handle(client, call);
        } else if durable && call.is_reclaim() {
            self.watch_beside(address);
            self.handle(client, call);
        } else {
            self.write_record(client, call);
        }
    }

    fn write_record(&mut self, client: ClientId, call: OpenCall) {
        let Some(view) = self.table.client(client) else { return };
        // The table learns it only when it gets the call; one write is enough.
        let carried = call.carried_state();
        let record = MonitorRecord {
            nsm_state: if carried.is_known() { carried } else { view.nsm_state },
            name: view.name,
            address: view.address,
            server_addresses: view.server_addresses,
        };
        // statd is just told to watch it no longer. Unanswered: the client calls again.
        let Some(mut asked) = self.watches.take_up(&[record.address]) else { return };
        if call.is_reclaim() {
            // It waits for the disk alone: it is granted without a status monitor, which is asked beside.
            asked.clear();
        }
        let Some(place) = self.queue.put(Wait::Record, Entry::Call(call)) else { return };
        self.records.writing(client, &record);
        let submitted = self.persist.submit(Change::Monitor(record.clone()));
        let watching = self.watches.watch(&self.persist, asked.clone());
        self.work.spawn(async move {
            let recorded = async {
                durably(submitted).await?;
                watching.await
            };
            let outcome = recorded.await;
            Done::Recorded { place, client, record, asked, outcome }
        });
    }

    pub(super) fn recorded(
        &mut self,
        place: &Place,
        client: ClientId,
        record: &MonitorRecord,
        asked: &[Watch],
        outcome: Recorded,
    ) {
        let on_disk = !matches!(outcome, Err(NotRecorded::Disk(_)));
        self.records.written(client, record, on_disk);
        if on_disk {
            self.table.set_monitored(client, true);
        }
        match outcome {
            Ok(()) => {
                self.watches.watched(asked);
                if !self.watches.hears_of(place.line.address) {
                    self.watch_beside(place.line.address);
                }
            }
            Err(error) => {
                tracing::error!(
                    client = %record.name, %error,
                    "it cannot be monitored; new locks are refused (DENIED_NOLOCKS), a reclaim that needs it goes unanswered"
                );
                self.refuse_new(place.line.address, &record.name);
                if !on_disk {
                    self.queue.take(place);
                }
            }
        }
        self.resume(place, Some);
    }

    /// Refuses the new locks that cannot be promised to the caller now, also those behind the call that found it out: one
    /// after the other they would find out the same. A reclaim is not refused: its client would forget the lock, and may
    /// have called a server address that is on disk.
    fn refuse_new(&mut self, address: IpAddr, name: &CallerName) {
        let calls = self.queue.calls_of(address, name);
        let refused = calls.filter(|(_, wait, call)| {
            matches!(wait, Wait::Record | Wait::Turn) && call.promises() && !call.is_reclaim()
        });
        let refused: Vec<Place> = refused.map(|(place, ..)| place.clone()).collect();
        for place in refused {
            if let Some(Entry::Call(call)) = self.queue.take(&place) {
                call.answer(Verdict::NoLocks);
            }
        }
    }

    fn watch_beside(&mut self, address: IpAddr) {
        if let Some(watching) = self.watches.watch_beside(&self.persist, address) {
            self.work.spawn(async move {
                watching.await.map_or(Done::Nothing, |(asked, outcome)| Done::Watched { asked, outcome })
            });
        }
    }

    // --- the lock table

    fn handle(&mut self, client: ClientId, call: OpenCall) {
        let caller = Caller { client, via: call.incoming.via };
        match self.table.handle_after(self.clock.now(), caller, &call.incoming.call, call.outside) {
            Handled::Wait => {
                self.queue.put(Wait::Commit, Entry::Call(OpenCall { outside: OtherDomain::Unasked, ..call }));
            }
            Handled::OtherDomain { asked } => {
                self.await_step(call, asked);
                let _ = self.apply_effects();
            }
            Handled::HasMoved(question) => {
                let _ = self.apply_effects();
                self.has_moved(client, call, &question);
            }
            Handled::More => {
                let _ = self.apply_effects();
                self.queue.put_off(Entry::Call(call));
            }
            Handled::Reply(verdict) => {
                let state = call.carried_state();
                if let Some(record) = self.records.state_changed(client, state, self.clock.now()) {
                    self.keep_evidence(record);
                }
                let late = self.apply_effects();
                if late.is_empty() {
                    return self.reply(call, verdict);
                }
                self.work.spawn(async move {
                    for durable in late {
                        if let Err(error) = persist::durable(durable).await {
                            tracing::error!(%error, "a late reclaim is granted but missing in its run's result");
                        }
                    }
                    call.answer(verdict);
                    Done::Nothing
                });
            }
        }
    }

    /// The table's verdict is the answer, unless it is a TEST that has still to ask elsewhere.
    fn reply(&mut self, call: OpenCall, verdict: Verdict) {
        let wanted = match &call.incoming.call {
            Call::Test(wanted) if verdict == Verdict::Granted && self.embedded.has_mirror() => wanted,
            _ => return call.answer(verdict),
        };
        let Some(testing) = self.embedded.test(wanted) else { return };
        self.work.spawn(async move {
            if let Some(verdict) = testing.await {
                call.answer(verdict);
            }
            Done::Nothing
        });
    }

    // --- has its host moved?

    /// The table gets the call again with the answer, in this step where the answer is known.
    fn has_moved(&mut self, client: ClientId, call: OpenCall, question: &Move) {
        if let Some(moved) = self.moves.answer(question) {
            let outside = if moved { OtherDomain::Moved(question.client) } else { OtherDomain::NotMoved };
            return self.handle(client, OpenCall { outside, ..call });
        }
        if !self.moves.is_asked(question) {
            let Some(asking) = self.moves.ask(self.clock.now(), question.clone()) else { return };
            self.work.spawn(async move { Done::Moved(asking.await) });
        }
        if let Some(place) = self.queue.put(Wait::Move, Entry::Call(OpenCall { outside: OtherDomain::Unasked, ..call }))
        {
            self.moves.wait(question, place);
        }
    }

    pub(super) fn moved(&mut self, answer: &MoveAnswer) {
        let (moved, waiting) = self.moves.answered(answer);
        if moved {
            let Move { from, to, names, .. } = &answer.question;
            let name = names.first().map_or("", CallerName::as_str);
            self.table.tell_of_move(&format!("{name} was at {} and is at {} by now", Shown(*from), Shown(*to)));
            let _ = self.apply_effects();
        }
        for place in &waiting {
            self.resume(place, Some);
        }
    }

    /// The run is over: whether a host has moved means nothing any more.
    pub(super) fn end_moves(&mut self) {
        for place in self.moves.end() {
            self.resume(&place, Some);
        }
    }

    // --- the mirror

    /// The table gave back a call that needs more of the mirror.
    fn await_step(&mut self, call: OpenCall, asked: bool) {
        let Call::Lock { wanted, .. } = &call.incoming.call else { return };
        let file = wanted.file.clone();
        if self.embedded.is_slow(&file) {
            tracing::debug!(client = %call.incoming.name, "the file's mirror is slow; a call is dropped unanswered");
        } else if let Some(place) =
            self.queue.put(Wait::Step, Entry::Call(OpenCall { outside: OtherDomain::Unasked, ..call }))
        {
            self.embedded.await_step(file, place, asked);
        }
    }

    pub(super) fn mirrored(&mut self, file: &FileHandle, answer: MirrorAnswer) {
        let asker = self.embedded.ended(file);
        self.table.mirror_answered(file, answer);
        // First, while what it asked for is not given up again.
        if let Some(place) = asker {
            self.resume(&place, |call| after_step(call, answer));
        }
        let _ = self.apply_effects();
        while !self.table.is_mirror_busy(file)
            && let Some(place) = self.embedded.next_for(file)
        {
            self.resume(&place, Some);
            let _ = self.apply_effects();
        }
    }

    /// Calls are not kept for a step that takes long; the step itself cannot be taken back.
    pub(super) fn mirror_slow(&mut self, file: FileHandle, doing: JoinHandle<MirrorAnswer>) {
        for place in self.embedded.slow(&file) {
            self.resume(&place, |_| None);
        }
        self.work.spawn(async move { Done::Stepped { file, stepped: Stepped::Ended(or_failed(doing.await)) } });
        let _ = self.apply_effects();
    }

    // --- reboot notices

    fn notice(&mut self, notice: OpenNotice) {
        let outcome = self.table.reboot_notice(notice.source, &notice.name, notice.state);
        if outcome == Reboot::Wait {
            self.queue.put(Wait::Commit, Entry::Notice(notice));
            return;
        }
        // Nothing of a reboot notice is a late reclaim.
        let _ = self.apply_effects();
        if outcome == Reboot::More {
            return self.queue.put_off(Entry::Notice(notice));
        }
        let _ = notice.answer.send(outcome);
    }

    /// rpc.statd says that a host has rebooted. It says which address it watched, not which name the
    /// notice had.
    pub(super) fn statd_calls(
        &mut self,
        name: &CallerName,
        state: NsmState,
        cookie: [u8; 16],
        answer: oneshot::Sender<Reboot>,
    ) {
        let Some(source) = self.watches.source(name, cookie) else {
            tracing::warn!(%name, %state, "a statd's callback with a cookie that it was not given; nothing is released");
            let _ = answer.send(Reboot::Unknown);
            return;
        };
        self.reboot(source, &CallerName::of_words(&scope::bare(source).to_string()), state, answer);
    }
}

/// What the call that asked for a step takes from its end; `None` drops it unanswered.
fn after_step(call: OpenCall, answer: MirrorAnswer) -> Option<OpenCall> {
    let outside = match answer {
        MirrorAnswer::Done => OtherDomain::Unasked,
        MirrorAnswer::Conflict => OtherDomain::Conflict,
        // A client that is refused a reclaim forgets the lock, and no holder is in its way.
        MirrorAnswer::Failed if call.is_reclaim() => return None,
        MirrorAnswer::Failed => OtherDomain::Failed,
        MirrorAnswer::NotBegun => return None,
    };
    Some(OpenCall { outside, ..call })
}

fn deny(call: OpenCall) {
    tracing::info!(client = %call.incoming.name, "the file server does not let it lock that file");
    call.answer(Verdict::Denied);
}
