//! Whatever a network does to a stream of calls: lockd gets the stream with the right words changed, and nothing else.

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::*;
use crate::wire::nlm::{TestArgs, UnlockArgs};
use crate::wire::record::frame;

/// A receiver of TCP: what came first counts, and what it has it does not take again.
#[derive(Debug, Default)]
struct Receiver {
    bytes: Vec<Option<u8>>,
}

impl Receiver {
    fn has(&self) -> usize {
        self.bytes.iter().take_while(|byte| byte.is_some()).count()
    }
    fn receive(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        self.bytes.resize(self.bytes.len().max(end), None);
        for (place, byte) in self.bytes[offset..end].iter_mut().zip(bytes) {
            place.get_or_insert(*byte);
        }
    }
}

/// A call as it is sent, and as lockd is to get it.
#[derive(Debug, Clone)]
struct Pair {
    sent: Vec<u8>,
    wanted: Vec<u8>,
    told: bool,
}

fn pairs() -> impl Strategy<Value = Pair> {
    let version = prop::sample::select(Version::ALL.to_vec());
    let names = (prop::collection::vec(any::<u8>(), 0..64), prop::collection::vec(any::<u8>(), 0..20));
    (0..6_u8, version, any::<(bool, bool, u32)>(), names, prop::option::of(1_usize..60)).prop_map(
        |(kind, version, (block, exclusive, xid), (handle, oh), fragment)| {
            let mut args = LockArgs { block, exclusive, ..args() };
            args.alock.fh = FileHandle::new(&handle).unwrap();
            args.alock.oh = OwnerHandle::new(&oh).unwrap();
            let LockArgs { cookie, alock, .. } = args.clone();
            let lock = |args: &LockArgs| message(xid, version, Procedure::Lock, args);
            let (sent, wanted, told) = match kind {
                0 | 1 => (lock(&args), lock(&LockArgs { reclaim: true, ..args }), true),
                2 | 3 => {
                    let wanted = lock(&LockArgs { block: false, ..args.clone() });
                    (lock(&LockArgs { reclaim: true, ..args }), wanted, true)
                }
                4 => {
                    let sent = message(xid, version, Procedure::Unlock, &UnlockArgs { cookie, alock });
                    (sent.clone(), sent, true)
                }
                _ => {
                    let sent = message(xid, version, Procedure::Test, &TestArgs { cookie, exclusive, alock });
                    (sent.clone(), sent, false)
                }
            };
            Pair { sent: record(&sent, fragment), wanted: record(&wanted, fragment), told }
        },
    )
}

/// A record, in fragments of this size.
fn record(message: &[u8], fragment: Option<usize>) -> Vec<u8> {
    let Some(size) = fragment.filter(|size| message.len() / size < 30) else { return frame(message) };
    let mut pieces: Vec<Vec<u8>> = message.chunks(size).map(frame).collect();
    let last = pieces.len() - 1;
    pieces[..last].iter_mut().for_each(|piece| piece[0] &= 0x7f);
    pieces.concat()
}

/// What the network does next.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// Bytes from somewhere in what was sent come, again or early.
    Any(u16, u8),
    /// What lockd has is acknowledged.
    Acknowledge,
    /// The sender goes on from what was acknowledged, with segments of these sizes.
    GoOn(u8, u8),
    /// Time passes, in tenths of a second.
    Time(u8),
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => any::<(u16, u8)>().prop_map(|(from, len)| Step::Any(from, len)),
        1 => Just(Step::Acknowledge),
        2 => any::<(u8, u8)>().prop_map(|(one, two)| Step::GoOn(one, two)),
        1 => (0_u8..8).prop_map(Step::Time),
    ]
}

/// A client's end, the filter, and lockd's end.
struct World {
    filter: Filter,
    line: ClientConnection,
    sent: Vec<u8>,
    wanted: Vec<u8>,
    receiver: Receiver,
    /// By the number of a packet: its bytes, and its place in the stream.
    packets: Vec<(Vec<u8>, usize)>,
    /// How many verdicts lockd's end has seen.
    seen: usize,
    /// Where the calls end that are told.
    ends: Vec<usize>,
    acknowledged: usize,
}

