//! Starting, stopping, exit codes, files.

use std::io::Write;
use std::net::Ipv4Addr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use nlmctl::wire::rpcbind::Mapping;
use nlmctl::wire::types::{CallerName, NsmState};
use nlmctl::wire::xdr::encode;
use nlmctl::wire::{nlm, nsm};

use super::harness::*;

#[test]
fn a_signal_stops_it_with_exit_0_and_its_socket_is_gone() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let folder = tempfile::tempdir().unwrap();
        let mut daemon = Nlmd::start(&folder, &[]);
        let mode = std::fs::metadata(&daemon.control).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        daemon.signal(signal);
        assert_eq!(daemon.wait().code(), Some(0));
        assert!(!daemon.control.exists());
    }
}

#[test]
fn a_hangup_makes_it_read_its_config_file_again_and_does_not_end_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("nlmd.toml");
    std::fs::write(&file, "name = ['old.example.org']\nallow = ['127.0.0.2']\ngrace = '5s'\n").unwrap();
    let mut daemon = Nlmd::start(&folder, &["--config", file.to_str().unwrap()]);
    let mut control = Control::open(&daemon);
    let mut names = || control.info().names.as_slice().iter().map(|name| name.as_str().to_owned()).collect::<Vec<_>>();
    let null = nlmctl::wire::rpc::call(9, nlm::PROGRAM, 4, 0, &nlmctl::wire::rpc::Credential::None, &[]);
    let to = (Ipv4Addr::LOCALHOST, daemon.nlm_udp).into();
    let answers = |from: &str, patience| Wire::udp(from, to).exchange(&null, patience).is_some();
    assert_eq!(names(), ["old.example.org"]);
    assert!(answers("127.0.0.2", LIMIT) && !answers("127.0.0.3", Duration::from_millis(200)));

    std::fs::write(&file, "name = ['new.example.org', 'new']\nallow = ['127.0.0.3']\ngrace = '6s'\n").unwrap();
    daemon.signal(Signal::SIGHUP);
    await_some("the new names", || (names() == ["new.example.org", "new"]).then_some(()));
    assert!(answers("127.0.0.3", LIMIT) && !answers("127.0.0.2", Duration::from_millis(200)));
    await_some("what needs a restart", || daemon.log().contains("take effect after a restart: grace").then_some(()));

    std::fs::write(&file, "name = ['other']\nallow = ['nowhere']\n").unwrap();
    daemon.signal(Signal::SIGHUP);
    await_some("the error", || daemon.log().contains("the config file was not applied").then_some(()));
    assert_eq!(names(), ["new.example.org", "new"]);
    assert!(!answers("127.0.0.2", Duration::from_millis(200)), "a file with an error opens nothing");
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().code(), Some(0));
}

#[test]
fn the_service_manager_is_told_of_start_reload_and_stop() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify.sock");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(LIMIT)).unwrap();
    let hear = || {
        let mut buffer = [0; 512];
        let length = manager.recv(&mut buffer).expect("it tells");
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    };
    let mut command = Command::new(env!("CARGO_BIN_EXE_nlmd"));
    command.env("NOTIFY_SOCKET", &path);
    let mut daemon = Nlmd::start_by(command, &folder, &["--listen", "127.0.0.1", "--no-rpcbind"]).unwrap();
    assert_eq!(hear(), "READY=1\nSTATUS=serving\n");
    daemon.signal(Signal::SIGHUP);
    let reloading = hear();
    assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
    assert_eq!(hear(), "READY=1\nSTATUS=serving\n");
    daemon.signal(Signal::SIGTERM);
    assert!(hear().starts_with("STOPPING=1\n"));
    assert_eq!(daemon.wait().code(), Some(0));
}

