//! A run as one HTML page that needs nothing else: no script, no font, no picture from elsewhere.
//!
//! It says what `runs show` says, in the same words, and draws the course of the run ([`timeline`]). Whatever a client calls
//! itself is text in it, never markup: maud escapes all that it is given.

mod timeline;

use std::io;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::text::UNLISTED;
use super::text::range;
use super::{ClientReport, LockReport, LockTally, Owner, Rows, RunDetail, RunHead};
use crate::units;

const STYLE: &str = include_str!("style.css");
/// Most rows of a table. The page is for people; `runs export` has all.
const MOST_ROWS: usize = 1_000;

/// The page.
///
/// # Errors
/// A row cannot be read.
pub fn page<R: Rows<Row = LockReport>>(detail: &RunDetail<R>) -> io::Result<String> {
    let (mut first, mut all) = (Vec::new(), 0);
    detail.lock_rows.each(&mut |row| {
        all += 1;
        first.extend((all <= MOST_ROWS).then_some(row));
        Ok(())
    })?;
    let run = &detail.report.run;
    let title = format!("Resync {} of {}", run.id.get(..8).unwrap_or(&run.id), run.started_at);
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                (head(detail))
                (locks(&detail.report.locks, run))
                (timeline::drawn(detail))
                (clients(&detail.report.clients))
                (rows(&first, all))
                (events(detail))
            }
        }
    };
    Ok(markup.into_string())
}

fn head<R: Rows<Row = LockReport>>(detail: &RunDetail<R>) -> Markup {
    let (run, state) = (&detail.report.run, detail.report.state);
    let outcome = run.outcome.map_or_else(|| format!("not ended, phase {}", run.phase), |outcome| outcome.to_string());
    let number = |state: Option<i32>| state.map_or_else(|| "-".to_owned(), |state| state.to_string());
    html! {
        header {
            h1 { "Forced resync: " (outcome) }
            dl {
                dt { "Run" } dd { code { (run.id) } }
                dt { "Lock manager" } dd { (run.manager) }
                dt { "Mode, scope" } dd { (run.mode) ", " (run.scope) }
                dt { "Started" } dd { (run.started_at) }
                @if let (Some(at), Some(ms)) = (run.ended_at, run.elapsed_ms) {
                    dt { "Ended" } dd { (at) " (after " (units::millis(ms)) ")" }
                }
                dt { "NSM state" } dd { (number(state.old)) " → " (number(state.new)) }
                @if let Some(exit) = run.exit { dt { "Exit code" } dd { (exit) } }
                @if let Some(reason) = &run.reason { dt { "Why" } dd { (reason) } }
            }
        }
    }
}

fn locks(tally: &LockTally, run: &RunHead) -> Markup {
    let figures = [
        ("in scope", tally.in_scope, "held when the run began, and covered by it"),
        ("reclaimed", tally.reclaimed, "by their owners"),
        ("released", tally.released, "by their owners, or their client rebooted"),
        ("dropped", tally.dropped, "not reclaimed"),
        ("kept", tally.kept, "not reclaimed, spared by policy"),
        ("unverified", tally.unverified, "not known"),
        ("resurrected", tally.resurrected, "reclaimed though the server had lost them"),
        ("conflicts", tally.conflicts, "reclaims refused: another owner has the range"),
    ];
    html! {
        section {
            h2 { "Locks, as " (run.manager) " counted them" }
            ul class="figures" {
                @for (word, count, meaning) in figures {
                    li class=(if count > 0 { word } else { "none" }) { b { (count) } span { (word) } small { (meaning) } }
                }
            }
            @if !run.locks_listed { p { (UNLISTED) } }
        }
    }
}

