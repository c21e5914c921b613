//! The owner under a scripted file server: what waits for its word keeps its place, and nobody else
//! waits.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;

use super::*;
use crate::lockd::embed::{Access, Admission, Mirror, NotTaken, Question};
use crate::locks::{Caller, Coverage, Handled, Holder, MirrorStep, Part};

type Answer<T> = oneshot::Sender<T>;

/// Says what the test says.
#[derive(Debug)]
struct Asks(UnboundedSender<(Question, Answer<Admission>)>);

#[async_trait]
impl Access for Asks {
    async fn may_lock(&self, question: &Question) -> Admission {
        let (answer, answered) = oneshot::channel();
        let _ = self.0.send((question.clone(), answer));
        answered.await.expect("an answer: without one the file server panics")
    }
}

/// Does what the test lets it do; `false`: somebody is in the way. Without an answer it fails.
#[derive(Debug)]
struct Steps(UnboundedSender<(MirrorStep, Answer<bool>)>);

impl Steps {
    async fn step(&self, step: MirrorStep) -> Result<(), NotTaken> {
        let (answer, answered) = oneshot::channel();
        let _ = self.0.send((step, answer));
        match answered.await {
            Ok(true) => Ok(()),
            Ok(false) => Err(NotTaken::Conflict),
            Err(_) => Err(NotTaken::Failed(std::io::ErrorKind::Other.into())),
        }
    }
}

#[async_trait]
impl Mirror for Steps {
    async fn take(&self, _file: &FileHandle, parts: &[Part]) -> Result<(), NotTaken> {
        self.step(MirrorStep::Take(parts.to_vec())).await
    }
    async fn give_up(&self, _file: &FileHandle, parts: &[Part], nothing_left: bool) {
        let _ = self.step(MirrorStep::GiveUp { parts: parts.to_vec(), nothing_left }).await;
    }
    async fn holder(&self, _file: &FileHandle, part: Part) -> Option<Holder> {
        let process = Process { svid: Svid(77), oh: OwnerHandle::new(b"").unwrap() };
        Some(Holder { exclusive: true, process, range: part.range })
    }
}

struct Asked {
    world: World,
    questions: UnboundedReceiver<(Question, Answer<Admission>)>,
}

impl Asked {
    fn new() -> Self {
        let (asks, questions) = unbounded_channel();
        let embedding = Embedding { access: Some(Arc::new(Asks(asks))), mirror: None };
        Self { world: World::embedded(Limits::default(), embedding), questions }
    }
    async fn question(&mut self) -> (Question, Answer<Admission>) {
        timeout(PATIENCE, self.questions.recv()).await.expect("a question").unwrap()
    }
    async fn say(&mut self, admission: Admission) {
        self.question().await.1.send(admission).unwrap();
    }
    async fn hold(&mut self, incoming: Incoming) {
        let lock = self.world.send(incoming);
        self.say(Admission::Allowed).await;
        self.world.accept().await;
        assert_eq!(lock.await.unwrap(), Some(Verdict::Granted));
    }
}

fn reclaim_of(mut incoming: Incoming) -> Incoming {
    let Call::Lock { reclaim, .. } = &mut incoming.call else { panic!("a LOCK") };
    *reclaim = true;
    incoming
}

async fn waits<T>(call: &mut JoinHandle<T>) -> bool {
    timeout(A_MOMENT, call).await.is_err()
}

#[tokio::test]
async fn a_lock_is_granted_only_to_whom_the_file_server_lets_have_it() {
    for (admission, verdict) in [(Admission::Stale, Verdict::Stale), (Admission::Denied, Verdict::Denied)] {
        let mut w = Asked::new();
        for call in [incoming(2, "file"), reclaim_of(incoming(2, "file")), test_of(incoming(2, "file"))] {
            let lock = w.world.send(call);
            w.say(admission).await;
            assert_eq!(lock.await.unwrap(), Some(verdict.clone()));
        }
        assert_eq!(w.world.table.status().await.unwrap().clients, 0, "who is refused is not even remembered");
    }
    let mut w = Asked::new();
    let credential = Credential::Unix { machine: "m".into(), uid: 1, gid: 2, groups: vec![3] };
    let lock = w.world.send(Incoming { credential: credential.clone(), ..incoming(2, "file") });
    let (question, answer) = w.question().await;
    assert_eq!((question.credential, question.exclusive, question.reclaim), (credential, true, false));
    answer.send(Admission::Allowed).unwrap();
    w.world.accept().await;
    assert_eq!(lock.await.unwrap(), Some(Verdict::Granted));
}

