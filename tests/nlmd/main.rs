//! The real nlmd over loopback, spoken to by a small client of the test's own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking, and says what it saw"
)]

mod answers;
mod calls;
mod control;
mod damage;
mod grants;
mod harness;
mod monitors;
mod names;
mod process;
mod recovery;
mod stops;
