//! Writes the record, each call in one transaction.

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, named_params, params};

use super::memories::names_text;
use super::rows::{delivery_word, integer, places};
use super::{KEEP_RUNS, Store, StoreError};
use crate::host::unix_ms;
use crate::report::{Facts, LockTally, Outcome, PathReport, PendingReport, Phase, Probe, ScopeReport, exit_code};
use crate::units::count;
use crate::wire::control::{BeginArgs, Begun, ClientResult, Counts, Delivery, LockFate, Reaction, RunClient, RunId};
use crate::wire::types::{CallerName, NsmState};
use crate::wire::xdr::{self, List};

/// A run before anything is asked of the lock manager.
#[derive(Debug, Clone)]
pub struct NewRun {
    /// What kind of lock manager: `nlmd`.
    pub manager: String,
    /// Where it is driven.
    pub endpoint: String,
    /// Whether it knows the owners of locks; if not, the counts of clients mean nothing.
    pub knows_owners: bool,
    /// Whether it lists its locks, or marks them: else its sums say nothing of those that it could not.
    pub locks_listed: bool,
    /// The plan's, which was consented to.
    pub fingerprint: String,
    /// What it covers, as it was asked for.
    pub scope: ScopeReport,
    /// The names that its notices carry, in order.
    pub names: Vec<CallerName>,
    /// What `begin` will be asked with, the run's id among it.
    pub begin: BeginArgs,
}

/// A client to notify.
#[derive(Debug, Clone)]
pub struct NewClient {
    /// As `begin` fixed it.
    pub client: RunClient,
    /// What the plan saw of it.
    pub probe: Probe,
}

impl NewClient {
    /// As far as the result tells.
    fn of(result: &ClientResult) -> Self {
        let address = Some(result.address).filter(|address| !address.0.is_unspecified());
        let client = RunClient {
            index: result.client,
            name: result.name.clone(),
            addresses: List::clipped(address.into_iter().collect()),
            server_addresses: List::default(),
            nsm_state: NsmState::default(),
            locks: result.counts.in_scope,
            shared_address: false,
            suspect: result.suspect,
        };
        Self { client, probe: Probe::NotAsked }
    }
}

/// What has become of a client's notices so far.
#[derive(Debug, Clone)]
pub struct DeliveryUpdate {
    /// The client's number in the run.
    pub client: u32,
    pub delivery: Delivery,
    /// Notices that are its own.
    pub notices: u32,
    /// How many of them it acked.
    pub acks: u32,
    /// Notices sent, repeats included, and port look-ups that went unanswered.
    pub attempts: u32,
    /// From begin to its last ack, milliseconds.
    pub acked_ms: Option<u64>,
    /// Whether its statd answered with a state number other than its LOCKs carried.
    pub suspect: bool,
    /// What went wrong, for people.
    pub error: Option<String>,
}

/// How a run ended.
#[derive(Debug, Clone)]
pub struct RunOutcome {
    pub outcome: Outcome,
    /// Why, for people.
    pub reason: Option<String>,
    /// Whether the notices cannot have been understood.
    pub not_understood: bool,
    /// Whether the lock manager settled without nlmctl.
    pub alone: bool,
    /// When; none is "now".
    pub ended_unix_ms: Option<u64>,
    /// The lock manager's sums; none where it did not give any: then all that was in scope is
    /// unverified.
    pub counts: Option<Counts>,
    /// Reclaims that were granted after the run's end.
    pub late: u64,
}

/// How much was forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pruned {
    /// Runs, with their clients, locks and timelines.
    pub runs: u64,
    pub releases: u64,
}

impl Store {
    pub(super) fn transaction<T>(
        &mut self,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let run = |connection: &mut Connection| {
            let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let value = work(&tx)?;
            tx.commit()?;
            Ok(value)
        };
        run(&mut self.connection).map_err(|e| StoreError::of(&self.path, e))
    }

