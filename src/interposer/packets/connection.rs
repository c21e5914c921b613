//! A TCP connection between a client and lockd.
//!
//! # Theory
//! On the way in, bytes are decided record by record. A segment passes when all of its bytes are decided; until then
//! it is held. Changed bytes are remembered by their place in the stream until lockd has acknowledged them, so a
//! segment that is sent again, even if cut differently, is changed as it was the first time. On the way out nothing
//! is held: a segment passes after the replies that end in it were reported.
//!
//! What must hold:
//! - No byte passes undecided, except bytes that lockd has already acknowledged: it does not look at those again.
//! - A stream is followed from a record's mark: from its handshake, or, when it was open before, from a segment that begins
//!   with a whole call of NLM. Until then its bytes do not pass.
//! - A segment that cannot be decided is dropped, so the client sends it again. If it comes again from the same
//!   place, it is not waited for forever: the connection is reset, and its client makes another one and repeats its
//!   calls.
//!
//! A reset needs nothing but the packets that come. One segment of the client's goes on as a RST, which ends lockd's end.
//! The next goes on without its bytes: to that the kernel, which has no such connection any more, answers with a RST, and
//! that ends the client's end. So it goes on, one by one, until the client has understood.

use std::collections::VecDeque;
use std::time::Duration;

use super::call::{Malformed, Message, Path, read};
use super::inspector::Inspector;
use super::ip::{Layout, put};
use super::records::{self, Next, Record};
use super::reply::{self, Calls};
use super::stream::{Fit, Stream};
use super::tcp::{Header, Place};
use super::treatment::Edit;

/// Most segments that are held of a connection: a record of lockd's longest in segments of the smallest usual size, and as
/// many that came early.
const MAX_HELD: usize = 32;
/// How long a segment is held. Its sender has repeated it several times by then.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// After this many segments in vain from one place, the connection is reset.
const MAX_STRIKES: u32 = 3;
/// Most bytes of a connection that were written anew and are not acknowledged: a window full of LOCKs has fewer.
const MAX_EDITS: usize = 4096;
/// So many segments of lockd's that are ahead of what was seen are dropped in a row; then they are not waited for.
const MAX_GAPS: u32 = 16;

/// A segment in the queue.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) id: u32,
    pub(super) bytes: Vec<u8>,
    pub(super) layout: Layout,
    pub(super) header: Header,
}

impl Segment {
    fn payload(&self) -> &[u8] {
        self.bytes.get(self.header.payload.clone()).unwrap_or_default()
    }
}

#[derive(Debug)]
struct Held {
    segment: Segment,
    since: Duration,
}

/// The way in, since it is followed.
#[derive(Debug)]
struct Incoming {
    stream: Stream,
    /// Bytes written anew that are not acknowledged, in their order.
    edits: VecDeque<(Place, u8)>,
}

impl Incoming {
    fn at(start: Place) -> Self {
        Self { stream: Stream::at(start), edits: VecDeque::new() }
    }

    fn write_anew(&mut self, record: &Record, edits: &[Edit]) {
        let base = self.stream.base();
        for (offset, word) in edits {
            for (offset, new) in (*offset..).zip(word) {
                let is_other = record.message.get(offset).is_some_and(|old| old != new);
                if let Some(place) = record.place(offset).filter(|_| is_other) {
                    self.edits.push_back((base.plus(place), *new));
                }
            }
        }
    }

    /// Whether something of a segment is written anew; then it is in it.
    fn apply(&self, segment: &mut Segment) -> bool {
        let (start, end) = (segment.header.place, segment.header.end());
        let within = |place: &Place| place.after(start) >= 0 && place.after(end) < 0;
        let mut changed = false;
        for (place, new) in self.edits.iter().filter(|(place, _)| within(place)) {
            put(&mut segment.bytes, segment.header.payload.start + place.from(start), &[*new]);
            changed = true;
        }
        if changed {
            segment.layout.set_checksum(&mut segment.bytes);
        }
        changed
    }
}

#[derive(Debug)]
pub(super) struct Connection {
    path: Path,
    calls: Calls,
    incoming: Option<Incoming>,
    outgoing: Option<Stream>,
    /// What lockd's end expects next.
    acknowledged: Option<Place>,
    held: Vec<Held>,
    /// The first place from which a segment came in vain, and how often.
    strikes: Option<(Place, u32)>,
    gaps: u32,
    /// How many segments went on as a part of a reset.
    resets: u32,
    /// nlmctl's own calls come by it.
    pub(super) own: bool,
    blind: bool,
}

