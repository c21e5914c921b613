//! nlmd's log: lines on stderr.
//!
//! # Theory
//! Hosts of the network cause most lines, and stderr may be a pipe that is not read. So the log must be able neither to
//! stop nlmd nor to fill a disk:
//!
//! - A line goes through a bounded queue to a thread of its own. One that finds the queue full is lost; how many were
//!   lost is written when there is room again.
//! - Each place in the code writes at most [`BURST`] lines a [`WINDOW`]. The lines beyond are counted, and at the window's
//!   end one line says how many there were. This holds for the levels that are logged by default: who asks for `debug`
//!   wants it all.

use std::collections::HashMap;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Context, Filter, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, reload};

/// Lines that one place in the code may write in a window.
const BURST: u64 = 60;
/// How long a window is.
const WINDOW: Duration = Duration::from_mins(1);
/// Lines that wait for stderr. Peers choose parts of a line, but their length is bounded.
const QUEUE: usize = 4_096;
/// How long the last lines may take at the end.
const LAST_LINES: Duration = Duration::from_secs(1);

/// The log of a process.
#[derive(Debug)]
pub(super) struct Log {
    lines: SyncSender<LogLine>,
    levels: reload::Handle<Targets, Registry>,
    throttle: Arc<Throttle>,
}

enum LogLine {
    Text(Vec<u8>),
    /// Everything before it is written.
    Mark(SyncSender<()>),
}

impl Log {
    /// Logs to stderr from now on. `level` is that of [`set_level`](Self::set_level).
    pub(super) fn to_stderr(level: Option<&str>, json: bool) -> Self {
        let (lines, queue) = sync_channel(QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&lost);
        let thread = std::thread::Builder::new().name("nlmd-log".into());
        // Without a thread the queue is closed, and nothing is logged: no reason to serve no locks.
        let _ = thread.spawn(move || write_lines(&queue, &counted, io::stderr()));
        let throttle = Arc::new(Throttle::default());
        let (level, levels) = reload::Layer::new(filter(level));
        let layer = tracing_subscriber::fmt::layer().with_writer(Queue { lines: lines.clone(), lost }).with_ansi(false);
        let layer = if json { layer.json().boxed() } else { layer.boxed() };
        let filtered = layer.with_filter(level).with_filter(Shared(Arc::clone(&throttle)));
        // A second call in one process (tests) keeps the first one's settings.
        let _ = tracing_subscriber::registry().with(filtered).try_init();
        Self { lines, levels, throttle }
    }

    /// Logs at another level from now on; none is what `RUST_LOG` says, or `info`.
    pub(super) fn set_level(&self, level: Option<&str>) {
        // It fails where another log was there first (tests), and there it changes nothing.
        let _ = self.levels.reload(filter(level));
    }

    /// Says, window by window, how many lines were left out.
    pub(super) async fn sum_up(&self) {
        let mut windows = tokio::time::interval(WINDOW);
        loop {
            windows.tick().await;
            self.say_left_out();
        }
    }

    fn say_left_out(&self) {
        for (place, left_out) in self.throttle.next_window(Instant::now()) {
            tracing::warn!(left_out, place, "too many lines of one kind in a minute: the rest of them were left out");
        }
    }

    /// Waits until what was logged is written, for a bounded time.
    pub(super) fn end(self) {
        self.say_left_out();
        let (written, wait) = sync_channel(1);
        if self.lines.try_send(LogLine::Mark(written)).is_ok() {
            let _ = wait.recv_timeout(LAST_LINES);
        }
    }
}

fn filter(level: Option<&str>) -> Targets {
    let variable = std::env::var("RUST_LOG").ok();
    // An empty part would be taken for the level `error`.
    let variable = variable.as_deref().map(|variable| variable.trim_matches(','));
    let asked = level.or(variable).and_then(|asked| asked.parse().ok());
    asked.unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO))
}