#[test]
fn a_second_one_on_the_same_state_directory_exits_4() {
    let folder = tempfile::tempdir().unwrap();
    let first = Nlmd::start(&folder, &[]);
    let elsewhere = folder.path().join("second.sock");
    let Err((status, log)) = Nlmd::try_start(&folder, &["--control", elsewhere.to_str().unwrap()]) else {
        panic!("two daemons share a state directory")
    };
    assert_eq!(status.code(), Some(4));
    assert!(log.contains("in use by another nlmd"), "{log}");
    assert!(log.contains(folder.path().join("state").to_str().unwrap()), "{log}");
    assert!(first.control.exists(), "the first one's socket is untouched");
    nsm_state(&first);
}

#[test]
fn a_live_control_socket_is_refused_and_a_dead_one_replaced() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let first = Nlmd::start(&folder, &[]);
    let control = first.control.to_str().unwrap().to_owned();
    let Err((status, log)) = Nlmd::try_start(&other, &["--control", &control]) else {
        panic!("two daemons share a control socket")
    };
    assert_eq!(status.code(), Some(1));
    assert!(log.contains("another process serves the control socket"), "{log}");
    first.kill_9();
    assert!(std::path::Path::new(&control).exists());
    let second = Nlmd::start(&folder, &[]);
    Control::open(&second).status();
}

#[test]
fn who_drives_it_gets_in_when_connections_have_taken_all_that_they_may() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Nlmd::start_with_files(&folder, 64);
    let tcp = (Ipv4Addr::LOCALHOST, daemon.nlm_tcp).into();
    let from = (2..12).flat_map(|host| (0..10).map(move |_| format!("127.0.0.{host}")));
    let open: Vec<Wire> = from.map(|address| Wire::tcp(&address, tcp)).collect();
    await_some("a connection that is one too many", || daemon.log().contains("too many are open").then_some(()));
    for _ in 0..5 {
        Control::open(&daemon).status();
    }
    assert!(!daemon.log().contains("cannot accept"), "it never ran out of files");
    drop(open);
}

#[test]
fn usage_errors_exit_2_with_words() {
    for flags in [&["--nsm", "statd", "--no-rpcbind"][..], &["--grace", "soon"], &["--no-such-flag"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_nlmd")).args(flags).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{flags:?}");
        assert!(!output.stderr.is_empty());
    }
    let help = Command::new(env!("CARGO_BIN_EXE_nlmd")).arg("--help").output().unwrap();
    assert_eq!(help.status.code(), Some(0));
    assert!(String::from_utf8(help.stdout).unwrap().contains("--state-dir"));
}

#[test]
fn an_unusable_state_directory_exits_1_and_says_which() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("state"), "a file").unwrap();
    let Err((status, log)) = Nlmd::try_start(&folder, &[]) else { panic!("a file is no state directory") };
    assert_eq!(status.code(), Some(1));
    assert!(log.contains("cannot use the state directory"), "{log}");
}

/// A daemon that registers with this rpcbind.
fn registered(folder: &tempfile::TempDir, rpcbind: &Rpcbind) -> Result<Nlmd, (std::process::ExitStatus, String)> {
    Nlmd::start_with(folder, &["--listen", "127.0.0.1", "--rpcbind-port", &rpcbind.port.to_string()])
}

fn entry(program: u32, version: u32, port: u16) -> Mapping {
    Mapping { program, version, protocol: 17, port: port.into() }
}

#[test]
fn it_registers_every_version_and_takes_its_entries_back() {
    let folder = tempfile::tempdir().unwrap();
    let rpcbind = Rpcbind::start(Vec::new());
    let mut daemon = registered(&folder, &rpcbind).unwrap();
    let entries = rpcbind.entries.lock().unwrap().clone();
    assert_eq!(entries.len(), 8, "three versions of NLM and one of NSM, over UDP and TCP: {entries:?}");
    for wanted in [
        entry(100_021, 1, daemon.nlm_udp),
        entry(100_021, 3, daemon.nlm_udp),
        entry(100_021, 4, daemon.nlm_udp),
        entry(100_024, 1, daemon.nsm_udp),
    ] {
        assert!(entries.contains(&wanted), "{wanted:?} is missing in {entries:?}");
    }
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().code(), Some(0));
    assert_eq!(*rpcbind.entries.lock().unwrap(), []);
}

