//! What every command gets: the settings, and by them the lock manager, the record and the printer.

use std::io::{ErrorKind, Write};
use std::sync::Arc;

use serde::Serialize;

use super::args::Method;
use super::choose::{self, For};
use super::config::Settings;
use crate::manager::LockManager;
use crate::report::{self, Failure, Text};
use crate::store::Store;

/// What every command gets.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) settings: Settings,
}

impl Context {
    /// The lock manager that the settings name, or the one that is here.
    pub(super) async fn manager(&self) -> Result<Arc<dyn LockManager>, Failure> {
        choose::manager(&self.settings, For::Looks).await
    }

    /// Likewise, for a run by this method whose policy drops nothing (`soft`) or not.
    pub(super) async fn manager_for(
        &self,
        soft: bool,
        method: Option<Method>,
    ) -> Result<Arc<dyn LockManager>, Failure> {
        choose::manager(&self.settings, For::Run { soft, method }).await
    }

    /// Works with the record, opened (and made, if there is none) for this, off the async threads.
    pub(super) async fn with_store<T: Send + 'static>(
        &self,
        work: impl FnOnce(Store) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let settings = self.settings.clone();
        blocking(move || work(Store::open(&settings.record_path_made()?)?)).await
    }

    /// Prints a value on stdout, as text or as JSON.
    pub(super) fn print<T: Text + Serialize>(&self, value: &T) -> Result<(), Failure> {
        let text = if self.settings.json { json(value)? } else { value.text() };
        to_stdout(&text)
    }

    /// A line of status on stderr, unless `-q`.
    pub(super) fn say(&self, line: &str) {
        if !self.settings.quiet {
            to_stderr(line);
        }
    }
}

/// Blocking work off the async threads.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(_) => Err(Failure::failed("a thread of nlmctl died", "please report this with the lines before it")),
    }
}

pub(super) fn json<T: Serialize>(value: &T) -> Result<String, Failure> {
    report::json(value).map_err(|e| {
        Failure::failed(format!("cannot print JSON: {e}"), "please report this; without --json it is text")
    })
}

/// A closed pipe is quiet: whoever read has seen enough.
pub(super) fn to_stdout(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::failed(format!("cannot write to stdout: {e}"), "check where its output goes"))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

pub(super) fn to_stderr(line: &str) {
    // Nobody is left who could be told that stderr is closed.
    let _ = writeln!(std::io::stderr(), "{line}");
}
