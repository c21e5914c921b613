//! Record marking (RFC 5531 section 11): messages in a stream.
//!
//! A record is one or more fragments; each has a 4-byte mark, of which the highest bit says "the
//! last one" and the rest is its length.

/// Bytes of a fragment's mark.
pub const MARK: usize = 4;
const LAST: u32 = 1 << 31;
/// Most fragments without a single byte in one record: more are an attack, not a message.
const MAX_EMPTY_FRAGMENTS: u32 = 16;

/// A message as one fragment.
///
/// Messages are far below the 2 GiB that a mark can tell; a longer one would be cut.
pub fn frame(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(MARK + message.len());
    append_framed(&mut out, message);
    out
}

/// Likewise, behind what is there already.
pub fn append_framed(out: &mut Vec<u8>, message: &[u8]) {
    let len = u32::try_from(message.len()).unwrap_or(LAST - 1).min(LAST - 1);
    out.extend_from_slice(&(len | LAST).to_be_bytes());
    out.extend_from_slice(message.get(..len as usize).unwrap_or(message));
}

/// A record that this side will not take. The stream cannot be used any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordTooLong {
    /// More bytes than allowed.
    #[error("a record of more than {0} bytes")]
    Bytes(usize),
    /// Too many fragments without a byte in them.
    #[error("a record of empty fragments")]
    EmptyFragments,
}

/// Puts records together from what a stream happens to deliver.
///
/// It holds at most `max` bytes of an unfinished record, plus what was pushed and not yet asked for.
/// Memory grows with the bytes that really came, not with what a mark announces.
#[derive(Debug)]
pub struct RecordReader {
    max: usize,
    /// Pushed, not yet looked at; everything before `read` is done with.
    input: Vec<u8>,
    read: usize,
    /// The unfinished record.
    record: Vec<u8>,
    /// The fragment being read: bytes still to come, and whether it is the last one.
    fragment: Option<(usize, bool)>,
    empty_fragments: u32,
}

impl RecordReader {
    /// Takes records of up to `max` bytes.
    pub fn new(max: usize) -> Self {
        Self { max, input: Vec::new(), read: 0, record: Vec::new(), fragment: None, empty_fragments: 0 }
    }

    /// Bytes from the stream, in order.
    pub fn push(&mut self, bytes: &[u8]) {
        self.room(bytes.len()).extend_from_slice(bytes);
    }

    /// Where bytes from the stream are appended, in order, with room for so many at least.
    pub fn room(&mut self, len: usize) -> &mut Vec<u8> {
        self.input.drain(..self.read);
        self.read = 0;
        self.input.reserve(len);
        &mut self.input
    }

    /// Whether the stream stands inside a record: an end there is a cut message.
    pub fn is_mid_record(&self) -> bool {
        self.fragment.is_some() || !self.record.is_empty() || self.read < self.input.len()
    }

    /// The next whole record, or `None` until more bytes are pushed. After an error every call
    /// errs again.
    #[expect(clippy::should_implement_trait, reason = "an iterator would not say that `None` may become `Some`")]
    pub fn next(&mut self) -> Result<Option<Vec<u8>>, RecordTooLong> {
        loop {
            let Some((left, last)) = self.fragment else {
                if self.take_mark()? {
                    continue;
                }
                return Ok(None);
            };
            let rest = self.input.get(self.read..).unwrap_or_default();
            let taken = rest.get(..left).unwrap_or(rest);
            self.record.extend_from_slice(taken);
            self.read += taken.len();
            if taken.len() < left {
                self.fragment = Some((left - taken.len(), last));
                return Ok(None);
            }
            self.fragment = None;
            if last {
                self.empty_fragments = 0;
                return Ok(Some(std::mem::take(&mut self.record)));
            }
        }
    }

