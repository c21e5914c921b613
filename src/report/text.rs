//! The text renderer of runs, plans and failures. It never says more than was seen: an ack is a
//! delivery, a count is its counter's.

use std::fmt::Write;
use std::io;
use std::path::Path;

use jiff::tz::TimeZone;

use super::fold::shell_word;
use super::table::{Align, Layout, Table, clean, clean_lines, in_memory, name};
use super::{
    ClientFate, ClientReport, ErrorReport, EventReport, LockReport, LockTally, NotifyReport, PlanReport, Refusal, Rows,
    RunDetail, RunHead, RunReport,
};
use crate::units::{count, millis};

/// How text is shown: what the reader's terminal and clock are like.
#[derive(Debug, Clone)]
pub struct View {
    /// Columns of the terminal; any number where the output is none.
    pub width: usize,
    /// The time zone of times. JSON has UTC, so that machines compare them.
    pub zone: TimeZone,
}

impl Default for View {
    fn default() -> Self {
        Self { width: usize::MAX, zone: TimeZone::UTC }
    }
}

/// A value that people read.
pub trait Render {
    /// Lines, each with its newline.
    fn show(&self, view: &View) -> String;
    /// The same, written as it comes: for what may be too long to hold.
    ///
    /// # Errors
    /// It cannot be written, or a row cannot be read ([`Rows::each`](super::Rows::each)).
    fn write(&self, out: &mut dyn io::Write, view: &View) -> io::Result<()> {
        out.write_all(self.show(view).as_bytes())
    }
    /// The same, as wide as it is, in UTC.
    fn text(&self) -> String {
        self.show(&View::default())
    }
}

/// A line. Writing to a String cannot fail.
macro_rules! line {
    ($out:expr, $($arg:tt)*) => {{ let _ = writeln!($out, $($arg)*); }};
}
pub(super) use line;

/// Why what is planned would be refused.
pub(super) fn refused(out: &mut String, refusal: Option<&Refusal>) {
    if let Some(refusal) = refusal {
        line!(out, "\nrefused: {}", clean(&refusal.message));
        line!(out, "  {}", clean(&refusal.remedy));
    }
}

/// Bytes as people read them: `0-99`, `0-EOF`.
pub(super) fn range(start: u64, end: Option<u64>) -> String {
    end.map_or_else(|| format!("{start}-EOF"), |end| format!("{start}-{end}"))
}

pub(super) fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |v| v.to_string())
}

impl Render for ErrorReport {
    fn show(&self, _: &View) -> String {
        let mut out = String::new();
        // A message may quote what others named: a file of an export, an argument.
        line!(out, "nlmctl: {}", clean_lines(&self.error.message));
        line!(out, "  {}", clean_lines(&self.error.remedy));
        out
    }
}

fn head(out: &mut String, run: &RunHead, state: super::States, view: &View) {
    match (run.outcome, run.exit) {
        (Some(outcome), Some(exit)) => line!(out, "run {}: {outcome} (exit {exit})", run.id),
        _ => line!(out, "run {}: not ended, according to this record (phase {})", run.id, run.phase),
    }
    if let Some(reason) = &run.reason {
        line!(out, "  why           {}", clean(reason));
    }
    line!(out, "  lock manager  {}", clean(&run.manager));
    line!(out, "  mode          {}", run.mode);
    line!(out, "  scope         {}", clean(&run.scope.to_string()));
    line!(out, "  started       {}", run.started_at.local(&view.zone));
    if let Some(ended) = run.ended_at {
        let took = run.elapsed_ms.map(|ms| format!(" (after {})", millis(ms))).unwrap_or_default();
        line!(out, "  ended         {}{took}", ended.local(&view.zone));
    }
    if let (Some(old), Some(new)) = (state.old, state.new) {
        line!(out, "  NSM state     {old} -> {new}");
    }
}

