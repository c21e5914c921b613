//! What every command gets: the settings, and by them the lock manager, the record and the printer.

use std::io::{BufWriter, ErrorKind, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::tz::TimeZone;
use serde::Serialize;
use terminal_size::{Width, terminal_size_of};

use super::config::Settings;
use super::discovery::{self, For};
use crate::controller::{self, Options};
use crate::host::{draft_in, folder_of, replaceable};
use crate::manager::LockManager;
use crate::report::{self, Failure, Folding, Render, View, clean_lines, fold};
use crate::store::{Store, StoreError};

/// Bytes that are written to stdout at once.
const AT_ONCE: usize = 1 << 16;

/// What every command gets.
#[derive(Debug, Clone)]
pub(super) struct Context {
    pub(super) settings: Settings,
}

impl Context {
    /// The lock manager that the settings name, or the one that is here.
    pub(super) async fn manager(&self) -> Result<Arc<dyn LockManager>, Failure> {
        discovery::manager(&self.settings, For::Looks).await
    }

    /// Likewise, with as much of the manager as this command wants.
    pub(super) async fn manager_for(&self, wanted: For) -> Result<Arc<dyn LockManager>, Failure> {
        discovery::manager(&self.settings, wanted).await
    }

    /// On the kernel's lockd a run by the other method may have left its books open.
    pub(super) async fn caught_up_elsewhere(&self, manager: &dyn LockManager, store: Store) -> Result<Store, Failure> {
        match self.manager().await {
            Ok(other) if other.endpoint() != manager.endpoint() => Ok(controller::catch_up(&*other, store).await?),
            Ok(_) | Err(_) => Ok(store),
        }
    }

    /// Works with the record, opened (and made, if there is none) for this, off the async threads.
    pub(super) async fn with_store<T: Send + 'static>(
        &self,
        work: impl FnOnce(Store) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let settings = self.settings.clone();
        blocking(move || work(Store::open(&settings.record_path_made()?)?)).await
    }

    /// Where the record is, if a run can use it or make it. Nothing is made or changed.
    pub(super) async fn usable_record(&self) -> Result<PathBuf, Failure> {
        let (record, makes_folder) = (self.settings.record_path()?, self.settings.db.is_none());
        blocking(move || {
            Store::examine(&record, makes_folder)?;
            Ok(record)
        })
        .await
    }

    /// Prints a value on stdout, as text or as JSON. It is written as it comes: there may be much of it.
    pub(super) fn print<T: Render + Serialize>(&self, value: &T) -> Result<(), Failure> {
        if self.settings.json {
            return print_json(value);
        }
        let view = view(&std::io::stdout());
        streamed(|out| {
            let mut folding = Folding::new(out, view.width);
            value.write(&mut folding, &view)?;
            folding.flush()
        })
    }

    /// Likewise of what a command did, which is no news with `-q` where all went well.
    pub(super) fn print_done<T: Render + Serialize>(&self, value: &T, exit: u8) -> Result<(), Failure> {
        if exit == 0 && self.settings.quiet && !self.settings.json { Ok(()) } else { self.print(value) }
    }

    /// A value on stderr, unless `-q`.
    pub(super) fn show(&self, value: &impl Render) {
        if !self.settings.quiet {
            to_stderr(value.show(&view(&std::io::stderr())).trim_end());
        }
    }

    /// A line of status on stderr, unless `-q`. It may quote what others named: a host, a file of a roster.
    pub(super) fn say(&self, line: &str) {
        if !self.settings.quiet {
            to_stderr(&clean_lines(line));
        }
    }

    /// How a controller works for a command without options of its own for that.
    pub(super) fn options(&self) -> Options {
        let say = if self.settings.quiet { |_: &str| () } else { to_stderr };
        Options { rpcbind_port: self.settings.rpcbind_port, say, ..Options::default() }
    }
}

/// For the reader of that stream: a file or a pipe takes lines of any width.
fn view<T: IsTerminal + AsFd>(stream: &T) -> View {
    let width = if stream.is_terminal() { terminal_size_of(stream) } else { None };
    View { width: width.map_or(usize::MAX, |(Width(width), _)| width.into()), zone: TimeZone::system() }
}

/// Blocking work off the async threads.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(_) => Err(Failure::failed("a thread of nlmctl died", "please report this, with the lines above")),
    }
}