#[tokio::test]
async fn what_a_client_sends_later_does_not_overtake_a_lock_that_is_asked_about() {
    for later in [unlock_of(incoming(2, "file")), Incoming { call: Call::FreeAll, ..incoming(2, "file") }] {
        let mut w = Asked::new();
        let lock = w.world.send(incoming(2, "file"));
        let (_, answer) = w.question().await;
        let mut later = w.world.send(later);
        assert!(waits(&mut later).await, "it has overtaken the LOCK");
        answer.send(Admission::Allowed).unwrap();
        w.world.accept().await;
        assert_eq!(lock.await.unwrap(), Some(Verdict::Granted));
        assert_eq!(later.await.unwrap(), Some(Verdict::Granted));
        assert_eq!(w.world.table.status().await.unwrap().locks, 0, "a ghost");
    }
}

#[tokio::test]
async fn questions_of_one_client_are_asked_at_once_and_its_calls_go_on_in_order() {
    let mut w = Asked::new();
    w.hold(incoming(2, "other")).await;
    let mut first = w.world.send(incoming(2, "file"));
    let (_, first_answer) = w.question().await;
    let mut second = w.world.send(unlock_of(incoming(2, "file")));
    assert!(waits(&mut second).await);
    let mut third = w.world.send(incoming(2, "file"));
    let (_, third_answer) = w.question().await;
    third_answer.send(Admission::Stale).unwrap();
    assert!(waits(&mut third).await && waits(&mut first).await, "nobody is before the first");
    first_answer.send(Admission::Allowed).unwrap();
    assert_eq!(first.await.unwrap(), Some(Verdict::Granted));
    assert_eq!(second.await.unwrap(), Some(Verdict::Granted));
    assert_eq!(third.await.unwrap(), Some(Verdict::Stale));
    assert_eq!(w.world.table.status().await.unwrap().locks, 1);
}

#[tokio::test]
async fn others_and_a_test_are_not_held_up() {
    let mut w = Asked::new();
    let _lock = w.world.send(incoming(2, "file"));
    let (_, _never) = w.question().await;
    w.hold(incoming(3, "file")).await;
    let test = w.world.send(test_of(incoming(2, "free")));
    w.say(Admission::Allowed).await;
    assert_eq!(test.await.unwrap(), Some(Verdict::Granted));
}

#[tokio::test]
async fn a_reboot_notice_does_not_overtake_a_lock_that_is_asked_about() {
    let mut w = Asked::new();
    let lock = w.world.send(incoming(2, "file"));
    let (_, answer) = w.question().await;
    let table = w.world.table.clone();
    let (source, name) = (incoming(2, "file").address, CallerName::new("host2").unwrap());
    let mut notice = tokio::spawn(async move { table.reboot(source, name, NsmState(5)).await });
    assert!(waits(&mut notice).await, "it has overtaken the LOCK");
    answer.send(Admission::Allowed).unwrap();
    w.world.accept().await;
    assert_eq!(lock.await.unwrap(), Some(Verdict::Granted));
    assert_eq!(notice.await.unwrap(), Some(Reboot::Released(1)));
}

