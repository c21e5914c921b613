//! The tables of monitor records that are not of nlmd's own clients.

use std::net::IpAddr;

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, Row, ToSql, Transaction, params};

use super::records::{LocalMonitor, ToTell, Watch};
use crate::host::{self, BadAddress};
use crate::wire::nsm::{MonId, MyId};
use crate::wire::types::CallerName;

/// What is wrong with a table.
pub(super) enum Odd {
    Sqlite(rusqlite::Error),
    Damaged(String),
}

impl From<rusqlite::Error> for Odd {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

/// Every row; one that makes no sense (`None`) is named.
fn all<T>(of: &Connection, query: &str, what: &str, read: impl Fn(&Row<'_>) -> Option<T>) -> Result<Vec<T>, Odd> {
    let mut query = of.prepare(query)?;
    let mut rows = query.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let key = || name(row, 0).map_or_else(String::new, |key| format!(" {key}"));
        found.push(read(row).ok_or_else(|| Odd::Damaged(format!("the record of {what}{}", key())))?);
    }
    Ok(found)
}

/// A name's own bytes, as a text: SQLite takes any bytes for one, and older versions wrote names so.
pub(super) struct Raw(Vec<u8>);

pub(super) fn raw(name: &CallerName) -> Raw {
    Raw(name.bytes())
}

impl ToSql for Raw {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(ValueRef::Text(&self.0)))
    }
}

pub(super) fn name(row: &Row<'_>, column: usize) -> Option<CallerName> {
    CallerName::of_bytes(row.get_ref(column).ok()?.as_bytes().ok()?).ok()
}

pub(super) fn local(of: &Connection) -> Result<Vec<LocalMonitor>, Odd> {
    let query = "SELECT mon_name, my_name, prog, vers, proc, priv, privileged, addresses FROM local_monitor";
    all(of, query, "a program's monitoring of", |row| {
        let my_id = MyId {
            my_name: name(row, 1)?,
            my_prog: row.get(2).ok()?,
            my_vers: row.get(3).ok()?,
            my_proc: row.get(4).ok()?,
        };
        Some(LocalMonitor {
            id: MonId { mon_name: name(row, 0)?, my_id },
            private: row.get(5).ok()?,
            privileged: row.get(6).ok()?,
            addresses: addresses_of(&row.get::<_, String>(7).ok()?)?,
        })
    })
}

pub(super) fn to_tell(of: &Connection) -> Result<Vec<ToTell>, Odd> {
    all(of, "SELECT mon_name, my_name, addresses FROM to_tell", "the host to tell", |row| {
        let addresses = addresses_of(&row.get::<_, String>(2).ok()?)?;
        Some(ToTell { mon_name: name(row, 0)?, my_name: name(row, 1)?, addresses })
    })
}

pub(super) fn watches(of: &Connection) -> Result<Vec<Watch>, Odd> {
    all(of, "SELECT address, cookie FROM watch", "the address watched by statd", |row| {
        let addresses = addresses_of(&row.get::<_, String>(0).ok()?)?;
        let cookie = row.get(1).ok()?;
        Some(addresses.into_iter().map(|address| Watch { address, cookie }).collect::<Vec<_>>())
    })
    .map(|watches| watches.into_iter().flatten().collect())
}

pub(super) fn add(to: &Transaction<'_>, monitor: &LocalMonitor) -> rusqlite::Result<()> {
    let MonId { mon_name, my_id } = &monitor.id;
    to.prepare_cached("INSERT OR REPLACE INTO local_monitor VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?.execute(
        params![
            raw(mon_name),
            raw(&my_id.my_name),
            my_id.my_prog,
            my_id.my_vers,
            my_id.my_proc,
            monitor.private,
            monitor.privileged,
            text_of(&monitor.addresses)
        ],
    )?;
    Ok(())
}

pub(super) fn remove(to: &Transaction<'_>, id: &MonId) -> rusqlite::Result<()> {
    let MonId { mon_name, my_id } = id;
    to.prepare_cached(
        "DELETE FROM local_monitor WHERE mon_name = ?1 AND my_name = ?2 AND prog = ?3 AND vers = ?4 AND proc = ?5",
    )?
    .execute(params![raw(mon_name), raw(&my_id.my_name), my_id.my_prog, my_id.my_vers, my_id.my_proc])?;
    Ok(())
}

pub(super) fn remove_all(to: &Transaction<'_>, asker: &MyId, privileged: bool) -> rusqlite::Result<()> {
    to.prepare_cached(
        "DELETE FROM local_monitor WHERE my_name = ?1 AND prog = ?2 AND vers = ?3 AND proc = ?4 AND privileged <= ?5",
    )?
    .execute(params![raw(&asker.my_name), asker.my_prog, asker.my_vers, asker.my_proc, privileged])?;
    Ok(())
}

pub(super) fn tell(to: &Transaction<'_>) -> rusqlite::Result<()> {
    to.execute(
        "INSERT OR REPLACE INTO to_tell (mon_name, my_name, addresses) \
         SELECT mon_name, my_name, addresses FROM local_monitor",
        [],
    )?;
    to.execute("DELETE FROM local_monitor", [])?;
    Ok(())
}

pub(super) fn told(to: &Transaction<'_>, mon_name: &CallerName, my_name: &CallerName) -> rusqlite::Result<()> {
    to.prepare_cached("DELETE FROM to_tell WHERE mon_name = ?1 AND my_name = ?2")?
        .execute(params![raw(mon_name), raw(my_name)])?;
    Ok(())
}

pub(super) fn watch(to: &Transaction<'_>, watch: Watch) -> rusqlite::Result<()> {
    to.prepare_cached("INSERT OR REPLACE INTO watch (address, cookie) VALUES (?1, ?2)")?
        .execute(params![text_of(&[watch.address]), watch.cookie])?;
    Ok(())
}

pub(super) fn unwatch(to: &Transaction<'_>, address: IpAddr) -> rusqlite::Result<()> {
    to.prepare_cached("DELETE FROM watch WHERE address = ?1")?.execute(params![text_of(&[address])])?;
    Ok(())
}

pub(super) fn text_of(addresses: &[IpAddr]) -> String {
    addresses.iter().map(|ip| host::text_of(*ip)).collect::<Vec<_>>().join(" ")
}

/// The addresses in a text, without those whose interface is not here now. Their rows stay for a start that finds it.
pub(super) fn addresses_of(text: &str) -> Option<Vec<IpAddr>> {
    let mut addresses = Vec::new();
    for address in text.split_whitespace() {
        match host::address(address) {
            Ok(ip) => addresses.push(ip),
            Err(error @ BadAddress::NoInterface(_)) => {
                tracing::error!(address, %error, "an address of the previous instance is out of reach until nlmd \
                                                  starts with that interface");
            }
            Err(BadAddress::NoAddress(_)) => return None,
        }
    }
    Some(addresses)
}
