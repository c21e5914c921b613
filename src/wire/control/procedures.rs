//! The program and its procedures.
//!
//! Everything about a procedure stands in its line of [`procedures!`]. Numbers and calls are made
//! from that table here, the trait of a lock manager that cooperates and its dispatch in `rpc::control`.

use std::marker::PhantomData;

use super::listing::{ClientPage, LockPage, LocksArgs};
use super::manager::{Info, Status};
use super::pages::PageAfter;
use super::release::{ReleaseArgs, Released};
use super::result::{ClientResultPage, LockFatePage, RunResult};
use super::run::{
    BeginArgs, Begun, ExtendArgs, ProgressArgs, RunArgs, RunClientPage, RunList, RunPageAfter, SettleArgs,
};
use super::watch::{WatchArgs, Watched};
use crate::wire::xdr::{Void, encode};

/// In the range that RFC 5531 leaves to local use.
pub const PROGRAM: u32 = 0x204E_4C4D;
/// The only version.
pub const VERSION: u32 = 1;
/// Longest record either side takes, in bytes.
pub const MAX_RECORD: usize = 16 << 20;

/// Hands the table to the macro `$make`. A line has number and name; the method with its arguments on
/// the wire and, where the call makes its caller the controller of a run, the connection that it came
/// by; the result; and whether anything is changed. What only reads is served on the read-only socket
/// too, and may be asked twice.
macro_rules! procedures {
    ($make:ident) => {
        $make! {
            /// Who the manager is, and what it can do.
            1 Info: info() -> Info, READS;
            /// How it is now.
            2 Status: status() -> Status, READS;
            /// A page of the clients that it knows.
            3 Clients: clients(PageAfter) -> ClientPage, READS;
            /// A page of the locks in a scope.
            4 Locks: locks(LocksArgs) -> LockPage, READS;
            /// The new state number is durable, then mark and grace in one step. Idempotent by run id.
            5 Begin: begin(BeginArgs, from ConnectionId) -> Begun, CHANGES;
            /// A page of the clients to notify, as `begin` fixed them.
            6 RunClients: run_clients(RunPageAfter) -> RunClientPage, READS;
            /// What became of notices.
            7 Progress: progress(ProgressArgs, from ConnectionId) -> Status, CHANGES;
            /// Moves the deadline.
            8 Extend: extend(ExtendArgs) -> Status, CHANGES;
            /// Drops or keeps what is pending. Answers when that is done and the result is durable.
            9 Settle: settle(SettleArgs, from ConnectionId) -> RunResult, CHANGES;
            /// Ends the run; pending locks are held again.
            10 Abort: abort(RunArgs) -> RunResult, CHANGES;
            /// The sums of a run that has ended.
            11 Result: result(RunArgs) -> RunResult, READS;
            /// A page of its clients.
            12 ResultClients: result_clients(RunPageAfter) -> ClientResultPage, READS;
            /// A page of its locks.
            13 ResultLocks: result_locks(RunPageAfter) -> LockFatePage, READS;
            /// The result was fetched and stored.
            14 Acknowledge: acknowledge(RunArgs) -> Void, CHANGES;
            /// Frees chosen locks, all or none.
            15 Release: release(ReleaseArgs) -> Released, CHANGES;
            /// Answers when something changed since the cursor, or at the time-out.
            16 Watch: watch(WatchArgs) -> Watched, READS;
            /// Ended runs whose result no controller has acknowledged, the oldest first.
            17 Unfetched: unfetched() -> RunList, READS;
        }
    };
}
pub(crate) use procedures;

/// For the table's last column.
const READS: bool = true;
const CHANGES: bool = false;

/// A call with its arguments, and the type that it is answered with.
#[derive(Debug)]
pub struct ControlCall<T> {
    /// What is called.
    pub procedure: Procedure,
    /// Its arguments, encoded.
    pub args: Vec<u8>,
    reply: PhantomData<fn() -> T>,
}

macro_rules! numbers_and_calls {
    ($($(#[$doc:meta])* $number:literal $name:ident:
       $method:ident($($args:ty $(, from $from:ty)?)?) -> $reply:ty, $reads:ident;)*) => {
        /// Procedure numbers.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Procedure {
            /// Nothing in, nothing out: tells that the program is served.
            Null = 0,
            $($(#[$doc])* $name = $number,)*
        }

        impl Procedure {
            /// Every procedure, by number.
            pub const ALL: &[Self] = &[Self::Null, $(Self::$name),*];

            /// The procedure of a number.
            pub fn from_number(number: u32) -> Option<Self> {
                Self::ALL.iter().copied().find(|procedure| *procedure as u32 == number)
            }

            /// Whether it changes nothing.
            pub fn is_read_only(self) -> bool {
                match self {
                    Self::Null => READS,
                    $(Self::$name => $reads,)*
                }
            }
        }

        $(impl ControlCall<$reply> {
            $(#[$doc])*
            pub fn $method($(args: &$args)?) -> Self {
                let args = <[Vec<u8>]>::concat(&[$(encode::<$args>(args))?]);
                Self { procedure: Procedure::$name, args, reply: PhantomData }
            }
        })*
    };
}
procedures!(numbers_and_calls);
