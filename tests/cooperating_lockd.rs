//! The example lock manager that cooperates: a real `nlmctl resync` drives it.
#![cfg(test)]

mod common;
#[path = "common/example.rs"]
mod example;

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use common::{LIMIT, Ran, Running};
use nlmctl::internals::demo::Farm;
use nlmctl::wire::types::{CallerName, NsmState};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

/// The toy as a process, and the statds of its clients.
struct World {
    folder: tempfile::TempDir,
    toy: Child,
    lines: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    farm: Farm,
}

impl World {
    async fn new(clients: &[(&str, [u8; 4])]) -> Self {
        let farm = Farm::open(&[]).unwrap();
        for (name, address) in clients {
            farm.add(Ipv4Addr::from(*address), CallerName::new(name).unwrap());
        }
        let folder = tempfile::tempdir().unwrap();
        let (toy, lines, answers) = Self::start_toy(folder.path()).await;
        Self { folder, toy, lines, answers, farm }
    }

    async fn start_toy(folder: &Path) -> (Child, ChildStdin, Lines<BufReader<ChildStdout>>) {
        let control = folder.join("control.sock");
        let mut toy = Command::new(example::binary("cooperating_lockd"));
        toy.arg("--control").arg(&control).arg("--state-dir").arg(folder.join("state"));
        toy.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut toy = toy.spawn().unwrap();
        let connects = async {
            while tokio::net::UnixStream::connect(&control).await.is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(LIMIT, connects).await.expect("its control socket");
        let (lines, answers) = (toy.stdin.take().unwrap(), BufReader::new(toy.stdout.take().unwrap()).lines());
        (toy, lines, answers)
    }

    /// What a client's line is answered with.
    async fn say(&mut self, line: &str) -> String {
        self.lines.write_all(format!("{line}\n").as_bytes()).await.unwrap();
        timeout(LIMIT, self.answers.next_line()).await.unwrap().unwrap().expect("an answer")
    }

    fn start(&self, args: &[&str]) -> Running {
        let mut command = common::nlmctl(args);
        command.args(["--json", "--manager", "nlmd", "--control"]).arg(self.folder.path().join("control.sock"));
        command.arg("--db").arg(self.folder.path().join("runs.db"));
        command.args(["--rpcbind-port", &self.farm.rpcbind_port().to_string()]);
        Running::start(command)
    }

    async fn run(&self, args: &[&str]) -> Ran {
        self.start(args).end().await
    }

    /// Waits until every client has been told of the first run's state.
    async fn all_notified(&self) {
        let all = |farm: &Farm| (0..farm.len()).all(|n| farm.notices().iter().any(|notice| notice.client.0 == n));
        assert!(self.farm.until(LIMIT, all).await, "{:?}", self.farm.notices());
        assert!(self.farm.notices().iter().all(|notice| notice.state == NsmState(3)), "{:?}", self.farm.notices());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nlmctl_drives_somebody_elses_lock_manager_through_a_whole_run() {
    let mut w = World::new(&[("one", [127, 8, 0, 1]), ("two", [127, 8, 0, 2])]).await;
    for line in ["lock one 127.8.0.1 a", "lock one 127.8.0.1 b", "lock two 127.8.0.2 c", "lock two 127.8.0.2 stale"] {
        assert_eq!(w.say(line).await, "granted");
    }
    assert_eq!(w.say("lock two 127.8.0.2 a").await, "denied");
    let locks = w.run(&["locks"]).await.json();
    assert_eq!(locks["locks"].as_array().unwrap().len(), 4);
    // Like knfsd and Ganesha, the toy does not tell since when a lock is held.
    w.run(&["locks", "--older-than", "1h"]).await.refuses(4, "does not know how old locks are");

    let resync = w.start(&["resync", "--yes", "--grace", "2s", "--grace-max", "4s"]);
    w.all_notified().await;
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
    // A conflict.
    let report = resync.end().await.exits(6).json();
    assert_eq!(report["run"]["outcome"], "settled", "{report:#}");
    let counts = ["in_scope", "reclaimed", "dropped", "kept", "resurrected", "conflicts"];
    let counts = counts.map(|key| report["locks"][key].as_u64().unwrap());
    assert_eq!(counts, [4, 3, 1, 0, 1, 1], "{report:#}");
    assert_eq!(w.say("lock three 127.8.0.3 stale").await, "granted", "it was dropped");
    assert_eq!(w.say("lock three 127.8.0.3 c").await, "denied", "what was reclaimed is held");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_controller_dies_is_settled_alone_and_its_result_is_fetched_also_after_a_restart() {
    let mut w = World::new(&[("one", [127, 8, 1, 1])]).await;
    assert_eq!(w.say("lock one 127.8.1.1 a").await, "granted");
    let resync = w.start(&["resync", "--yes", "--grace", "1s", "--grace-max", "1s"]);
    w.all_notified().await;
    resync.kill9().await;
    let open = async {
        while w.run(&["status"]).await.json()["manager"]["grace"] != "open" {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(LIMIT, open).await.expect("it settles alone");
    w.toy.kill().await.unwrap();
    std::fs::remove_file(w.folder.path().join("control.sock")).unwrap();
    (w.toy, w.lines, w.answers) = World::start_toy(w.folder.path()).await;
    let runs = w.run(&["runs", "list"]).await.json();
    assert_eq!(runs["runs"][0]["outcome"], "settled", "{runs:#}");
    assert_eq!(w.run(&["status"]).await.json()["manager"]["nsm_state"], 3, "the number outlives a crash");
}
