//! Lines in the system log about a grace period in front of lockd, with the command that stops it at once.

use crate::host;
use crate::wire::nftables::TABLE;

/// From now on lockd's packets go through the filter: the keeper with this process number has installed its rules.
pub fn began(keeper: u32, queue: u16) {
    host::syslog(&format!(
        "packets of lockd's ports go through a filter from now on (table inet {TABLE}, queue {queue}, process {keeper}). {}",
        emergency_stop(keeper)
    ));
}

/// The rules are gone.
pub fn ended(keeper: u32) {
    host::syslog(&format!(
        "packets of lockd's ports no longer go through a filter (process {keeper} has ended its work)"
    ));
}

/// How to stop it at once, and what that costs.
fn emergency_stop(keeper: u32) -> String {
    format!(
        "To stop it at once: `kill -KILL {keeper}`. The packet rules go with that process. The price: lockd refuses reclaims \
         that come later, and their clients forget these locks, while the server holds them and later runs keep them \
         (`nlmctl locks` names them)."
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_emergency_stop_names_the_process_and_its_price() {
        let words = emergency_stop(4711);
        assert!(words.contains("kill -KILL 4711") && words.contains("refuses reclaims"), "{words}");
    }
}
