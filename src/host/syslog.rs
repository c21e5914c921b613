//! Lines in the system's log (syslog(3)): what an administrator must find there however nlmctl ended.
//!
//! syslog(3) waits for a daemon that does not read, and a process that has lockd's clients waiting must not. So a thread
//! calls it. A line is written when [`syslog`] returns, unless the log stands still: then it waits in a queue, and is lost
//! where that is full.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use nix::syslog::{Facility, LogFlags, Priority, Severity, openlog};

/// Longest line, in characters: a datagram to `/dev/log` is never cut.
const LONGEST: usize = 900;
/// How long one line is waited for. The next ones are not, until the log has caught up.
const PATIENCE: Duration = Duration::from_millis(500);
/// Lines that wait for a log that stands still.
const WAITING: usize = 4096;

static LOG: LazyLock<Log> = LazyLock::new(|| Log::new(write));

/// Writes a notice. Without a system log it is lost, as with any program.
pub fn syslog(line: &str) {
    let shown = |c: char| if c.is_control() { '?' } else { c };
    LOG.add(line.chars().take(LONGEST).map(shown).collect());
}

fn write(line: &str) {
    let logged = openlog(Some(c"nlmctl"), LogFlags::LOG_PID, Facility::LOG_DAEMON)
        .and_then(|()| nix::syslog::syslog(Priority::new(Severity::LOG_NOTICE, Facility::LOG_DAEMON), line));
    if let Err(error) = logged {
        tracing::warn!(%error, "no line in the system's log");
    }
}

/// A line, and where to say that it is written.
type Line = (String, SyncSender<()>);

struct Log {
    lines: SyncSender<Line>,
    stands_still: Arc<AtomicBool>,
}

impl Log {
    fn new(write: impl Fn(&str) + Send + 'static) -> Self {
        let (lines, waiting) = sync_channel(WAITING);
        let stands_still = Arc::new(AtomicBool::new(false));
        let still = Arc::clone(&stands_still);
        // Without a thread the lines are lost.
        let _ = std::thread::Builder::new().name("syslog".into()).spawn(move || run(&waiting, &still, write));
        Self { lines, stands_still }
    }

    fn add(&self, line: String) {
        let (written, is_written) = sync_channel(1);
        let is_waited_for = !self.stands_still.load(Ordering::Acquire);
        let added = self.lines.try_send((line, written)).is_ok();
        if added && is_waited_for && is_written.recv_timeout(PATIENCE).is_err() {
            self.stands_still.store(true, Ordering::Release);
        }
    }
}

fn run(lines: &Receiver<Line>, stands_still: &AtomicBool, write: impl Fn(&str)) {
    loop {
        let next = match lines.try_recv() {
            Err(TryRecvError::Empty) => {
                stands_still.store(false, Ordering::Release);
                lines.recv().map_err(|_| TryRecvError::Disconnected)
            }
            next => next,
        };
        let Ok((line, written)) = next else { return };
        write(&line);
        // Nobody may wait for it any more.
        let _ = written.send(());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn a_log_that_stands_still_stops_nobody_and_has_the_lines_when_it_goes_on() {
        let (begins, begun) = channel();
        let (go, gone) = channel::<()>();
        let (write, written) = channel();
        let log = Log::new(move |line| {
            begins.send(()).unwrap();
            let line = if gone.recv().is_ok() { line } else { "one too many" };
            write.send(line.to_owned()).unwrap();
        });
        let lines: Vec<String> = (0..=WAITING + 2).map(|n| n.to_string()).collect();
        log.add(lines[0].clone());
        begun.recv().unwrap();
        lines[1..].iter().for_each(|line| log.add(line.clone()));
        for line in &lines[..=WAITING] {
            go.send(()).unwrap();
            assert_eq!(written.recv().unwrap(), *line);
        }
        drop((log, go));
        assert!(written.recv().is_err(), "what had no room is lost");
    }

    #[test]
    fn a_line_is_written_when_the_call_returns() {
        let (write, written) = sync_channel(2);
        let log = Log::new(move |line| write.send(line.to_owned()).unwrap());
        for line in ["one", "two"] {
            log.add(line.to_owned());
            assert_eq!(written.try_recv().as_deref(), Ok(line));
        }
    }
}
