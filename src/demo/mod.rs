//! The product at work on one machine: a real nlmd, simulated clients on real sockets, a real resync.
//!
//! Three things exist: [`server`], an nlmd in a process of its own; [`clients`], a farm of simulated
//! hosts that lock through NLM and answer as a Linux client would, or as they are told; and what puts
//! the two together. The farm alone knows what its clients believe, nlmd alone what it holds: the two
//! are compared at the end, so that a demo is judged by a witness that took no part in the run.
//!
//! Start reading at [`clients`].

pub mod check;
pub mod clients;
pub mod run;
pub mod server;
pub mod setup;
