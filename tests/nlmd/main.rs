//! The real nlmd over loopback, spoken to by a small client of the test's own.

mod calls;
mod control;
mod harness;
mod process;
mod recovery;
