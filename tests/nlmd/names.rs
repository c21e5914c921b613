//! Names of any bytes: what locks under them, what comes back on the wire, and how they are shown.

use std::net::{Ipv4Addr, SocketAddr};

use nix::sys::signal::Signal;
use nlmctl::wire::control::{ClientPage, Grace, PageAfter, Procedure as Ask};
use nlmctl::wire::nlm::{Procedure, Stat, Version};
use nlmctl::wire::nsm;
use nlmctl::wire::types::{CallerName, NsmState};
use nlmctl::wire::xdr::encode;

use super::harness::*;

/// As they are shown: a code page of Japan, a NUL that was counted, no name, a blank, marks that turn the line, a
/// terminal's escape, a backslash of a domain.
const ODD: [&str; 7] = [
    "\\x93\\xfa\\x96\\xb1",
    "lynx\\x00",
    "\\empty",
    "lab\\x20pc",
    "\\xe2\\x80\\xaemoc.knab",
    "\\x1b[31mred",
    "DOMAIN\\x5cpc\\x5cx41",
];

fn shown(daemon: &Nlmd) -> Vec<String> {
    let page: ClientPage = Control::open(daemon).call(Ask::Clients, &PageAfter { after: 0 }).unwrap();
    page.clients.into_vec().into_iter().map(|client| client.name.to_string()).collect()
}

#[test]
fn a_client_of_any_name_locks_waits_and_is_called_back_by_its_own_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let port = shared_port(&["127.0.0.3", "127.0.0.1"]);
    let host = Host::start("127.0.0.3", port);
    let daemon = Nlmd::start(&folder, &["--rpcbind-port", &port.to_string()]);
    let mut holder = Client::v4(&daemon, "127.0.0.2", "holder");
    for (number, name) in ODD.into_iter().enumerate() {
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, daemon.nlm_udp));
        let mut waiter = Client::new(Wire::udp("127.0.0.3", to), Version::ALL[number % 3], name);
        assert_eq!(holder.lock(&want("file")), Stat::Granted);
        assert_eq!(waiter.test(&want("file")), Stat::Denied, "{name}");
        assert_eq!(waiter.lock(&Want { block: true, ..want("file") }), Stat::Blocked, "{name}");
        assert_eq!(holder.unlock(&want("file")), Stat::Granted);
        let Heard::Granted { lock, .. } = host.hear() else { panic!("no GRANTED for {name}") };
        assert_eq!(lock, waiter.lock_of(&want("file")));
        assert_eq!(waiter.unlock(&want("file")), Stat::Granted, "{name}");
    }
    assert!(ODD.iter().all(|name| shown(&daemon).iter().any(|known| known == name)));
}

#[test]
fn a_name_of_any_bytes_is_known_after_a_restart_and_its_reboot_notice_frees_its_locks() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Nlmd::start(&folder, &["--grace", "300ms"]);
    for name in ODD {
        assert_eq!(Client::v4(&daemon, "127.0.0.2", name).lock(&want(name)), Stat::Granted, "{name}");
    }
    daemon.kill_9();
    let daemon = Nlmd::start(&folder, &["--grace", "300ms"]);
    let mut known = shown(&daemon);
    known.sort();
    let mut all = ODD.map(str::to_owned);
    all.sort();
    assert_eq!(known, all);
    await_some("the end of grace", || (Control::open(&daemon).status().grace == Grace::Open).then_some(()));
    let mut other = Client::v4(&daemon, "127.0.0.9", "other");
    for name in ODD {
        assert_eq!(Client::v4(&daemon, "127.0.0.2", name).lock(&want(name)), Stat::Granted, "{name}");
        assert_eq!(other.test(&want(name)), Stat::Denied, "{name}");
        let mut wire = Wire::udp("127.0.0.2", (Ipv4Addr::LOCALHOST, daemon.nsm_udp).into());
        let notice = nsm::NotifyArgs { mon_name: CallerName::typed(name).unwrap(), state: NsmState(5) };
        let notify = nsm::Procedure::Notify as u32;
        assert_eq!(wire.call(nsm::PROGRAM, nsm::VERSION, notify, &encode(&notice)), Ok(Vec::new()));
        assert_eq!(other.test(&want(name)), Stat::Granted, "{name}");
        let told = format!("{name} at 127.0.0.2 has rebooted");
        let in_log = || daemon.log().lines().find(|line| line.contains(&told)).map(str::to_owned);
        let line = await_some(&told, in_log);
        assert!(line.chars().all(|c| (' '..='~').contains(&c)), "{line}");
    }
}

#[test]
fn free_all_in_another_spelling_frees_the_machine_that_calls_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Nlmd::start(&folder, &[]);
    for (taken, said) in [("PC-7", "pc-7"), ("pc8.example.org", "PC8.Example.Org."), ("\\xfc-9.", "\\xfc-9")] {
        let mut machine = Client::v4(&daemon, "127.0.0.2", taken);
        let mut stranger = Client::v4(&daemon, "127.0.0.3", said);
        assert_eq!(machine.lock(&want(taken)), Stat::Granted);
        assert_eq!(stranger.stat(Procedure::FreeAll, &want(taken)), Stat::Granted);
        assert_eq!(stranger.test(&Want { svid: 9, ..want(taken) }), Stat::Denied, "{said} from elsewhere");
        assert_eq!(Client::v4(&daemon, "127.0.0.2", said).stat(Procedure::FreeAll, &want(taken)), Stat::Granted);
        assert_eq!(stranger.test(&Want { svid: 9, ..want(taken) }), Stat::Granted, "{said}");
    }
}

#[test]
fn a_cap_that_refuses_locks_is_logged_once_with_who_and_where() {
    let folder = tempfile::tempdir().unwrap();
    let mut daemon = Nlmd::start(&folder, &["--max-locks", "1"]);
    let mut client = Client::v4(&daemon, "127.0.0.2", "greedy\\x07");
    assert_eq!(client.lock(&want("first")), Stat::Granted);
    for _ in 0..20 {
        assert_eq!(client.lock(&want("second")), Stat::DeniedNolocks);
    }
    // A line is written a moment after it is said.
    daemon.signal(Signal::SIGTERM);
    daemon.wait();
    let log = daemon.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("--max-locks")).collect();
    let [line] = lines.as_slice() else { panic!("{lines:#?}") };
    for said in ["greedy\\x07 at 127.0.0.2", &hex::encode("second"), "refused"] {
        assert!(line.contains(said), "{line}");
    }
}
