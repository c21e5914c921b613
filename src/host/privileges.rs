//! What this process may do beyond other processes.

use std::io;

use rustix::thread::{CapabilitySet, capabilities, set_capabilities, set_no_new_privs};

/// Gives up all capabilities but `wanted`, for good, and that a program which it starts gains new ones. It is about
/// the calling thread, and about those that this one starts later.
///
/// # Errors
/// Those of prctl(2) and capset(2).
pub fn keep_capabilities(wanted: CapabilitySet) -> io::Result<()> {
    set_no_new_privs(true)?;
    let mut sets = capabilities(None)?;
    sets.effective &= wanted;
    sets.permitted &= wanted;
    sets.inheritable = CapabilitySet::empty();
    Ok(set_capabilities(None, sets)?)
}
