//! For the tests of every codec: bytes written by hand from a specification, and what must hold of
//! them.

use std::fmt::Debug;

use super::xdr::{DecodeError, Pack, Unpack, decode, encode};

/// Bytes from hexadecimal text with white space.
pub(crate) fn bytes(text: &str) -> Vec<u8> {
    hex::decode(text.split_whitespace().collect::<String>()).unwrap()
}

/// The value is these bytes and they are the value; cut anywhere, or with more behind, they are none.
pub(crate) fn is_written<T: Pack + Unpack + PartialEq + Debug>(value: &T, text: &str) {
    let written = bytes(text);
    assert_eq!(hex::encode(encode(value)), hex::encode(&written));
    assert_eq!(value.packed_size(), written.len());
    assert_eq!(decode::<T>(&written).as_ref().ok(), Some(value));
    for end in 0..written.len() {
        assert!(decode::<T>(&written[..end]).is_err(), "cut at {end} it was still read");
    }
    let longer = [written.as_slice(), &[0; 4]].concat();
    assert!(matches!(decode::<T>(&longer), Err(DecodeError::Trailing(4))));
}

/// The value is read back as it was written.
pub(crate) fn comes_back<T: Pack + Unpack + PartialEq + Debug>(value: &T) {
    assert_eq!(decode::<T>(&encode(value)).as_ref().ok(), Some(value));
}
