//! Record marking (RFC 5531 section 11): how messages lie in a stream.
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
    let len = u32::try_from(message.len()).unwrap_or(LAST - 1).min(LAST - 1);
    let mut out = Vec::with_capacity(MARK + message.len());
    out.extend_from_slice(&(len | LAST).to_be_bytes());
    out.extend_from_slice(message.get(..len as usize).unwrap_or(message));
    out
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
        self.input.drain(..self.read);
        self.read = 0;
        self.input.extend_from_slice(bytes);
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
