//! The example lock manager that cooperates: a real `nlmctl resync` drives it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

#[path = "common/document.rs"]
mod document;
#[path = "common/example.rs"]
mod example;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use document::document;
use nlmctl::internals::rpc::CacheLimits;
use nlmctl::internals::rpc::UdpEndpoint;
use nlmctl::internals::rpc::{Arrivals, CallContext, Limits, Service, serve_udp, shared_cache};
use nlmctl::wire::nsm::{self, NotifyArgs, ResStat, StatRes};
use nlmctl::wire::rpc::Answer;
use nlmctl::wire::rpcbind;
use nlmctl::wire::types::NsmState;
use nlmctl::wire::xdr::{decode, encode};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_mins(1);

/// The rpcbind and the statd of every client host, on one port of all addresses of 127.0.0.0/8. Tells
/// who was notified with which state.
struct Statd {
    port: u16,
    notified: UnboundedSender<(IpAddr, NsmState)>,
}

#[async_trait]
impl Service for Statd {
    async fn call(&self, cx: &CallContext, program: u32, _: u32, procedure: u32, args: &[u8]) -> Option<Answer> {
        let answer = match (program, procedure) {
            (_, 0) => Vec::new(),
            (rpcbind::PROGRAM, 3) => encode(&u32::from(self.port)),
            (nsm::PROGRAM, 1) => encode(&StatRes { res_stat: ResStat::Success, state: NsmState(7) }),
            (nsm::PROGRAM, 6) => {
                let args: NotifyArgs = decode(args).unwrap();
                let _ = self.notified.send((cx.local_ip, args.state));
                Vec::new()
            }
            _ => return Some(Answer::ProcUnavail),
        };
        Some(Answer::Success(answer))
    }
}

struct World {
    folder: tempfile::TempDir,
    toy: Child,
    lines: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    rpcbind_port: u16,
    notified: UnboundedReceiver<(IpAddr, NsmState)>,
    _serving: watch::Sender<bool>,
}

