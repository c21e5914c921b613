//! A run on the terminal while it runs.
//!
//! [`show`] follows a watch channel until its sender is gone: on a terminal as one line that
//! changes, elsewhere (and with `-v`, whose lines would break that one) as plain lines, on change and
//! at most one a second; silent with `-q`. All of it goes to stderr.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::context::to_stderr;
use crate::report::{Phase, Progress};
use crate::units::{self, count};

/// Between two plain lines.
const LINE_EVERY: Duration = Duration::from_secs(1);
/// Between two looks of the terminal's grace clock.
const CLOCK_EVERY: Duration = Duration::from_millis(100);

/// Shows progress until the sender is gone. Cancel safe: it owns nothing but what it has drawn.
pub async fn show(progress: watch::Receiver<Progress>, quiet: bool, verbose: bool) {
    if quiet {
        return;
    }
    if std::io::stderr().is_terminal() && !verbose {
        on_terminal(progress).await;
    } else {
        as_lines(progress, to_stderr).await;
    }
}

/// One line of what is known.
fn line(p: &Progress) -> String {
    match p.phase {
        Phase::Planned | Phase::Beginning | Phase::Done => p.phase.to_string(),
        // Begun, and the lock manager has not said yet how it is.
        _ if p.grace_total.is_zero() => p.phase.to_string(),
        Phase::Begun | Phase::Notifying | Phase::Reclaiming | Phase::Settling => {
            let gave_up = if p.given_up > 0 { format!(" ({} given up)", p.given_up) } else { String::new() };
            format!(
                "{}: {} of {} pending, {} of {} acked{gave_up}, {} of {} left",
                p.phase,
                p.pending,
                count(p.in_scope, "lock"),
                p.acked,
                count(p.clients, "client"),
                units::duration(whole(p.grace_remaining + Duration::from_millis(499))),
                units::duration(whole(p.grace_total)),
            )
        }
    }
}

fn whole(time: Duration) -> Duration {
    Duration::from_secs((time + Duration::from_millis(500)).as_secs())
}

async fn as_lines(mut progress: watch::Receiver<Progress>, mut say: impl FnMut(&str)) {
    // The grace clock alone is no news, nor are the milliseconds by which the deadline is another each time it is told.
    let is_news = |said: &Progress, now: &Progress| {
        let Progress { grace_remaining, grace_total, .. } = *said;
        now.grace_total.abs_diff(grace_total) >= Duration::from_secs(1)
            || Progress { grace_remaining, grace_total, ..*now } != *said
    };
    let mut said: Option<Progress> = None;
    let mut next = Instant::now();
    loop {
        let gone = loop {
            tokio::select! {
                changed = progress.changed(), if said.is_some() => match changed {
                    Ok(()) if Instant::now() >= next => break false,
                    Ok(()) => {}
                    Err(_) => break true,
                },
                () = sleep_until(next), if Instant::now() < next || said.is_none() => break false,
            }
        };
        let now = *progress.borrow_and_update();
        if said.is_none_or(|said| is_news(&said, &now)) {
            // That it was planned was said, or nothing came of it.
            if now.phase != Phase::Planned {
                say(&line(&now));
            }
            said = Some(now);
            next = Instant::now() + LINE_EVERY;
        }
        if gone {
            return;
        }
    }
}

async fn on_terminal(mut progress: watch::Receiver<Progress>) {
    let Drawn(bar) = &Drawn(ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr()));
    // Cut at the terminal's width as it is now: what wraps is not cleared.
    if let Ok(style) = ProgressStyle::with_template("{spinner} {bar:10} {wide_msg}") {
        bar.set_style(style);
    }
    let mut clock = interval(CLOCK_EVERY);
    clock.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut seen = *progress.borrow_and_update();
    let mut seen_at = Instant::now();
    loop {
        let shown = Progress { grace_remaining: seen.grace_remaining.saturating_sub(seen_at.elapsed()), ..seen };
        // A bar of nothing would look full.
        bar.set_length(shown.in_scope.max(1));
        bar.set_position(shown.in_scope.saturating_sub(shown.pending));
        bar.set_message(line(&shown));
        bar.tick();
        tokio::select! {
            changed = progress.changed() => {
                if changed.is_err() {
                    break;
                }
                seen = *progress.borrow_and_update();
                seen_at = Instant::now();
            }
            _ = clock.tick() => {}
        }
    }
}

/// Leaves the terminal as it was, also where the view is dropped half-way.
struct Drawn(ProgressBar);

impl Drop for Drawn {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTIFYING: Progress = Progress {
        phase: Phase::Notifying,
        grace_remaining: Duration::from_millis(89_400),
        grace_total: Duration::from_secs(90),
        clients: 50,
        acked: 12,
        given_up: 0,
        in_scope: 995,
        pending: 700,
    };

    #[test]
    fn a_line_says_phase_locks_clients_and_grace() {
        assert_eq!(line(&NOTIFYING), "notifying: 700 of 995 locks pending, 12 of 50 clients acked, 90 s of 90 s left");
        assert_eq!(
            line(&Progress { given_up: 3, phase: Phase::Reclaiming, ..NOTIFYING }),
            "reclaiming: 700 of 995 locks pending, 12 of 50 clients acked (3 given up), 90 s of 90 s left"
        );
        assert_eq!(line(&Progress::START), "planned");
    }

    #[tokio::test(start_paused = true)]
    async fn plain_lines_come_on_change_and_at_most_one_a_second_and_the_last_is_never_lost() {
        let (sender, receiver) = watch::channel(Progress::START);
        let lines = tokio::spawn(async move {
            let mut said = Vec::new();
            as_lines(receiver, |line| said.push(line.to_owned())).await;
            said
        });
        tokio::time::sleep(Duration::from_millis(10)).await;
        for pending in (0..=700).rev() {
            sender.send_replace(Progress { pending, ..NOTIFYING });
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        for remaining in 1..100 {
            let grace_total = Duration::from_millis(89_900 + remaining * 7 % 200);
            let grace_remaining = Duration::from_secs(remaining);
            sender.send_replace(Progress { pending: 0, grace_remaining, grace_total, ..NOTIFYING });
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        sender.send_replace(Progress { phase: Phase::Done, ..NOTIFYING });
        drop(sender);
        let said = lines.await.unwrap();
        assert!(said.first().unwrap().starts_with("notifying"), "{said:#?}");
        assert_eq!(said.last().unwrap(), "done");
        assert!((4..=6).contains(&said.len()), "{said:#?}");
    }
}