fn tally(out: &mut String, run: &RunHead, locks: &LockTally) {
    let rows = [
        ("in scope", locks.in_scope, "held when the run began, and covered by it"),
        ("reclaimed", locks.reclaimed, "by their owners"),
        ("released", locks.released, "unlocked by their owners, or their client rebooted"),
        ("dropped", locks.dropped, "not reclaimed, and freed"),
        ("kept", locks.kept, "not reclaimed, and still held"),
        ("unverified", locks.unverified, "their fate is not known"),
        ("resurrected", locks.resurrected, "reclaimed though the server had lost them; not in scope"),
        ("conflicts", locks.conflicts, "reclaims refused because of another owner"),
    ];
    let width = rows.iter().map(|(_, n, _)| n.to_string().len()).max().unwrap_or(1);
    line!(out, "locks, as {} counted them", clean(&run.manager));
    for (word, n, meaning) in rows {
        let meaning = if n > 0 { format!("  {meaning}") } else { String::new() };
        line!(out, "  {word:12}  {n:>width$}{meaning}");
    }
    if !run.locks_listed {
        line!(out, "  {UNLISTED}");
    }
}

/// Beside the sums of a lock manager that cannot list its locks.
pub(super) const UNLISTED: &str = "these sums leave out the locks that it could not list; their fate is not known";

fn fates(fates: &(impl Iterator<Item = ClientFate> + Clone)) -> String {
    let parts: Vec<String> = ClientFate::ALL
        .into_iter()
        .map(|fate| (fate, fates.clone().filter(|f| *f == fate).count()))
        .filter(|(_, count)| *count > 0)
        .map(|(fate, count)| format!("{count} {fate}"))
        .collect();
    parts.join(", ")
}

fn clients(out: &mut String, run: &RunReport, all: bool, view: &View) {
    let (manager, clients) = (&run.run.manager, &run.clients);
    if clients.is_empty() {
        let none = if run.locks.in_scope == 0 { "there was no client to notify" } else { "no client is on record" };
        line!(out, "\nnotices: {none}");
        return;
    }
    line!(out, "\nnotices, as nlmctl saw them (acked: delivered, no more); locks, as {} counted them", clean(manager));
    line!(out, "  {}: {}", count(clients.len() as u64, "client"), fates(&clients.iter().map(|client| client.fate)));
    let mut table = Table::new(&[
        ("CLIENT", Align::Name),
        ("ADDRESS", Align::Left),
        ("FATE", Align::Left),
        ("SENT", Align::Right),
        ("ACKED", Align::Right),
        ("ACKED AFTER", Align::Right),
        ("IN SCOPE", Align::Right),
        ("RECLAIMED", Align::Count),
        ("RELEASED", Align::Count),
        ("DROPPED", Align::Count),
        ("KEPT", Align::Count),
        ("UNVERIFIED", Align::Count),
        ("RESURRECTED", Align::Count),
        ("CONFLICTS", Align::Count),
        ("NOTE", Align::Left),
    ]);
    let (shown, plain): (Vec<_>, Vec<_>) = clients.iter().partition(|client| all || client.is_notable());
    for client in shown {
        table.row(client_row(client));
    }
    if !plain.is_empty() {
        line!(out, "  {}", ClientReport::plain_words(plain.into_iter()));
    }
    if !table.is_empty() {
        line!(out, "\n{}", table.render(view.width).trim_end());
    }
}

fn client_row(client: &ClientReport) -> [String; 15] {
    let of = |count: fn(&LockTally) -> u64| or_dash(client.locks.as_ref().map(count));
    let suspect = client.suspect.then(|| "suspect".to_owned());
    let is_known = client.fate != ClientFate::Unknown;
    let note: Vec<String> = suspect.into_iter().chain(client.error.clone()).chain(client.kept_words()).collect();
    [
        client.name.clone(),
        or_dash(client.address),
        client.fate.to_string(),
        if is_known { client.attempts.to_string() } else { "-".to_owned() },
        if is_known { format!("{}/{}", client.acks, client.notices) } else { "-".to_owned() },
        client.acked_ms.map_or_else(|| "-".to_owned(), millis),
        of(|l| l.in_scope),
        of(|l| l.reclaimed),
        of(|l| l.released),
        of(|l| l.dropped),
        of(|l| l.kept),
        of(|l| l.unverified),
        of(|l| l.resurrected),
        of(|l| l.conflicts),
        note.join("; "),
    ]
}

