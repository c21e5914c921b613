//! The record of runs, measured: `cargo bench --bench record [-- ROWS]`.
//!
//! The rows of a run's locks are written as a controller writes them, and read again. BENCHMARKS.md says what each line means.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench may")]
#![allow(clippy::cast_precision_loss, reason = "figures for people")]

use std::fs::File;
use std::io::Write as _;
use std::time::{Duration, Instant};

use nlmctl::internals::controller::Store;
use nlmctl::internals::record::{LOCKS_AT_ONCE, NewRun, Outcome, RunOutcome, ScopeReport};
use nlmctl::wire::control::{
    BeginArgs, Fate, InstanceId, LockFate, LockKind, Mode, OwnerRow, Policy, RunId, Scope, Silent, Unreachable,
};
use nlmctl::wire::types::{Address, ByteRange, CallerName, FileHandle, NsmState, OwnerHandle, Svid, Transport};
use nlmctl::wire::xdr::{self, List, Maybe};

const RUN: RunId = RunId([1; 16]);

fn main() {
    let rows = std::env::args().find_map(|word| word.parse().ok()).unwrap_or(1_000_000);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("runs.db");
    let floor = timed(rows, &mut floor(&folder.path().join("floor")));

    let mut store = Store::open(&path).unwrap();
    store.create_run(&run()).unwrap();
    let written = timed(rows, &mut |first, page| store.record_lock_fates(RUN, first, page).unwrap());
    let began = Instant::now();
    store.record_result(RUN, &settled()).unwrap();
    let written = written + began.elapsed();

    let (began, mut read) = (Instant::now(), 0);
    store.detail(RUN).unwrap().lock_rows.look(|_| read += 1).unwrap();
    let reading = began.elapsed();
    assert_eq!(read, rows);
    drop(store);

    let rate = |spent: Duration| rows as f64 / spent.as_secs_f64();
    println!(
        "written  {:>10.0} rows/s  floor {:>10.0}  ratio {:.2}",
        rate(written),
        rate(floor),
        rate(written) / rate(floor)
    );
    println!("read     {:>10.0} rows/s", rate(reading));
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    println!("size     {:>10.0} bytes a row", std::fs::metadata(&path).unwrap().len() as f64 / rows as f64);
    println!("memory   {:>10} at its peak", peak.trim());
}

/// How long it takes to hand all the rows to `write`, as many at once as a controller does.
fn timed(rows: u64, write: &mut dyn FnMut(u64, &[LockFate])) -> Duration {
    let (mut first, mut spent) = (0, Duration::ZERO);
    while first < rows {
        let page: Vec<LockFate> = (first..rows).take(LOCKS_AT_ONCE).map(lock).collect();
        let began = Instant::now();
        write(first, &page);
        spent += began.elapsed();
        first += page.len() as u64;
    }
    spent
}

/// The same rows behind each other in a file, which is on disk at its end.
fn floor(path: &std::path::Path) -> impl FnMut(u64, &[LockFate]) + use<> {
    let mut file = File::create(path).unwrap();
    move |_, page| {
        let bytes: Vec<u8> = page.iter().flat_map(xdr::encode).collect();
        file.write_all(&bytes).unwrap();
        file.sync_data().unwrap();
    }
}

/// Ten on each file, a thousand of each client.
fn lock(n: u64) -> LockFate {
    let (client, process) = (n / 1_000, n % 1_000);
    let mut file = [7; 32];
    file[..8].copy_from_slice(&(n / 10).to_be_bytes());
    let name = format!("client{client:05}.example.org");
    LockFate {
        fate: Fate::Dropped,
        file: FileHandle::new(&file).unwrap(),
        kind: LockKind::Exclusive,
        range: ByteRange { start: n * 100, end: n * 100 + 9 },
        partial: false,
        late: false,
        owner: OwnerRow {
            name: CallerName::new(&name).unwrap(),
            address: Address("192.0.2.1".parse().unwrap()),
            server_address: Address("192.0.2.2".parse().unwrap()),
            transport: Transport::Tcp,
            version: 4,
            svid: Svid(i32::try_from(process).unwrap()),
            oh: OwnerHandle::new(format!("{process}@{name}").as_bytes()).unwrap(),
        },
        other: Maybe(None),
        other_range: Maybe(None),
    }
}

fn run() -> NewRun {
    NewRun {
        manager: "nlmd".into(),
        endpoint: "here".into(),
        knows_owners: true,
        locks_listed: true,
        fingerprint: "f".into(),
        scope: ScopeReport::default(),
        names: Vec::new(),
        begin: BeginArgs {
            run: RUN,
            instance: InstanceId([2; 16]),
            nsm_state: NsmState(3),
            scope: Scope::default(),
            mode: Mode::Strict,
            policy: Policy { unreachable: Unreachable::Keep, silent: Silent::Auto, include_unmonitored: false },
            may_drop: List::default(),
            grace_ms: 1,
            grace_max_ms: 1,
        },
    }
}

fn settled() -> RunOutcome {
    RunOutcome {
        outcome: Outcome::Settled,
        reason: None,
        not_understood: false,
        alone: false,
        ended_unix_ms: None,
        counts: None,
        late: 0,
    }
}
