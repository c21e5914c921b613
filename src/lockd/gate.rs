//! Who may talk to nlmd over the network (`--allow`). A caller outside is not answered at all: an
//! answer, be it a refusal, would make nlmd a reflector for datagrams with a forged source. It gets no connection
//! either: those are few.

use std::net::{IpAddr, SocketAddr};
use std::sync::{PoisonError, RwLock};

use ipnet::IpNet;

use super::callers::Called;
use super::dispatch::Rules;
use crate::rpc::server::{Origin, Peer};
use crate::wire::scope;

/// The networks allowed (none means all hosts), and the rules inside them.
#[derive(Debug, Default)]
pub struct Gate {
    allowed: RwLock<Vec<IpNet>>,
    called: Called,
    /// What the dispatch table needs to know besides.
    pub rules: Rules,
}

impl Gate {
    /// Of `--allow`, and of the other flags that say who may call.
    pub fn new(allowed: Vec<IpNet>, rules: Rules, called: Called) -> Self {
        Self { allowed: RwLock::new(allowed), called, rules }
    }

    /// Other networks from now on.
    pub fn allow(&self, allowed: Vec<IpNet>) {
        *self.allowed.write().unwrap_or_else(PoisonError::into_inner) = allowed;
    }

    /// Whether the peer may call.
    pub fn hears(&self, peer: &Peer) -> bool {
        let Peer::Inet(peer) = peer else { return false };
        let address = peer.ip().to_canonical();
        // rpc.statd calls from here, and would not say that no answer comes.
        let hears = self.allows(address) || (self.rules.statd && address.is_loopback());
        if !hears {
            tracing::debug!(%address, "what comes from outside the allowed networks is not answered");
        }
        hears
    }

    /// The caller's address and port, if it may call. It is noted that it did.
    pub fn admit(&self, origin: &Origin) -> Option<SocketAddr> {
        let Peer::Inet(peer) = origin.peer else { return None };
        self.hears(&origin.peer).then(|| {
            let address = peer.ip().to_canonical();
            self.called.note(address);
            SocketAddr::new(address, peer.port())
        })
    }

    fn allows(&self, address: IpAddr) -> bool {
        let address = scope::bare(address);
        let allowed = self.allowed.read().unwrap_or_else(PoisonError::into_inner);
        allowed.is_empty() || allowed.iter().any(|network| network.contains(&address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_allowed_networks_pass_and_none_given_means_everybody() {
        let networks = vec!["192.0.2.0/24".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
        let gate = Gate::new(networks, Rules::default(), Called::default());
        assert!(gate.allows("192.0.2.9".parse().unwrap()));
        assert!(gate.allows("2001:db8::1".parse().unwrap()));
        assert!(!gate.allows("198.51.100.1".parse().unwrap()));
        gate.allow(vec!["198.51.100.0/24".parse().unwrap()]);
        assert!(gate.allows("198.51.100.1".parse().unwrap()) && !gate.allows("192.0.2.9".parse().unwrap()));
        let link = Gate::new(vec!["fe80::/64".parse().unwrap()], Rules::default(), Called::default());
        assert!(link.allows(scope::parse("fe80::9%2").unwrap()), "on whatever interface");
        assert!(Gate::default().allows("198.51.100.1".parse().unwrap()));
    }
}
