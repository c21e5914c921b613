//! What the rounds of `nlmctl reconcile` know about clients, and which clients are known to understand notices.

use std::collections::HashMap;

use rusqlite::{Row, params};

use super::rows::{count, integer, json, not_understood, word};
use super::{Store, StoreError};
use crate::resync::reconcile::Memory;
use crate::wire::types::{Address, CallerName, NsmState};

/// A client as a round names it: its name and its first address.
pub type ClientKey = (String, Address);

impl Store {
    /// What earlier rounds know of the clients of this lock manager.
    pub fn memories(&self, endpoint: &str) -> Result<HashMap<ClientKey, Memory>, StoreError> {
        let mut query =
            self.connection.prepare("SELECT * FROM reconcile WHERE endpoint = ?1").map_err(|e| self.error(e))?;
        let rows = query.query_map([endpoint], |row| Ok((key(row)?, memory(row)?)));
        rows.and_then(Iterator::collect).map_err(|e| self.error(e))
    }

    /// Replaces it. One that is as new as if nothing were known is forgotten. Durable when this returns.
    pub fn remember(&mut self, endpoint: &str, memories: &[(ClientKey, Memory)]) -> Result<(), StoreError> {
        self.transaction(|tx| {
            let mut forget = tx.prepare("DELETE FROM reconcile WHERE endpoint = ?1 AND name = ?2 AND address = ?3")?;
            let mut insert = tx.prepare(
                "INSERT INTO reconcile (endpoint, name, address, baseline, differed, rounds, examined, complaints,
                                        runs, not_before_ms)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            )?;
            for ((name, address), memory) in memories {
                let address = address.to_string();
                forget.execute(params![endpoint, name, address])?;
                if *memory == Memory::default() {
                    continue;
                }
                let complaints = serde_json::Value::from(memory.complaints.clone()).to_string();
                insert.execute(params![
                    endpoint,
                    name,
                    address,
                    memory.baseline.0,
                    memory.differed.0,
                    memory.rounds,
                    memory.examined.0,
                    complaints,
                    memory.runs,
                    integer(memory.not_before_ms),
                ])?;
            }
            Ok(())
        })
    }

    /// Whether the client once understood the notices of a run of this lock manager that carried these names: it reclaimed
    /// a lock as they make it do. One that locked it again, in targeted grace, may match notices by another name.
    pub fn has_understood(
        &self,
        endpoint: &str,
        (name, address): &ClientKey,
        names: &[CallerName],
    ) -> Result<bool, StoreError> {
        self.connection
            .query_row(
                "SELECT EXISTS (SELECT 1 FROM client JOIN run ON run.number = client.run WHERE client.name = ?1
                 AND client.address = ?2 AND client.understood = 1 AND run.endpoint = ?3 AND run.names = ?4)",
                params![name, address.to_string(), endpoint, names_text(names)],
                |row| row.get(0),
            )
            .map_err(|e| self.error(e))
    }
}

/// The names of notices, as the record has them.
pub(super) fn names_text(names: &[CallerName]) -> String {
    names.iter().map(CallerName::as_str).collect::<serde_json::Value>().to_string()
}

pub(super) fn names(row: &Row<'_>) -> rusqlite::Result<Vec<CallerName>> {
    let shown: Vec<String> = json(row, "names")?;
    shown.iter().map(|name| CallerName::typed(name).map_err(|e| not_understood(row, "names", e))).collect()
}

fn key(row: &Row<'_>) -> rusqlite::Result<ClientKey> {
    Ok((row.get("name")?, word(row, "address")?))
}

fn memory(row: &Row<'_>) -> rusqlite::Result<Memory> {
    Ok(Memory {
        baseline: NsmState(row.get("baseline")?),
        differed: NsmState(row.get("differed")?),
        rounds: row.get("rounds")?,
        examined: NsmState(row.get("examined")?),
        complaints: json(row, "complaints")?,
        runs: row.get("runs")?,
        not_before_ms: count(row, "not_before_ms")?,
    })
}