    /// Works on what a run has, by its number.
    fn of_run<T>(
        &mut self,
        run: RunId,
        work: impl FnOnce(&Transaction<'_>, i64) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let worked = self.transaction(|tx| {
            let mut find = tx.prepare_cached("SELECT number FROM run WHERE id = ?1")?;
            let number = find.query_row([run.to_string()], |row| row.get(0)).optional()?;
            number.map(|number| work(tx, number)).transpose()
        })?;
        worked.ok_or_else(|| StoreError::UnknownRun { wanted: run.to_string(), path: self.path.clone() })
    }

    /// A new run, in phase `planned`. Durable when this returns.
    pub fn create_run(&mut self, new: &NewRun) -> Result<(), StoreError> {
        let scope = serde_json::to_string(&new.scope)
            .map_err(|e| StoreError::BadValue { what: e.to_string(), path: self.path.clone() })?;
        let now = integer(unix_ms());
        self.transaction(|tx| {
            tx.execute(
                "INSERT INTO run (id, manager, endpoint, instance, fingerprint, mode, scope, begin, phase, started_ms,
                                  knows_owners, names, locks_listed)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
                params![
                    new.begin.run.to_string(),
                    new.manager,
                    new.endpoint,
                    new.begin.instance.to_string(),
                    new.fingerprint,
                    new.begin.mode.to_string(),
                    scope,
                    xdr::encode(&new.begin),
                    Phase::Planned.as_str(),
                    now,
                    new.knows_owners,
                    names_text(&new.names),
                    new.locks_listed,
                ],
            )?;
            insert_event(tx, tx.last_insert_rowid(), now, Phase::Planned.as_str(), "")
        })
    }

    /// The run's phase, and a line of the timeline. Durable when this returns.
    pub fn set_phase(&mut self, run: RunId, phase: Phase) -> Result<(), StoreError> {
        self.of_run(run, |tx, number| {
            tx.execute("UPDATE run SET phase = ?2 WHERE number = ?1", params![number, phase.as_str()])?;
            insert_event(tx, number, integer(unix_ms()), phase.as_str(), "")
        })
    }

    /// `begin` answered: phase `begun`, state numbers, what is in scope. Durable when this returns.
    pub fn record_begun(&mut self, begun: &Begun) -> Result<(), StoreError> {
        let now = integer(unix_ms());
        self.of_run(begun.run, |tx, number| {
            tx.execute(
                "UPDATE run SET phase = ?2, old_state = ?3, new_state = ?4, in_scope = ?5, pending = ?5,
                 unmonitored = ?6, started_ms = CASE phase WHEN 'begun' THEN started_ms ELSE ?7 END WHERE number = ?1",
                params![
                    number,
                    Phase::Begun.as_str(),
                    begun.old_state.0,
                    begun.new_state.0,
                    integer(begun.in_scope),
                    integer(begun.unmonitored),
                    now
                ],
            )?;
            let detail = format!(
                "state {} -> {}, {} in scope, {}",
                begun.old_state,
                begun.new_state,
                count(begun.in_scope, "lock"),
                count(begun.clients.into(), "client")
            );
            insert_event(tx, number, now, Phase::Begun.as_str(), &detail)
        })
    }

    /// Clients to notify, a page at a time; one that is there already is left as it is.
    pub fn record_clients(&mut self, run: RunId, clients: &[NewClient]) -> Result<(), StoreError> {
        self.of_run(run, |tx, number| clients.iter().try_for_each(|client| insert_client(tx, number, client)))
    }

    /// What has become of notices, in a batch.
    pub fn record_deliveries(&mut self, run: RunId, updates: &[DeliveryUpdate]) -> Result<(), StoreError> {
        self.of_run(run, |tx, number| {
            let mut update = tx.prepare_cached(
                "UPDATE client SET delivery = ?3, attempts = ?4, acked_ms = ?5, suspect = suspect OR ?6, error = ?7,
                 notices = ?8, acks = ?9 WHERE run = ?1 AND number = ?2",
            )?;
            for u in updates {
                update.execute(params![
                    number,
                    u.client,
                    delivery_word(u.delivery),
                    u.attempts,
                    u.acked_ms.map(integer),
                    u.suspect,
                    u.error,
                    u.notices,
                    u.acks,
                ])?;
            }
            Ok(())
        })
    }

    /// The lock manager's result for clients, a page at a time; may be given again. A controller that died right after `begin`
    /// has not recorded them.
    pub fn record_client_results(&mut self, run: RunId, results: &[ClientResult]) -> Result<(), StoreError> {
        let paths = |result: &ClientResult| {
            let paths: Vec<PathReport> = result.paths.as_slice().iter().map(PathReport::from).collect();
            serde_json::to_string(&paths)
        };
        let paths: Result<Vec<String>, _> = results.iter().map(paths).collect();
        let paths = paths.map_err(|e| StoreError::BadValue { what: e.to_string(), path: self.path.clone() })?;
        self.of_run(run, |tx, number| {
            let mut update = tx.prepare_cached(
                "UPDATE client SET silent = :silent, understood = :understood, paths = :paths, suspect = suspect OR :suspect, in_scope = :in_scope,
                 pending = :pending, reclaimed = :reclaimed, released = :released, dropped = :dropped, kept = :kept,
                 unverified = :unverified, resurrected = :resurrected, conflicts = :conflicts,
                 delivery = CASE delivery WHEN 'not-told' THEN :delivery ELSE delivery END
                 WHERE run = :run AND number = :number",
            )?;
            for (r, paths) in results.iter().zip(&paths) {
                let c = r.counts;
                insert_client(tx, number, &NewClient::of(r))?;
                update.execute(named_params! {
                    ":run": number, ":number": r.client, ":paths": paths, ":suspect": r.suspect,
                    ":silent": r.reaction == Reaction::Silent, ":understood": r.reaction == Reaction::Understood,
                    ":delivery": delivery_word(r.delivery),
                    ":in_scope": integer(c.in_scope), ":pending": integer(c.pending),
                    ":reclaimed": integer(c.reclaimed), ":released": integer(c.released),
                    ":dropped": integer(c.dropped), ":kept": integer(c.kept),
                    ":unverified": integer(c.unverified), ":resurrected": integer(c.resurrected),
                    ":conflicts": integer(c.conflicts),
                })?;
            }
            Ok(())
        })
    }

    /// The lock manager's rows of locks, some at a time ([`LOCKS_AT_ONCE`](super::LOCKS_AT_ONCE)); `first` is the place of
    /// the first of them in the whole result. May be given again. Durable with what is written next, at the latest when the
    /// last process closes the record: a run over a million locks would wait for the disk 245 times.
    pub fn record_lock_fates(&mut self, run: RunId, first: u64, locks: &[LockFate]) -> Result<(), StoreError> {
        self.synchronous("NORMAL")?;
        let written = self.of_run(run, |tx, number| {
            let mut insert = tx.prepare_cached("INSERT OR REPLACE INTO lock (place, fate, row) VALUES (?1, ?2, ?3)")?;
            for (place, lock) in places(number, first).zip(locks) {
                insert.execute(params![place, lock.fate.to_string(), xdr::encode(lock)])?;
            }
            Ok(())
        });
        self.synchronous("FULL")?;
        written
    }

    fn synchronous(&self, level: &str) -> Result<(), StoreError> {
        self.connection.pragma_update(None, "synchronous", level).map_err(|e| self.error(e))
    }

    /// The run has ended: phase `done`, outcome, sums, exit code. Give the pages before. Durable
    /// when this returns. May be given again with better knowledge (a resume).
    pub fn record_result(&mut self, run: RunId, ended: &RunOutcome) -> Result<(), StoreError> {
        let now = unix_ms();
        self.of_run(run, |tx, number| {
            if let Some(c) = ended.counts {
                tx.execute(
                    "UPDATE run SET in_scope = :in_scope, pending = :pending, reclaimed = :reclaimed,
                     released = :released, dropped = :dropped, kept = :kept, unverified = :unverified,
                     resurrected = :resurrected, conflicts = :conflicts WHERE number = :run",
                    named_params! {
                        ":run": number, ":in_scope": integer(c.in_scope), ":pending": 0,
                        ":reclaimed": integer(c.reclaimed), ":released": integer(c.released),
                        ":dropped": integer(c.dropped), ":kept": integer(c.kept),
                        ":unverified": integer(c.unverified.saturating_add(c.pending)),
                        ":resurrected": integer(c.resurrected), ":conflicts": integer(c.conflicts),
                    },
                )?;
            }
            let (counts, locks_listed) = tx.query_row("SELECT * FROM run WHERE number = ?1", [number], |row| {
                Ok((super::rows::counts(row)?, row.get("locks_listed")?))
            })?;
            let facts = Facts {
                outcome: Some(ended.outcome),
                not_understood: ended.not_understood,
                locks_listed,
                locks: LockTally::from(counts),
            };
            tx.execute(
                "UPDATE run SET phase = 'done', outcome = ?2, reason = ?3, exit = ?4, not_understood = ?5, alone = ?6,
                 ended_ms = ?7, late = ?8 WHERE number = ?1",
                params![
                    number,
                    ended.outcome.as_str(),
                    ended.reason,
                    exit_code(&facts),
                    ended.not_understood,
                    ended.alone,
                    integer(ended.ended_unix_ms.unwrap_or(now)),
                    integer(ended.late),
                ],
            )?;
            insert_event(tx, number, integer(now), ended.outcome.as_str(), ended.reason.as_deref().unwrap_or(""))
        })
    }

    /// A line of the timeline, now.
    pub fn event(&mut self, run: RunId, kind: &str, detail: &str) -> Result<(), StoreError> {
        self.event_at(run, unix_ms(), kind, detail)
    }

    /// A line of the timeline that the lock manager saw, by its clock.
    pub fn event_at(&mut self, run: RunId, unix_ms: u64, kind: &str, detail: &str) -> Result<(), StoreError> {
        self.of_run(run, |tx, number| insert_event(tx, number, integer(unix_ms), kind, detail))
    }

    /// How many locks were pending. What is there for the same moment is replaced.
    pub fn record_progress(&mut self, run: RunId, rows: &[PendingReport]) -> Result<(), StoreError> {
        self.of_run(run, |tx, number| {
            let mut insert =
                tx.prepare("INSERT OR REPLACE INTO progress (run, elapsed_ms, pending) VALUES (?1, ?2, ?3)")?;
            rows.iter().try_for_each(|row| {
                insert.execute(params![number, integer(row.elapsed_ms), integer(row.pending)]).map(|_| ())
            })
        })
    }

    /// Forgets the oldest ended runs beyond [`KEEP_RUNS`], and releases likewise.
    pub fn prune(&mut self) -> Result<Pruned, StoreError> {
        self.prune_to(KEEP_RUNS, None)
    }

    /// Forgets ended runs and releases that are not among the newest `keep` and, with `before` (milliseconds since 1970),
    /// began before that. A run that has not ended stays.
    pub fn prune_to(&mut self, keep: u32, before: Option<u64>) -> Result<Pruned, StoreError> {
        let before = integer(before.unwrap_or(u64::MAX));
        self.transaction(|tx| {
            let releases = tx.execute(
                "DELETE FROM release WHERE asked_ms < ?2 AND id NOT IN
                 (SELECT id FROM release ORDER BY rowid DESC LIMIT ?1)",
                params![keep, before],
            )?;
            let runs = tx.execute(
                "DELETE FROM run WHERE phase = 'done' AND started_ms < ?2 AND number NOT IN
                 (SELECT number FROM run ORDER BY number DESC LIMIT ?1)",
                params![keep, before],
            )?;
            Ok(Pruned { runs: runs as u64, releases: releases as u64 })
        })
    }
}

/// A client that is there already is left as it is.
fn insert_client(tx: &Transaction<'_>, run: i64, new: &NewClient) -> rusqlite::Result<()> {
    let NewClient { client, probe } = new;
    let mut insert = tx.prepare_cached(
        "INSERT INTO client (run, number, name, address, row, suspect, probe, in_scope, pending)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?8) ON CONFLICT DO NOTHING",
    )?;
    insert.execute(params![
        run,
        client.index,
        client.name.as_str(),
        client.addresses.as_slice().first().map(ToString::to_string),
        xdr::encode(client),
        client.suspect,
        probe.as_str(),
        integer(client.locks),
    ])?;
    Ok(())
}

fn insert_event(tx: &Transaction<'_>, run: i64, at_ms: i64, kind: &str, detail: &str) -> rusqlite::Result<()> {
    tx.execute(
        "INSERT INTO event (run, at_ms, kind, detail) VALUES (?1, ?2, ?3, ?4)",
        params![run, at_ms, kind, detail],
    )?;
    Ok(())
}
