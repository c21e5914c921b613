//! The capabilities of this process.

use std::io;

use rustix::thread::{CapabilitySet, capabilities, set_capabilities, set_no_new_privs};

use super::Machine;

/// Whether this process has CAP_NET_ADMIN: it may set by netlink what the kernel has to set.
pub fn may_administer_network() -> bool {
    capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::NET_ADMIN))
}

/// Those capabilities that this process lacks of the ones that it takes to change packet rules, to read kernel memory and the
/// kernel's addresses, and to call from ports below 1024.
pub fn lacks_capabilities() -> Vec<&'static str> {
    let has = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
    let needed = [
        (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN"),
        (CapabilitySet::NET_BIND_SERVICE, "CAP_NET_BIND_SERVICE"),
        (CapabilitySet::SYS_RAWIO, "CAP_SYS_RAWIO"),
        (CapabilitySet::SYSLOG, "CAP_SYSLOG"),
    ];
    needed.into_iter().filter(|(one, _)| !has.contains(*one)).map(|(_, name)| name).collect()
}

impl Machine {
    /// The label of this process, where SELinux enforces a policy on it; none where it is in a type that may do all
    /// (`unconfined_t`, `unconfined_service_t`).
    pub fn confined_by_selinux(&self) -> Option<String> {
        let enforces = self.read("sys/fs/selinux/enforce").is_ok_and(|mode| mode.trim() == "1");
        let label = enforces.then(|| self.read("proc/thread-self/attr/current").ok())??;
        let label = label.trim_end_matches(['\0', '\n']);
        let may_do_all = label.split(':').nth(2).is_some_and(|kind| kind.starts_with("unconfined_"));
        (!may_do_all && !label.is_empty()).then(|| label.to_owned())
    }
}

/// The user who asks: the one who logged in (`loginuid`, which sudo and su do not change), else the one of this process.
pub fn user() -> u32 {
    let login = std::fs::read_to_string("/proc/self/loginuid").ok().and_then(|text| text.trim().parse().ok());
    // -1: no login.
    login.filter(|uid| *uid != u32::MAX).unwrap_or_else(|| nix::unistd::getuid().as_raw())
}

/// Gives up all capabilities but `wanted`, for good, and that a program which it starts gains new ones. It is about
/// the calling thread, and about those that this one starts later.
///
/// # Errors
/// The errors of prctl(2) and capset(2).
pub fn keep_capabilities(wanted: CapabilitySet) -> io::Result<()> {
    set_no_new_privs(true)?;
    let mut sets = capabilities(None)?;
    sets.effective &= wanted;
    sets.permitted &= wanted;
    sets.inheritable = CapabilitySet::empty();
    Ok(set_capabilities(None, sets)?)
}
