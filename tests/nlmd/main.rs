//! The real nlmd over loopback, spoken to by a small client of the test's own.
#![cfg(test)]

mod answers;
mod calls;
#[path = "../common/client.rs"]
mod client;
mod control;
mod daemon;
mod damage;
#[path = "../common/document.rs"]
mod document;
mod grants;
mod harness;
mod monitors;
mod names;
#[path = "../common/nlmd.rs"]
mod nlmd;
#[path = "../common/process.rs"]
mod process;
mod recovery;
mod stops;