#[tokio::test(start_paused = true)]
async fn a_question_without_an_answer_is_dropped_with_its_call_and_the_next_goes_on() {
    for panics in [false, true] {
        let mut w = Asked::new();
        w.hold(incoming(2, "file")).await;
        let lock = w.world.send(incoming(2, "another"));
        let question = w.question().await;
        let unlock = w.world.send(unlock_of(incoming(2, "file")));
        let kept = (!panics).then_some(question);
        assert_eq!(lock.await.unwrap(), None, "the client sends it again");
        assert_eq!(unlock.await.unwrap(), Some(Verdict::Granted));
        drop(kept);
        let again = w.world.send(incoming(2, "another"));
        w.say(Admission::Allowed).await;
        assert_eq!(again.await.unwrap(), Some(Verdict::Granted));
    }
}

#[tokio::test]
async fn one_question_too_many_is_dropped_with_its_call() {
    let mut w = Asked::new();
    let asked: Vec<_> = (0..1_024).map(|_| w.world.send(test_of(incoming(2, "file")))).collect();
    let mut answers = Vec::new();
    while answers.len() < asked.len() {
        answers.push(w.question().await.1);
    }
    assert_eq!(w.world.table.call(test_of(incoming(2, "file"))).await, None);
    assert_eq!(w.world.table.call(unlock_of(incoming(2, "file"))).await, Some(Verdict::Granted), "it asks nobody");
    for answer in answers {
        answer.send(Admission::Allowed).unwrap();
    }
    for test in asked {
        assert_eq!(test.await.unwrap(), Some(Verdict::Granted));
    }
}

#[tokio::test]
async fn who_may_not_lock_any_more_reclaims_what_is_still_known_as_his_and_nothing_else() {
    let mut w = Asked::new();
    w.hold(incoming(2, "file")).await;
    w.world.begin().await;
    for (file, verdict) in [("file", Verdict::Granted), ("another", Verdict::Denied)] {
        let reclaim = w.world.send(reclaim_of(incoming(2, file)));
        w.say(Admission::Denied).await;
        assert_eq!(reclaim.await.unwrap(), Some(verdict), "{file}");
    }
}

#[tokio::test]
async fn who_may_not_lock_any_more_reclaims_his_lock_also_under_another_spelling() {
    let respelled = |file| {
        let mut reclaim = reclaim_of(incoming(2, file));
        reclaim.name = CallerName::new("renamed.example.org").unwrap();
        if let Call::Lock { wanted, .. } = &mut reclaim.call {
            wanted.process.oh = OwnerHandle::new(b"lockd has restarted").unwrap();
        }
        reclaim
    };
    let mut w = Asked::new();
    w.hold(incoming(2, "file")).await;
    w.world.begin().await;
    for (file, verdict) in [("another", Verdict::Denied), ("file", Verdict::Granted)] {
        let reclaim = w.world.send(respelled(file));
        w.say(Admission::Denied).await;
        if verdict == Verdict::Granted {
            // Its record under the new name.
            assert!(matches!(w.world.accept().await, Change::Monitor(_)));
        }
        assert_eq!(reclaim.await.unwrap(), Some(verdict), "{file}");
    }
}

#[tokio::test]
async fn a_namesake_at_another_address_may_not_reclaim_what_the_known_client_may() {
    let address = |host| std::net::IpAddr::from([127, 0, 0, host]);
    let name = CallerName::new("host2").unwrap();
    for (host, file, expected) in
        [(2, "file", None), (2, "another", Some(Verdict::Denied)), (3, "file", Some(Verdict::Denied))]
    {
        let (persist, mut disk) = Persist::scripted();
        let (asks, _questions) = unbounded_channel();
        let embedding = Embedding { access: Some(Arc::new(Asks(asks))), mirror: None };
        let (mut owner, ..) = state::Owner::new(Setup { embedding, ..setup(persist, Limits::default()) });
        let known = owner.table.add_client(address(2), &name).unwrap();
        let held = incoming(2, "file");
        let caller = Caller { client: known, via: held.via };
        assert_eq!(owner.table.handle(Duration::ZERO, caller, &held.call), Handled::Reply(Verdict::Granted));
        let (answer, mut answered) = oneshot::channel();
        owner.call(reclaim_of(Incoming { name: name.clone(), ..incoming(host, file) }), answer);
        let asked = owner.queue.calls_of(address(host), &name).next().map(|(place, ..)| place.clone()).unwrap();
        owner.asked(&asked, Some(Admission::Denied));
        assert_eq!(answered.try_recv().ok(), expected, "{host} {file}");
        // Not refused: it is recorded first that the client may hold something.
        let recorded = timeout(A_MOMENT, disk.recv()).await.is_ok_and(|change| change.is_some());
        assert_eq!(recorded, expected.is_none());
        assert_eq!(owner.table.totals().clients, 1, "who is refused is not even remembered");
    }
}