/// The first of those that were dropped, and where the rest is.
fn lost(out: &mut String, run: &RunReport, all_of_them: &str, view: &View) {
    if run.lost.is_empty() {
        return;
    }
    let (shown, all) = (run.lost.len() as u64, run.locks.dropped);
    let first = if all > shown { format!(", the first {shown} of {all}") } else { String::new() };
    line!(out, "\nlocks that were dropped{first}");
    let mut table = Table::new(&[("FILE", Align::Left), ("CLIENT", Align::Name), ("BYTES", Align::Left)]);
    for lock in &run.lost {
        table.row([file(lock), lock.owner.name.clone(), range(lock.start, lock.end)]);
    }
    out.push_str(&table.render(view.width));
    if all > shown {
        line!(out, "all of them: {all_of_them}");
    }
}

fn file(lock: &LockReport) -> String {
    lock.inode.as_ref().unwrap_or(&lock.file).clone()
}

/// `shown`: what of its clients and locks is in it, where that is not all. `all_of_them`: what shows all dropped locks.
fn report(run: &RunReport, all_clients: bool, shown: Option<&str>, all_of_them: &str, view: &View) -> String {
    let mut out = String::new();
    head(&mut out, &run.run, run.state, view);
    if let Some(shown) = shown {
        line!(out, "  shown         {}; sums and timeline cover the whole run", clean(shown));
    }
    out.push('\n');
    tally(&mut out, &run.run, &run.locks);
    if shown.is_none() || !run.clients.is_empty() {
        clients(&mut out, run, all_clients, view);
    }
    if !all_clients {
        lost(&mut out, run, all_of_them, view);
    }
    if run.locks.dropped + run.locks.conflicts > 0 {
        line!(out, "\nwhat to do on a client that lost a lock: man 7 nlmctl-lost-locks");
    }
    out
}

impl Render for RunReport {
    fn show(&self, view: &View) -> String {
        self.show_with(&self.all_dropped(None), view)
    }
}

impl RunReport {
    /// The command that shows all dropped locks, of the record at `db` if that must be named.
    pub fn all_dropped(&self, db: Option<&Path>) -> String {
        let db = db.map_or_else(String::new, |db| format!("--db {} ", shell_word(&clean(&db.display().to_string()))));
        format!("`nlmctl {db}runs show {}`", self.run.id)
    }

    /// The report, with other words about what shows all dropped locks.
    pub fn show_with(&self, all_of_them: &str, view: &View) -> String {
        report(self, false, None, all_of_them, view)
    }
}

const LOCK_COLUMNS: [(&str, Align); 8] = [
    ("LOCK", Align::Left),
    ("CLIENT", Align::Name),
    ("ADDRESS", Align::Left),
    ("SVID", Align::Right),
    ("KIND", Align::Left),
    ("BYTES", Align::Left),
    ("FILE", Align::Left),
    ("NOTE", Align::Left),
];

fn lock_row(lock: &LockReport) -> [String; 8] {
    let mut note = Vec::new();
    if lock.partial {
        note.push("in part".to_owned());
    }
    if lock.late {
        note.push("late".to_owned());
    }
    if let Some(other) = &lock.other {
        let of = lock.other_start.map(|start| format!(" {}", range(start, lock.other_end))).unwrap_or_default();
        let at = other.address.map(|address| format!(" ({address})")).unwrap_or_default();
        let svid = other.svid.map(|svid| format!(" svid {svid}")).unwrap_or_default();
        note.push(format!("held or pending{of}: {}{at}{svid}", name(&other.name)));
    }
    [
        lock.fate.clone(),
        lock.owner.name.clone(),
        or_dash(lock.owner.address),
        or_dash(lock.owner.svid),
        lock.kind.clone(),
        range(lock.start, lock.end),
        file(lock),
        note.join("; "),
    ]
}

fn timeline(out: &mut String, events: &[EventReport], view: &View) {
    if events.is_empty() {
        return;
    }
    line!(out, "\ntimeline");
    for event in events {
        let line = format!("  {}  {:12}  {}", event.at.local(&view.zone), clean(&event.kind), clean(&event.detail));
        // A kind without detail leaves blanks at its end.
        line!(out, "{}", line.trim_end());
    }
}

impl<R: Rows<Row = LockReport>> Render for RunDetail<R> {
    fn show(&self, view: &View) -> String {
        in_memory(|out| self.write(out, view))
    }

