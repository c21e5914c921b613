//! RPC messages (RFC 5531), each without a record mark: a datagram as it is, or a record of `record`.

use super::xdr::{CodecError, List, Opaque, Pack, Unpack, XdrCodec, decode, encode, unpack_bytes};

/// The RPC version in use.
const RPC_VERSION: u32 = 2;
/// `msg_type`.
const CALL: u32 = 0;
const REPLY: u32 = 1;
/// `reply_stat`.
const ACCEPTED: u32 = 0;
const DENIED: u32 = 1;
/// `reject_stat`.
const RPC_MISMATCH: u32 = 0;
const AUTH_ERROR: u32 = 1;
/// `auth_stat`.
const BAD_CREDENTIAL: u32 = 1;
const TOO_WEAK: u32 = 5;
/// `auth_flavor`.
const AUTH_NONE: u32 = 0;
const AUTH_SYS: u32 = 1;
/// Longest body of a credential or verifier (section 8.2).
const MAX_AUTH: usize = 400;
/// Longest machine name in a call made here: with five other words it fits into 200 bytes, which is
/// all that some servers take.
const MAX_MACHINE: usize = 176;

/// `opaque_auth`.
#[derive(Debug, Default, XdrCodec)]
struct Auth {
    flavor: u32,
    body: Opaque<MAX_AUTH>,
}

/// `authsys_parms` (appendix A).
#[derive(Debug, XdrCodec)]
struct SysBody {
    stamp: u32,
    machine: Opaque<255>,
    uid: u32,
    gid: u32,
    groups: List<u32, 16>,
}

/// Who a caller says it is. Proves nothing (RFC 5531 section 13).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    /// AUTH_NONE.
    None,
    /// AUTH_SYS.
    Unix {
        /// The caller's host.
        machine: String,
        /// The user.
        uid: u32,
        /// The group.
        gid: u32,
        /// Up to 16 other groups, as they were read; calls made here carry none.
        groups: Vec<u32>,
    },
    /// Another flavor, by its number.
    Other(u32),
}

impl Credential {
    /// AUTH_SYS of root at `machine`; the name is cut where an auth body has no room for it.
    pub fn root(machine: &str) -> Self {
        Self::Unix { machine: machine.to_owned(), uid: 0, gid: 0, groups: Vec::new() }
    }

    fn to_auth(&self) -> Auth {
        let (flavor, body) = match self {
            Self::None => (AUTH_NONE, Vec::new()),
            Self::Other(flavor) => (*flavor, Vec::new()),
            Self::Unix { machine, uid, gid, groups: _ } => {
                let machine = machine.as_bytes();
                let machine = Opaque::new(machine.get(..MAX_MACHINE).unwrap_or(machine)).unwrap_or_default();
                let body = SysBody { stamp: 0, machine, uid: *uid, gid: *gid, groups: List::default() };
                (AUTH_SYS, encode(&body))
            }
        };
        Auth { flavor, body: Opaque::new(body).unwrap_or_default() }
    }

    /// `None`: malformed.
    fn from_auth(flavor: u32, body: &[u8]) -> Option<Self> {
        Some(match flavor {
            AUTH_NONE => Self::None,
            AUTH_SYS => {
                let SysBody { machine, uid, gid, groups, .. } = decode(body).ok()?;
                let machine = String::from_utf8(machine.into_vec())
                    .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
                Self::Unix { machine, uid, gid, groups: groups.into_vec() }
            }
            other => Self::Other(other),
        })
    }
}

/// A call, taken apart (RFC 5531 section 9, `call_body`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IncomingCall<'a> {
    /// Names the call among the caller's.
    pub xid: u32,
    /// The program.
    pub program: u32,
    /// Its version.
    pub version: u32,
    /// The procedure.
    pub procedure: u32,
    /// Who says so.
    pub credential: Credential,
    /// The arguments, still encoded.
    pub args: &'a [u8],
}

/// Bytes that are no call to execute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BadCall {
    /// A call that RFC 5531 answers with a rejection: here it is, encoded.
    Answer(Vec<u8>),
    /// No call at all: say nothing.
    Ignore,
}