struct Mirrored {
    world: World,
    steps: UnboundedReceiver<(MirrorStep, Answer<bool>)>,
}

impl Mirrored {
    fn new() -> Self {
        let (sender, steps) = unbounded_channel();
        let embedding = Embedding { access: None, mirror: Some(Arc::new(Steps(sender))) };
        Self { world: World::embedded(Limits::default(), embedding), steps }
    }
    async fn step(&mut self) -> (MirrorStep, Answer<bool>) {
        timeout(PATIENCE, self.steps.recv()).await.expect("a step").unwrap()
    }
    async fn do_step(&mut self) -> MirrorStep {
        let (step, answer) = self.step().await;
        answer.send(true).unwrap();
        step
    }
    async fn know(&mut self, clients: std::ops::Range<u16>) {
        for n in clients {
            self.hold(client(n, &format!("other{n}"))).await;
        }
    }
    /// Each known client asks for a file of its own.
    fn ask_for_many(&self, clients: std::ops::Range<u16>) -> Vec<JoinHandle<Option<Verdict>>> {
        clients.map(|n| self.world.send(client(n, &format!("file{n}")))).collect()
    }
    async fn many_steps(&mut self) -> Vec<Answer<bool>> {
        let mut hung = Vec::new();
        while hung.len() < 128 {
            let (step, answer) = self.step().await;
            assert_eq!(step, taken());
            hung.push(answer);
        }
        hung
    }
    /// For a client's first lock, which is recorded first.
    async fn hold(&mut self, incoming: Incoming) {
        let lock = self.world.send(incoming);
        self.world.accept().await;
        assert_eq!(self.do_step().await, taken());
        assert_eq!(lock.await.unwrap(), Some(Verdict::Granted));
    }
}

fn client(n: u16, file: &str) -> Incoming {
    let [high, low] = n.to_be_bytes();
    let address = std::net::Ipv4Addr::new(127, 1, high, low).into();
    Incoming { address, name: CallerName::new(&format!("client{n}")).unwrap(), ..incoming(2, file) }
}

fn taken() -> MirrorStep {
    MirrorStep::Take(vec![Part { range: ByteRange::ALL, coverage: Coverage::Exclusive }])
}

fn given_up() -> MirrorStep {
    let parts = vec![Part { range: ByteRange::ALL, coverage: Coverage::Nothing }];
    MirrorStep::GiveUp { parts, nothing_left: true }
}

#[tokio::test]
async fn a_lock_is_granted_when_the_mirror_has_it_and_what_follows_keeps_its_place() {
    let mut w = Mirrored::new();
    w.hold(incoming(2, "other")).await;
    let mut lock = w.world.send(incoming(2, "file"));
    let (step, answer) = w.step().await;
    assert_eq!(step, taken());
    let mut unlock = w.world.send(unlock_of(incoming(2, "file")));
    assert!(waits(&mut lock).await && waits(&mut unlock).await);
    w.hold(incoming(3, "another")).await;
    answer.send(true).unwrap();
    assert_eq!(lock.await.unwrap(), Some(Verdict::Granted));
    assert_eq!(unlock.await.unwrap(), Some(Verdict::Granted), "giving up is waited for by nobody");
    assert_eq!(w.do_step().await, given_up());
}