impl Connection {
    pub(super) fn new(path: Path) -> Self {
        Self {
            path,
            calls: Calls::default(),
            incoming: None,
            outgoing: None,
            acknowledged: None,
            held: Vec::new(),
            strikes: None,
            gaps: 0,
            resets: 0,
            own: false,
            blind: false,
        }
    }

    /// A segment of the client's.
    pub(super) fn way_in(&mut self, inspector: &mut Inspector, mut segment: Segment) {
        let (place, end) = (segment.header.place, segment.header.end());
        if segment.header.payload.is_empty() {
            return inspector.pass(segment.id);
        }
        if segment.header.syn {
            // It would be data before the handshake, which lockd does not take.
            return inspector.drop(segment.id);
        }
        if self.resets > 0 {
            return self.reset(inspector, &segment);
        }
        let is_known = self.acknowledged.is_some_and(|acknowledged| end.after(acknowledged) <= 0);
        if self.incoming.is_none() && !is_known && begins_with_call(segment.payload(), &self.path) {
            self.incoming = Some(Incoming::at(place));
        }
        let fit = self.incoming.as_ref().map(|incoming| incoming.stream.fit(place, end));
        match fit {
            _ if is_known => self.pass(inspector, &mut segment),
            Some(Fit::Old) => self.pass(inspector, &mut segment),
            Some(Fit::Ahead) if self.make_room(inspector, &segment, false) => self.hold(inspector, segment),
            Some(Fit::New(_)) if self.make_room(inspector, &segment, true) => {
                self.hold(inspector, segment);
                self.settle(inspector);
            }
            Some(Fit::Waits) => self.pass_beginning(inspector, &mut segment),
            Some(Fit::Ahead) => inspector.drop(segment.id),
            None | Some(Fit::Before | Fit::New(_)) => self.strike(inspector, &segment),
        }
    }

    /// A segment of lockd's.
    pub(super) fn way_out(&mut self, inspector: &mut Inspector, segment: &Segment) {
        let (place, end) = (segment.header.place, segment.header.end());
        if let Some(acknowledged) = segment.header.acknowledged {
            if segment.header.syn {
                self.begin(inspector, acknowledged, place.plus(1));
            }
            self.acknowledge(acknowledged);
        }
        let payload = segment.payload();
        if payload.is_empty() {
            return inspector.pass(segment.id);
        }
        if self.outgoing.is_none() && begins_with_reply(payload) {
            self.outgoing = Some(Stream::at(place));
        }
        match self.outgoing.as_mut().map(|stream| (stream.fit(place, end), stream)) {
            Some((Fit::Old | Fit::Waits | Fit::Before, _)) => {}
            Some((Fit::New(seen), stream)) => {
                self.gaps = 0;
                stream.take(payload.get(seen..).unwrap_or_default());
                self.hear(inspector);
            }
            Some((Fit::Ahead, _)) if self.gaps < MAX_GAPS => {
                self.gaps += 1;
                return inspector.drop(segment.id);
            }
            Some((Fit::Ahead, _)) => self.lose_outgoing(inspector),
            None => self.tell_blind(inspector, "replies of a connection that was open before"),
        }
        inspector.pass(segment.id);
    }

    /// What was held too long is dropped.
    pub(super) fn tick(&mut self, inspector: &mut Inspector) {
        let is_late = |held: &Held| held.since + PATIENCE <= inspector.now;
        if !self.held.iter().any(is_late) {
            return;
        }
        if let Some(incoming) = &mut self.incoming {
            incoming.stream.forget_from(incoming.stream.base());
        }
        let first =
            self.held.iter().map(|held| held.segment.header.place).reduce(|a, b| if b.after(a) < 0 { b } else { a });
        let first = self.held.iter().position(|held| Some(held.segment.header.place) == first);
        if let Some(first) = first {
            let Held { segment, .. } = self.held.remove(first);
            inspector.let_go(segment.bytes.len());
            self.let_all_go(inspector);
            self.strike(inspector, &segment);
        }
    }

    /// It is forgotten.
    pub(super) fn end(&mut self, inspector: &mut Inspector) {
        self.let_all_go(inspector);
        inspector.forget(&self.calls);
    }