/// A column of counts.
type Column = (&'static str, fn(&LockTally) -> u64);
/// Those of clients; one that is 0 everywhere is left out.
const COLUMNS: [Column; 8] = [
    ("In scope", |locks| locks.in_scope),
    ("Reclaimed", |locks| locks.reclaimed),
    ("Released", |locks| locks.released),
    ("Dropped", |locks| locks.dropped),
    ("Kept", |locks| locks.kept),
    ("Unverified", |locks| locks.unverified),
    ("Resurrected", |locks| locks.resurrected),
    ("Conflicts", |locks| locks.conflicts),
];

fn clients(clients: &[ClientReport]) -> Markup {
    // As in the text: of a client that acked, and of which nothing is to be said, only the number is of interest.
    let (others, plain): (Vec<_>, Vec<_>) = clients.iter().partition(|client| client.is_notable());
    let any =
        |count: fn(&LockTally) -> u64| others.iter().any(|c| c.locks.as_ref().is_some_and(|locks| count(locks) > 0));
    let columns: Vec<Column> = COLUMNS.into_iter().filter(|(_, count)| any(*count)).collect();
    html! {
        section {
            h2 { (units::count(clients.len() as u64, "client")) }
            p { (ClientReport::plain_words(plain.into_iter())) "." }
            @if !others.is_empty() {
                div class="wide" {
                    table {
                        thead { tr {
                            @for word in ["Client", "Address", "Fate"] { th { (word) } }
                            @for word in ["Acks", "After"] { th class="n" { (word) } }
                            @for (word, _) in &columns { th class="n" { (word) } }
                            th { "Note" }
                        } }
                        tbody { @for client in others.iter().take(MOST_ROWS) { (client_row(client, &columns)) } }
                    }
                }
                (rest(others.len()))
            }
        }
    }
}

fn client_row(client: &ClientReport, columns: &[Column]) -> Markup {
    let mut notes = client.kept_words();
    notes.extend(client.suspect.then(|| "suspect".to_owned()));
    notes.extend(client.error.clone());
    html! {
        tr {
            th scope="row" { (client.name) }
            td { @if let Some(address) = client.address { (address) } @else { "-" } }
            td class=(client.fate) { (client.fate) }
            td class="n" { (client.acks) "/" (client.notices) }
            td class="n" { @if let Some(ms) = client.acked_ms { (units::millis(ms)) } @else { "-" } }
            @for (_, count) in columns {
                td class="n" { @if let Some(locks) = &client.locks { (count(locks)) } @else { "-" } }
            }
            td { (notes.join("; ")) }
        }
    }
}

fn rows(rows: &[LockReport], all: usize) -> Markup {
    html! {
        @if !rows.is_empty() {
            section {
                h2 { "Locks on record" }
                div class="wide" {
                    table {
                        thead { tr { @for word in ["Fate", "Owner", "Kind", "Bytes", "File", "Note"] { th { (word) } } } }
                        tbody {
                            @for row in rows {
                                tr {
                                    td class=(row.fate) { (row.fate) }
                                    td { (owner(&row.owner)) }
                                    td { (row.kind) }
                                    td class="n" { (range(row.start, row.end)) }
                                    td { code { (row.file) } }
                                    td {
                                        @if row.partial { "in part " }
                                        @if row.late { "late " }
                                        @if let Some(other) = &row.other { "against " (owner(other)) }
                                    }
                                }
                            }
                        }
                    }
                }
                (rest(all))
            }
        }
    }
}

fn owner(owner: &Owner) -> Markup {
    html! {
        (owner.name)
        @if let Some(address) = owner.address { " (" (address) ")" }
        @if let Some(svid) = owner.svid { " process " (svid) }
    }
}

fn rest(all: usize) -> Markup {
    html! { @if all > MOST_ROWS { p { (all - MOST_ROWS) " more are in the record: nlmctl runs export." } } }
}

fn events<R: Rows<Row = LockReport>>(detail: &RunDetail<R>) -> Markup {
    html! {
        section {
            h2 { "What happened" }
            ol class="events" {
                @for event in detail.events.iter().take(MOST_ROWS) {
                    li { time { (event.at) } " " b { (event.kind) } " " (event.detail) }
                }
            }
            (rest(detail.events.len()))
        }
    }
}

#[cfg(test)]
mod tests;