#[test]
fn it_registers_again_with_an_rpcbind_that_has_forgotten_it() {
    let folder = tempfile::tempdir().unwrap();
    let rpcbind = Rpcbind::start(Vec::new());
    let mut daemon = registered(&folder, &rpcbind).unwrap();
    let sorted = || {
        let mut entries: Vec<_> =
            rpcbind.entries.lock().unwrap().iter().map(|e| (e.program, e.version, e.protocol, e.port)).collect();
        entries.sort_unstable();
        entries
    };
    let before = sorted();
    // A restart with a warm start loses some, one without loses all.
    rpcbind.entries.lock().unwrap().retain(|entry| (entry.program, entry.protocol) != (100_021, 6));
    await_some("what was missing", || (sorted() == before).then_some(()));
    rpcbind.entries.lock().unwrap().clear();
    await_some("all of it", || (sorted() == before).then_some(()));
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().code(), Some(0));
    assert_eq!(*rpcbind.entries.lock().unwrap(), []);
}

#[test]
fn a_server_that_took_its_place_in_a_restarted_rpcbind_keeps_it_and_is_named() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let rpcbind = Rpcbind::start(Vec::new());
    let mut daemon = registered(&folder, &rpcbind).unwrap();
    let another = Nlmd::start(&other, &[]);
    let theirs = entry(100_021, 4, another.nlm_udp);
    *rpcbind.entries.lock().unwrap() = vec![theirs];
    let holder = format!("registered already, by nlmd (process {})", another.id());
    await_some("the name of the other", || daemon.log().contains(&holder).then_some(()));
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().code(), Some(0));
    assert_eq!(*rpcbind.entries.lock().unwrap(), [theirs]);
}

#[test]
fn a_program_that_another_server_has_is_a_failure() {
    let folder = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    let another = Nlmd::start(&other, &[]);
    let rpcbind = Rpcbind::start(vec![entry(100_021, 4, another.nlm_udp)]);
    let Err((status, log)) = registered(&folder, &rpcbind) else { panic!("it took another's program") };
    assert_eq!(status.code(), Some(1));
    let holder = format!("registered already, by nlmd (process {})", another.id());
    assert!(log.contains(&holder), "{log}");
    assert_eq!(*rpcbind.entries.lock().unwrap(), [entry(100_021, 4, another.nlm_udp)], "nothing is left behind");
}

#[test]
fn the_entry_of_a_dead_server_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let rpcbind = Rpcbind::start(Vec::new());
    registered(&folder, &rpcbind).unwrap().kill_9();
    assert_eq!(rpcbind.entries.lock().unwrap().len(), 8);
    let daemon = registered(&folder, &rpcbind).unwrap();
    assert!(rpcbind.entries.lock().unwrap().contains(&entry(100_021, 4, daemon.nlm_udp)));
}

#[test]
fn a_missing_rpcbind_is_only_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let gone = Rpcbind::start(Vec::new());
    let port = gone.port;
    drop(gone);
    let flags = ["--listen", "127.0.0.1", "--rpcbind-port", &port.to_string()];
    let mut daemon = Nlmd::start_with(&folder, &flags).unwrap();
    daemon.says("WARN");
    nsm_state(&daemon);
}

