//! Clients of a plan or of a run as targets of the fan-out.

use crate::nsm::{Host, Notice, StatdState, Target};
use crate::report::Probe;
use crate::resync::plan::{PlannedClient, Probed};
use crate::rpc::fanout::Failure;
use crate::wire::control::RunClient;
use crate::wire::types::CallerName;

/// A client of the plan, to be asked for its state.
pub(super) fn to_probe(id: u32, client: &PlannedClient) -> Target {
    Target { id, host: Host::of(&client.name, client.addresses.iter().copied()), notices: Vec::new() }
}

/// A client of the run, to be told.
pub(super) fn to_notify(client: &RunClient, names: &[CallerName]) -> Target {
    Target {
        id: client.index,
        host: Host::client(&client.name, client.addresses.as_slice().iter().map(|address| address.0)),
        notices: Notice::each(client.server_addresses.as_slice().iter().map(|address| address.0), names),
    }
}

/// What a probe says, for the plan.
pub(super) fn probed(state: StatdState) -> Probed {
    let state = state.map_err(|failure| match failure {
        Failure::NoAnswer | Failure::Partial | Failure::Elsewhere => Probe::NoAnswer,
        Failure::NotSent => Probe::NotAsked,
        Failure::NotRegistered => Probe::NoStatd,
        Failure::NameUnknown => Probe::NameUnknown,
        Failure::Refused => Probe::Refused,
    });
    state.map_or_else(Probed::Silent, Probed::Answers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::xdr::List;

    fn client(server_addresses: &[&str]) -> RunClient {
        RunClient {
            server_addresses: List::clipped(server_addresses.iter().map(|a| a.parse().unwrap()).collect()),
            ..RunClient::sample(7)
        }
    }

    #[test]
    fn a_client_is_told_from_every_server_address_under_every_name() {
        let names = ["nas.example.org", "nas"].map(|n| CallerName::new(n).unwrap());
        let target = to_notify(&client(&["127.0.0.1", "127.0.0.2"]), &names);
        let told: Vec<_> = target.notices.iter().map(|n| format!("{} {}", n.from.unwrap(), n.name)).collect();
        assert_eq!(told, ["127.0.0.1 nas.example.org", "127.0.0.1 nas", "127.0.0.2 nas.example.org", "127.0.0.2 nas"]);
        assert_eq!(target.id, 7);
    }

    #[test]
    fn a_client_that_is_not_known_to_have_called_an_address_is_told_from_any() {
        let names = [CallerName::new("nas").unwrap()];
        let target = to_notify(&client(&[]), &names);
        assert_eq!(target.notices, [Notice { from: None, name: names[0].clone() }]);
    }
}
