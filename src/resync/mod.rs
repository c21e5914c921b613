//! A forced resync: who is told and what may be lost (the plan), and the run as a state machine.
//!
//! Pure: events and `now` in, actions out. Start reading at the diagram in [`run`].

pub mod plan;
pub mod policy;
pub mod run;