#[test]
fn no_thread_that_peers_reach_keeps_a_capability_that_serving_does_not_need() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Nlmd::start(&folder, &[]);
    nsm_state(&daemon);
    let main = format!("/proc/{}/task/{}", daemon.id(), daemon.id());
    let threads = std::fs::read_dir(Path::new(&main).parent().unwrap()).unwrap().map(|thread| thread.unwrap().path());
    let name = |thread: &PathBuf| std::fs::read_to_string(thread.join("comm")).unwrap();
    let workers: Vec<PathBuf> = threads.filter(|thread| name(thread).starts_with("tokio")).collect();
    assert!(!workers.is_empty());
    let field = |thread: &Path, name: &str| {
        let status = std::fs::read_to_string(thread.join("status")).unwrap();
        status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned()
    };
    let keeps_more = |thread: &Path| {
        let bind_service = 1_u64 << 10;
        let kept = |set| u64::from_str_radix(&field(thread, set), 16).unwrap();
        ["CapEff:", "CapPrm:", "CapInh:"].into_iter().any(|set| kept(set) & !bind_service != 0)
    };
    for thread in &workers {
        assert!(!keeps_more(thread), "{}", name(thread));
        assert_eq!(field(thread, "NoNewPrivs:"), "1");
    }
    // The main thread has started nlmd, and gives them up a moment after nlmd answers.
    until("the main thread has given up its capabilities", || !keeps_more(Path::new(&main)));
    assert_eq!(field(Path::new(&main), "NoNewPrivs:"), "1");
}

#[test]
fn its_files_are_its_own_whatever_the_umask_is() {
    let folder = tempfile::tempdir().unwrap();
    // Of this process, so of nlmd too; the other tests do not depend on theirs.
    let usual = nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    let daemon = Nlmd::start(&folder, &[]);
    nsm_state(&daemon);
    nix::sys::stat::umask(usual);
    let state = folder.path().join("state");
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&state), 0o700);
    for entry in std::fs::read_dir(&state).unwrap().map(Result::unwrap) {
        assert_eq!(mode(&entry.path()), 0o600, "{}", entry.path().display());
    }
    assert_eq!(mode(&folder.path().join("ports")), 0o644);
}

/// SM_NOTIFY of a host that is no client: each is worth a line of the log.
fn notices(daemon: &Nlmd, count: u32) {
    let mut wire = Wire::udp("127.0.0.1", (Ipv4Addr::LOCALHOST, daemon.nsm_udp).into());
    for n in 0..count {
        let mon_name = CallerName::new(&format!("{}.{n}", "stranger".repeat(16))).unwrap();
        let args = encode(&nsm::NotifyArgs { mon_name, state: NsmState(7) });
        wire.call(nsm::PROGRAM, nsm::VERSION, nsm::Procedure::Notify as u32, &args).unwrap();
    }
}

#[test]
fn a_flood_from_the_network_is_a_few_lines_of_the_log_and_a_count() {
    let folder = tempfile::tempdir().unwrap();
    let mut daemon = Nlmd::start(&folder, &[]);
    notices(&daemon, 500);
    daemon.signal(Signal::SIGTERM);
    daemon.wait();
    let log = daemon.log();
    assert_eq!(log.matches("matched no client").count(), 60);
    assert!(log.contains("left_out=440"), "{log}");
}

#[test]
fn a_log_that_is_not_read_does_not_stop_it() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("log");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut unread =
        std::fs::File::options().read(true).write(true).custom_flags(nix::libc::O_NONBLOCK).open(&pipe).unwrap();
    while unread.write(&[b'x'; 4096]).is_ok() {}
    while unread.write(b"x").is_ok() {}
    let mut daemon = Nlmd::start(&folder, &[]);
    // If this test fails, the log is not to be waited for.
    std::fs::remove_file(&pipe).unwrap();
    notices(&daemon, 20);
    assert!(nsm_state(&daemon).0 > 0);
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().code(), Some(0), "it also ends");
}

#[test]
#[ignore = "needs root: makes a folder of another user"]
fn root_starts_it_in_another_users_folder() {
    let folder = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(folder.path(), Some(65_534), Some(65_534)).unwrap();
    let mut daemon = Nlmd::start(&folder, &[]);
    nsm_state(&daemon);
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().code(), Some(0));
}
