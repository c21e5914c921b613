//! Who may talk to nlmd over the network (`--allow`). A caller outside is not answered at all: an
//! answer, be it a refusal, would make nlmd a reflector for datagrams with a forged source.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::rpc::server::{CallContext, Peer};

/// The networks allowed; none means everybody.
#[derive(Debug, Default)]
pub struct Gate {
    allowed: Vec<IpNet>,
}

impl Gate {
    /// Of `--allow`.
    pub fn new(allowed: Vec<IpNet>) -> Self {
        Self { allowed }
    }

    /// The caller's address, if it may call.
    pub fn admit(&self, cx: &CallContext) -> Option<IpAddr> {
        let Peer::Inet(peer) = cx.peer else { return None };
        let address = peer.ip().to_canonical();
        if self.allows(address) {
            return Some(address);
        }
        tracing::debug!(%address, "a call from outside the allowed networks is not answered");
        None
    }

    fn allows(&self, address: IpAddr) -> bool {
        self.allowed.is_empty() || self.allowed.iter().any(|network| network.contains(&address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_allowed_networks_pass_and_none_given_means_everybody() {
        let gate = Gate::new(vec!["192.0.2.0/24".parse().unwrap(), "2001:db8::/32".parse().unwrap()]);
        assert!(gate.allows("192.0.2.9".parse().unwrap()));
        assert!(gate.allows("2001:db8::1".parse().unwrap()));
        assert!(!gate.allows("198.51.100.1".parse().unwrap()));
        assert!(Gate::default().allows("198.51.100.1".parse().unwrap()));
    }
}