impl World {
    fn new(pairs: &[Pair], start: u32) -> Self {
        let mut filter = Filter::in_mode(Mode::Strict);
        let line = ClientConnection { start, back: 90_000 };
        line.shake(&mut filter);
        let (mut sent, mut wanted, mut ends) = (Vec::new(), Vec::new(), Vec::new());
        for pair in pairs {
            sent.extend(&pair.sent);
            wanted.extend(&pair.wanted);
            if pair.told {
                ends.push(sent.len());
            }
        }
        let packets = vec![(Vec::new(), 0); 4];
        let seen = filter.verdicts.len();
        Self { filter, line, sent, wanted, receiver: Receiver::default(), packets, seen, ends, acknowledged: 0 }
    }

    fn give(&mut self, from: usize, len: usize) -> Result<(), TestCaseError> {
        let to = (from + len).min(self.sent.len());
        if from < to {
            let packet = self.line.send(from, &self.sent[from..to]);
            self.packets.push((packet.clone(), from));
            self.filter.give(true, 2, packet);
        }
        self.receive()
    }

    /// lockd's end gets what passes.
    fn receive(&mut self) -> Result<(), TestCaseError> {
        let told = self.filter.calls().len();
        for (id, verdict) in &self.filter.verdicts[self.seen..] {
            let Some((sent, offset)) = self.packets.get(*id as usize) else { continue };
            let got = match verdict {
                Verdict::Pass => sent,
                Verdict::Changed(bytes) => bytes,
                Verdict::Drop => continue,
            };
            if sent.is_empty() {
                continue;
            }
            assert_sound(got);
            let header = payload_at(sent);
            prop_assert_eq!(got[33] & 4, 0, "a sound connection is not reset");
            let mut same = [got[20..36].to_vec(), got[38..header].to_vec()].concat();
            same[13] |= sent[33] & 8;
            prop_assert_eq!(same, [sent[20..36].to_vec(), sent[38..header].to_vec()].concat());
            self.receiver.receive(*offset, &got[header..]);
        }
        self.seen = self.filter.verdicts.len();
        let passed = self.ends.iter().filter(|end| **end <= self.receiver.has()).count();
        prop_assert!(passed <= told, "lockd has {} calls, and {} were told", passed, told);
        let has =
            self.receiver.bytes.iter().zip(&self.wanted).filter_map(|(has, wanted)| has.map(|has| (has, *wanted)));
        prop_assert!(has.clone().all(|(has, wanted)| has == wanted), "{:?}", has.collect::<Vec<_>>());
        Ok(())
    }

    fn acknowledge(&mut self) {
        self.acknowledged = self.receiver.has();
        self.packets.push((Vec::new(), 0));
        self.filter.take_out(self.line.answer(self.acknowledged, 0, &[]));
    }

    fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Any(from, len) => {
                // A sender has a window: what is far ahead is not sent.
                let first = self.acknowledged.saturating_sub(300);
                self.give(first + usize::from(from) % 1200, 1 + usize::from(len))?;
            }
            Step::Acknowledge => self.acknowledge(),
            Step::GoOn(one, two) => {
                let (one, two) = (1 + usize::from(one), 1 + usize::from(two));
                self.give(self.acknowledged, one)?;
                self.give(self.acknowledged + one, two)?;
            }
            Step::Time(tenths) => {
                self.filter.pass_time(Duration::from_millis(100 * u64::from(tenths)));
                self.receive()?;
            }
        }
        Ok(())
    }

    /// The network gets well: the sender sends all that is not acknowledged, as often as it takes.
    fn finish(&mut self, size: usize) -> Result<(), TestCaseError> {
        let mut rounds = 0;
        while self.acknowledged < self.sent.len() {
            for from in (self.acknowledged..self.sent.len()).step_by(size).take(10) {
                self.give(from, size)?;
            }
            self.acknowledge();
            rounds += 1;
            prop_assert!(rounds < 1000, "it does not go on at {} of {}", self.acknowledged, self.sent.len());
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn a_stream_of_calls_is_changed_where_it_must_be_however_it_is_cut_repeated_and_reordered(
        pairs in prop::collection::vec(pairs(), 1..12),
        start in prop_oneof![Just(5000), Just(u32::MAX - 300), any::<u32>()],
        steps in prop::collection::vec(steps(), 0..60),
        size in 150_usize..1460,
    ) {
        let mut world = World::new(&pairs, start);
        for step in steps {
            world.step(step)?;
        }
        world.finish(size)?;
        let got: Vec<_> = world.receiver.bytes.iter().map(|byte| byte.unwrap()).collect();
        prop_assert_eq!(got, world.wanted);
        prop_assert_eq!(world.filter.calls().len(), world.ends.len(), "each call is told once");
        prop_assert_eq!(world.filter.blinds(), Vec::<&str>::new());
    }
}
