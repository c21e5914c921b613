//! One direction of a connection: the bytes that are not decided yet.
//!
//! ```text
//!      start ............ base ............ end ............
//!      followed, decided  | pending         | not seen yet
//!                         begins with a record's mark
//! ```

use super::records::{self, Next};
use super::tcp::Place;

/// How far back a stream is remembered to have been followed, in bytes: places wrap at 4 GiB, and no window is that wide.
const REMEMBERED: usize = 1 << 30;

/// A stream that is followed.
#[derive(Debug)]
pub(super) struct Stream {
    /// From here on it was followed.
    start: Place,
    /// A record begins here.
    base: Place,
    pending: Vec<u8>,
}

/// Where a segment lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    /// A part of it is from before the stream was followed.
    Before,
    /// All of it is decided.
    Old,
    /// All of it was seen, and not all is decided.
    Waits,
    /// So many bytes of it were seen, the rest is new.
    New(usize),
    /// Bytes before it are missing.
    Ahead,
}

impl Stream {
    /// A record begins there.
    pub(super) fn at(start: Place) -> Self {
        Self { start, base: start, pending: Vec::new() }
    }
    pub(super) fn start(&self) -> Place {
        self.start
    }
    pub(super) fn base(&self) -> Place {
        self.base
    }
    pub(super) fn end(&self) -> Place {
        self.base.plus(self.pending.len())
    }

    pub(super) fn fit(&self, place: Place, end: Place) -> Fit {
        if place.after(self.start) < 0 {
            Fit::Before
        } else if end.after(self.base) <= 0 {
            Fit::Old
        } else if place.after(self.end()) > 0 {
            Fit::Ahead
        } else if end.after(self.end()) <= 0 {
            Fit::Waits
        } else {
            Fit::New(self.end().from(place))
        }
    }

    /// The bytes that come next.
    pub(super) fn take(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }
    pub(super) fn next(&self) -> Next {
        records::next(&self.pending)
    }
    /// So many of the pending bytes are decided.
    pub(super) fn decided(&mut self, bytes: usize) {
        self.base = self.base.plus(bytes);
        self.pending.drain(..bytes.min(self.pending.len()));
        if self.base.from(self.start) > REMEMBERED {
            self.start = self.start.plus(REMEMBERED / 2);
        }
    }
    /// What is pending behind this place will come again.
    pub(super) fn forget_from(&mut self, place: Place) {
        self.pending.truncate(place.from(self.base));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_placed_against_what_was_seen_and_decided_also_across_the_wrap() {
        let start = Place(u32::MAX - 3);
        let mut stream = Stream::at(start);
        stream.take(&[0; 12]);
        stream.decided(8);
        let fit = |from: usize, to: usize| stream.fit(start.plus(from), start.plus(to));
        assert_eq!((fit(0, 8), fit(2, 5)), (Fit::Old, Fit::Old));
        assert_eq!((fit(0, 9), fit(8, 12)), (Fit::Waits, Fit::Waits));
        assert_eq!((fit(0, 13), fit(10, 13), fit(12, 13)), (Fit::New(12), Fit::New(2), Fit::New(0)));
        assert_eq!(fit(13, 14), Fit::Ahead);
        assert_eq!(stream.fit(Place(start.0 - 1), start.plus(20)), Fit::Before);
    }

    #[test]
    fn a_stream_that_has_gone_round_all_places_is_still_told_from_what_is_older() {
        let mut stream = Stream::at(Place(0));
        for _ in 0..(5_u64 << 30) / (60 << 10) {
            stream.take(&[]);
            stream.decided(60 << 10);
            let base = stream.base();
            assert_eq!(stream.fit(base, base.plus(1)), Fit::New(0));
        }
    }
}
