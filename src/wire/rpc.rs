//! RPC messages (RFC 5531), each without a record mark: a datagram as it is, or a record of `record`.
//!
//! `onc-rpc` does the encoding. It wants exactly one record fragment around every message, so the
//! mark is put on and taken off here; and it knows auth bodies of up to 200 bytes (RFC 5531 allows
//! 400), so a longer credential is answered as a bad one.

use onc_rpc::auth::{AuthFlavor, AuthUnixParams};
use onc_rpc::{
    AcceptedReply, AcceptedStatus, AuthError, CallBody, Error as OncError, MessageType, RejectedReply, ReplyBody,
    RpcMessage,
};

use super::record::{MARK, frame};

/// The RPC version that everybody speaks.
const RPC_VERSION: u32 = 2;
/// Longest machine name that still fits the 200 bytes of an auth body: five other words go with it.
const MAX_MACHINE: usize = 176;

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

/// Takes off the mark that `onc-rpc` put on.
fn unframed(message: &RpcMessage<&[u8], &[u8]>) -> Vec<u8> {
    // The writer is a Vec, which takes everything.
    let mut bytes = message.serialise().unwrap_or_default();
    bytes.drain(..MARK.min(bytes.len()));
    bytes
}

fn clip(name: &str) -> &[u8] {
    name.as_bytes().get(..MAX_MACHINE).unwrap_or(name.as_bytes())
}

/// Encodes a call.
pub fn call(xid: u32, program: u32, version: u32, procedure: u32, credential: &Credential, args: &[u8]) -> Vec<u8> {
    let flavor: AuthFlavor<&[u8]> = match credential {
        Credential::None => AuthFlavor::AuthNone(None),
        Credential::Unix { machine, uid, gid, groups: _ } => {
            AuthFlavor::AuthUnix(AuthUnixParams::new(0, clip(machine), *uid, *gid, None))
        }
        Credential::Other(id) => AuthFlavor::Unknown { id: *id, data: &[] },
    };
    let body = CallBody::new(program, version, procedure, flavor, AuthFlavor::AuthNone(None), args);
    unframed(&RpcMessage::new(xid, MessageType::Call(body)))
}

/// The first two words: xid and message type.
fn head(message: &[u8]) -> Option<(u32, u32)> {
    let (xid, rest) = message.split_first_chunk::<4>()?;
    let kind = rest.first_chunk::<4>()?;
    Some((u32::from_be_bytes(*xid), u32::from_be_bytes(*kind)))
}

fn denied(xid: u32, why: RejectedReply) -> Vec<u8> {
    unframed(&RpcMessage::new(xid, MessageType::Reply(ReplyBody::Denied(why))))
}

/// Takes a call apart, or says what it is to be answered with.
pub fn parse_call(message: &[u8]) -> Result<IncomingCall<'_>, BadCall> {
    let Some((xid, 0)) = head(message) else { return Err(BadCall::Ignore) };
    // `onc-rpc` borrows from the framed copy; the arguments are the tail of the original.
    let framed = frame(message);
    let parsed = RpcMessage::try_from(framed.as_slice()).map_err(|error| match error {
        OncError::InvalidRpcVersion(_) => {
            BadCall::Answer(denied(xid, RejectedReply::RpcVersionMismatch { low: RPC_VERSION, high: RPC_VERSION }))
        }
        OncError::InvalidAuthData | OncError::InvalidLength | OncError::InvalidMachineName(_) => {
            BadCall::Answer(denied(xid, RejectedReply::AuthError(AuthError::BadCredentials)))
        }
        _ => BadCall::Ignore,
    })?;
    let body = parsed.call_body().ok_or(BadCall::Ignore)?;
    let credential = match body.auth_credentials() {
        AuthFlavor::AuthNone(_) => Credential::None,
        AuthFlavor::AuthUnix(unix) => Credential::Unix {
            machine: String::from_utf8_lossy(unix.machine_name()).into_owned(),
            uid: unix.uid(),
            gid: unix.gid(),
            groups: unix.gids().unwrap_or_default().to_vec(),
        },
        other => Credential::Other(other.id()),
    };
    let args = message.get(message.len() - body.payload().len()..).ok_or(BadCall::Ignore)?;
    Ok(IncomingCall {
        xid,
        program: body.program(),
        version: body.program_version(),
        procedure: body.procedure(),
        credential,
        args,
    })
}

/// Encodes a reply.
pub fn reply(xid: u32, answer: &Answer) -> Vec<u8> {
    let status = match answer {
        Answer::Success(results) => AcceptedStatus::Success(results.as_slice()),
        Answer::ProgUnavail => AcceptedStatus::ProgramUnavailable,
        Answer::ProgMismatch { low, high } => AcceptedStatus::ProgramMismatch { low: *low, high: *high },
        Answer::ProcUnavail => AcceptedStatus::ProcedureUnavailable,
        Answer::GarbageArgs => AcceptedStatus::GarbageArgs,
        Answer::SystemErr => AcceptedStatus::SystemError,
        Answer::TooWeak => return denied(xid, RejectedReply::AuthError(AuthError::TooWeak)),
    };
    let accepted = AcceptedReply::new(AuthFlavor::<&[u8]>::AuthNone(None), status);
    unframed(&RpcMessage::new(xid, MessageType::Reply(ReplyBody::Accepted(accepted))))
}

