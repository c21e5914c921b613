//! XDR (RFC 4506) with bounds.
//!
//! `nfs3_types` gives the derive (`XdrCodec`) and the fixed-size integers. What a peer can make
//! large is ours, because a length from the wire must be capped *before* anything is allocated:
//! [`Opaque`], [`Text`], [`List`], [`Maybe`]. [`decode`] also wants the input to end where the
//! value ends.

use std::io::{Read, Write};

use smallvec::{SmallVec, smallvec};

pub use nfs3_types::xdr_codec::{Error as CodecError, Pack, Unpack, Void, XdrCodec};

/// Why bytes are not the value they should be.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end early, or an enum, bool, length or string is not allowed there.
    #[error("malformed XDR: {0}")]
    Malformed(#[from] CodecError),
    /// Bytes are left after the value.
    #[error("{0} bytes left after the value")]
    Trailing(usize),
}

/// Encodes a value.
///
/// # Panics
/// Never: writing to a `Vec` cannot fail, and every bounded type checks its bound when it is made.
pub fn encode<T: Pack>(value: &T) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.packed_size());
    // A Vec takes every write, and the only other error is a length beyond 32 bits, which the
    // bounded types exclude.
    let _ = value.pack(&mut out);
    out
}

/// Decodes a value that fills `bytes` to the end.
pub fn decode<T: Unpack>(bytes: &[u8]) -> Result<T, DecodeError> {
    let mut rest = bytes;
    let (value, _) = T::unpack(&mut rest)?;
    if rest.is_empty() { Ok(value) } else { Err(DecodeError::Trailing(rest.len())) }
}

fn padding(len: usize) -> usize {
    len.wrapping_neg() & 3
}

/// As `opaque<>`.
pub(super) fn pack_bytes(bytes: &[u8], out: &mut impl Write) -> Result<usize, CodecError> {
    let len = u32::try_from(bytes.len()).map_err(|_| CodecError::ObjectTooLarge(bytes.len()))?;
    len.pack(out)?;
    out.write_all(bytes)?;
    let pad = padding(bytes.len());
    out.write_all([0; 3].get(..pad).unwrap_or_default())?;
    Ok(4 + bytes.len() + pad)
}

/// Handles, names and credentials are shorter most of the time.
pub(super) type Bytes = SmallVec<[u8; 64]>;

/// Of an `opaque<max>`, with what it takes up.
pub(super) fn unpack_bytes(input: &mut impl Read, max: usize) -> Result<(Bytes, usize), CodecError> {
    let (len, _) = u32::unpack(input)?;
    let len = len as usize;
    if len > max {
        return Err(CodecError::InvalidLength(len));
    }
    let mut bytes = smallvec![0; len];
    input.read_exact(&mut bytes)?;
    let mut pad = [0; 3];
    let pad_len = padding(len);
    input.read_exact(pad.get_mut(..pad_len).unwrap_or_default())?;
    Ok((bytes, 4 + len + pad_len))
}

/// A value is longer than its XDR type allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{len} bytes or items, at most {max} allowed")]
pub struct TooLong {
    /// What was given.
    pub len: usize,
    /// What the type allows.
    pub max: usize,
}

/// `opaque<MAX>`: bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Opaque<const MAX: usize>(Vec<u8>);

impl<const MAX: usize> Opaque<MAX> {
    /// Takes bytes within the bound.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, TooLong> {
        let bytes = bytes.into();
        if bytes.len() > MAX { Err(TooLong { len: bytes.len(), max: MAX }) } else { Ok(Self(bytes)) }
    }
    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        &self.0
    }
    /// The bytes, owned.
    pub fn into_vec(self) -> Vec<u8> {
        self.0
    }
}

impl<const MAX: usize> Pack for Opaque<MAX> {
    fn packed_size(&self) -> usize {
        4 + self.0.len() + padding(self.0.len())
    }
    fn pack(&self, out: &mut impl Write) -> Result<usize, CodecError> {
        pack_bytes(&self.0, out)
    }
}

impl<const MAX: usize> Unpack for Opaque<MAX> {
    fn unpack(input: &mut impl Read) -> Result<(Self, usize), CodecError> {
        let (bytes, read) = unpack_bytes(input, MAX)?;
        Ok((Self(bytes.into_vec()), read))
    }
}