/// What a call is answered with (RFC 5531 section 9, `accepted_reply`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The results, encoded.
    Success(Vec<u8>),
    /// No such program here.
    ProgUnavail,
    /// The program has no such version.
    ProgMismatch {
        /// The lowest version it has.
        low: u32,
        /// The highest.
        high: u32,
    },
    /// The version has no such procedure.
    ProcUnavail,
    /// The arguments cannot be decoded.
    GarbageArgs,
    /// Something failed on this side.
    SystemErr,
    /// The caller does not show enough of who it is (AUTH_TOOWEAK): its port is not below 1024.
    TooWeak,
}

/// A reply, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IncomingReply<'a> {
    /// Names the call that it answers.
    pub xid: u32,
    /// The encoded results, or what the server has against the call.
    pub outcome: Result<&'a [u8], RpcError>,
}

/// A call that the other side did not execute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RpcError {
    /// PROG_UNAVAIL
    #[error("the program is not there")]
    ProgUnavail,
    /// PROG_MISMATCH
    #[error("the program has only the versions {low} to {high}")]
    ProgMismatch {
        /// The lowest version it has.
        low: u32,
        /// The highest.
        high: u32,
    },
    /// PROC_UNAVAIL
    #[error("the procedure is not there")]
    ProcUnavail,
    /// GARBAGE_ARGS
    #[error("the server could not decode the arguments")]
    GarbageArgs,
    /// SYSTEM_ERR
    #[error("the server failed")]
    SystemErr,
    /// RPC_MISMATCH
    #[error("the server speaks only the RPC versions {low} to {high}")]
    RpcMismatch {
        /// The lowest.
        low: u32,
        /// The highest.
        high: u32,
    },
    /// AUTH_ERROR with its `auth_stat`.
    #[error("the server does not take the credential (auth_stat {0})")]
    Auth(u32),
}

/// Why bytes are not a reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not RFC 5531's.
    #[error("malformed RPC reply: {0}")]
    Malformed(String),
    /// A call, where a reply was to be.
    #[error("an RPC call, not a reply")]
    NotAReply,
}

impl From<CodecError> for DecodeError {
    fn from(error: CodecError) -> Self {
        Self::Malformed(error.to_string())
    }
}

fn words(words: &[u32]) -> Vec<u8> {
    words_and(words, &[])
}

fn words_and(words: &[u32], rest: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(4 * words.len() + rest.len());
    for word in words {
        bytes.extend_from_slice(&word.to_be_bytes());
    }
    bytes.extend_from_slice(rest);
    bytes
}

fn word(rest: &mut &[u8]) -> Result<u32, CodecError> {
    Ok(u32::unpack(rest)?.0)
}

/// Encodes a call.
pub fn call(xid: u32, program: u32, version: u32, procedure: u32, credential: &Credential, args: &[u8]) -> Vec<u8> {
    let (credential, verifier) = (credential.to_auth(), Auth::default());
    let mut bytes = Vec::with_capacity(24 + credential.packed_size() + verifier.packed_size() + args.len());
    for word in [xid, CALL, RPC_VERSION, program, version, procedure] {
        bytes.extend_from_slice(&word.to_be_bytes());
    }
    for auth in [credential, verifier] {
        // A Vec takes every write.
        let _ = auth.pack(&mut bytes);
    }
    bytes.extend_from_slice(args);
    bytes
}

/// Takes a call apart, or says what it is to be answered with.
pub fn parse_call(message: &[u8]) -> Result<IncomingCall<'_>, BadCall> {
    let mut args = message;
    let mut next = || word(&mut args).map_err(|_| BadCall::Ignore);
    let (xid, CALL, rpc_version) = (next()?, next()?, next()?) else { return Err(BadCall::Ignore) };
    if rpc_version != RPC_VERSION {
        let told = [xid, REPLY, DENIED, RPC_MISMATCH, RPC_VERSION, RPC_VERSION];
        return Err(BadCall::Answer(words(&told)));
    }
    let (program, version, procedure) = (next()?, next()?, next()?);
    let bad_credential = || BadCall::Answer(words(&[xid, REPLY, DENIED, AUTH_ERROR, BAD_CREDENTIAL]));
    let bad_auth = |error| match error {
        CodecError::InvalidLength(_) => bad_credential(),
        _ => BadCall::Ignore,
    };
    let flavor = word(&mut args).map_err(bad_auth)?;
    let (body, _) = unpack_bytes(&mut args, MAX_AUTH).map_err(bad_auth)?;
    let credential = Credential::from_auth(flavor, &body).ok_or_else(bad_credential)?;
    // The verifier.
    word(&mut args).and_then(|_| unpack_bytes(&mut args, MAX_AUTH)).map_err(bad_auth)?;
    Ok(IncomingCall { xid, program, version, procedure, credential, args })
}