    fn write(&self, out: &mut dyn io::Write, view: &View) -> io::Result<()> {
        let mut layout = Layout::new(&LOCK_COLUMNS);
        let mut is_empty = true;
        self.lock_rows.each(&mut |lock| {
            is_empty = false;
            layout.see(&layout.row(lock_row(&lock)));
            Ok(())
        })?;
        out.write_all(report(&self.report, true, self.shown.as_deref(), "", view).as_bytes())?;
        if !is_empty {
            writeln!(out)?;
            layout.write_heading(out, view.width)?;
            self.lock_rows.each(&mut |lock| layout.write_row(out, view.width, &layout.row(lock_row(&lock))))?;
        }
        let mut rest = String::new();
        timeline(&mut rest, &self.events, view);
        out.write_all(rest.as_bytes())
    }
}

impl Render for PlanReport {
    fn show(&self, view: &View) -> String {
        let plan = &self.plan;
        let mut out = String::new();
        for effect in &plan.effects {
            line!(out, "{}", clean(effect));
        }
        if !plan.effects.is_empty() {
            out.push('\n');
        }
        line!(out, "plan {}", plan.fingerprint);
        line!(out, "  mode         {}", plan.mode);
        line!(out, "  scope        {}", clean(&plan.scope.to_string()));
        let more = if plan.locks_listed { "" } else { ", and locks that cannot be listed" };
        line!(out, "  in scope     {}, according to the lock manager{more}", count(plan.in_scope, "lock"));
        if plan.unmonitored > 0 {
            line!(out, "  unmonitored  {} without a client to notify (NM_LOCK)", count(plan.unmonitored, "lock"));
        }
        if !plan.names.is_empty() {
            line!(out, "  server names {}", clean(&plan.names.join(", ")));
        }
        let untellable = plan.clients.iter().filter(|c| c.untellable);
        let locks: Option<u64> = untellable.clone().map(|c| c.locks).sum();
        let untold = match untellable.count() as u64 {
            0 => String::new(),
            n => format!(
                "; {n} cannot be notified now, with {} in scope",
                locks.map_or_else(|| "an unknown number of locks".to_owned(), |n| count(n, "lock"))
            ),
        };
        line!(out, "\n{} to notify{untold}", count(plan.clients.len() as u64, "client"));
        let mut table = Table::new(&[
            ("CLIENT", Align::Name),
            ("ADDRESS", Align::Left),
            ("LOCKS", Align::Right),
            ("STATD", Align::Left),
            ("NOTICE FROM", Align::Left),
        ]);
        for client in &plan.clients {
            let from: Vec<String> = client.from.iter().map(ToString::to_string).collect();
            table.row([
                client.name.clone(),
                or_dash(client.address),
                or_dash(client.locks),
                client.probe.to_string(),
                from.join(", "),
            ]);
        }
        out.push_str(&table.render(view.width));
        let notes = plan.clients.iter().filter_map(|c| Some(format!("{}: {}", c.name, c.note.as_ref()?))).collect();
        for (title, sentences) in [
            ("clients that called several addresses of this server", &notes),
            ("does not hold with this lock manager", &plan.caveats),
            ("needs consent", &plan.consent),
        ] {
            if !sentences.is_empty() {
                line!(out, "\n{title}");
                for sentence in sentences {
                    line!(out, "  - {}", clean(sentence));
                }
            }
        }
        refused(&mut out, plan.refusal.as_ref());
        out
    }
}

impl Render for NotifyReport {
    fn show(&self, view: &View) -> String {
        let mut out = String::new();
        let mut table = Table::new(&[
            ("HOST", Align::Name),
            ("ADDRESS", Align::Left),
            ("FATE", Align::Left),
            ("SENT", Align::Right),
            ("ACKED AFTER", Align::Right),
            ("NOTE", Align::Left),
        ]);
        for host in &self.hosts {
            table.row([
                host.name.clone(),
                or_dash(host.address),
                host.fate.to_string(),
                host.attempts.to_string(),
                host.acked_ms.map_or_else(|| "-".to_owned(), millis),
                host.error.clone().unwrap_or_default(),
            ]);
        }
        out.push_str(&table.render(view.width));
        let summary = if self.hosts.is_empty() {
            "no host to notify".to_owned()
        } else {
            fates(&self.hosts.iter().map(|h| h.fate))
        };
        line!(
            out,
            "notices of state {} as {} to {}: {summary} (acked: delivered, no more)",
            self.state,
            clean(&self.names.join(", ")),
            count(self.hosts.len() as u64, "host")
        );
        out
    }
}
