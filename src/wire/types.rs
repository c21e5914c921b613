//! The terms of the protocols as types, so that two numbers or two strings cannot be swapped.

use std::fmt;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use super::scope;
use super::xdr::{CodecError, Opaque, Pack, TooLong, Unpack, XdrCodec, pack_bytes, unpack_bytes};

/// Longest NLM string or netobj (XNFS chapter 10, `LM_MAXSTRLEN` and `MAXNETOBJ_SZ`).
pub const MAX_NETOBJ: usize = 1024;

/// Up to 31 bytes stand in the value itself: a cookie, or an owner handle as Linux makes it of a number and a host name
/// that is not very long. More are on the heap, and each clone copies them.
type Short = SmallVec<[u8; 31]>;

macro_rules! netobj {
    ($(#[$doc:meta])* $name:ident, $bytes:ty) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name($bytes);

        impl $name {
            /// Takes at most [`MAX_NETOBJ`] bytes.
            pub fn new(bytes: &[u8]) -> Result<Self, TooLong> {
                if bytes.len() > MAX_NETOBJ {
                    return Err(TooLong { len: bytes.len(), max: MAX_NETOBJ });
                }
                Ok(Self(bytes.into()))
            }
            /// The bytes.
            pub fn as_slice(&self) -> &[u8] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl Pack for $name {
            fn packed_size(&self) -> usize {
                4 + self.0.len().next_multiple_of(4)
            }
            fn pack(&self, out: &mut impl Write) -> Result<usize, CodecError> {
                // The bound was checked when the value was made.
                pack_bytes(&self.0, out)
            }
        }

        impl Unpack for $name {
            fn unpack(input: &mut impl Read) -> Result<(Self, usize), CodecError> {
                let (bytes, read) = unpack_bytes(input, MAX_NETOBJ)?;
                Ok((Self(bytes.as_slice().into()), read))
            }
        }
    };
}

netobj! {
    /// What names a file to NFS (`nfs_fh3`, at most 64 bytes there; any netobj here). Shown as hex.
    FileHandle, Arc<[u8]>
}
netobj! {
    /// `oh`: what the client calls the lock's owner; opaque to us. Shown as hex.
    OwnerHandle, Short
}
netobj! {
    /// The cookie that joins an asynchronous NLM answer to its question.
    Cookie, Short
}

/// `caller_name` of NLM: the host that calls, up to 1,024 bytes of any kind.
///
/// It is kept as it is shown, so that nothing prints it in another way: graphic ASCII but for the backslash, and
/// the accented letters of Latin in UTF-8, stand for themselves; of every other byte comes `\xNN`; the empty name is
/// shown as `\empty`. No two names are shown alike, so equal texts are equal bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallerName(Arc<str>);

/// How the name without bytes is shown.
const EMPTY: &str = "\\empty";

/// What a table, a log and a terminal show unharmed, and as nothing else.
fn is_shown_as_itself(c: char) -> bool {
    (c.is_ascii_graphic() && c != '\\') || (('\u{c0}'..='\u{24f}').contains(&c) && c.is_alphabetic())
}

fn escape(bytes: &[u8], shown: &mut String) {
    for byte in bytes {
        shown.push_str("\\x");
        shown.push_str(&hex::encode([*byte]));
    }
}

fn shown(bytes: &[u8]) -> String {
    let mut shown = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if is_shown_as_itself(c) {
                shown.push(c);
            } else {
                escape(c.encode_utf8(&mut [0; 4]).as_bytes(), &mut shown);
            }
        }
        escape(chunk.invalid(), &mut shown);
    }
    if shown.is_empty() { EMPTY.to_owned() } else { shown }
}

