//! The answer of a procedure: its value, or a refusal.

use std::fmt;

use crate::wire::xdr::{Pack, Text, Unpack, XdrCodec};

/// The value, or why not.
#[derive(Debug, Clone, PartialEq, Eq, XdrCodec)]
pub enum Response<T: Pack + Unpack> {
    /// Done.
    #[xdr(0)]
    Ok(T),
    /// Not done.
    #[xdr(1)]
    Refused(Refusal),
}

impl<T: Pack + Unpack> From<Result<T, Refusal>> for Response<T> {
    fn from(outcome: Result<T, Refusal>) -> Self {
        match outcome {
            Ok(value) => Self::Ok(value),
            Err(refusal) => Self::Refused(refusal),
        }
    }
}

/// Why a manager did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, XdrCodec)]
pub struct Refusal {
    /// For programs.
    pub code: RefusalCode,
    /// For people.
    pub message: Text<1024>,
}

impl Refusal {
    /// A refusal with its words.
    pub fn new(code: RefusalCode, message: impl Into<String>) -> Self {
        Self { code, message: Text::clipped(message) }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message.as_str())
    }
}

impl std::error::Error for Refusal {}

/// Kinds of refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, XdrCodec)]
#[repr(u32)]
pub enum RefusalCode {
    /// Another run is active.
    RunActive = 1,
    /// A grace period that is no run's is active (the manager restarted a moment ago).
    GraceActive = 2,
    /// Instance, NSM state or (of a release) locks are not those of the plan.
    StalePlan = 3,
    /// No run of that id is known.
    UnknownRun = 4,
    /// The run is not in a phase that allows it.
    WrongPhase = 5,
    /// The condition of a SETTLE is not met: a lock is pending, or awaited.
    StillPending = 6,
    /// The scope or a value makes no sense here.
    BadRequest = 7,
    /// The manager cannot do this.
    Unsupported = 8,
    /// State or result could not be made durable; nothing was changed.
    NotDurable = 9,
    /// The caller may not.
    NotAllowed = 10,
}
