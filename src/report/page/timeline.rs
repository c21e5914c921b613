//! The course of a run, drawn: how many locks were pending, when each client acked, and what happened.

use std::fmt::Write;

use maud::{Markup, html};

use super::super::{LockReport, PendingReport, Rows, RunDetail};
use crate::units::millis;

/// The drawing's own units; the page scales it.
const WIDTH: f64 = 1_000.0;
const HEIGHT: f64 = 260.0;
/// Room for the labels left of and below the curve, and for the acks and events above it.
const LEFT: f64 = 64.0;
const BELOW: f64 = 24.0;
const ABOVE: f64 = 34.0;
/// Most acks that get a line each: more would be one block.
const MOST_ACKS: usize = 2_000;

/// Where a moment and a count are in the drawing.
pub(super) struct Scale {
    /// Milliseconds from begin to the end.
    pub(super) time: f64,
    pub(super) locks: f64,
}

#[expect(clippy::cast_precision_loss, reason = "a pixel is coarser")]
fn float(n: u64) -> f64 {
    n as f64
}

impl Scale {
    fn x(&self, ms: u64) -> f64 {
        LEFT + (WIDTH - LEFT) * (float(ms) / self.time).min(1.0)
    }
    fn y(&self, locks: u64) -> f64 {
        ABOVE + (HEIGHT - ABOVE - BELOW) * (1.0 - (float(locks) / self.locks).min(1.0))
    }
}

/// Steps: what was pending stayed so until the next look.
pub(super) fn steps(points: &[PendingReport], end: u64, scale: &Scale) -> String {
    let mut path = String::new();
    for (index, point) in points.iter().enumerate() {
        let (x, y) = (scale.x(point.elapsed_ms), scale.y(point.pending));
        // Writing to a String cannot fail.
        let _ = if index == 0 { write!(path, "M{x:.1} {y:.1}") } else { write!(path, "H{x:.1}V{y:.1}") };
    }
    if !path.is_empty() {
        let _ = write!(path, "H{:.1}", scale.x(end));
    }
    path
}

/// The drawing; nothing for a run that has no course on record.
pub(super) fn drawn<R: Rows<Row = LockReport>>(detail: &RunDetail<R>) -> Markup {
    let (run, clients) = (&detail.report.run, &detail.report.clients);
    let last = detail.progress.last().map_or(0, |point| point.elapsed_ms);
    let acked = clients.iter().filter_map(|client| client.acked_ms);
    let end = run.elapsed_ms.unwrap_or(0).max(last).max(acked.clone().max().unwrap_or(0));
    if detail.progress.is_empty() || end == 0 {
        return html! {};
    }
    let most = detail.progress.iter().map(|point| point.pending).max().unwrap_or(0).max(detail.report.locks.in_scope);
    let scale = Scale { time: float(end), locks: float(most.max(1)) };
    let (curve, bottom) = (steps(&detail.progress, end, &scale), scale.y(0));
    let area =
        format!("{curve}V{bottom:.1}H{:.1}Z", scale.x(detail.progress.first().map_or(0, |point| point.elapsed_ms)));
    let began = run.started_at.0;
    let marks = detail.events.iter().filter(|event| event.at.0 >= began && event.at.0 - began <= end);
    // An SVG element ends where it is said: one without a body would have all that follows in it.
    html! {
        section {
            h2 { "Course" }
            p { "Blue: locks pending. Green: acks of clients. Dashed: events." }
            svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img" aria-label="Pending locks over time, with the acks of clients" {
                line class="axis" x1=(LEFT) x2=(WIDTH) y1=(bottom) y2=(bottom) {}
                line class="axis" x1=(LEFT) x2=(LEFT) y1=(ABOVE) y2=(bottom) {}
                @for event in marks {
                    @let x = format!("{:.1}", scale.x(event.at.0 - began));
                    line class="event" x1=(x) x2=(x) y1="12" y2=(bottom) { title { (event.kind) " " (event.detail) } }
                }
                @for ms in acked.take(MOST_ACKS) {
                    @let x = format!("{:.1}", scale.x(ms));
                    line class="ack" x1=(x) x2=(x) y1=(ABOVE - 10.0) y2=(ABOVE - 2.0) {}
                }
                path class="area" d=(area) {}
                path class="pending" d=(curve) {}
                text x=(LEFT - 6.0) y=(ABOVE + 10.0) text-anchor="end" { (most) }
                text x=(LEFT - 6.0) y=(bottom) text-anchor="end" { "0" }
                text x=(LEFT) y=(HEIGHT - 6.0) { "0 s" }
                text x=(WIDTH) y=(HEIGHT - 6.0) text-anchor="end" { (millis(end)) }
            }
        }
    }
}
