//! The signals that ask a command to end.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::controller::Signals;
use crate::report::Failure;

/// SIGINT, SIGTERM and SIGHUP, by name, from now on.
pub(super) fn signals() -> Result<Signals, Failure> {
    let (sender, signals) = mpsc::channel(4);
    let kinds =
        [(SignalKind::interrupt(), "SIGINT"), (SignalKind::terminate(), "SIGTERM"), (SignalKind::hangup(), "SIGHUP")];
    for (kind, name) in kinds {
        let mut received = signal(kind).map_err(|e| {
            Failure::failed(format!("cannot watch for {name}: {e}"), "check the limits of this process")
        })?;
        let sender = sender.clone();
        tokio::spawn(async move {
            while received.recv().await.is_some() {
                if sender.send(name).await.is_err() {
                    return;
                }
            }
        });
    }
    Ok(signals)
}
