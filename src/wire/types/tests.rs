use proptest::prelude::*;

use super::*;
use crate::wire::xdr::{decode, encode};

fn name(bytes: &[u8]) -> CallerName {
    CallerName::of_bytes(bytes).unwrap()
}

#[test]
fn names_that_a_terminal_could_misread_are_shown_in_escapes() {
    for (bytes, shown) in [
        (&b"db1.example.org"[..], "db1.example.org"),
        ("Zürich-7".as_bytes(), "Zürich-7"),
        (b"B\xfcro", "B\\xfcro"),
        (b"", "\\empty"),
        (b"vx\0", "vx\\x00"),
        (b"two words", "two\\x20words"),
        (b"DOMAIN\\host", "DOMAIN\\x5chost"),
        (b"\\empty", "\\x5cempty"),
        (b"\\xff", "\\x5cxff"),
        (b"\x1b[2J", "\\x1b[2J"),
        ("\u{202e}gro".as_bytes(), "\\xe2\\x80\\xaegro"),
        ("a\u{2028}b".as_bytes(), "a\\xe2\\x80\\xa8b"),
        ("z\u{200b}w".as_bytes(), "z\\xe2\\x80\\x8bw"),
        ("e\u{301}".as_bytes(), "e\\xcc\\x81"),
        ("дом".as_bytes(), "\\xd0\\xb4\\xd0\\xbe\\xd0\\xbc"),
        (b"\xe9\x80", "\\xe9\\x80"),
    ] {
        assert_eq!(name(bytes).as_str(), shown);
        assert_eq!(CallerName::typed(shown).unwrap(), name(bytes), "{shown} finds it again");
    }
}

#[test]
fn a_name_may_be_typed_plainly_too() {
    for typed in ["two words", "DOMAIN\\host", "дом", "\\x4", "\\xzz", "tail\\", "\\X41"] {
        assert_eq!(CallerName::typed(typed).unwrap().bytes(), typed.as_bytes(), "{typed}");
    }
    assert_eq!(CallerName::typed("B\\xFCro").unwrap().bytes(), b"B\xfcro");
    assert!(CallerName::typed("").is_err() && CallerName::typed("a\nb").is_err());
    assert!(CallerName::typed(&"a".repeat(1025)).is_err());
    assert_eq!(CallerName::typed(&"\\x00".repeat(1024)).unwrap().bytes(), [0; 1024]);
}

#[test]
fn names_of_one_host_are_known_as_such_whatever_their_bytes() {
    for (one, other) in [(&b"A\xff.example.org"[..], &b"a\xff"[..]), (b"\\x41", b"\\X41"), (b"n\0.", b"N\0")] {
        assert!(name(one).matches(&name(other)), "{:?} {:?}", name(one), name(other));
    }
    assert!(!name(b"\xe4").matches(&name(b"\xc4")), "the case of what is no ASCII is not known");
    assert!(!name(b"").matches(&name(b"\\empty")));
}

#[test]
fn a_resolver_is_asked_only_for_names_that_are_shown_as_they_are() {
    assert_eq!(name(b"db1.example.org").host(), Some("db1.example.org"));
    for odd in [&b""[..], b"a b", b"a\0", b"\xff", b"a\\032b"] {
        assert_eq!(name(odd).host(), None);
    }
}

#[test]
fn words_in_a_names_place_keep_their_form_on_the_wire() {
    let words = CallerName::of_words("local process a\u{202e}b (pid 7)");
    assert_eq!(words.as_str(), "local-process-ab-(pid-7)");
    assert_eq!(decode::<CallerName>(&encode(&words)).unwrap(), words);
    assert_eq!(CallerName::of_words("\n").as_str(), "?");
}

proptest! {
    #[test]
    fn every_name_comes_back_byte_for_byte_and_is_shown_like_no_other(
        one in prop::collection::vec(any::<u8>(), 0..40),
        other in prop_oneof![prop::collection::vec(any::<u8>(), 0..40), "[\\\\x0-9a-f]{0,8}".prop_map(String::into_bytes)],
    ) {
        let read: CallerName = decode(&encode(&Opaque::<MAX_NETOBJ>::new(one.clone()).unwrap())).unwrap();
        prop_assert_eq!(&read.bytes(), &one);
        prop_assert_eq!(encode(&read).len(), read.packed_size());
        prop_assert_eq!(encode(&read), encode(&Opaque::<MAX_NETOBJ>::new(one.clone()).unwrap()));
        prop_assert_eq!(CallerName::typed(read.as_str()).unwrap(), read.clone());
        prop_assert_eq!(read == name(&other), one == other);
        prop_assert!(read.as_str().chars().all(is_shown_as_itself) || read.as_str().contains('\\'));
    }
}
