//! TCP segments (RFC 9293): the header fields that matter here, and segments made from others.

use std::ops::Range;

use super::ip::{Layout, byte, half, put, word};

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const PSH: u8 = 8;
const ACK: u8 = 16;
const SEQUENCE: usize = 4;
const FLAGS: usize = 13;

/// Where a byte is in a stream. It wraps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Place(pub(super) u32);

impl Place {
    /// How far this is behind the other one; negative before it.
    pub(super) fn after(self, other: Self) -> i64 {
        self.0.wrapping_sub(other.0).cast_signed().into()
    }
    pub(super) fn plus(self, bytes: usize) -> Self {
        // A packet has less than 64 KiB.
        Self(self.0.wrapping_add(u32::try_from(bytes).unwrap_or_default()))
    }
    /// As an offset behind a place that is not after it.
    pub(super) fn from(self, other: Self) -> usize {
        usize::try_from(self.after(other)).unwrap_or_default()
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) source_port: u16,
    pub(super) destination_port: u16,
    /// Where its first byte is; that of a SYN is before the stream.
    pub(super) place: Place,
    /// What its sender expects next.
    pub(super) acknowledged: Option<Place>,
    pub(super) syn: bool,
    pub(super) rst: bool,
    /// Where its bytes are in the packet.
    pub(super) payload: Range<usize>,
}

impl Header {
    /// `None`: malformed.
    pub(super) fn of(layout: &Layout, packet: &[u8]) -> Option<Self> {
        let segment = layout.transport(packet);
        let flags = byte(segment, FLAGS)?;
        let header = usize::from(byte(segment, 12)? >> 4) * 4;
        let start = layout.at + header;
        if header < 20 || start > layout.end {
            return None;
        }
        Some(Self {
            source_port: half(segment, 0)?,
            destination_port: half(segment, 2)?,
            place: Place(word(segment, SEQUENCE)?),
            acknowledged: (flags & ACK != 0).then_some(Place(word(segment, 8)?)),
            syn: flags & SYN != 0,
            rst: flags & RST != 0,
            payload: start..layout.end,
        })
    }

    /// Where the byte behind its last one is.
    pub(super) fn end(&self) -> Place {
        self.place.plus(self.payload.len())
    }

    /// The segment with only its first bytes.
    pub(super) fn cut(&self, mut layout: Layout, packet: &[u8], bytes: usize) -> Vec<u8> {
        let mut made = packet.to_vec();
        layout.cut(&mut made, self.payload.start + bytes);
        set_flags(&layout, &mut made, |flags| flags & !(FIN | PSH));
        layout.set_checksum(&mut made);
        made
    }

    /// A segment without bytes, which ends the connection at the receiver if it expects `place` next (RFC 5961).
    pub(super) fn reset(&self, mut layout: Layout, packet: &[u8], place: Place) -> Vec<u8> {
        let mut made = packet.to_vec();
        layout.cut(&mut made, self.payload.start);
        set_flags(&layout, &mut made, |flags| (flags & !(FIN | PSH | SYN)) | RST);
        put(&mut made, layout.at + SEQUENCE, &place.0.to_be_bytes());
        layout.set_checksum(&mut made);
        made
    }
}

fn set_flags(layout: &Layout, packet: &mut [u8], change: impl Fn(u8) -> u8) {
    let at = layout.at + FLAGS;
    if let Some(flags) = byte(packet, at) {
        put(packet, at, &[change(flags)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_compared_across_the_wrap() {
        let (before, after) = (Place(u32::MAX - 1), Place(3));
        assert_eq!((after.after(before), before.after(after)), (5, -5));
        assert_eq!((before.plus(5), after.from(before), before.from(after)), (after, 5, 0));
    }
}
