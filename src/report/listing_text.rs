//! The text renderer of status and listings.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::io;
use std::time::Duration;

use super::listing::{ActiveRun, ClientProbe, Controller, ManagerStatus, StatdAnswer};
use super::table::{Align, Layout, Table, clean, in_memory};
use super::text::{Render, View, line, or_dash, range};
use super::{Behind, ClientsReport, ListedLock, LocksReport, OwnersReport, Rows, RunsReport, StatusReport};
use crate::units::{count, duration, millis};
use crate::wire::control::LockState;
use crate::wire::types::Address;

fn manager(out: &mut String, m: &ManagerStatus) {
    line!(out, "{}, as it reports itself", clean(&m.software));
    let remaining = m.grace_remaining_ms.map(|ms| format!(", {} left", millis(ms))).unwrap_or_default();
    let grace = if m.grace == "open" { "none" } else { m.grace };
    line!(out, "  grace         {grace}{remaining}");
    line!(out, "  clients       {}, {} of them monitored", m.clients, m.monitored);
    match (m.locks, m.unmonitored) {
        (Some(locks), Some(unmonitored)) => line!(out, "  locks         {locks}, {unmonitored} of them unmonitored"),
        (Some(locks), None) => line!(out, "  locks         {locks}"),
        (None, _) => line!(out, "  locks         not known: this lock manager cannot list them"),
    }
    if let Some(unsure) = m.unsure.filter(|unsure| *unsure > 0) {
        line!(out, "  unsure locks  {unsure}, whose reclaim may have been refused (`nlmctl locks`); runs keep them");
    }
    line!(out, "  waiters       {}", m.waiters);
    line!(out, "  NSM state     {}", m.nsm_state);
    line!(out, "  known as      {}", clean(&m.names.join(", ")));
    line!(out, "  instance      {}", m.instance);
    line!(out, "  arbitrates    {}", clean(&m.domains.join(", ")));
    if let Some(why) = unknown(&m.owners) {
        line!(out, "  owners        not known: {why}");
    } else if let Some(how) = m.owners.how.as_deref().filter(|_| !m.capabilities.contains(&"knows-owners")) {
        line!(out, "  owners        {}", clean(how));
    }
    line!(out, "  can           {}", m.capabilities.join(", "));
    for (index, limit) in m.limits.iter().enumerate() {
        line!(out, "  {:12}  {}", if index == 0 { "limits" } else { "" }, clean(limit));
    }
}

fn active(out: &mut String, run: &ActiveRun) {
    line!(out, "\nrun {} is active", run.id);
    line!(out, "  mode          {}", run.mode);
    line!(out, "  NSM state     {}", run.state);
    let notices =
        if run.notices_begun { "sending has begun, according to nlmctl" } else { "none sent yet, according to nlmctl" };
    line!(out, "  notices       {notices}");
    line!(
        out,
        "  grace         {} left, {} at the latest; began {} ago",
        millis(run.remaining_ms),
        millis(run.latest_remaining_ms),
        millis(run.elapsed_ms)
    );
    line!(
        out,
        "  locks         {} of {} pending, {} reclaimed, {} released, {} resurrected, {}",
        run.pending,
        run.locks.in_scope,
        run.locks.reclaimed,
        run.locks.released,
        run.locks.resurrected,
        count(run.locks.conflicts, "conflict")
    );
    let controller = match run.controller {
        Some(controller @ Controller { alive: true, .. }) => controller.to_string(),
        Some(gone) => format!("{gone}; to continue it: `nlmctl resync --resume`"),
        None => "not known: the record here was not read, or does not have this run".to_owned(),
    };
    line!(out, "  controller    {controller}");
}

impl Render for StatusReport {
    fn show(&self, _: &View) -> String {
        let mut out = String::new();
        manager(&mut out, &self.manager);
        match &self.run {
            Some(run) => active(&mut out, run),
            None => line!(out, "\nno run is active"),
        }
        out
    }
}

/// Why owners are not known, and what to do about it.
fn unknown(owners: &OwnersReport) -> Option<String> {
    let why = clean(owners.why_not.as_deref()?);
    Some(owners.remedy.as_deref().map_or_else(|| why.clone(), |remedy| format!("{why}; {}", clean(remedy))))
}

/// Below a list without owners.
fn footnote(out: &mut String, owners: &OwnersReport) {
    if let Some(why) = unknown(owners) {
        line!(out, "\nlock owners are not known: {why}");
    }
}

fn addresses(list: &[Address]) -> String {
    list.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// Why a client whose state number differs may be sound.
const NO_PROOF: &str = "a different state number is not proof: statd may have been restarted without its host, the \
                        kernel learns a new number late, and containers and hosts behind one address share a statd";

fn probed(probe: &ClientProbe) -> String {
    match (probe.statd, probe.state) {
        (said @ (StatdAnswer::Same | StatdAnswer::Different), Some(state)) => format!("{said}: {state}"),
        (said, _) => said.to_string(),
    }
}

impl Render for ClientsReport {
    fn show(&self, view: &View) -> String {
        let mut table = Table::new(&[
            ("CLIENT", Align::Name),
            ("ADDRESSES", Align::Left),
            ("CALLED", Align::Left),
            ("STATE", Align::Right),
            ("STATD", Align::Left),
            ("LOCKS", Align::Right),
            ("UNMONITORED", Align::Count),
            ("WAITERS", Align::Count),
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
                client.probe.as_ref().map(probed).unwrap_or_default(),
                or_dash(client.locks),
                or_dash(client.unmonitored),
                or_dash(client.waiters),
                note.join("; "),
            ]);
        }
        let none = || format!("{} knows no client\n", clean(&self.manager));
        let mut out = if table.is_empty() { none() } else { table.render(view.width) };
        if self
            .clients
            .iter()
            .any(|client| client.probe.as_ref().is_some_and(|probe| probe.statd == StatdAnswer::Different))
        {
            line!(out, "\n{NO_PROOF}");
        }
        footnote(&mut out, &self.owners);
        out
    }
}

