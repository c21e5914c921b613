//! The text renderer of releases.

use std::fmt::Write;

use super::release::{Release, ReleasesReport};
use super::table::{Align, Table, clean};
use super::text::{Render, View, line, or_dash, range, refused};
use super::{LockListing, ReleaseLock, ReleaseOutcome, ReleaseReport};
use crate::units::number;

/// Locks that the text shows; the JSON has all.
const SHOWN: usize = 50;

fn chosen(release: &Release) -> String {
    let locks = match release.chosen {
        Some(locks) => number(locks, "lock", "locks"),
        None => format!("all that they hold ({} does not tell who owns a lock)", clean(&release.manager)),
    };
    match release.chosen_waiters {
        0 => locks,
        n => format!("{locks}, and {}", number(n, "blocked request", "blocked requests")),
    }
}

fn clients(out: &mut String, release: &Release, view: &View) {
    let mut table = Table::new(&[
        ("CLIENT", Align::Name),
        ("ADDRESS", Align::Left),
        ("LOCKS", Align::Right),
        ("BLOCKED", Align::Count),
        ("STATD", Align::Left),
        ("LOCKD", Align::Left),
        ("LOCKED WITH STATE", Align::Right),
        ("NOTE", Align::Left),
    ]);
    for client in &release.clients {
        let mut note = Vec::new();
        if client.whole {
            note.push("all it has".to_owned());
        }
        if client.shared_address {
            note.push("shared address: not known which client answered".to_owned());
        }
        note.extend(client.suspicions.iter().map(|why| format!("suspect: {why}")));
        table.row([
            client.name.clone(),
            or_dash(client.address),
            or_dash(client.locks),
            client.waiters.to_string(),
            client.statd_words(release.probed_for_ms),
            client.lockd_words(release.probed_for_ms),
            or_dash(client.locked_with),
            note.join("; "),
        ]);
    }
    if !table.is_empty() {
        line!(out, "\nclients, as seen a moment ago (no answer does not prove that a client is dead)");
        out.push_str(&table.render(view.width));
    }
}

/// A lock, its path if that is known, and a note.
type Row<'a> = (&'a LockListing, Option<&'a str>, String);

fn locks<'a>(out: &mut String, title: &str, rows: impl ExactSizeIterator<Item = Row<'a>>, view: &View) {
    let all = rows.len();
    let mut table = Table::new(&[
        ("STATE", Align::Left),
        ("CLIENT", Align::Name),
        ("SVID", Align::Right),
        ("KIND", Align::Left),
        ("BYTES", Align::Left),
        ("FILE", Align::Left),
        ("NOTE", Align::Left),
    ]);
    for (lock, path, note) in rows.take(SHOWN) {
        table.row([
            lock.state.clone(),
            lock.owner.name.clone(),
            or_dash(lock.owner.svid),
            lock.kind.clone(),
            range(lock.start, lock.end),
            path.unwrap_or(&lock.file).to_owned(),
            note,
        ]);
    }
    if table.is_empty() {
        return;
    }
    line!(out, "\n{title}");
    out.push_str(&table.render(view.width));
    if all > SHOWN {
        line!(out, "[{} more; --json has all]", all - SHOWN);
    }
}

impl Render for ReleaseReport {
    fn show(&self, view: &View) -> String {
        let release = &self.release;
        let mut out = String::new();
        match (&release.id, release.exit) {
            (Some(id), Some(exit)) => line!(out, "release {id}: {} (exit {exit})", release.outcome),
            _ => line!(out, "release: {}", release.outcome),
        }
        line!(out, "  lock manager  {}", clean(&release.manager));
        let only = if release.only.is_empty() { String::new() } else { format!("; only {}", release.only.join(", ")) };
        line!(out, "  scope         {}{}", clean(&release.scope.to_string()), clean(&only));
        line!(out, "  chosen        {}", chosen(release));
        if let Some(at) = release.at {
            let by = release.uid.map_or_else(String::new, |uid| format!(" by user {uid}"));
            line!(out, "  asked         {}{by}", at.local(&view.zone));
        }
        if let Some(done) = release.released {
            line!(
                out,
                "  released      {} and {}, as {} says",
                number(done.locks, "lock", "locks"),
                number(done.waiters, "blocked request", "blocked requests"),
                clean(&release.manager)
            );
            line!(
                out,
                "  served        {} on these files meanwhile",
                number(done.offered, "blocked request", "blocked requests")
            );
            let left = match release.chosen {
                Some(_) => number(done.left, "lock is still there", "locks are still there"),
                None => number(done.left, "client may still hold locks", "clients may still hold locks"),
            };
            line!(out, "  left          {left}");
        }
        clients(&mut out, release, view);
        let waited_for = |lock: &ReleaseLock| match lock.waited_for.as_slice() {
            [] => String::new(),
            some => format!("waited for by {}", some.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
        };
        let rows = release.locks.iter().map(|lock| (&lock.lock, lock.path.as_deref(), waited_for(lock)));
        let title = if release.chosen.is_some() { "chosen, as listed by" } else { "freed, as seen by" };
        locks(&mut out, &format!("{title} {}", clean(&release.manager)), rows, view);
        let left =
            release.left.iter().map(|left| (&left.lock, left.path.as_deref(), left.why.clone().unwrap_or_default()));
        locks(&mut out, "still there", left, view);
        for note in &release.notes {
            line!(out, "\nnote: {}", clean(note));
        }
        if release.outcome == ReleaseOutcome::Planned && !release.consent.is_empty() {
            line!(out, "\nneeds consent");
            for sentence in &release.consent {
                line!(out, "  - {}", clean(sentence));
            }
        }
        refused(&mut out, release.refusal.as_ref());
        out
    }
}

impl Render for ReleasesReport {
    fn show(&self, view: &View) -> String {
        let mut table = Table::new(&[
            ("RELEASE", Align::Left),
            ("ASKED", Align::Left),
            ("MANAGER", Align::Left),
            ("OUTCOME", Align::Left),
            ("LOCKS", Align::Right),
            ("BLOCKED", Align::Count),
            ("LEFT", Align::Right),
            ("SCOPE", Align::Left),
        ]);
        for release in &self.releases {
            table.row([
                release.id.clone(),
                release.at.local(&view.zone),
                release.manager.clone(),
                release.outcome.to_string(),
                release.locks.to_string(),
                release.waiters.to_string(),
                release.left.to_string(),
                release.scope.to_string(),
            ]);
        }
        if table.is_empty() { "no releases are recorded\n".to_owned() } else { table.render(view.width) }
    }
}