/// Takes a reply apart.
pub fn parse_reply(message: &[u8]) -> Result<IncomingReply<'_>, DecodeError> {
    let framed = frame(message);
    let parsed = RpcMessage::try_from(framed.as_slice()).map_err(|error| DecodeError::Malformed(error.to_string()))?;
    let outcome = match parsed.reply_body().ok_or(DecodeError::NotAReply)? {
        ReplyBody::Denied(RejectedReply::RpcVersionMismatch { low, high }) => {
            Err(RpcError::RpcMismatch { low: *low, high: *high })
        }
        ReplyBody::Denied(RejectedReply::AuthError(error)) => Err(RpcError::Auth(auth_stat(error))),
        ReplyBody::Accepted(accepted) => match accepted.status() {
            AcceptedStatus::Success(results) => message
                .get(message.len() - results.len()..)
                .map(Ok)
                .ok_or_else(|| DecodeError::Malformed("results".to_owned()))?,
            AcceptedStatus::ProgramUnavailable => Err(RpcError::ProgUnavail),
            AcceptedStatus::ProgramMismatch { low, high } => Err(RpcError::ProgMismatch { low: *low, high: *high }),
            AcceptedStatus::ProcedureUnavailable => Err(RpcError::ProcUnavail),
            AcceptedStatus::GarbageArgs => Err(RpcError::GarbageArgs),
            AcceptedStatus::SystemError => Err(RpcError::SystemErr),
        },
    };
    Ok(IncomingReply { xid: parsed.xid(), outcome })
}

/// RFC 5531 section 9, `auth_stat`.
fn auth_stat(error: &AuthError) -> u32 {
    match error {
        AuthError::Success => 0,
        AuthError::BadCredentials => 1,
        AuthError::RejectedCredentials => 2,
        AuthError::BadVerifier => 3,
        AuthError::RejectedVerifier => 4,
        AuthError::TooWeak => 5,
        AuthError::InvalidResponseVerifier => 6,
        AuthError::Failed => 7,
    }
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
    const CALL: &str = "12345678 00000000 00000002 000186b5 00000004 00000002
        00000001 00000018 00000000 00000002 63310000 000003e8 00000064 00000000
        00000000 00000000
        0a0b0c0d 01020304";

    #[test]
    fn a_call_is_written_and_read_as_the_specification_has_it() {
        let args = [10, 11, 12, 13, 1, 2, 3, 4];
        let written = call(0x1234_5678, 100_021, 4, 2, &unix(), &args);
        assert_eq!(hex::encode(&written), hex::encode(bytes(CALL)));
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
        let mut message = bytes(CALL);
        message[31] += 8;
        message[55] = 2;
        message.splice(56..56, [0, 0, 0, 7, 0, 0, 0, 9]);
        let credential = parse_call(&message).map(|call| call.credential);
        let groups = vec![7, 9];
        assert_eq!(credential, Ok(Credential::Unix { machine: "c1".to_owned(), uid: 1000, gid: 100, groups }));
    }

    #[test]
    fn a_call_cut_before_its_arguments_is_none() {
        let whole = bytes(CALL);
        for end in 0..whole.len() - 8 {
            assert!(parse_call(&whole[..end]).is_err(), "cut at {end} it was still read");
        }
    }

    // RFC 5531 section 9: "RPC_MISMATCH = 0", with the lowest and highest version spoken.
    #[test]
    fn another_rpc_version_is_told_which_one_is_spoken() {
        let mut other = bytes(CALL);
        other[11] = 3;
        let told = bytes("12345678 00000001 00000001 00000000 00000002 00000002");
        assert_eq!(parse_call(&other), Err(BadCall::Answer(told)));
    }

    // RFC 5531 section 9: "AUTH_ERROR = 1", "AUTH_BADCRED = 1".
    #[test]
    fn a_malformed_credential_is_told_so() {
        let told = bytes("12345678 00000001 00000001 00000001 00000001");
        let mut groups = bytes(CALL);
        groups[55] = 17;
        assert_eq!(parse_call(&groups), Err(BadCall::Answer(told.clone())));
        let mut length = bytes(CALL);
        length[30..32].copy_from_slice(&[1, 0x90]);
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
        assert_eq!(parse_reply(&bytes(CALL)), Err(DecodeError::NotAReply));
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
            let mut message = bytes(CALL);
            message[at * 4..at * 4 + 4].copy_from_slice(&word.to_be_bytes());
            let _ = parse_call(&message);
            let _ = parse_reply(&message);
        }
    }
}
