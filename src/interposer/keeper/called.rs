//! Whether this host still has the addresses that a run's clients call.
//!
//! An address moves away when a cluster fails over, or when an administrator removes it. Its clients' reclaims are
//! then answered elsewhere, or not at all. So the run is superseded: a missing reclaim here says nothing.
//!
//! An address that this host did not have at the begin is not looked for: clients that called it came before the run.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::platform::Platform;
use crate::wire::control::RunClient;
use crate::wire::scope;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The addresses of this host that the clients of a run call.
#[derive(Debug)]
pub(super) struct CalledAddresses {
    addresses: BTreeSet<IpAddr>,
    looked: Instant,
}

impl CalledAddresses {
    pub(super) fn new(clients: &[RunClient], platform: &dyn Platform) -> Self {
        let own = platform.addresses().unwrap_or_default();
        let called = clients.iter().flat_map(|client| client.server_addresses.as_slice()).map(|address| address.0);
        Self { addresses: called.filter(|ip| own.contains(&scope::bare(*ip))).collect(), looked: Instant::now() }
    }

    /// One that has moved off. It looks only after some time, so it can be asked often.
    pub(super) fn gone_by_now(&mut self, platform: &dyn Platform) -> Option<IpAddr> {
        if self.looked.elapsed() < LOOK_EVERY {
            return None;
        }
        self.looked = Instant::now();
        self.gone(platform)
    }

    /// One that has moved off. Where the kernel does not tell, none has.
    pub(super) fn gone(&self, platform: &dyn Platform) -> Option<IpAddr> {
        let own = platform.addresses().ok()?;
        self.addresses.iter().copied().find(|ip| !own.contains(&scope::bare(*ip)))
    }
}
