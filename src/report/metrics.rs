//! What a monitoring system is told, in the OpenMetrics text format.
//!
//! A figure that is not known is left out; it is never 0.

use std::fmt;
use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::RunListing;
use crate::wire::control::{Grace, Info, Status};

/// What the metrics are made of.
#[derive(Debug, Clone, Copy)]
pub struct MetricsView<'a> {
    /// The kind of lock manager, as `--manager` has it.
    pub manager: &'a str,
    /// What it says of itself; none if it was not reached.
    pub status: Option<(&'a Info, &'a Status)>,
    /// Clients with evidence that their locks are stale, if it knows.
    pub suspects: Option<u64>,
    /// Whether the record could be read, or there is none yet.
    pub record_readable: bool,
    /// The last run in the record.
    pub last_run: Option<&'a RunListing>,
}

impl MetricsView<'_> {
    /// The text, with its end mark.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut registry = Registry::with_prefix("nlmctl");
        let manager = registry.sub_registry_with_label(("manager".into(), self.manager.to_owned().into()));
        gauge(manager, "up", "Whether the lock manager was reached", u64::from(self.status.is_some()));
        if let Some((info, status)) = self.status {
            of_status(manager, info, status);
        }
        if let Some(suspects) = self.suspects {
            gauge(manager, "suspect_clients", "Clients with evidence that their locks are stale", suspects);
        }
        gauge(
            &mut registry,
            "record_readable",
            "Whether the record of runs could be read, or there is none yet",
            self.record_readable.into(),
        );
        if let Some(run) = self.last_run {
            of_run(&mut registry, run);
        }
        let mut text = String::new();
        encode(&mut text, &registry)?;
        Ok(text)
    }
}

fn of_status(registry: &mut Registry, info: &Info, status: &Status) {
    if info.capabilities.sees_locks() {
        gauge(registry, "locks", "Locks and shares held or pending", status.locks);
    }
    gauge(registry, "blocked_requests", "Lock requests that wait for another lock", status.waiters);
    gauge(registry, "clients", "Clients known", status.clients);
    gauge(registry, "monitored_clients", "Clients that a restart or a run notifies", status.monitored);
    if info.capabilities.knows_owners {
        gauge(registry, "unmonitored_locks", "Locks whose clients cannot be notified (NM_LOCK)", status.unmonitored);
    }
    gauge(
        registry,
        "in_grace",
        "Whether ordinary lock requests may be refused for grace",
        (status.grace != Grace::Open).into(),
    );
    let run = status.run.0.as_ref();
    gauge(registry, "run_active", "Whether a run is active", run.is_some().into());
    if let Some(run) = run {
        gauge(registry, "run_pending_locks", "Locks of the active run that are not reclaimed yet", run.counts.pending);
    }
}

fn of_run(registry: &mut Registry, run: &RunListing) {
    let last = registry.sub_registry_with_prefix("last_run");
    seconds(last, "start_timestamp", "Start of the last run in the record, as Unix time", run.started_at.0);
    if let Some(elapsed) = run.elapsed_ms {
        seconds(last, "duration", "Duration of the last run in the record", elapsed);
    }
    if let Some(exit) = run.exit {
        gauge(last, "exit_code", "The exit code of the last run", exit.into());
    }
    let locks = Family::<[(&str, &str); 1], Gauge<u64, AtomicU64>>::default();
    let counts = [
        ("reclaimed", run.locks.reclaimed),
        ("released", run.locks.released),
        ("dropped", run.locks.dropped),
        ("kept", run.locks.kept),
        ("unverified", run.locks.unverified),
        ("resurrected", run.locks.resurrected),
        ("conflict", run.locks.conflicts),
    ];
    for (fate, count) in counts {
        locks.get_or_create(&[("fate", fate)]).set(count);
    }
    last.register("locks", "What became of locks in the last run", locks);
}

fn gauge(registry: &mut Registry, name: &str, help: &str, value: u64) {
    let gauge = Gauge::<u64, AtomicU64>::default();
    gauge.set(value);
    registry.register(name, help, gauge);
}

fn seconds(registry: &mut Registry, name: &str, help: &str, ms: u64) {
    let gauge = Gauge::<f64, AtomicU64>::default();
    #[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 have 41 bits")]
    gauge.set(ms as f64 / 1000.0);
    registry.register_with_unit(name, help, Unit::Seconds, gauge);
}
