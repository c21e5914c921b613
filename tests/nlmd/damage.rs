//! The state directory damaged between two lives: noticed, refused where clients would be lost, and never a number twice.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nlmctl::wire::control::Grace;
use nlmctl::wire::nlm::{self, Message, Procedure, Res, Stat, Version};
use nlmctl::wire::rpc;
use nlmctl::wire::types::NsmState;

use super::harness::*;

const CLIENTS: u64 = 12;
/// Nobody is told anything by that port.
const FLAGS: [&str; 4] = ["--rpcbind-port", "1", "--grace", "20s"];

/// A state directory as kill -9 left it, all of its clients in the WAL; an older copy of its database; its last number.
struct Left {
    state: PathBuf,
    older: Vec<u8>,
    number: NsmState,
    _folder: tempfile::TempDir,
}

fn left() -> Left {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    Nlmd::start(&folder, &FLAGS).kill_9();
    let daemon = Nlmd::start(&folder, &FLAGS);
    let older = fs::read(state.join("nlmd.sqlite")).unwrap();
    lock_from(&daemon, 0..CLIENTS);
    let number = nsm_state(&daemon);
    daemon.kill_9();
    Left { state, older, number, _folder: folder }
}

fn lock_from(daemon: &Nlmd, hosts: std::ops::Range<u64>) {
    for host in hosts {
        let address = format!("127.0.7.{}", host + 1);
        assert_eq!(Client::v4(daemon, &address, "client").lock(&shared()), Stat::Granted);
    }
}

/// What any number of clients can be granted.
fn shared() -> Want {
    Want { exclusive: false, ..want("file") }
}

/// A copy of it, damaged.
fn damaged(left: &Left, damage: impl Fn(&Path)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    fs::create_dir(&state).unwrap();
    for file in fs::read_dir(&left.state).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), state.join(file.file_name())).unwrap();
    }
    fs::set_permissions(&state, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    damage(&state);
    folder
}

/// What is in its files; empty ones say nothing.
fn files(folder: &tempfile::TempDir) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = fs::read_dir(folder.path().join("state")).unwrap();
    let read = files.map(|file| file.unwrap().path()).map(|path| (path.clone(), fs::read(path).unwrap()));
    read.filter(|(_, bytes)| !bytes.is_empty()).collect()
}