    /// What is held comes again, or passes if the filter is off.
    fn let_all_go(&mut self, inspector: &mut Inspector) {
        for Held { segment, .. } in std::mem::take(&mut self.held) {
            inspector.let_go(segment.bytes.len());
            if inspector.is_off() { inspector.pass(segment.id) } else { inspector.drop(segment.id) }
        }
    }

    /// The numbers of the packets that are held; it lets go of them.
    pub(super) fn into_held(self) -> impl Iterator<Item = u32> {
        self.held.into_iter().map(|held| held.segment.id)
    }

    /// lockd's end has taken the connection.
    fn begin(&mut self, inspector: &mut Inspector, incoming: Place, outgoing: Place) {
        let starts = (self.incoming.as_ref().map(|way| way.stream.start()), self.outgoing.as_ref().map(Stream::start));
        if starts != (Some(incoming), Some(outgoing)) {
            self.end(inspector);
            *self = Self::new(self.path);
            self.incoming = Some(Incoming::at(incoming));
            self.outgoing = Some(Stream::at(outgoing));
        }
    }

    fn acknowledge(&mut self, place: Place) {
        if self.acknowledged.is_none_or(|before| place.after(before) > 0) {
            self.acknowledged = Some(place);
        }
        let Some(incoming) = &mut self.incoming else { return };
        while incoming.edits.front().is_some_and(|(edit, _)| edit.after(place) < 0) {
            incoming.edits.pop_front();
        }
    }

    /// Whether a segment may be held; for one that comes next another one that came early makes room.
    fn make_room(&mut self, inspector: &mut Inspector, segment: &Segment, is_next: bool) -> bool {
        let Some(incoming) = &self.incoming else { return false };
        let end = incoming.stream.end();
        let edits = incoming.edits.len();
        let early = self.held.iter().rposition(|held| held.segment.header.place.after(end) > 0);
        if let Some(early) = early.filter(|_| is_next && self.held.len() >= MAX_HELD) {
            let Held { segment, .. } = self.held.remove(early);
            inspector.let_go(segment.bytes.len());
            inspector.drop(segment.id);
        }
        self.held.len() < MAX_HELD && edits < MAX_EDITS && inspector.has_room(segment.bytes.len())
    }

    fn hold(&mut self, inspector: &mut Inspector, segment: Segment) {
        inspector.hold(segment.bytes.len());
        self.held.push(Held { segment, since: inspector.now });
    }

    /// Decides what can be decided, and passes what is decided.
    fn settle(&mut self, inspector: &mut Inspector) {
        while let Some((index, seen)) = self.next_held() {
            let Some(incoming) = &mut self.incoming else { return };
            let end = incoming.stream.end();
            let Some(held) = self.held.get(index) else { return };
            incoming.stream.take(held.segment.payload().get(seen..).unwrap_or_default());
            if let Err(Malformed) = self.decide(inspector) {
                if let Some(incoming) = &mut self.incoming {
                    incoming.stream.forget_from(end);
                }
                let Held { segment, .. } = self.held.remove(index);
                inspector.let_go(segment.bytes.len());
                self.pass_decided(inspector);
                return self.strike(inspector, &segment);
            }
        }
        self.pass_decided(inspector);
    }

    /// The held segment with the bytes that come next, and how many of it were seen.
    fn next_held(&self) -> Option<(usize, usize)> {
        let incoming = self.incoming.as_ref()?;
        self.held.iter().enumerate().find_map(|(index, held)| {
            let header = &held.segment.header;
            match incoming.stream.fit(header.place, header.end()) {
                Fit::New(seen) => Some((index, seen)),
                Fit::Before | Fit::Old | Fit::Waits | Fit::Ahead => None,
            }
        })
    }

    fn pass_decided(&mut self, inspector: &mut Inspector) {
        let Some(base) = self.incoming.as_ref().map(|incoming| incoming.stream.base()) else { return };
        let is_decided = |held: &mut Held| held.segment.header.end().after(base) <= 0;
        let decided: Vec<_> = self.held.extract_if(.., is_decided).collect();
        for Held { mut segment, .. } in decided {
            inspector.let_go(segment.bytes.len());
            self.pass(inspector, &mut segment);
        }
    }

    /// Reads the records that are whole.
    fn decide(&mut self, inspector: &mut Inspector) -> Result<(), Malformed> {
        let Some(incoming) = &mut self.incoming else { return Ok(()) };
        loop {
            match incoming.stream.next() {
                Next::Part => return Ok(()),
                Next::None => return Err(Malformed),
                Next::Whole(record, len) => {
                    let judged = inspector.call(&self.path, &mut self.calls, &record.message)?;
                    incoming.write_anew(&record, &judged.edits);
                    incoming.stream.decided(len);
                    self.own |= judged.own;
                    self.strikes = None;
                }
            }
        }
    }