/// `string<MAX>`, UTF-8 here.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Text<const MAX: usize>(String);

impl<const MAX: usize> Text<MAX> {
    /// Takes text within the bound.
    pub fn new(text: impl Into<String>) -> Result<Self, TooLong> {
        let text = text.into();
        if text.len() > MAX { Err(TooLong { len: text.len(), max: MAX }) } else { Ok(Self(text)) }
    }
    /// Takes text for a human reader, cut at the bound (on a character).
    pub fn clipped(text: impl Into<String>) -> Self {
        let mut text = text.into();
        let mut end = text.len().min(MAX);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        Self(text)
    }
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<const MAX: usize> Pack for Text<MAX> {
    fn packed_size(&self) -> usize {
        4 + self.0.len() + padding(self.0.len())
    }
    fn pack(&self, out: &mut impl Write) -> Result<usize, CodecError> {
        pack_bytes(self.0.as_bytes(), out)
    }
}

impl<const MAX: usize> Unpack for Text<MAX> {
    fn unpack(input: &mut impl Read) -> Result<(Self, usize), CodecError> {
        let (bytes, read) = unpack_bytes(input, MAX)?;
        let text =
            String::from_utf8(bytes.into_vec()).map_err(|e| CodecError::InvalidLength(e.utf8_error().valid_up_to()))?;
        Ok((Self(text), read))
    }
}

/// `T name<MAX>`: a counted array. Grows as items are really read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List<T, const MAX: usize>(Vec<T>);

impl<T, const MAX: usize> Default for List<T, MAX> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T, const MAX: usize> List<T, MAX> {
    /// Takes items within the bound.
    pub fn new(items: Vec<T>) -> Result<Self, TooLong> {
        if items.len() > MAX { Err(TooLong { len: items.len(), max: MAX }) } else { Ok(Self(items)) }
    }
    /// Takes the first `MAX` items.
    pub fn clipped(mut items: Vec<T>) -> Self {
        items.truncate(MAX);
        Self(items)
    }
    /// The items.
    pub fn as_slice(&self) -> &[T] {
        &self.0
    }
    /// The items, owned.
    pub fn into_vec(self) -> Vec<T> {
        self.0
    }
}

impl<T: Pack, const MAX: usize> Pack for List<T, MAX> {
    fn packed_size(&self) -> usize {
        4 + self.0.iter().map(Pack::packed_size).sum::<usize>()
    }
    fn pack(&self, out: &mut impl Write) -> Result<usize, CodecError> {
        let mut written =
            u32::try_from(self.0.len()).map_err(|_| CodecError::ObjectTooLarge(self.0.len()))?.pack(out)?;
        for item in &self.0 {
            written += item.pack(out)?;
        }
        Ok(written)
    }
}

impl<T: Unpack, const MAX: usize> Unpack for List<T, MAX> {
    fn unpack(input: &mut impl Read) -> Result<(Self, usize), CodecError> {
        let (len, mut read) = u32::unpack(input)?;
        let len = len as usize;
        if len > MAX {
            return Err(CodecError::InvalidLength(len));
        }
        let mut items = Vec::with_capacity(len.min(64));
        for _ in 0..len {
            let (item, item_read) = T::unpack(input)?;
            read += item_read;
            items.push(item);
        }
        Ok((Self(items), read))
    }
}

/// `T *name`: optional data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Maybe<T>(pub Option<T>);

impl<T: Pack> Pack for Maybe<T> {
    fn packed_size(&self) -> usize {
        4 + self.0.as_ref().map_or(0, Pack::packed_size)
    }
    fn pack(&self, out: &mut impl Write) -> Result<usize, CodecError> {
        match &self.0 {
            None => false.pack(out),
            Some(value) => Ok(true.pack(out)? + value.pack(out)?),
        }
    }
}

impl<T: Unpack> Unpack for Maybe<T> {
    fn unpack(input: &mut impl Read) -> Result<(Self, usize), CodecError> {
        let (there, read) = bool::unpack(input)?;
        if !there {
            return Ok((Self(None), read));
        }
        let (value, value_read) = T::unpack(input)?;
        Ok((Self(Some(value)), read + value_read))
    }
}
