//! The text renderer of status and listings.

use std::fmt::Write;

use super::listing::{ActiveRun, ManagerStatus};
use super::table::{Align, Table, clean};
use super::text::{Text, line, number, or_dash, range, seconds};
use super::{ClientsReport, LocksReport, RunsReport, StatusReport};
use crate::wire::control::LockState;

fn manager(out: &mut String, m: &ManagerStatus) {
    line!(out, "{}, as it says itself", clean(&m.software));
    let remaining = m.grace_remaining_ms.map(|ms| format!(", {} left", seconds(ms))).unwrap_or_default();
    line!(out, "  grace         {}{remaining}", m.grace);
    line!(out, "  clients       {}, {} of them monitored", m.clients, m.monitored);
    line!(out, "  locks         {}, {} of them unmonitored", m.locks, m.unmonitored);
    line!(out, "  waiters       {}", m.waiters);
    line!(out, "  NSM state     {}", m.nsm_state);
    line!(out, "  known as      {}", clean(&m.names.join(", ")));
    line!(out, "  instance      {}", m.instance);
    line!(out, "  arbitrates    {}", clean(&m.domains.join(", ")));
    line!(out, "  can           {}", m.capabilities.join(", "));
    for (index, limit) in m.limits.iter().enumerate() {
        line!(out, "  {:12}  {}", if index == 0 { "but" } else { "" }, clean(limit));
    }
}

fn active(out: &mut String, run: &ActiveRun) {
    line!(out, "\nrun {} is active", run.id);
    line!(out, "  mode          {}", run.mode);
    line!(out, "  NSM state     {}", run.state);
    let notices = if run.notices_begun { "go out, as it was told" } else { "none yet, as it was told" };
    line!(out, "  notices       {notices}");
    line!(
        out,
        "  grace         {} left, {} at the latest; began {} ago",
        seconds(run.remaining_ms),
        seconds(run.latest_remaining_ms),
        seconds(run.elapsed_ms)
    );
    line!(
        out,
        "  locks         {} of {} pending, {} reclaimed, {} released, {} resurrected, {}",
        run.pending,
        run.locks.in_scope,
        run.locks.reclaimed,
        run.locks.released,
        run.locks.resurrected,
        number(run.locks.conflicts, "conflict", "conflicts")
    );
}

impl Text for StatusReport {
    fn text(&self) -> String {
        let mut out = String::new();
        manager(&mut out, &self.manager);
        match &self.run {
            Some(run) => active(&mut out, run),
            None => line!(out, "\nno run is active"),
        }
        out
    }
}

fn addresses(list: &[std::net::IpAddr]) -> String {
    list.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

impl Text for ClientsReport {
    fn text(&self) -> String {
        let mut table = Table::new(&[
            ("CLIENT", Align::Name),
            ("ADDRESSES", Align::Left),
            ("CALLED", Align::Left),
            ("STATE", Align::Right),
            ("LOCKS", Align::Right),
            ("UNMONITORED", Align::Right),
            ("WAITERS", Align::Right),
            ("NOTE", Align::Left),
        ]);
        for client in &self.clients {
            let mut note = Vec::new();
            if !client.monitored {
                note.push("not monitored".to_owned());
            }
            if client.shared_address {
                note.push("shared address".to_owned());
            }
            note.extend(client.suspicions.iter().map(|why| format!("suspect: {why}")));
            table.row([
                client.name.clone(),
                addresses(&client.addresses),
                addresses(&client.server_addresses),
                or_dash(client.nsm_state),
                client.locks.to_string(),
                client.unmonitored.to_string(),
                client.waiters.to_string(),
                note.join("; "),
            ]);
        }
        if table.is_empty() { format!("{} knows no client\n", clean(&self.manager)) } else { table.render() }
    }
}

impl Text for LocksReport {
    fn text(&self) -> String {
        let mut table = Table::new(&[
            ("STATE", Align::Left),
            ("CLIENT", Align::Name),
            ("ADDRESS", Align::Left),
            ("SVID", Align::Right),
            ("KIND", Align::Left),
            ("BYTES", Align::Left),
            ("FILE", Align::Left),
            ("NOTE", Align::Left),
        ]);
        for lock in &self.locks {
            let notes = [
                (lock.state == LockState::Offered.to_string()).then_some("granted, not confirmed"),
                (!lock.monitored).then_some("not monitored"),
            ];
            table.row([
                lock.state.clone(),
                lock.owner.name.clone(),
                lock.owner.address.to_string(),
                lock.owner.svid.to_string(),
                lock.kind.clone(),
                range(lock.start, lock.end),
                lock.file.clone(),
                notes.into_iter().flatten().collect::<Vec<_>>().join("; "),
            ]);
        }
        if table.is_empty() { format!("{} lists no such lock\n", clean(&self.manager)) } else { table.render() }
    }
}

impl Text for RunsReport {
    fn text(&self) -> String {
        let mut table = Table::new(&[
            ("RUN", Align::Left),
            ("STARTED", Align::Left),
            ("TOOK", Align::Right),
            ("MANAGER", Align::Left),
            ("MODE", Align::Left),
            ("OUTCOME", Align::Left),
            ("EXIT", Align::Right),
            ("CLIENTS", Align::Right),
            ("IN SCOPE", Align::Right),
            ("RECLAIMED", Align::Right),
            ("DROPPED", Align::Right),
            ("KEPT", Align::Right),
            ("SCOPE", Align::Left),
        ]);
        for run in &self.runs {
            table.row([
                run.id.clone(),
                run.started_at.to_string(),
                run.elapsed_ms.map_or_else(|| "-".to_owned(), seconds),
                run.manager.clone(),
                run.mode.clone(),
                run.outcome.map_or_else(|| format!("({})", run.phase), |outcome| outcome.to_string()),
                or_dash(run.exit),
                run.clients.to_string(),
                run.locks.in_scope.to_string(),
                run.locks.reclaimed.to_string(),
                run.locks.dropped.to_string(),
                run.locks.kept.to_string(),
                run.scope.to_string(),
            ]);
        }
        if table.is_empty() { "no runs are recorded\n".to_owned() } else { table.render() }
    }
}
