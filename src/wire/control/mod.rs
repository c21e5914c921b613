//! The control protocol: how a controller drives a cooperating lock manager.
//!
//! ONC RPC program [`PROGRAM`], version 1, records over a Unix stream socket. `control.x` beside
//! this folder is the same thing in XDR's own language, for other lock managers to implement.
//! A manager of another kind (`manager/`) answers with these same types.
//!
//! Every procedure but NULL answers with a [`Response`]: the value, or a [`Refusal`]. Clients and locks
//! of a run, of a listing and of a result come in pages; a page's `next` is the cursor of the one
//! after it, 0 when there is none. A run's client is named by its index (`u32`) in the list that
//! `begin` fixed.
//!
//! Start reading at `procedures`; each other file has the arguments and results around one noun.

mod answer;
mod ids;
mod listing;
mod manager;
mod pages;
mod procedures;
mod release;
mod result;
mod run;
#[cfg(test)]
mod samples;
mod watch;

pub use answer::*;
pub use ids::*;
pub use listing::*;
pub use manager::*;
pub use pages::*;
pub(crate) use procedures::procedures;
pub use procedures::{ControlCall, MAX_RECORD, PROGRAM, Procedure, VERSION};
pub use release::*;
pub use result::*;
pub use run::*;
pub use watch::*;
