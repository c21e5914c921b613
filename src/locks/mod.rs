//! The lock table: holders, waiters, and what a run has marked. Pure: calls, notices and `now`
//! go in; verdicts come out, and [`Effect`]s say what is to be done outside.
//!
//! What exists ([`table`] has it all): clients ([`clients`]), owners ([`owners`]), files with their
//! segments ([`segments`]), blocked requests ([`waiters`], their offers in [`standing`]) and when to look at them
//! ([`long_waits`]), at most one
//! run ([`run`], its clients in [`roster`] (those to come in [`awaited`]), each one's part of it in [`tally`], its end in
//! [`settling`], its [`rows`] (those that peers cause: [`listed`]) and [`result`]), a release that is not all swept
//! ([`releasing`]), what a run's end leaves open for a while ([`late_window`]), and what another lock domain has of it all
//! ([`mirror`]). One task owns the table; nothing in it waits.
//!
//! What is done with it: calls ([`requests`], [`spellings`], [`moves`], [`silence`], [`consent`]) and those that wait
//! ([`queue`], [`offers`]), notices ([`reboots`]), runs ([`grace`], [`settle`]; over another lock manager:
//! [`followed`]), and what an operator asks for ([`listing`], [`release`]). These files know the table and what is in
//! it, and import nothing of each other (but `release`, which frees what is listed).
//!
//! What must hold (a property test checks it after every step):
//! - no two owners have segments that exclude each other, held or pending;
//! - a client's, an owner's, the run's and the table's counts are those of the segments, since only
//!   [`segments`] changes segments, and what counts them is told of each change;
//! - a waiter is offered a range only when no other owner holds it and nobody pends it;
//! - in_scope = pending + reclaimed + released + dropped + kept.
//!
//! ```text
//!            start_recovery                begin                settle_start
//!   (start) ----------------> recovery   open ------> grace ------------------> settling
//!                                |         ^            |  ^                       |  |
//!                                +-------->+<-----------+  +--- settle_cancel -----+  |
//!                                  timeout |   abort                                  |
//!                                          +<---- settle_commit, then sweeps ---------+
//! ```
//!
//! Pending is not written into a lock: a lock granted in an earlier epoch and in the run's scope is
//! pending ([`run`]). Nor does the settle walk the locks it drops before its one instant: it leaves a
//! description of them ([`covers::Void`]) by which a file is purged when it is next looked at.
//!
//! Where to start reading: [`LockTable::handle`], then the rest of [`requests`].

mod api;
mod awaited;
mod caps;
mod clients;
mod consent;
mod coverage;
mod covers;
mod file;
mod followed;
mod freeing;
mod grace;
mod held;
mod index;
mod intervals;
mod late_window;
mod listed;
mod listing;
mod long_waits;
mod mirror;
mod moves;
mod numbered;
mod offers;
mod owners;
mod queue;
mod reboots;
mod release;
mod releasing;
mod requests;
mod result;
mod roster;
mod rows;
mod run;
mod segment;
mod segments;
mod series;
mod settle;
mod settling;
mod silence;
mod spellings;
mod standing;
mod table;
mod tally;
mod waiters;

#[cfg(test)]
mod tests;

pub use api::*;
pub use coverage::{Coverage, Part};
pub use listing::Listing;
pub use release::{ComparedRelease, Release};
pub use result::SlicedResult;
pub use table::LockTable;
