//! A forced resync as rules and machines: events and `now` in, actions out. Pure.
//!
//! | file | what |
//! |---|---|
//! | `policy` | what may be dropped when a run settles |

pub mod policy;
