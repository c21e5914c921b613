//! `nlmctl clients`: the clients that the lock manager knows.

use super::context::Context;
use super::locks::owners_report;
use crate::controller;
use crate::manager::Owners;
use crate::report::{ClientListing, ClientsReport, Failure, SCHEMA};
use crate::resync::plan::Probed;
use crate::units;
use crate::wire::control::ClientRow;

pub(super) async fn run(context: &Context, probe: bool) -> Result<u8, Failure> {
    let manager = context.manager().await?;
    let rows = manager.clients().await?;
    let owners = manager.owners().await?;
    let report = owners_report(&owners);
    let (rows, are_counted) = match owners {
        Owners::Rows => (rows, true),
        Owners::View(view) => (counted(rows, view.clients), true),
        Owners::Unknown { .. } => (rows, false),
    };
    let listed = |row| if are_counted { ClientListing::from(row) } else { uncounted(row) };
    let mut clients: Vec<ClientListing> = rows.iter().map(listed).collect();
    if probe && !rows.is_empty() {
        let options = context.options();
        let patience = units::duration(options.probe_timeout);
        context.say(&format!("asking {} for up to {patience}", units::count(rows.len() as u64, "statd")));
        let name = context.settings.names.first().cloned();
        let said = controller::probe_clients(&*manager, &rows, name, &options).await?;
        for (client, said) in clients.iter_mut().zip(said) {
            client.probed(match said {
                Probed::Answers(state) => Ok(state.map(|state| state.0)),
                Probed::Silent(probe) => Err(probe),
            });
        }
    }
    context.print(&ClientsReport { schema: SCHEMA, manager: manager.kind().to_owned(), owners: report, clients })?;
    Ok(0)
}

fn uncounted(row: &ClientRow) -> ClientListing {
    ClientListing { locks: None, unmonitored: None, waiters: None, ..ClientListing::from(row) }
}

/// Those with a monitor record, with what they hold; and those that hold something without one.
fn counted(mut rows: Vec<ClientRow>, holders: Vec<ClientRow>) -> Vec<ClientRow> {
    for holder in holders {
        let shares_address =
            |row: &ClientRow| row.addresses.as_slice().iter().any(|one| holder.addresses.as_slice().contains(one));
        let by_address = || rows.iter().position(shares_address);
        // Of two names behind one address, the one that the lock manager has.
        let by_name = rows.iter().position(|row| shares_address(row) && row.name.matches(&holder.name));
        match by_name.or_else(by_address).and_then(|place| rows.get_mut(place)) {
            Some(row) => {
                row.locks += holder.locks;
                row.unmonitored += holder.unmonitored;
                row.waiters += holder.waiters;
            }
            None if holder.locks + holder.waiters > 0 => rows.push(holder),
            None => {}
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manager::adapter::client_row;
    use crate::wire::types::CallerName;

    fn row(name: &str, address: &str, locks: u64) -> ClientRow {
        let row = client_row(CallerName::new(name).unwrap(), [address.parse().unwrap()], []);
        ClientRow { locks, ..row }
    }

    #[test]
    fn what_clients_hold_is_counted_at_their_records_and_a_holder_without_one_is_added() {
        let records = vec![row("192.0.2.1", "192.0.2.1", 0), row("b.lab", "192.0.2.2", 0), row("c", "192.0.2.2", 0)];
        let holders = vec![
            row("a", "192.0.2.1", 3),
            row("a", "192.0.2.1", 1),
            row("c.lab", "192.0.2.2", 5),
            row("new", "192.0.2.9", 7),
            row("idle", "192.0.2.8", 0),
        ];
        let rows = counted(records, holders);
        let seen: Vec<_> = rows.iter().map(|row| (row.name.to_string(), row.locks)).collect();
        let expected = [("192.0.2.1", 4), ("b.lab", 0), ("c", 5), ("new", 7)];
        assert_eq!(seen, expected.map(|(name, locks)| (name.to_owned(), locks)));
    }

    #[test]
    fn where_owners_are_not_known_no_client_has_a_count() {
        let listed = uncounted(&row("a", "192.0.2.1", 0));
        assert_eq!((listed.locks, listed.unmonitored, listed.waiters), (None, None, None));
    }
}