impl World {
    async fn new() -> Self {
        let endpoint = Arc::new(UdpEndpoint::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))).unwrap());
        let rpcbind_port = endpoint.local_addr().port();
        let (sender, notified) = unbounded_channel();
        let statd = Arc::new(Statd { port: rpcbind_port, notified: sender });
        let (serving, stopping) = watch::channel(false);
        tokio::spawn(serve_udp(
            endpoint,
            statd,
            shared_cache(CacheLimits::default()),
            Arrivals::default(),
            Limits::default(),
            stopping,
        ));
        let folder = tempfile::tempdir().unwrap();
        let (toy, lines, answers) = Self::start_toy(folder.path().into()).await;
        Self { folder, toy, lines, answers, rpcbind_port, notified, _serving: serving }
    }

    async fn start_toy(folder: PathBuf) -> (Child, ChildStdin, Lines<BufReader<ChildStdout>>) {
        let control = folder.join("control.sock");
        let mut toy = Command::new(example::binary("cooperating_lockd"))
            .arg("--control")
            .arg(&control)
            .arg("--state-dir")
            .arg(folder.join("state"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let connects = async {
            while tokio::net::UnixStream::connect(&control).await.is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, connects).await.expect("its control socket");
        let (lines, answers) = (toy.stdin.take().unwrap(), BufReader::new(toy.stdout.take().unwrap()).lines());
        (toy, lines, answers)
    }

    /// What a client's line is answered with.
    async fn say(&mut self, line: &str) -> String {
        self.lines.write_all(format!("{line}\n").as_bytes()).await.unwrap();
        timeout(PATIENCE, self.answers.next_line()).await.unwrap().unwrap().expect("an answer")
    }

    fn nlmctl(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nlmctl"));
        command.args(["--config", "/dev/null"]).args(args).args(["--json", "--manager", "nlmd", "--control"]);
        command.arg(self.folder.path().join("control.sock")).arg("--db").arg(self.folder.path().join("runs.db"));
        command.args(["--rpcbind-port", &self.rpcbind_port.to_string()]);
        command.kill_on_drop(true);
        command
    }

    async fn run(&self, args: &[&str]) -> (i32, Value) {
        let output = timeout(PATIENCE, self.nlmctl(args).output()).await.unwrap().unwrap();
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(!output.stdout.is_empty(), "no JSON: {words}");
        let json = document(&output.stdout);
        (output.status.code().unwrap(), json)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nlmctl_drives_somebody_elses_lock_manager_through_a_whole_run() {
    let mut w = World::new().await;
    for line in ["lock one 127.8.0.1 a", "lock one 127.8.0.1 b", "lock two 127.8.0.2 c", "lock two 127.8.0.2 stale"] {
        assert_eq!(w.say(line).await, "granted");
    }
    assert_eq!(w.say("lock two 127.8.0.2 a").await, "denied");
    let (_, locks) = w.run(&["locks"]).await;
    assert_eq!(locks["locks"].as_array().unwrap().len(), 4);
    // Like knfsd and Ganesha, the toy does not tell since when a lock is held.
    let (code, refused) = w.run(&["locks", "--older-than", "1h"]).await;
    let words = refused["error"]["message"].as_str().unwrap();
    assert!(code == 4 && words.contains("does not know since when locks are held"), "{code}: {refused}");

    let resync = w.nlmctl(&["resync", "--yes", "--grace", "2s", "--grace-max", "4s"]).stdout(Stdio::piped()).spawn();
    let mut seen: HashMap<IpAddr, NsmState> = HashMap::new();
    while seen.len() < 2 {
        let (address, state) = timeout(PATIENCE, w.notified.recv()).await.expect("two clients are told").unwrap();
        seen.insert(address, state);
    }
    assert!(seen.values().all(|state| *state == NsmState(3)), "{seen:?}");
    assert_eq!(w.say("lock three 127.8.0.3 new").await, "grace");
    for (line, answer) in [
        ("reclaim one 127.8.0.1 a", "granted"),
        ("reclaim one 127.8.0.1 b", "granted"),
        ("reclaim two 127.8.0.2 c", "granted"),
        ("reclaim two 127.8.0.2 lost", "granted"),
        ("reclaim one 127.8.0.1 stale", "denied"),
    ] {
        assert_eq!(w.say(line).await, answer, "{line}");
    }
    let output = timeout(PATIENCE, resync.unwrap().wait_with_output()).await.unwrap().unwrap();
    let report = document(&output.stdout);
    assert_eq!(report["run"]["outcome"], "settled", "{report:#}");
    let counts = ["in_scope", "reclaimed", "dropped", "kept", "resurrected", "conflicts"];
    let counts = counts.map(|key| report["locks"][key].as_u64().unwrap());
    assert_eq!(counts, [4, 3, 1, 0, 1, 1], "{report:#}");
    assert_eq!(output.status.code(), Some(6), "a conflict");
    assert_eq!(w.say("lock three 127.8.0.3 stale").await, "granted", "it was dropped");
    assert_eq!(w.say("lock three 127.8.0.3 c").await, "denied", "what was reclaimed is held");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_controller_dies_is_settled_alone_and_its_result_is_fetched_also_after_a_restart() {
    let mut w = World::new().await;
    assert_eq!(w.say("lock one 127.8.1.1 a").await, "granted");
    let mut resync = w.nlmctl(&["resync", "--yes", "--grace", "1s", "--grace-max", "1s"]).spawn().unwrap();
    timeout(PATIENCE, w.notified.recv()).await.expect("its notice").unwrap();
    resync.kill().await.unwrap();
    let open = async {
        while w.run(&["status"]).await.1["manager"]["grace"] != "open" {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, open).await.expect("it settles alone");
    w.toy.kill().await.unwrap();
    std::fs::remove_file(w.folder.path().join("control.sock")).unwrap();
    (w.toy, w.lines, w.answers) = World::start_toy(w.folder.path().into()).await;
    let (_, runs) = w.run(&["runs", "list"]).await;
    assert_eq!(runs["runs"][0]["outcome"], "settled", "{runs:#}");
    assert_eq!(w.run(&["status"]).await.1["manager"]["nsm_state"], 3, "the number outlives a crash");
}