    /// All of the segment is decided.
    fn pass(&mut self, inspector: &mut Inspector, segment: &mut Segment) {
        let changed = self.incoming.as_ref().is_some_and(|incoming| incoming.apply(segment));
        if changed {
            inspector.change(segment.id, std::mem::take(&mut segment.bytes));
        } else {
            inspector.pass(segment.id);
        }
    }

    /// What is held comes again: its sender waits for an acknowledgement, and may send no more before it has one. So
    /// what is decided of it goes on by itself.
    fn pass_beginning(&mut self, inspector: &mut Inspector, segment: &mut Segment) {
        let Some(incoming) = &self.incoming else { return inspector.drop(segment.id) };
        let decided = incoming.stream.base().from(segment.header.place);
        if decided == 0 {
            return inspector.drop(segment.id);
        }
        incoming.apply(segment);
        inspector.change(segment.id, segment.header.cut(segment.layout, &segment.bytes, decided));
    }

    /// A segment that cannot be decided is dropped; if it comes again and again the connection is reset.
    fn strike(&mut self, inspector: &mut Inspector, segment: &Segment) {
        if inspector.is_off() {
            self.incoming = None;
            self.let_all_go(inspector);
            self.tell_blind(inspector, "calls of a connection that could not be followed");
            return inspector.pass(segment.id);
        }
        // Where it is stuck: what is before that was decided.
        let base = self.incoming.as_ref().map(|incoming| incoming.stream.base());
        let place = base.filter(|base| base.after(segment.header.place) > 0).unwrap_or(segment.header.place);
        let is_open = |first: &Place| self.acknowledged.is_none_or(|acknowledged| first.after(acknowledged) >= 0);
        self.strikes = match self.strikes.filter(|(first, _)| is_open(first)) {
            Some((first, count)) if place.after(first) > 0 => Some((first, count)),
            Some((first, count)) if place == first => Some((first, count + 1)),
            Some(_) | None => Some((place, 1)),
        };
        if self.strikes.is_some_and(|(_, count)| count >= MAX_STRIKES) {
            inspector.blind(self.path.client, "a connection that could not be followed was reset");
            self.let_all_go(inspector);
            self.reset(inspector, segment);
        } else {
            inspector.drop(segment.id);
        }
    }

    fn reset(&mut self, inspector: &mut Inspector, segment: &Segment) {
        self.resets += 1;
        let Segment { header, layout, bytes, .. } = segment;
        let expected = self.acknowledged.filter(|place| place.after(header.place) > 0).unwrap_or(header.place);
        let made =
            if self.resets % 2 == 1 { header.reset(*layout, bytes, expected) } else { header.cut(*layout, bytes, 0) };
        inspector.change(segment.id, made);
    }

    /// Tells the replies that are whole.
    fn hear(&mut self, inspector: &mut Inspector) {
        while let Some(stream) = &mut self.outgoing {
            match stream.next() {
                Next::Part => return,
                Next::None => return self.lose_outgoing(inspector),
                Next::Whole(record, len) => {
                    inspector.reply(self.path.client, &self.calls, &record.message);
                    stream.decided(len);
                }
            }
        }
    }

    fn lose_outgoing(&mut self, inspector: &mut Inspector) {
        self.outgoing = None;
        self.gaps = 0;
        inspector.blind(self.path.client, "replies that could not be followed");
    }

    /// Says once what goes on for long.
    fn tell_blind(&mut self, inspector: &mut Inspector, why: &str) {
        if !std::mem::replace(&mut self.blind, true) {
            inspector.blind(self.path.client, why);
        }
    }
}

/// Whether a segment of a stream that was not followed begins with a whole call for NLM.
fn begins_with_call(payload: &[u8], path: &Path) -> bool {
    let Next::Whole(record, _) = records::next(payload) else { return false };
    match read(&record.message, path) {
        Ok(Message::Told(_)) => true,
        Ok(Message::Untold(untold)) => untold.nlm,
        Ok(Message::NoCall) | Err(Malformed) => false,
    }
}

fn begins_with_reply(payload: &[u8]) -> bool {
    matches!(records::next(payload), Next::Whole(record, _) if reply::xid(&record.message).is_some())
}
