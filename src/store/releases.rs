//! Releases: written before the lock manager is asked, completed with its answer.

use rusqlite::params;

use super::rows::{count, integer, json, word};
use super::{Store, StoreError};
use crate::host::unix_ms;
use crate::report::{ReleaseListing, ReleaseOutcome, ReleaseReport, Stamp};
use crate::wire::control::InstanceId;

/// A release before it is asked for.
#[derive(Debug, Clone)]
pub struct NewRelease {
    /// A UUID.
    pub id: String,
    /// What kind of lock manager: `nlmd`.
    pub manager: String,
    pub endpoint: String,
    /// The manager's instance that the plan saw.
    pub instance: InstanceId,
    /// The plan, which stands until the answer is here.
    pub report: ReleaseReport,
}

impl Store {
    fn report_text(&self, report: &ReleaseReport) -> Result<String, StoreError> {
        serde_json::to_string(report).map_err(|e| StoreError::BadValue { what: e.to_string(), path: self.path.clone() })
    }

    /// A release that is about to be asked for, `unverified` until more is known. Gives the time of
    /// that, milliseconds since 1970. Durable when this returns.
    pub fn create_release(&mut self, new: &NewRelease) -> Result<u64, StoreError> {
        let (text, now) = (self.report_text(&new.report)?, unix_ms());
        let scope = serde_json::to_string(&new.report.release.scope)
            .map_err(|e| StoreError::BadValue { what: e.to_string(), path: self.path.clone() })?;
        self.transaction(|tx| {
            tx.execute(
                "INSERT INTO release (id, manager, endpoint, instance, scope, asked_ms, outcome, report)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                params![
                    new.id,
                    new.manager,
                    new.endpoint,
                    new.instance.to_string(),
                    scope,
                    integer(now),
                    ReleaseOutcome::Unverified.as_str(),
                    text,
                ],
            )
        })?;
        Ok(now)
    }

    /// What came of it. Durable when this returns.
    pub fn end_release(&mut self, report: &ReleaseReport) -> Result<(), StoreError> {
        let (text, now) = (self.report_text(report)?, integer(unix_ms()));
        let release = &report.release;
        let counts = release.released;
        self.transaction(|tx| {
            tx.execute(
                "UPDATE release SET ended_ms = ?2, outcome = ?3, locks = ?4, waiters = ?5, left_over = ?6, report = ?7
                 WHERE id = ?1",
                params![
                    release.id,
                    now,
                    release.outcome.as_str(),
                    integer(counts.map_or(0, |c| c.locks)),
                    integer(counts.map_or(0, |c| c.waiters)),
                    integer(counts.map_or(0, |c| c.left)),
                    text,
                ],
            )
        })?;
        Ok(())
    }

    /// The release whose id begins so, if there is just one; as far as is known what came of it.
    pub fn release(&self, id: &str) -> Result<Option<ReleaseReport>, StoreError> {
        let wanted = id.to_ascii_lowercase();
        if wanted.is_empty() {
            return Ok(None);
        }
        let mut query = self
            .connection
            .prepare("SELECT id, outcome, report FROM release WHERE substr(id, 1, length(?1)) = ?1 LIMIT 2")
            .map_err(|e| self.error(e))?;
        let rows = query.query_map([&wanted], |row| {
            // Before its answer the report is the plan's.
            let (mut report, outcome): (ReleaseReport, ReleaseOutcome) = (json(row, "report")?, word(row, "outcome")?);
            report.release.id = Some(row.get("id")?);
            (report.release.outcome, report.release.exit) = (outcome, outcome.exit());
            Ok(report)
        });
        let mut found: Vec<ReleaseReport> = rows.and_then(Iterator::collect).map_err(|e| self.error(e))?;
        if found.len() > 1 {
            return Err(StoreError::AmbiguousRun { wanted: id.to_owned() });
        }
        Ok(found.pop())
    }

    /// Releases, the newest first, at most so many.
    pub fn releases(&self, limit: u32) -> Result<Vec<ReleaseListing>, StoreError> {
        let mut query =
            self.connection.prepare("SELECT * FROM release ORDER BY rowid DESC LIMIT ?1").map_err(|e| self.error(e))?;
        let rows = query.query_map([limit], |row| {
            Ok(ReleaseListing {
                id: row.get("id")?,
                manager: row.get("manager")?,
                at: Stamp(count(row, "asked_ms")?),
                outcome: word(row, "outcome")?,
                scope: json(row, "scope")?,
                locks: count(row, "locks")?,
                waiters: count(row, "waiters")?,
                left: count(row, "left_over")?,
            })
        });
        rows.and_then(Iterator::collect).map_err(|e| self.error(e))
    }
}
