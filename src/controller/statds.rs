//! The present answers of the clients' statds.

use std::collections::HashMap;
use std::net::IpAddr;

use super::targets::probed;
use super::{ControllerError, Options};
use crate::nsm::{self, ProbeOptions, Target};
use crate::report::{Failure, Probe};
use crate::resync::plan::{PlannedClient, Probed};
use crate::rpc::fanout::TELLS_AFTER;
use crate::units;
use crate::wire::control::RunClient;
use crate::wire::types::CallerName;

/// Clients named in the line that says whose answers are awaited.
const NAMED: usize = 3;

/// What the plan saw of each client, by its name and first address. Clones share a name: evidence against one says nothing of
/// another, whose silence it would explain.
#[derive(Debug, Default)]
pub(super) struct Probes(HashMap<(CallerName, Option<IpAddr>), Probe>);

impl Probes {
    pub(super) fn of(planned: &[PlannedClient]) -> Self {
        let key = |client: &PlannedClient| (client.name.clone(), client.addresses.first().copied());
        Self(planned.iter().map(|client| (key(client), client.probe)).collect())
    }

    /// Of a client as `begin` fixed it.
    pub(super) fn seen_of(&self, client: &RunClient) -> Probe {
        let address = client.addresses.as_slice().first().map(|address| address.0);
        self.0.get(&(client.name.clone(), address)).copied().unwrap_or(Probe::NotAsked)
    }
}

/// Asks all of them at once, under this server's name; a target's id is the place of its client's name in `clients`.
/// Says whom it waits for.
pub(super) async fn ask(
    targets: Vec<Target>,
    clients: &[&CallerName],
    my_name: Option<CallerName>,
    options: &Options,
) -> Result<Vec<Probed>, ControllerError> {
    let Some(my_name) = my_name else {
        return Err(Failure::usage("no name under which clients know this server", "give one with --name").into());
    };
    let probe = ProbeOptions { rpcbind_port: options.rpcbind_port, timeout: options.probe_timeout, my_name };
    let waits = |open: &[u32]| {
        let names: Vec<_> = open.iter().filter_map(|id| clients.get(*id as usize)).map(ToString::to_string).collect();
        (options.say)(&waited_for(&names, options));
    };
    let said: Vec<_> = nsm::probe(targets, probe, waits).await?.into_iter().map(probed).collect();
    for (client, said) in clients.iter().zip(&said) {
        match said {
            Probed::Answers(Some(state)) => tracing::info!("statd of {client}: state {}", state.0),
            Probed::Answers(None) => tracing::info!("statd of {client}: answers, but without a state number"),
            Probed::Silent(why) => tracing::info!("statd of {client}: {why}"),
        }
    }
    Ok(said)
}

fn waited_for(names: &[String], options: &Options) -> String {
    let named = names.get(..NAMED).unwrap_or(names).join(", ");
    let others = match names.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {}", units::number(more as u64, "other", "others")),
    };
    let left = units::duration(options.probe_timeout.saturating_sub(TELLS_AFTER));
    format!("waiting up to {left} more for statd of {named}{others}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::control::ClientRow;
    use crate::wire::xdr::List;

    #[test]
    fn of_two_clones_only_the_one_is_a_suspect_against_which_there_is_evidence() {
        let clone = |address: &str, probe| {
            let row = ClientRow::sample("clone", address);
            PlannedClient {
                name: row.name,
                addresses: vec![address.parse().unwrap()],
                server_addresses: Vec::new(),
                locks: Some(1),
                probe,
                suspicions: Vec::new(),
                note: None,
            }
        };
        let fixed = |name: &str, address: &str| RunClient {
            name: CallerName::new(name).unwrap(),
            addresses: List::clipped(vec![address.parse().unwrap()]),
            ..RunClient::sample(0)
        };
        for last in [Probe::Answers, Probe::Suspect] {
            let first = if last == Probe::Answers { Probe::Suspect } else { Probe::Answers };
            let probes = Probes::of(&[clone("192.0.2.7", first), clone("192.0.2.8", last)]);
            let seen = [("clone", "192.0.2.7"), ("clone", "192.0.2.8"), ("clone", "192.0.2.9"), ("other", "192.0.2.7")]
                .map(|(name, address)| probes.seen_of(&fixed(name, address)));
            assert_eq!(seen, [first, last, Probe::NotAsked, Probe::NotAsked]);
        }
        // It was asked by its name.
        let nowhere = PlannedClient { addresses: Vec::new(), ..clone("192.0.2.7", Probe::Answers) };
        let begun = RunClient { addresses: List::default(), ..fixed("clone", "192.0.2.7") };
        assert_eq!(Probes::of(&[nowhere]).seen_of(&begun), Probe::Answers);
    }

    #[test]
    fn the_first_ones_that_are_waited_for_are_named_and_the_others_counted() {
        let names: Vec<_> = (1..=5).map(|n| format!("host{n}")).collect();
        let words = |count: usize| waited_for(&names[..count], &Options::default());
        assert_eq!(words(1), "waiting up to 2 s more for statd of host1");
        assert_eq!(words(4), "waiting up to 2 s more for statd of host1, host2, host3 and 1 other");
        assert_eq!(words(5), "waiting up to 2 s more for statd of host1, host2, host3 and 2 others");
    }
}