const LOCK_COLUMNS: [(&str, Align); 12] = [
    ("FILE", Align::Left),
    ("STATE", Align::Left),
    ("AGE", Align::Left),
    ("CLIENT", Align::Name),
    ("ADDRESS", Align::Left),
    ("SVID", Align::Right),
    ("KIND", Align::Left),
    ("BYTES", Align::Left),
    ("OWNER", Align::Left),
    ("CALLED", Align::Left),
    ("OVER", Align::Left),
    ("NOTE", Align::Left),
];

fn lock_row(lock: &ListedLock, wide: bool) -> [String; 12] {
    let owner = &lock.owner;
    // An empty column is not shown.
    let wide = |cell: &dyn Fn() -> String| if wide { cell() } else { String::new() };
    [
        file(lock),
        lock.state.clone(),
        lock.age_s.map_or_else(String::new, |age| duration(Duration::from_secs(age.into()))),
        or_dash(owner.name.as_ref()),
        or_dash(owner.address),
        or_dash(owner.svid),
        lock.kind.clone(),
        range(lock.start, lock.end),
        wide(&|| or_dash(owner.oh.as_ref())),
        wide(&|| or_dash(owner.server_address)),
        wide(&|| match (&owner.transport, owner.version) {
            (Some(transport), Some(version)) => format!("{transport}, NLM {version}"),
            _ => "-".to_owned(),
        }),
        notes(lock),
    ]
}

impl<L: Rows<Row = ListedLock>> Render for LocksReport<L> {
    fn show(&self, view: &View) -> String {
        in_memory(|out| self.write(out, view))
    }

    fn write(&self, out: &mut dyn io::Write, view: &View) -> io::Result<()> {
        let mut layout = Layout::new(&LOCK_COLUMNS);
        let (mut is_empty, mut unsure) = (true, BTreeSet::new());
        self.locks.each(&mut |lock| {
            is_empty = false;
            layout.see(&layout.row(lock_row(&lock, self.wide)));
            unsure.extend(lock.unsure);
            Ok(())
        })?;
        if is_empty {
            let none = if self.whole {
                "lists no lock, and no request that waits for one"
            } else {
                "lists no lock or waiting request that fits the options"
            };
            writeln!(out, "{} {none}", clean(&self.manager))?;
        } else {
            layout.write_heading(out, view.width)?;
            let mut write = |lock| layout.write_row(out, view.width, &layout.row(lock_row(&lock, self.wide)));
            self.locks.each(&mut write)?;
        }
        let mut rest = String::new();
        for why in &unsure {
            line!(rest, "\nunsure: {}", clean(why));
        }
        if !unsure.is_empty() {
            line!(rest, "{UNSURE}");
        }
        footnote(&mut rest, &self.owners);
        out.write_all(rest.as_bytes())
    }
}

/// What is to be done about such a lock.
const UNSURE: &str = "the client may have forgotten an unsure lock while its process still believes in it, so runs \
                      keep it; what to do on the client: man 7 nlmctl-lost-locks";

/// Its path; where that is not known what else names the file.
fn file(lock: &ListedLock) -> String {
    match (&lock.path, &lock.inode) {
        (Some(path), _) => path.clone(),
        (None, Some(inode)) if lock.owner.name.is_none() => inode.clone(),
        (None, _) => lock.file.clone(),
    }
}

fn notes(lock: &ListedLock) -> String {
    /// Owners that one line names.
    const SHOWN: usize = 3;
    let mut notes = Vec::new();
    if lock.state == LockState::Offered.to_string() {
        notes.push("granted, not confirmed".to_owned());
    }
    if let Some(behind) = lock.behind.as_deref().filter(|behind| !behind.is_empty()) {
        let name = |one: &Behind| {
            let name = or_dash(one.name.as_ref());
            one.svid.map_or_else(|| name.clone(), |svid| format!("{name} svid {svid}"))
        };
        let mut names: Vec<String> = behind.iter().take(SHOWN).map(name).collect();
        let more = behind.len().saturating_sub(SHOWN) as u64 + lock.behind_more;
        if more > 0 {
            names.push(format!("{more} more"));
        }
        notes.push(format!("behind {}", names.join(", ")));
    }
    if lock.deleted {
        notes.push("file deleted".to_owned());
    }
    if lock.monitored == Some(false) {
        notes.push("not monitored".to_owned());
    }
    if lock.unsure.is_some() {
        notes.push("unsure".to_owned());
    }
    notes.join("; ")
}

impl Render for RunsReport {
    fn show(&self, view: &View) -> String {
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
            ("RECLAIMED", Align::Count),
            ("DROPPED", Align::Count),
            ("KEPT", Align::Count),
            ("SCOPE", Align::Left),
        ]);
        for run in &self.runs {
            table.row([
                run.id.clone(),
                run.started_at.local(&view.zone),
                run.elapsed_ms.map_or_else(|| "-".to_owned(), millis),
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
        match &self.shown {
            _ if !table.is_empty() => table.render(view.width),
            Some(shown) => format!("no run on record fits the options: {}\n", clean(shown)),
            None => "no runs are recorded\n".to_owned(),
        }
    }
}