#[tokio::test]
async fn a_conflict_there_is_a_denial_here() {
    let mut w = Mirrored::new();
    w.hold(incoming(2, "other")).await;
    let lock = w.world.send(incoming(2, "file"));
    w.step().await.1.send(false).unwrap();
    assert_eq!(lock.await.unwrap(), Some(Verdict::Denied));
    assert_eq!(w.do_step().await, given_up(), "it may have been done in part");
    let test = w.world.table.call(test_of(incoming(2, "file"))).await;
    assert!(matches!(test, Some(Verdict::Holder(Holder { process: Process { svid: Svid(77), .. }, .. }))), "{test:?}");
}

#[tokio::test]
async fn a_failure_there_refuses_a_new_lock_and_leaves_a_reclaim_to_be_repeated() {
    let mut w = Mirrored::new();
    w.hold(incoming(2, "other")).await;
    let lock = w.world.send(incoming(2, "file"));
    drop(w.step().await);
    assert_eq!(lock.await.unwrap(), Some(Verdict::NoLocks));
    assert_eq!(w.do_step().await, given_up(), "it may have been done in part");

    w.world.begin().await;
    let reclaim = w.world.send(reclaim_of(incoming(2, "file")));
    let (step, answer) = w.step().await;
    assert_eq!(step, taken());
    let unlock = w.world.send(unlock_of(incoming(2, "other")));
    drop(answer);
    assert_eq!(reclaim.await.unwrap(), None, "refused, the client would forget it");
    assert_eq!(unlock.await.unwrap(), Some(Verdict::Granted), "it was only behind");
    for _ in 0..2 {
        assert_eq!(w.do_step().await, given_up());
    }
    let again = w.world.send(reclaim_of(incoming(2, "file")));
    assert_eq!(w.do_step().await, taken());
    assert_eq!(again.await.unwrap(), Some(Verdict::Granted));
}

#[tokio::test]
async fn calls_that_need_one_file_are_served_one_after_the_other() {
    let mut w = Mirrored::new();
    for host in [2, 3, 4] {
        w.hold(incoming(host, &format!("other{host}"))).await;
    }
    let first = w.world.send(incoming(2, "file"));
    let (_, answer) = w.step().await;
    let second = w.world.send(incoming(3, "file"));
    let mut third = w.world.send(incoming(4, "file"));
    assert!(waits(&mut third).await);
    answer.send(false).unwrap();
    assert_eq!(first.await.unwrap(), Some(Verdict::Denied));
    assert_eq!(w.do_step().await, given_up());
    assert_eq!(w.do_step().await, taken());
    assert_eq!(second.await.unwrap(), Some(Verdict::Granted));
    assert_eq!(third.await.unwrap(), Some(Verdict::Denied), "by the second, here");
}

#[tokio::test(start_paused = true)]
async fn a_step_that_takes_too_long_costs_only_the_calls_that_need_it() {
    let mut w = Mirrored::new();
    w.hold(incoming(2, "held")).await;
    w.hold(incoming(3, "other")).await;
    let lock = w.world.send(incoming(2, "file"));
    let (_, answer) = w.step().await;
    let behind = w.world.send(incoming(3, "file"));
    let unlock = w.world.send(unlock_of(incoming(2, "held")));
    assert_eq!(lock.await.unwrap(), None, "the client sends it again");
    assert_eq!(behind.await.unwrap(), None);
    assert_eq!(unlock.await.unwrap(), Some(Verdict::Granted), "it was only behind");
    assert_eq!(w.do_step().await, given_up());
    assert_eq!(w.world.table.call(incoming(3, "file")).await, None, "at once: it is known to be slow");
    answer.send(true).unwrap();
    assert_eq!(w.do_step().await, given_up(), "nobody waited for it any more");
    let again = w.world.send(incoming(3, "file"));
    assert_eq!(w.do_step().await, taken());
    assert_eq!(again.await.unwrap(), Some(Verdict::Granted));
}

