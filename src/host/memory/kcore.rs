//! `/proc/kcore`, the kernel's memory as an ELF core file (elf(5), proc(5)). It is opened to be read, and read at the
//! places asked for.

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Most segments; a machine has one for each stretch of memory, some dozens. A file with more is refused.
const MAX_SEGMENTS: usize = 4096;
/// Length of an ELF header of 64 bits, and of one of its program headers.
const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
const LOAD: u32 = 1;

/// A stretch of memory, and where it is in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Segment {
    address: u64,
    length: u64,
    offset: u64,
}

/// Why something in memory was not read.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// No memory has this address: what led there has changed meanwhile, or was understood wrongly.
    #[error("nothing is at address {0:#x}")]
    Nowhere(u64),
    /// The kernel did not give it.
    #[error("address {0:#x}: {1}")]
    Io(u64, #[source] io::Error),
    /// More was read than anything could need.
    #[error("more than {0} reads")]
    TooMuch(u64),
}

#[derive(Debug)]
pub struct Memory {
    file: File,
    segments: Vec<Segment>,
    reads: Cell<u64>,
    most: u64,
}

fn odd(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl Memory {
    /// Opens it; `most` reads are made through it, and no more.
    pub(super) fn open(path: &Path, most: u64) -> io::Result<Self> {
        let file = File::open(path)?;
        let mut header = [0; HEADER];
        file.read_exact_at(&mut header, 0)?;
        let (at, count) = parse_header(&header).ok_or_else(|| odd("no ELF core file of this machine"))?;
        let mut table = vec![0; count * PROGRAM_HEADER];
        file.read_exact_at(&mut table, at)?;
        let segments = table.chunks_exact(PROGRAM_HEADER).filter_map(parse_segment).collect();
        Ok(Self { file, segments, reads: Cell::new(0), most })
    }

    /// Fills a buffer with what is at an address.
    pub fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), MemoryError> {
        let reads = self.reads.get();
        if reads >= self.most {
            return Err(MemoryError::TooMuch(self.most));
        }
        self.reads.set(reads + 1);
        let length = buffer.len() as u64;
        let within = |segment: &&Segment| {
            let skipped = address.checked_sub(segment.address)?;
            (skipped.checked_add(length)? <= segment.length).then_some(segment.offset.checked_add(skipped)?)
        };
        let place = self.segments.iter().find_map(|segment| within(&segment)).ok_or(MemoryError::Nowhere(address))?;
        self.file.read_exact_at(buffer, place).map_err(|error| MemoryError::Io(address, error))
    }

    /// The bytes at an address; the caller bounds the length.
    pub fn bytes(&self, address: u64, length: usize) -> Result<Vec<u8>, MemoryError> {
        let mut buffer = vec![0; length];
        self.read(address, &mut buffer)?;
        Ok(buffer)
    }

    /// The pointer at an address.
    pub fn pointer(&self, address: u64) -> Result<u64, MemoryError> {
        let mut buffer = [0; 8];
        self.read(address, &mut buffer)?;
        Ok(u64::from_ne_bytes(buffer))
    }
}

/// Where the program headers are, and how many.
fn parse_header(header: &[u8; HEADER]) -> Option<(u64, usize)> {
    let order = if cfg!(target_endian = "big") { 2 } else { 1 };
    // 64 bits, this byte order, version 1.
    if !header.starts_with(&[0x7f, b'E', b'L', b'F', 2, order, 1]) {
        return None;
    }
    let half = |at: usize| Some(usize::from(u16::from_ne_bytes(header.get(at..at + 2)?.try_into().ok()?)));
    let at = u64::from_ne_bytes(header.get(32..40)?.try_into().ok()?);
    let (size, count) = (half(54)?, half(56)?);
    (size == PROGRAM_HEADER && count <= MAX_SEGMENTS).then_some((at, count))
}

fn parse_segment(header: &[u8]) -> Option<Segment> {
    let long = |at: usize| Some(u64::from_ne_bytes(header.get(at..at + 8)?.try_into().ok()?));
    if u32::from_ne_bytes(header.get(..4)?.try_into().ok()?) != LOAD {
        return None;
    }
    Some(Segment { offset: long(8)?, address: long(16)?, length: long(40)? })
}

#[cfg(test)]
mod tests {
    use super::super::fake::core;
    use super::*;

    fn opened(bytes: &[u8], most: u64) -> io::Result<Memory> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        Memory::open(file.path(), most)
    }

    #[test]
    fn memory_is_read_by_its_address_within_one_stretch() {
        let high = 0xffff_8880_0000_0000;
        let memory = opened(&core(&[(high, (0..=255).collect()), (0x1000, vec![7; 16])]), 100).unwrap();
        assert_eq!(memory.bytes(high + 250, 6).unwrap(), [250, 251, 252, 253, 254, 255]);
        assert_eq!(memory.pointer(0x1008).unwrap(), 0x0707_0707_0707_0707);
        for (address, length) in [(high + 251, 6), (0xfff, 2), (0, 8), (u64::MAX, 8), (high - 1, 1)] {
            assert!(matches!(memory.bytes(address, length), Err(MemoryError::Nowhere(_))), "{address:x}");
        }
    }

    #[test]
    fn no_more_is_read_than_was_said() {
        let memory = opened(&core(&[(0x1000, vec![7; 16])]), 3).unwrap();
        (0..3).for_each(|_| assert!(memory.pointer(0x1000).is_ok()));
        assert!(matches!(memory.pointer(0x1000), Err(MemoryError::TooMuch(3))));
    }

    #[test]
    fn a_segment_that_lies_about_its_place_or_length_is_an_error_and_no_panic() {
        let mut bytes = core(&[(0x1000, vec![7; 16])]);
        let length_at = HEADER + 40;
        bytes[length_at..length_at + 8].copy_from_slice(&u64::MAX.to_ne_bytes());
        let memory = opened(&bytes, 10).unwrap();
        assert!(matches!(memory.bytes(0x2000, 4096), Err(MemoryError::Io(..))));
        assert!(memory.bytes(u64::MAX - 4, 8).is_err());
        bytes[HEADER + 8..HEADER + 16].copy_from_slice(&u64::MAX.to_ne_bytes());
        assert!(opened(&bytes, 10).unwrap().pointer(0x1008).is_err());
    }

    #[test]
    fn a_file_of_another_machine_is_refused() {
        let good = core(&[(0x1000, vec![7; 16])]);
        for (at, byte) in [(0, 0), (4, 1), (5, 3 - good[5]), (54, 32), (57, 0xff)] {
            let mut bytes = good.clone();
            bytes[at] = byte;
            assert!(opened(&bytes, 10).is_err(), "byte {at}");
        }
        assert!(opened(&good[..70], 10).is_err() && opened(b"", 10).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_header_is_too_odd(changes in proptest::collection::vec((0_usize..120, proptest::num::u8::ANY), 0..20), address: u64) {
            let mut bytes = core(&[(0x1000, vec![7; 16])]);
            for (at, byte) in changes {
                bytes[at] = byte;
            }
            if let Ok(memory) = opened(&bytes, 10) {
                let _ = (memory.bytes(address, 100), memory.bytes(0x1000, 100));
            }
        }
    }
}