/// What is shown so. Text that nothing is shown as stands for its own bytes: a backslash without `xNN`, a blank.
fn unshown(text: &str) -> Vec<u8> {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    if text == EMPTY {
        return bytes;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    while let [first, after @ ..] = rest {
        let escaped = match rest {
            [b'\\', b'x', high, low, after @ ..] => digit(*high).zip(digit(*low)).map(|(h, l)| (h << 4 | l, after)),
            _ => None,
        };
        let (byte, after) = escaped.unwrap_or((*first, after));
        bytes.push(byte);
        rest = after;
    }
    bytes
}

impl CallerName {
    /// A host's name as this side says it: 1 to [`MAX_NETOBJ`] bytes without control characters.
    pub fn new(name: &str) -> Result<Self, BadName> {
        if name.is_empty() || name.chars().any(char::is_control) {
            return Err(BadName);
        }
        Self::of_bytes(name.as_bytes()).map_err(|_| BadName)
    }
    /// Takes at most [`MAX_NETOBJ`] bytes, as a client may send them.
    pub fn of_bytes(bytes: &[u8]) -> Result<Self, TooLong> {
        if bytes.len() > MAX_NETOBJ {
            return Err(TooLong { len: bytes.len(), max: MAX_NETOBJ });
        }
        Ok(Self(shown(bytes).into()))
    }
    /// The name that a user typed, plainly or as it is shown.
    pub fn typed(text: &str) -> Result<Self, BadName> {
        if text.is_empty() || text.chars().any(char::is_control) {
            return Err(BadName);
        }
        Self::of_bytes(&unshown(text)).map_err(|_| BadName)
    }
    /// Makes a name of words that are shown in a name's place; what is too long is cut, and of nothing comes `?`.
    pub fn of_words(words: &str) -> Self {
        let mut name: String =
            words.chars().map(|c| if c == ' ' { '-' } else { c }).filter(|c| is_shown_as_itself(*c)).collect();
        while name.len() > MAX_NETOBJ {
            name.pop();
        }
        if name.is_empty() {
            name.push('?');
        }
        Self(name.into())
    }
    /// The name as it is shown.
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// The name's own bytes.
    pub fn bytes(&self) -> Vec<u8> {
        unshown(&self.0)
    }
    /// The name, if a resolver can be asked for it: others have bytes that no host's name has.
    pub fn host(&self) -> Option<&str> {
        (!self.0.contains('\\')).then_some(&*self.0)
    }
    /// The name up to its first dot: `a` of `a.example.org`. Two names of one host often differ
    /// only after it. An address literal has no short form.
    pub fn short(&self) -> &str {
        let whole = self.undotted();
        if whole.parse::<IpAddr>().is_ok() {
            return whole;
        }
        whole.split('.').next().unwrap_or(whole)
    }
    /// This name and its short form, in one case and without a dot at the end. Two names
    /// [match](Self::matches) if the full form of one is the full or the short form of the other.
    pub fn folded(&self) -> (String, String) {
        (self.undotted().to_ascii_lowercase(), self.short().to_ascii_lowercase())
    }
    /// Whether both may be one host's: equal without regard to case and a dot at the end, or one is
    /// the short form of the other.
    pub fn matches(&self, other: &Self) -> bool {
        self.is_same_as(other)
            || (self.short().eq_ignore_ascii_case(other.short())
                && (self.short() == self.undotted() || other.short() == other.undotted()))
    }
    /// Whether both are one name: equal without regard to case and a dot at the end.
    pub fn is_same_as(&self, other: &Self) -> bool {
        self.undotted().eq_ignore_ascii_case(other.undotted())
    }
    fn undotted(&self) -> &str {
        self.0.strip_suffix('.').unwrap_or(&self.0)
    }
}

/// Not usable as a host name: empty, over 1,024 bytes, or with control characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a host name: it must have 1 to 1,024 bytes and no control characters")]
pub struct BadName;

impl fmt::Display for CallerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for CallerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CallerName({self})")
    }
}

impl Pack for CallerName {
    fn packed_size(&self) -> usize {
        4 + self.bytes().len().next_multiple_of(4)
    }
    fn pack(&self, out: &mut impl Write) -> Result<usize, CodecError> {
        Opaque::<MAX_NETOBJ>::new(self.bytes()).map_err(|e| CodecError::ObjectTooLarge(e.len))?.pack(out)
    }
}

impl Unpack for CallerName {
    fn unpack(input: &mut impl Read) -> Result<(Self, usize), CodecError> {
        let (bytes, read) = unpack_bytes(input, MAX_NETOBJ)?;
        Ok((Self(shown(&bytes).into()), read))
    }
}

/// `svid`: the number by which a client names one of its processes. It repeats across hosts, paths
/// and reboots. Signed on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Svid(pub i32);

/// An NSM state number (XNFS chapter 11): odd = up, even = down, 0 = never learned. Signed; files
/// with negative numbers exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct NsmState(pub i32);