#[tokio::test(start_paused = true)]
async fn steps_that_hang_keep_no_turns_and_beyond_a_number_of_them_no_other_file_is_taken() {
    let mut w = Mirrored::new();
    for host in [2, 3] {
        w.hold(incoming(host, &format!("held{host}"))).await;
    }
    w.know(0..128).await;
    let calls = w.ask_for_many(0..128);
    let mut hung = w.many_steps().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let lock = w.world.send(incoming(2, "file"));
    assert_eq!(w.do_step().await, taken(), "it got the turn of one that hangs");
    assert_eq!(lock.await.unwrap(), Some(Verdict::Granted));
    for call in calls {
        assert_eq!(call.await.unwrap(), None);
    }
    assert_eq!(w.world.table.call(incoming(3, "another")).await, None);
    assert!(w.steps.try_recv().is_err(), "enough files hang");
    hung.pop().unwrap().send(true).unwrap();
    assert_eq!(w.do_step().await, given_up());
    let again = w.world.send(incoming(3, "another"));
    assert_eq!(w.do_step().await, taken());
    assert_eq!(again.await.unwrap(), Some(Verdict::Granted));
}

#[tokio::test(start_paused = true)]
async fn what_is_to_be_taken_and_gets_no_turn_in_time_is_not_begun() {
    let mut w = Mirrored::new();
    w.hold(incoming(2, "held")).await;
    w.know(0..256).await;
    let _calls = w.ask_for_many(0..128);
    let _hung = w.many_steps().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let _more_calls = w.ask_for_many(128..256);
    tokio::time::sleep(Duration::from_millis(10)).await;
    let lock = w.world.send(incoming(2, "file"));
    let _more_hung = w.many_steps().await;
    assert_eq!(lock.await.unwrap(), None, "the client sends it again");
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert!(w.steps.try_recv().is_err(), "nobody wants it any more");
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_met_somebody_there_is_asked_for_again() {
    let mut w = Mirrored::new();
    w.hold(incoming(2, "other")).await;
    let mut blocking = incoming(2, "file");
    let Call::Lock { block, .. } = &mut blocking.call else { panic!("a LOCK") };
    *block = true;
    let lock = w.world.send(blocking);
    w.step().await.1.send(false).unwrap();
    assert_eq!(lock.await.unwrap(), Some(Verdict::Blocked));
    assert_eq!(w.do_step().await, given_up());
    for _ in 0..3 {
        let (step, answer) = w.step().await;
        assert_eq!(step, taken());
        answer.send(false).unwrap();
        assert_eq!(w.do_step().await, given_up());
    }
    assert_eq!(w.do_step().await, taken());
    while w.world.table.status().await.unwrap().locks < 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(w.world.table.status().await.unwrap().waiters, 1, "it has it, and is being told");
}

#[tokio::test]
async fn what_was_pending_is_given_up_after_the_result_is_durable() {
    let mut w = Mirrored::new();
    w.hold(incoming(2, "file")).await;
    let args = BeginArgs { grace_ms: 100, grace_max_ms: 100, ..begin_args(1) };
    let table = w.world.table.clone();
    let run = tokio::spawn(async move { table.begin(args, ConnectionId(1)).await });
    assert!(matches!(w.world.accept().await, Change::Begin(_)));
    assert!(matches!(w.world.accept().await, Change::Marked { .. }));
    run.await.unwrap().unwrap();
    let acked = ClientProgress { client: 0, delivery: Delivery::Acked, ago_ms: 0, suspect: false };
    let args = ProgressArgs { run: RunId([1; 16]), notices_begun: true, clients: List::new(vec![acked]).unwrap() };
    w.world.table.progress(args, ConnectionId(1)).await.unwrap();
    // The deadline settles.
    let (change, done) = w.world.change().await;
    let Change::Ended(full) = change else { panic!("not a result") };
    assert_eq!(full.result.counts.dropped, 1);
    assert!(timeout(A_MOMENT, w.steps.recv()).await.is_err(), "it protects until the one instant");
    done.send(Ok(())).unwrap();
    assert_eq!(w.do_step().await, given_up());
}