fn edit(path: PathBuf, change: impl Fn(&mut Vec<u8>)) {
    let mut bytes = fs::read(&path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

fn wal(state: &Path) -> PathBuf {
    state.join("nlmd.sqlite-wal")
}

/// What is wrong, and how it comes to be.
type Damage<'a> = (&'a str, &'a dyn Fn(&Path));

#[test]
fn a_wal_that_is_missing_cut_or_changed_and_an_older_database_are_refused_and_left_as_they_are() {
    let left = left();
    let older = left.older.clone();
    let damages: [Damage<'_>; 8] = [
        ("the WAL is missing", &|state| fs::remove_file(wal(state)).unwrap()),
        ("the WAL is empty", &|state| fs::write(wal(state), "").unwrap()),
        ("the WAL is cut", &|state| edit(wal(state), |bytes| bytes.truncate(bytes.len() / 2))),
        ("the WAL lacks its last byte", &|state| edit(wal(state), |bytes| bytes.truncate(bytes.len() - 1))),
        ("one bit of the WAL's head is wrong", &|state| edit(wal(state), |bytes| bytes[20] ^= 1)),
        ("one bit in the WAL is wrong", &|state| edit(wal(state), |bytes| bytes[5_000] ^= 1)),
        ("the database is an older copy", &|state| {
            fs::write(state.join("nlmd.sqlite"), &older).unwrap();
            fs::remove_file(wal(state)).unwrap();
        }),
        ("the database is missing", &|state| fs::remove_file(state.join("nlmd.sqlite")).unwrap()),
    ];
    for (what, damage) in damages {
        let folder = damaged(&left, damage);
        let before = files(&folder);
        for _ in 0..2 {
            let Err((status, log)) = Nlmd::try_start(&folder, &FLAGS) else { panic!("{what}: it started") };
            assert_eq!(status.code(), Some(1), "{what}");
            assert!(log.contains("nlmd.sqlite cannot be used") && log.contains("move nlmd.seal"), "{what}: {log}");
            assert!(!log.contains("nlmd is up"), "{what}: {log}");
            assert!(files(&folder) == before, "{what}: nothing is changed, so that it can be mended");
        }
        let whole = damaged(&left, |_| ());
        for file in ["nlmd.sqlite", "nlmd.sqlite-wal"] {
            fs::copy(whole.path().join("state").join(file), folder.path().join("state").join(file)).unwrap();
        }
        assert_eq!(clients_of(&Nlmd::start(&folder, &FLAGS)), CLIENTS, "{what}: put back, all are there");
    }
}

/// Whether it said that clients may be missing. A line is written a moment after it is said, and in order.
fn is_in_doubt(daemon: &Nlmd) -> bool {
    let log = await_some("its last line of the start", || Some(daemon.log()).filter(|log| log.contains("nlmd is up")));
    log.contains("it is not known whether the database has all clients")
}

fn clients_of(daemon: &Nlmd) -> u64 {
    Control::open(daemon).status().clients
}

#[test]
fn without_the_seal_it_goes_on_with_what_is_left_in_grace_and_under_a_new_number() {
    let left = left();
    let folder = damaged(&left, |state| {
        edit(wal(state), |bytes| bytes.truncate(bytes.len() / 2));
        fs::remove_file(state.join("nlmd.seal")).unwrap();
    });
    let daemon = Nlmd::start(&folder, &FLAGS);
    let clients = clients_of(&daemon);
    assert!((1..CLIENTS).contains(&clients), "{clients}");
    assert!(nsm_state(&daemon).is_after(left.number));
    assert!(is_in_doubt(&daemon), "{}", daemon.log());
    daemon.kill_9();
    assert_eq!(clients_of(&Nlmd::start(&folder, &FLAGS)), clients, "it is sealed anew");

    let empty = damaged(&left, |state| {
        for file in ["nlmd.sqlite", "nlmd.sqlite-wal", "nlmd.seal"] {
            fs::remove_file(state.join(file)).unwrap();
        }
    });
    let daemon = Nlmd::start(&empty, &FLAGS);
    assert!(nsm_state(&daemon).is_after(left.number), "the number has a file of its own");
    let status = Control::open(&daemon).status();
    assert_eq!((status.clients, status.grace), (0, Grace::Recovery), "those that are not known may still hold locks");
}

#[test]
fn a_seal_or_number_that_is_lost_or_damaged_keeps_no_sound_database_from_its_start() {
    let left = left();
    for files in [&["nlmd.seal"][..], &["nlmd.state"], &["nlmd.seal", "nlmd.state"]] {
        let damages: [&dyn Fn(PathBuf); 4] = [
            &|path| fs::remove_file(path).unwrap(),
            &|path| fs::write(path, "").unwrap(),
            &|path| edit(path, |bytes| bytes[19] ^= 1),
            &|path| fs::write(path, [0xff; 10_000]).unwrap(),
        ];
        for damage in damages {
            let folder = damaged(&left, |state| files.iter().for_each(|file| damage(state.join(file))));
            let daemon = Nlmd::start(&folder, &FLAGS);
            assert_eq!(clients_of(&daemon), CLIENTS, "{files:?}");
            assert!(nsm_state(&daemon).is_after(left.number), "{files:?}");
            assert_eq!(is_in_doubt(&daemon), files.contains(&"nlmd.seal"), "{files:?}");
        }
    }
}

#[test]
fn the_number_in_its_file_counts_where_the_database_has_an_older_one() {
    let left = left();
    let later = NsmState(left.number.0 + 1_000_000);
    let folder = damaged(&left, |state| fs::write(state.join("nlmd.state"), format!("{0} {0}\n", later.0)).unwrap());
    assert_eq!(nsm_state(&Nlmd::start(&folder, &FLAGS)), later.next_up());
}

#[test]
fn kill_9_at_any_moment_leaves_a_directory_that_starts_with_every_client_that_had_a_lock() {
    let folder = tempfile::tempdir().unwrap();
    let (mut granted, mut last, mut delay) = (0, None, 1_u64);
    for life in 0..50 {
        // Some die in the midst of their start.
        if life % 5 == 0 {
            kill_starting(&folder, Duration::from_micros(delay % 40_000));
        }
        let flags = ["--rpcbind-port", "1", "--grace", "1ms"];
        let daemon = Nlmd::start(&folder, &flags);
        let (number, clients) = (nsm_state(&daemon), clients_of(&daemon));
        assert!(last.is_none_or(|last| number.is_after(last)), "life {life}");
        assert!(clients >= granted, "life {life}: {clients} of {granted}");
        assert!(!is_in_doubt(&daemon), "life {life}: {}", daemon.log());
        last = Some(number);
        let mut control = Control::open(&daemon);
        await_some("the end of grace", || (control.status().grace == Grace::Open).then_some(()));
        let first = clients;
        let over = AtomicBool::new(false);
        granted = std::thread::scope(|scope| {
            let locking = scope.spawn(|| {
                let mut granted = first;
                while !over.load(Ordering::Relaxed) && locks(&daemon, granted) {
                    granted += 1;
                }
                granted
            });
            delay = delay.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            std::thread::sleep(Duration::from_micros(delay % 30_000));
            daemon.signal(nix::sys::signal::Signal::SIGKILL);
            over.store(true, Ordering::Relaxed);
            locking.join().unwrap()
        });
    }
    assert!(granted >= 50, "only {granted} locks were granted in all these lives");
}

/// Whether a new client was granted a lock.
fn locks(daemon: &Nlmd, number: u64) -> bool {
    let address = format!("127.1.{}.{}", number / 250, number % 250 + 1);
    let mut client = Client::v4(daemon, &address, "client");
    let args = client.args(Procedure::Lock, &shared());
    let call = rpc::call(next_xid(), nlm::PROGRAM, 4, Procedure::Lock.number(), &rpc::Credential::None, &args);
    let Some(answer) = client.wire.exchange(&call, Duration::from_millis(100)) else { return false };
    let results = rpc::parse_reply(&answer).unwrap().outcome.unwrap();
    Res::decode(Version::V4, results).unwrap().stat == Stat::Granted
}

/// Starts one and kills it, most likely before it is up.
fn kill_starting(folder: &tempfile::TempDir, after: Duration) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nlmd"));
    command
        .arg("--state-dir")
        .arg(folder.path().join("state"))
        .arg("--control")
        .arg(folder.path().join("starting.sock"));
    command.args(["--listen", "127.0.0.1", "--no-rpcbind"]).args(FLAGS).stderr(Stdio::null());
    let mut starting = command.spawn().unwrap();
    std::thread::sleep(after);
    starting.kill().unwrap();
    starting.wait().unwrap();
}
