//! A forced resync as rules and machines: events and `now` in, actions out. Pure.
//!
//! | file | what |
//! |---|---|
//! | `consent` | proof that the operator agreed |
//! | `plan` | who is notified, what is in scope, what needs consent |
//! | `policy` | what may be dropped when a run settles |
//! | `reconcile` | which clients are suspects, and what a run of theirs may drop |
//! | `run` | a run as a state machine; start reading at its diagram |

#[cfg(feature = "tools")]
pub(crate) mod consent;
#[cfg(feature = "tools")]
pub(crate) mod plan;
#[warn(missing_docs)]
pub mod policy;
#[cfg(feature = "tools")]
pub(crate) mod reconcile;
#[cfg(feature = "tools")]
pub(crate) mod run;