/// Encodes a reply.
pub fn reply(xid: u32, answer: &Answer) -> Vec<u8> {
    let accepted = |stat| words(&[xid, REPLY, ACCEPTED, AUTH_NONE, 0, stat]);
    match answer {
        Answer::Success(results) => words_and(&[xid, REPLY, ACCEPTED, AUTH_NONE, 0, 0], results),
        Answer::ProgUnavail => accepted(1),
        Answer::ProgMismatch { low, high } => [accepted(2), words(&[*low, *high])].concat(),
        Answer::ProcUnavail => accepted(3),
        Answer::GarbageArgs => accepted(4),
        Answer::SystemErr => accepted(5),
        Answer::TooWeak => words(&[xid, REPLY, DENIED, AUTH_ERROR, TOO_WEAK]),
    }
}

/// Takes a reply apart.
pub fn parse_reply(message: &[u8]) -> Result<IncomingReply<'_>, DecodeError> {
    let mut rest = message;
    let xid = word(&mut rest)?;
    if word(&mut rest)? != REPLY {
        return Err(DecodeError::NotAReply);
    }
    let error = match word(&mut rest)? {
        ACCEPTED => {
            Auth::unpack(&mut rest)?;
            match word(&mut rest)? {
                0 => return Ok(IncomingReply { xid, outcome: Ok(rest) }),
                1 => RpcError::ProgUnavail,
                2 => RpcError::ProgMismatch { low: word(&mut rest)?, high: word(&mut rest)? },
                3 => RpcError::ProcUnavail,
                4 => RpcError::GarbageArgs,
                5 => RpcError::SystemErr,
                other => return Err(CodecError::InvalidEnumValue(other).into()),
            }
        }
        DENIED => match word(&mut rest)? {
            RPC_MISMATCH => RpcError::RpcMismatch { low: word(&mut rest)?, high: word(&mut rest)? },
            AUTH_ERROR => RpcError::Auth(word(&mut rest)?),
            other => return Err(CodecError::InvalidEnumValue(other).into()),
        },
        other => return Err(CodecError::InvalidEnumValue(other).into()),
    };
    if rest.is_empty() {
        return Ok(IncomingReply { xid, outcome: Err(error) });
    }
    Err(DecodeError::Malformed(format!("{} bytes left after it", rest.len())))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::vectors::bytes;

    fn unix() -> Credential {
        Credential::Unix { machine: "c1".to_owned(), uid: 1000, gid: 100, groups: Vec::new() }
    }

    // RFC 5531 section 9 (rpc_msg, call_body), appendix A (authsys_parms).
    const WHOLE: &str = "12345678 00000000 00000002 000186b5 00000004 00000002
        00000001 00000018 00000000 00000002 63310000 000003e8 00000064 00000000
        00000000 00000000
        0a0b0c0d 01020304";

    #[test]
    fn a_call_is_written_and_read_as_the_specification_has_it() {
        let args = [10, 11, 12, 13, 1, 2, 3, 4];
        let written = call(0x1234_5678, 100_021, 4, 2, &unix(), &args);
        assert_eq!(hex::encode(&written), hex::encode(bytes(WHOLE)));
        let expected = IncomingCall {
            xid: 0x1234_5678,
            program: 100_021,
            version: 4,
            procedure: 2,
            credential: unix(),
            args: &args,
        };
        assert_eq!(parse_call(&written), Ok(expected));
    }

    // RFC 5531 appendix A: "unsigned int gids<16>".
    #[test]
    fn the_groups_of_a_caller_are_read() {
        let mut message = bytes(WHOLE);
        message[31] += 8;
        message[55] = 2;
        message.splice(56..56, [0, 0, 0, 7, 0, 0, 0, 9]);
        let credential = parse_call(&message).map(|call| call.credential);
        let groups = vec![7, 9];
        assert_eq!(credential, Ok(Credential::Unix { machine: "c1".to_owned(), uid: 1000, gid: 100, groups }));
    }

    // RFC 5531 section 8.2: "opaque body<400>"; appendix A: "string machinename<255>", "gids<16>".
    #[test]
    fn credentials_of_up_to_400_bytes_are_read() {
        for (machine, count) in [(181, 0), (120, 16), (255, 16)] {
            let (name, groups) = ("m".repeat(machine), (0..count).collect::<Vec<u32>>());
            let (length, pad) = (u32::try_from(machine).unwrap(), machine.wrapping_neg() & 3);
            let group_count = u32::try_from(groups.len()).unwrap();
            let body =
                [&words(&[0, length]), name.as_bytes(), &[0; 3][..pad], &words(&[1, 2, group_count]), &words(&groups)];
            let body = body.concat();
            assert!((201..=400).contains(&body.len()));
            let length = u32::try_from(body.len()).unwrap();
            let head = words(&[7, CALL, RPC_VERSION, 100_021, 4, 2, AUTH_SYS, length]);
            let message = [head, body, words(&[AUTH_NONE, 0]), b"args".to_vec()].concat();
            let call = parse_call(&message).unwrap();
            let credential = Credential::Unix { machine: name, uid: 1, gid: 2, groups };
            assert_eq!((call.credential, call.args), (credential, &b"args"[..]));
        }
        let other = |length: u32| {
            let head = words(&[7, CALL, RPC_VERSION, 1, 1, 1, 6, length]);
            [head, vec![0; length.next_multiple_of(4) as usize], words(&[AUTH_NONE, 0])].concat()
        };
        assert_eq!(parse_call(&other(400)).unwrap().credential, Credential::Other(6));
        let told = words(&[7, REPLY, DENIED, AUTH_ERROR, BAD_CREDENTIAL]);
        assert_eq!(parse_call(&other(401)), Err(BadCall::Answer(told)));
    }

    #[test]
    fn a_call_cut_before_its_arguments_is_none() {
        let whole = bytes(WHOLE);
        for end in 0..whole.len() - 8 {
            assert!(parse_call(&whole[..end]).is_err(), "cut at {end} it was still read");
        }
    }

    // RFC 5531 section 9: "RPC_MISMATCH = 0", with the lowest and highest version spoken.
    #[test]
    fn another_rpc_version_is_told_which_one_is_spoken() {
        let mut other = bytes(WHOLE);
        other[11] = 3;
        let told = bytes("12345678 00000001 00000001 00000000 00000002 00000002");
        assert_eq!(parse_call(&other), Err(BadCall::Answer(told)));
    }

    // RFC 5531 section 9: "AUTH_ERROR = 1", "AUTH_BADCRED = 1".
    #[test]
    fn a_malformed_credential_is_told_so() {
        let told = bytes("12345678 00000001 00000001 00000001 00000001");
        let mut groups = bytes(WHOLE);
        groups[55] = 17;
        assert_eq!(parse_call(&groups), Err(BadCall::Answer(told.clone())));
        let mut length = bytes(WHOLE);
        length[30..32].copy_from_slice(&[1, 0x91]);
        assert_eq!(parse_call(&length), Err(BadCall::Answer(told)));
    }

    #[test]
    fn replies_and_noise_are_not_answered() {
        assert_eq!(parse_call(&reply(1, &Answer::SystemErr)), Err(BadCall::Ignore));
        assert_eq!(parse_call(b""), Err(BadCall::Ignore));
        assert_eq!(parse_call(b"hello, world"), Err(BadCall::Ignore));
    }

    #[test]
    fn other_flavors_are_told_by_their_number() {
        let gss = call(1, 2, 3, 4, &Credential::Other(6), b"");
        assert_eq!(parse_call(&gss).unwrap().credential, Credential::Other(6));
    }

    #[test]
    fn a_machine_name_of_any_length_is_cut_to_fit() {
        let long = Credential::root(&"m".repeat(5000));
        let written = call(1, 2, 3, 4, &long, b"args");
        let Ok(IncomingCall { credential: Credential::Unix { machine, .. }, args: b"args", .. }) = parse_call(&written)
        else {
            panic!("not read: {written:?}")
        };
        assert_eq!(machine.len(), MAX_MACHINE);
    }

    // RFC 5531 section 9 (reply_body, accepted_reply, rejected_reply).
    #[test]
    fn every_outcome_is_written_and_read_as_the_specification_has_it() {
        let accepted = |answer: Answer, text: &str, outcome: Result<&[u8], RpcError>| {
            let written = bytes(text);
            assert_eq!(reply(7, &answer), written);
            assert_eq!(parse_reply(&written), Ok(IncomingReply { xid: 7, outcome }));
        };
        let head = "00000007 00000001 00000000 00000000 00000000";
        let results = [1, 2, 3, 4];
        accepted(Answer::Success(results.to_vec()), &format!("{head} 00000000 01020304"), Ok(&results));
        accepted(Answer::Success(Vec::new()), &format!("{head} 00000000"), Ok(&[]));
        accepted(Answer::ProgUnavail, &format!("{head} 00000001"), Err(RpcError::ProgUnavail));
        accepted(
            Answer::ProgMismatch { low: 1, high: 4 },
            &format!("{head} 00000002 00000001 00000004"),
            Err(RpcError::ProgMismatch { low: 1, high: 4 }),
        );
        accepted(Answer::ProcUnavail, &format!("{head} 00000003"), Err(RpcError::ProcUnavail));
        accepted(Answer::GarbageArgs, &format!("{head} 00000004"), Err(RpcError::GarbageArgs));
        accepted(Answer::SystemErr, &format!("{head} 00000005"), Err(RpcError::SystemErr));

        let denied = |text: &str, error| {
            let written = bytes(text);
            assert_eq!(parse_reply(&written), Ok(IncomingReply { xid: 7, outcome: Err(error) }));
        };
        denied("00000007 00000001 00000001 00000000 00000002 00000002", RpcError::RpcMismatch { low: 2, high: 2 });
        for stat in 1..=7 {
            denied(&format!("00000007 00000001 00000001 00000001 {stat:08x}"), RpcError::Auth(stat));
        }
    }

    #[test]
    fn a_cut_reply_is_none() {
        for answer in [Answer::ProgMismatch { low: 1, high: 4 }, Answer::Success(Vec::new())] {
            let whole = reply(7, &answer);
            for end in 0..whole.len() {
                assert!(parse_reply(&whole[..end]).is_err(), "cut at {end} it was still read");
            }
            if answer != Answer::Success(Vec::new()) {
                assert!(parse_reply(&[whole.as_slice(), &[0; 4]].concat()).is_err());
            }
        }
        assert_eq!(parse_reply(&bytes(WHOLE)), Err(DecodeError::NotAReply));
    }

    proptest! {
        #[test]
        fn calls_come_back(
            xid: u32, program: u32, version: u32, procedure: u32, machine in "[a-z.]{0,176}", uid: u32, gid: u32,
            args in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            let credential = Credential::Unix { machine, uid, gid, groups: Vec::new() };
            let written = call(xid, program, version, procedure, &credential, &args);
            let expected = IncomingCall { xid, program, version, procedure, credential, args: &args };
            prop_assert_eq!(parse_call(&written), Ok(expected));
        }

        #[test]
        fn hostile_bytes_never_panic(noise in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_call(&noise);
            let _ = parse_reply(&noise);
        }

        #[test]
        fn a_call_with_any_word_changed_never_panics(at in 0_usize..18, word: u32) {
            let mut message = bytes(WHOLE);
            message[at * 4..at * 4 + 4].copy_from_slice(&word.to_be_bytes());
            let _ = parse_call(&message);
            let _ = parse_reply(&message);
        }
    }
}