    /// Reads the next fragment's mark; false until all of it is there.
    fn take_mark(&mut self) -> Result<bool, RecordTooLong> {
        let rest = self.input.get(self.read..).unwrap_or_default();
        let Some(mark) = rest.first_chunk::<MARK>() else { return Ok(false) };
        let mark = u32::from_be_bytes(*mark);
        let (len, last) = ((mark & !LAST) as usize, mark & LAST != 0);
        if len > self.max.saturating_sub(self.record.len()) {
            return Err(RecordTooLong::Bytes(self.max));
        }
        if len == 0 && !last {
            if self.empty_fragments == MAX_EMPTY_FRAGMENTS {
                return Err(RecordTooLong::EmptyFragments);
            }
            self.empty_fragments += 1;
        }
        self.read += MARK;
        self.fragment = Some((len, last));
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read_all(reader: &mut RecordReader) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| reader.next().unwrap()).collect()
    }

    // RFC 5531 section 11: the highest bit is "last fragment", the rest the length.
    #[test]
    fn a_frame_is_one_last_fragment() {
        assert_eq!(frame(b"abc"), [0x80, 0, 0, 3, b'a', b'b', b'c']);
        assert_eq!(frame(b""), [0x80, 0, 0, 0]);
    }

    #[test]
    fn fragments_make_one_record_and_the_next_one_begins_behind_them() {
        let mut reader = RecordReader::new(10);
        reader.push(&[0, 0, 0, 2, b'a', b'b', 0, 0, 0, 0, 0x80, 0, 0, 1, b'c', 0x80, 0, 0, 1, b'd']);
        assert_eq!(read_all(&mut reader), [b"abc".to_vec(), b"d".to_vec()]);
        assert!(!reader.is_mid_record());
    }

    #[test]
    fn a_record_over_the_bound_is_refused_by_its_mark_and_for_good() {
        let mut reader = RecordReader::new(10);
        reader.push(&[0x80, 0, 0, 11]);
        assert_eq!(reader.next(), Err(RecordTooLong::Bytes(10)));
        reader.push(&[0; 100]);
        assert_eq!(reader.next(), Err(RecordTooLong::Bytes(10)));
    }

    #[test]
    fn fragments_together_are_bounded_too() {
        let mut reader = RecordReader::new(10);
        reader.push(&[0, 0, 0, 6, 1, 2, 3, 4, 5, 6, 0x80, 0, 0, 5]);
        assert_eq!(reader.next(), Err(RecordTooLong::Bytes(10)));
    }

    #[test]
    fn endless_empty_fragments_are_refused() {
        let mut reader = RecordReader::new(10);
        reader.push(&[0; 4 * MAX_EMPTY_FRAGMENTS as usize]);
        assert_eq!(reader.next(), Ok(None));
        reader.push(&[0; 4]);
        assert_eq!(reader.next(), Err(RecordTooLong::EmptyFragments));
    }

    #[test]
    fn empty_fragments_are_counted_for_each_record_anew() {
        let mut reader = RecordReader::new(10);
        for _ in 0..3 {
            reader.push(&[0; 4 * (MAX_EMPTY_FRAGMENTS as usize - 1)]);
            reader.push(&[0x80, 0, 0, 1, 9]);
            assert_eq!(read_all(&mut reader), [vec![9]]);
        }
    }

    #[test]
    fn what_a_mark_announces_is_not_allocated() {
        let mut reader = RecordReader::new(1 << 30);
        reader.push(&[0xbf, 0xff, 0xff, 0xff, 1]);
        assert_eq!(reader.next(), Ok(None));
        assert!(reader.record.capacity() < 1024);
        assert!(reader.is_mid_record());
    }

    proptest! {
        #[test]
        fn records_come_out_as_they_went_in_however_they_are_cut(
            records in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..5),
            fragment in 1_usize..20,
            chunk in 1_usize..20,
        ) {
            let mut stream = Vec::new();
            for record in &records {
                let pieces: Vec<&[u8]> = record.chunks(fragment).collect();
                for (n, piece) in pieces.iter().enumerate() {
                    let mut framed = frame(piece);
                    if n + 1 < pieces.len() {
                        framed[0] &= 0x7f;
                    }
                    stream.extend(framed);
                }
                if pieces.is_empty() {
                    stream.extend(frame(&[]));
                }
            }
            let mut reader = RecordReader::new(40);
            let mut got = Vec::new();
            for piece in stream.chunks(chunk) {
                reader.push(piece);
                got.extend(read_all(&mut reader));
            }
            prop_assert_eq!(got, records);
            prop_assert!(!reader.is_mid_record());
        }

        #[test]
        fn hostile_bytes_never_panic_and_never_exceed_the_bound(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..20),
        ) {
            let mut reader = RecordReader::new(64);
            for chunk in chunks {
                reader.push(&chunk);
                while let Ok(Some(record)) = reader.next() {
                    prop_assert!(record.len() <= 64);
                }
                prop_assert!(reader.record.len() <= 64);
            }
        }
    }
}
