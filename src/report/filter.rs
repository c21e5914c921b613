//! Which runs of the record a reader wants to see, and what of one.

use std::io;

use super::{LockReport, LockTally, Rows, RunDetail};
use crate::wire::control::ClientRef;
use crate::wire::types::{Address, CallerName};

/// All of them, unless something narrows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunFilter {
    /// Only these clients; none named: all.
    pub clients: Vec<ClientRef>,
    /// Only dropped, kept, unverified, resurrected and conflicting locks, and clients with a note.
    pub changed: bool,
}

impl RunFilter {
    /// Whether a client of this name or address is one of them.
    pub fn wants(&self, name: &str, address: Option<Address>) -> bool {
        let is_of = |wanted: &ClientRef| {
            let name = CallerName::new(name).ok();
            wanted.name.0.as_ref().is_none_or(|wanted| name.is_some_and(|name| name.matches(wanted)))
                && wanted.address.0.is_none_or(|wanted| address == Some(wanted))
        };
        self.clients.is_empty() || self.clients.iter().any(is_of)
    }

    /// Whether a run of these sums is one of them, if it is by its clients.
    pub fn wants_sums(&self, locks: &LockTally) -> bool {
        !self.changed || locks.is_changed()
    }

    /// The clients, for people; none: all.
    pub fn clients_words(&self) -> Option<String> {
        let name = |client: &ClientRef| client.name.0.as_ref().map(ToString::to_string);
        let address = |client: &ClientRef| client.address.0.map(|address| address.to_string());
        let names: Vec<_> = self.clients.iter().filter_map(|client| name(client).or_else(|| address(client))).collect();
        (!names.is_empty()).then(|| names.join(", "))
    }

    /// What it lets pass, for people; none: all.
    pub fn words(&self) -> Option<String> {
        let clients = self.clients_words().map(|names| format!("only {names}"));
        let changed = self.changed.then(|| "without reclaimed and released locks".to_owned());
        let words: Vec<_> = clients.into_iter().chain(changed).collect();
        (!words.is_empty()).then(|| words.join("; "))
    }

    fn wants_lock(&self, lock: &LockReport) -> bool {
        let owners = [Some(&lock.owner), lock.other.as_ref()];
        let has_changed = !matches!(lock.fate.as_str(), "reclaimed" | "released");
        owners.into_iter().flatten().any(|owner| self.wants(&owner.name, owner.address))
            && (!self.changed || has_changed)
    }
}

/// The rows that are wanted.
#[derive(Debug, Clone)]
pub struct Wanted<R> {
    rows: R,
    wanted: RunFilter,
}

impl<R: Rows<Row = LockReport>> Rows for Wanted<R> {
    type Row = LockReport;
    fn each(&self, take: &mut dyn FnMut(LockReport) -> io::Result<()>) -> io::Result<()> {
        self.rows.each(&mut |row| if self.wanted.wants_lock(&row) { take(row) } else { Ok(()) })
    }
}

impl<R: Rows<Row = LockReport>> RunDetail<R> {
    /// With those clients and locks alone that are wanted. Sums and timeline stay those of the run.
    #[must_use]
    pub fn only(self, wanted: &RunFilter) -> RunDetail<Wanted<R>> {
        let Self { mut report, lock_rows, events, progress, shown: _ } = self;
        report
            .clients
            .retain(|client| wanted.wants(&client.name, client.address) && (!wanted.changed || client.is_notable()));
        report.lost.retain(|lock| wanted.wants_lock(lock));
        let lock_rows = Wanted { rows: lock_rows, wanted: wanted.clone() };
        RunDetail { report, lock_rows, events, progress, shown: wanted.words() }
    }

    /// Whether it names a client that is wanted, or has a lock of one.
    ///
    /// # Errors
    /// A row cannot be read.
    pub fn names(&self, wanted: &RunFilter) -> io::Result<bool> {
        let mut is_named = self.report.clients.iter().any(|client| wanted.wants(&client.name, client.address));
        if !is_named {
            let by_client = RunFilter { changed: false, ..wanted.clone() };
            self.lock_rows.each(&mut |row| {
                is_named |= by_client.wants_lock(&row);
                Ok(())
            })?;
        }
        Ok(is_named)
    }
}