fn write_lines(queue: &Receiver<LogLine>, lost: &AtomicU64, mut to: impl Write) {
    // A stderr that is gone takes nothing, and the queue is emptied all the same.
    while let Ok(line) = queue.recv() {
        match line {
            LogLine::Text(text) => drop(to.write_all(&text)),
            LogLine::Mark(written) => drop(written.try_send(())),
        }
        match lost.swap(0, Ordering::Relaxed) {
            0 => {}
            lost => drop(writeln!(to, "nlmd: {lost} lines of this log were lost: it was not read fast enough")),
        }
    }
}

/// Where the lines are formatted to.
#[derive(Debug, Clone)]
struct Queue {
    lines: SyncSender<LogLine>,
    lost: Arc<AtomicU64>,
}

impl Write for Queue {
    /// Takes a whole line, or loses it.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.lines.try_send(LogLine::Text(line.to_vec())).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Queue {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// How much each place in the code has written in this window. There are as many as the code has, so it is bounded.
#[derive(Debug, Default)]
struct Throttle {
    places: Mutex<HashMap<Identifier, Place>>,
}

#[derive(Debug)]
struct Place {
    metadata: &'static Metadata<'static>,
    since: Instant,
    lines: u64,
}

impl Throttle {
    fn takes(&self, metadata: &'static Metadata<'static>, now: Instant) -> bool {
        if *metadata.level() > Level::INFO {
            return true;
        }
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let place = places.entry(metadata.callsite()).or_insert(Place { metadata, since: now, lines: 0 });
        place.lines += 1;
        place.lines <= BURST
    }

    /// Ends the windows that are over; returns where lines were left out in them, and how many.
    fn next_window(&self, now: Instant) -> Vec<(String, u64)> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let over: Vec<Place> = places
            .extract_if(|_, place| now.saturating_duration_since(place.since) >= WINDOW || place.lines > BURST)
            .map(|(_, place)| place)
            .collect();
        over.iter()
            .filter(|place| place.lines > BURST)
            .map(|Place { metadata, lines, .. }| {
                let (file, line) = (metadata.file().unwrap_or("?"), metadata.line().unwrap_or_default());
                (format!("{file}:{line}"), lines - BURST)
            })
            .collect()
    }
}

struct Shared(Arc<Throttle>);

impl<S: Subscriber> Filter<S> for Shared {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }
    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        self.0.takes(event.metadata(), Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(level: Level) -> &'static Metadata<'static> {
        use tracing::Callsite;
        macro_rules! callsite {
            ($level:expr) => {
                tracing::callsite! { name: "line", kind: tracing::metadata::Kind::EVENT, level: $level, fields: message }
                    .metadata()
            };
        }
        if level == Level::DEBUG { callsite!(Level::DEBUG) } else { callsite!(Level::INFO) }
    }

    #[test]
    fn a_flood_from_one_place_is_cut_and_counted_and_other_places_are_not() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        let (flood, debug) = (metadata(Level::INFO), metadata(Level::DEBUG));
        let taken = (0..1000).filter(|_| throttle.takes(flood, now)).count();
        assert_eq!(taken as u64, BURST);
        assert!((0..1000).all(|_| throttle.takes(debug, now)), "what was asked for is all there");
        let left_out = throttle.next_window(now + WINDOW);
        assert_eq!(left_out.len(), 1);
        assert!(left_out[0].0.ends_with(&format!("log.rs:{}", flood.line().unwrap())), "{left_out:?}");
        assert_eq!(left_out[0].1, 1000 - BURST);
        assert!(throttle.takes(flood, now + WINDOW), "a new window");
        assert!(throttle.next_window(now + WINDOW).is_empty(), "said once");
    }

    #[test]
    fn lines_that_find_no_room_are_lost_and_counted() {
        let (lines, queue) = sync_channel(2);
        let lost = Arc::new(AtomicU64::new(0));
        let mut writer = Queue { lines, lost: Arc::clone(&lost) };
        for n in 0..5 {
            writer.make_writer().write_all(format!("{n}\n").as_bytes()).unwrap();
        }
        writer.flush().unwrap();
        drop(writer);
        let mut text = Vec::new();
        write_lines(&queue, &lost, &mut text);
        let text = String::from_utf8(text).unwrap();
        assert!(text.starts_with("0\nnlmd: 3 lines of this log were lost") && text.ends_with("\n1\n"), "{text}");
    }
}