pub(super) fn json<T: Serialize>(value: &T) -> Result<String, Failure> {
    report::json(value).map_err(|e| {
        Failure::failed(format!("cannot print JSON: {e}"), "please report this; without --json, the output is text")
    })
}

/// A line of JSON on stdout, written as it comes.
pub(super) fn print_json<T: Serialize>(value: &T) -> Result<(), Failure> {
    let mut unreadable = None;
    let printed = streamed(|out| {
        serde_json::to_writer(&mut *out, value).map_err(|error| {
            if !error.is_io() {
                unreadable = Some(error.to_string());
            }
            std::io::Error::from(error)
        })?;
        out.write_all(b"\n")
    });
    match unreadable {
        // Not the output is at fault but what is printed, and that comes from the record. The error's type is lost on its way
        // through serde, its words are not.
        Some(why) => Err(Failure::failed(
            format!("{why}; the output before this is incomplete"),
            "try again; if it fails again, check the disk that the record is on",
        )),
        None => printed,
    }
}

pub(super) fn to_stdout(text: &str) -> Result<(), Failure> {
    streamed(|out| out.write_all(text.as_bytes()))
}

/// A closed pipe is quiet: its reader has seen enough.
fn streamed(write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> Result<(), Failure> {
    let mut out = BufWriter::with_capacity(AT_ONCE, std::io::stdout().lock());
    match write(&mut out).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == ErrorKind::BrokenPipe => {
            // Else it would be tried again when this is dropped.
            drop(out.into_parts());
            Ok(())
        }
        Err(e) => Err(unread(e)
            .unwrap_or_else(|e| Failure::failed(format!("cannot write to stdout: {e}"), "check where stdout goes"))),
    }
}

/// Why a row of the record cannot be read, if that is what happened.
pub(super) fn unread(error: std::io::Error) -> Result<Failure, std::io::Error> {
    error.downcast().map(|error: StoreError| error.into())
}

/// To stdout, or in place of a file, in one step: its reader is another user, and must not meet half of it.
pub(super) async fn written(output: Option<PathBuf>, text: String, what: &'static str) -> Result<(), Failure> {
    let Some(file) = output else { return to_stdout(&text) };
    blocking(move || {
        let failed = |error: std::io::Error| {
            let folder = folder_of(&file).display();
            let remedy = match error.kind() {
                ErrorKind::NotFound => format!("create the folder {folder}, or give --output another file"),
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                    format!("make room where {folder} is, or give --output another file")
                }
                _ => "give --output a file in a folder that you may write".to_owned(),
            };
            Failure::failed(format!("cannot write {what} to {}: {error}", file.display()), remedy)
        };
        let place = replaceable(&file).map_err(failed)?.ok_or_else(|| {
            Failure::usage(
                format!("--output replaces a file, and {} is none", file.display()),
                format!("name a file, or leave --output out and let the shell write there: > {}", file.display()),
            )
        })?;
        replace(&place, &text).map_err(failed)
    })
    .await
}

fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let file = draft_in(folder_of(path), ".nlmctl")?;
    file.as_file().write_all(text.as_bytes())?;
    file.as_file().set_permissions(std::fs::Permissions::from_mode(0o644))?;
    file.persist(path)?;
    Ok(())
}

/// As wide as stderr is.
pub(super) fn folded(text: &str) -> String {
    fold(text, view(&std::io::stderr()).width)
}

pub(super) fn to_stderr(line: &str) {
    // No place is left to say that stderr is closed.
    let _ = writeln!(std::io::stderr(), "{}", folded(line));
}

#[cfg(test)]
mod tests {
    use serde::Serializer;
    use serde::ser::{Error, SerializeSeq};

    use super::*;

    /// A row of the record that became unreadable while the rows before it were printed.
    struct Unreadable;

    impl Serialize for Unreadable {
        fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
            to.serialize_seq(None)?.serialize_element(&1)?;
            Err(S::Error::custom("the record runs.db is damaged or is no database"))
        }
    }

    #[test]
    fn a_row_that_cannot_be_read_is_not_told_as_a_fault_of_stdout() {
        let failure = print_json(&Unreadable).unwrap_err();
        assert!(failure.message.starts_with("the record runs.db is damaged"), "{failure:?}");
        assert!(!failure.message.contains("stdout") && failure.remedy.contains("record"), "{failure:?}");
    }
}
