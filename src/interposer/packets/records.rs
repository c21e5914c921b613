//! Records in a stream (RFC 5531 section 11), found without copying more than one.

use std::ops::Range;

use crate::wire::record::MARK;

use super::ip::word;

/// Longest record in bytes, marks included. lockd's own bound is two pages, and it closes a connection that goes beyond.
pub(super) const MAX_RECORD: usize = 8 << 10;
/// Most fragments of a record: real ones have one.
const MAX_FRAGMENTS: usize = 32;
const LAST: u32 = 1 << 31;

/// What bytes begin with that begin at a record's mark.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// A record, and where it ends.
    Whole(Record, usize),
    /// The beginning of one.
    Part,
    /// None that lockd would take.
    None,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) message: Vec<u8>,
    /// The parts of the stream that it is made of, in their order.
    pieces: Vec<Range<usize>>,
}

impl Record {
    /// Where a byte of the message is in the stream.
    pub(super) fn place(&self, mut offset: usize) -> Option<usize> {
        for piece in &self.pieces {
            if offset < piece.len() {
                return Some(piece.start + offset);
            }
            offset -= piece.len();
        }
        None
    }
}

pub(super) fn next(bytes: &[u8]) -> Next {
    let (mut record, mut at) = (Record::default(), 0);
    for _ in 0..MAX_FRAGMENTS {
        let Some(mark) = word(bytes, at) else { return Next::Part };
        let start = at + MARK;
        let end = start.saturating_add(usize::try_from(mark & !LAST).unwrap_or(usize::MAX));
        if end > MAX_RECORD {
            return Next::None;
        }
        let Some(piece) = bytes.get(start..end) else { return Next::Part };
        record.message.extend_from_slice(piece);
        record.pieces.push(start..end);
        at = end;
        if mark & LAST != 0 {
            return Next::Whole(record, at);
        }
    }
    Next::None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_fragments_is_found_with_the_place_of_each_byte() {
        let stream = [0, 0, 0, 2, b'a', b'b', 0, 0, 0, 0, 0x80, 0, 0, 1, b'c', 0x80];
        let Next::Whole(record, end) = next(&stream) else { panic!("{:?}", next(&stream)) };
        assert_eq!((record.message.as_slice(), end), (&b"abc"[..], 15));
        let places: Vec<_> = (0..4).map(|offset| record.place(offset)).collect();
        assert_eq!(places, [Some(4), Some(5), Some(14), None]);
        for cut in 0..15 {
            assert_eq!(next(&stream[..cut]), Next::Part, "{cut}");
        }
    }

    #[test]
    fn what_is_too_long_or_has_too_many_fragments_is_none() {
        assert_eq!(next(&[0x80, 0, 0x20, 0]), Next::None);
        assert_eq!(next(&[0, 0, 0x1f, 0xf8]), Next::Part);
        assert_eq!(next(&[0xff; 4]), Next::None);
        assert_eq!(next(&[0; 4 * MAX_FRAGMENTS]), Next::None);
        assert_eq!(next(&[0; 4 * (MAX_FRAGMENTS - 1)]), Next::Part);
    }
}