impl NsmState {
    /// Whether the number was ever learned.
    pub fn is_known(self) -> bool {
        self.0 != 0
    }
    /// Whether the number says "up".
    pub fn is_up(self) -> bool {
        self.0 & 1 == 1
    }
    /// Whether both are known, and are not one: the host may have restarted between them.
    pub fn contradicts(self, other: Self) -> bool {
        self.is_known() && other.is_known() && self != other
    }
    /// Whether this number comes after the other: by the shorter way round the signed range, since numbers
    /// wrap, and some hosts start at random ones.
    pub fn is_after(self, other: Self) -> bool {
        self.0.wrapping_sub(other.0) > 0
    }
    /// The one that comes after the other.
    #[must_use]
    pub fn later(self, other: Self) -> Self {
        if other.is_after(self) { other } else { self }
    }
    /// The next "up" number: odd and different, wrapping round the signed range past 0.
    #[must_use]
    pub fn next_up(self) -> Self {
        Self(if self.is_up() { self.0.wrapping_add(2) } else { self.0.wrapping_add(1) })
    }
}

macro_rules! signed {
    ($name:ident) => {
        impl Pack for $name {
            fn packed_size(&self) -> usize {
                4
            }
            fn pack(&self, out: &mut impl Write) -> Result<usize, CodecError> {
                self.0.cast_unsigned().pack(out)
            }
        }
        impl Unpack for $name {
            fn unpack(input: &mut impl Read) -> Result<(Self, usize), CodecError> {
                let (number, read) = u32::unpack(input)?;
                Ok((Self(number.cast_signed()), read))
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}
signed!(Svid);
signed!(NsmState);

/// Whole milliseconds.
pub(crate) fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Bytes `start..=end` of a file. `end == u64::MAX` is "to end of file".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, XdrCodec)]
pub struct ByteRange {
    /// First byte.
    pub start: u64,
    /// Last byte, inclusive; never below `start`.
    pub end: u64,
}

impl ByteRange {
    /// The whole file.
    pub const ALL: Self = Self { start: 0, end: u64::MAX };

    /// From NLM's offset and length, where length 0 means "to end of file" (XNFS chapter 10).
    /// `None` where the range would end beyond 64 bits.
    pub fn from_offset_len(offset: u64, len: u64) -> Option<Self> {
        let end = match len {
            0 => u64::MAX,
            _ => offset.checked_add(len - 1)?,
        };
        Some(Self { start: offset, end })
    }
    /// NLM's length: 0 for "to end of file".
    pub fn nlm_len(self) -> u64 {
        if self.end == u64::MAX { 0 } else { self.end - self.start + 1 }
    }
    /// Whether a byte is in both.
    pub fn overlaps(self, other: Self) -> bool {
        self.start <= other.end && other.start <= self.end
    }
    /// Whether every byte of `other` is in this.
    pub fn covers(self, other: Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }
}

impl fmt::Display for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.end == u64::MAX { write!(f, "{}-EOF", self.start) } else { write!(f, "{}-{}", self.start, self.end) }
    }
}

/// What carried a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, XdrCodec)]
#[repr(u32)]
pub enum Transport {
    /// A datagram.
    Udp = 17,
    /// A record on a stream.
    Tcp = 6,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        })
    }
}

/// An IP address on the control wire: `opaque<16>` of 4 or 16 bytes, a link-local one with its interface
/// ([`scope`]). Shown as `fe80::1%2`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(pub IpAddr);

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        scope::Shown(self.0).fmt(f)
    }
}

impl FromStr for Address {
    type Err = NoAddress;
    fn from_str(text: &str) -> Result<Self, NoAddress> {
        scope::parse(text).map(Self).ok_or(NoAddress)
    }
}

/// Neither an IPv4 nor an IPv6 address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an IP address")]
pub struct NoAddress;

impl From<IpAddr> for Address {
    /// An IPv4 address in IPv6 clothes is IPv4's: clients are known by that.
    fn from(ip: IpAddr) -> Self {
        Self(ip.to_canonical())
    }
}

impl Pack for Address {
    fn packed_size(&self) -> usize {
        if self.0.is_ipv4() { 8 } else { 20 }
    }
    fn pack(&self, out: &mut impl Write) -> Result<usize, CodecError> {
        match self.0 {
            IpAddr::V4(ip) => Ok(4u32.pack(out)? + ip.octets().pack(out)?),
            IpAddr::V6(ip) => Ok(16u32.pack(out)? + ip.octets().pack(out)?),
        }
    }
}

impl Unpack for Address {
    fn unpack(input: &mut impl Read) -> Result<(Self, usize), CodecError> {
        match u32::unpack(input)?.0 {
            4 => Ok((Self(Ipv4Addr::from(<[u8; 4]>::unpack(input)?.0).into()), 8)),
            16 => Ok((Self(Ipv6Addr::from(<[u8; 16]>::unpack(input)?.0).into()), 20)),
            len => Err(CodecError::InvalidLength(len as usize)),
        }
    }
}

#[cfg(test)]
mod tests;
