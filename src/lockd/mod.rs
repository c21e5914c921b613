//! The daemon.

pub mod persist;
