//! The control protocol's server side: what any lock manager needs in order to be driven by nlmctl.
//!
//! It implements [`LockManagerControl`], keeps a [`Timeline`] for watchers, and gives both to a
//! [`ControlSocket`]. The table of procedures, and the types of arguments and results, are in
//! `wire::control`; the client is `manager::nlmd`.

mod service;
mod socket;
mod timeline;

pub use super::server::ConnectionId;
pub use service::LockManagerControl;
pub use socket::{ControlSocket, SocketError};
pub use timeline::Timeline;
