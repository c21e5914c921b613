//! The daemon.

pub mod callbacks;
pub mod control_service;
pub mod control_socket;
pub mod dispatch;
pub mod gate;
pub mod nlm_service;
pub mod nsm_service;
pub mod persist;
pub mod table;
