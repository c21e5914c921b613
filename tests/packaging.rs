//! What the packages bring beside the programs. `tests/packages` boots them; what can be seen without that is here.
#![cfg(test)]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread::sleep;
use std::time::{Duration, Instant};

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files of a folder, each with its text.
fn files(folder: &str) -> Vec<(PathBuf, String)> {
    let entries = fs::read_dir(top().join(folder)).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.is_file()).map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

/// The settings of a unit, each a key and a value.
fn settings(unit: &str) -> Vec<(&str, &str)> {
    unit.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('=')).collect()
}

/// Programs that take the place of others, by name and script. What a script writes to `$LOG` is read by `logged`.
struct Stubs(tempfile::TempDir);

impl Stubs {
    fn new(scripts: &[(&str, &str)]) -> Self {
        let stubs = Self(tempfile::tempdir().unwrap());
        for (name, script) in scripts {
            stubs.file(name, &format!("#!/bin/sh\n{script}\n"));
        }
        stubs
    }
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
    /// A file that can be executed.
    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        path
    }
    /// Runs a command that finds these programs first.
    fn run(&self, command: &mut Command) -> Output {
        let path = format!("{}:{}", self.0.path().display(), std::env::var("PATH").unwrap());
        command.env("PATH", path).env("LOG", self.path("log")).output().unwrap()
    }
    /// What the scripts have written to their log since the last look.
    fn logged(&self) -> String {
        let text = fs::read_to_string(self.path("log")).unwrap_or_default();
        let _ = fs::remove_file(self.path("log"));
        text
    }
}

/// nlmctl refuses to send a notice to a server of which this host is itself a client, and looks for the mounts in its own
/// namespace. `tests/packages` sees there that they are in sight.
#[test]
fn no_unit_hides_this_hosts_mounts_from_what_it_runs() {
    let units = files("packaging");
    let units: Vec<_> = units.iter().filter(|(path, _)| path.extension().is_some_and(|e| e == "service")).collect();
    assert_eq!(units.len(), 3);
    for (path, unit) in units {
        for (key, value) in settings(unit) {
            let hides = match key {
                "ProtectHome" => value != "read-only" && value != "no",
                "PrivateTmp" => value != "yes" && value != "no",
                "InaccessiblePaths" | "TemporaryFileSystem" | "RootDirectory" | "RootImage" | "MountFlags" => true,
                _ => false,
            };
            assert!(!hides, "{}: {key}={value}", path.display());
        }
    }
}

/// An nlmd that went on without its files would grant locks whose clients nobody could tell of its end.
#[test]
fn nlmd_is_disabled_when_the_package_goes_and_left_alone_when_a_new_version_comes() {
    let stubs = Stubs::new(&[("systemctl", r#"echo "$*" >>"$LOG""#)]);
    let prerm = |args: &[&str]| {
        let ran = stubs.run(Command::new("sh").arg(top().join("packaging/scripts/prerm")).args(args));
        assert!(ran.status.success(), "{ran:?}");
        stubs.logged()
    };
    // dpkg's words, and rpm's number of versions that are left.
    for args in [&["remove"][..], &["remove", "in-favour", "other", "1.0"], &["0"]] {
        let said = prerm(args);
        assert!(said.starts_with("--no-reload disable "), "{args:?}: {said}");
        assert!(said.lines().next().unwrap().ends_with(" nlmd.service"), "{args:?}: {said}");
    }
    for args in [&["upgrade", "2.0"][..], &["failed-upgrade", "1.0"], &["1"]] {
        assert_eq!(prerm(args), "", "{args:?}");
    }
}

#[test]
fn every_script_is_one_for_a_plain_shell() {
    let scripts = [files("packaging/scripts"), files("examples/hooks")].concat();
    assert_eq!(scripts.len(), 5);
    for (path, text) in scripts {
        assert!(text.starts_with("#!/bin/sh\n"), "{}", path.display());
        let checked = Command::new("sh").arg("-n").arg(&path).output().unwrap();
        assert!(checked.status.success(), "{}: {checked:?}", path.display());
    }
}

/// No step of a test takes longer.
const LIMIT: Duration = Duration::from_secs(30);

#[track_caller]
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        sleep(Duration::from_millis(10));
    }
}

/// CTDB bans a node whose event takes too long, and a run may take minutes.
#[test]
fn ctdbs_event_is_over_at_once_and_failovers_during_a_round_get_one_more_round() {
    // A run ends when the test lets it, or after 20 s.
    let stubs = Stubs::new(&[
        (
            "nlmctl",
            r#"echo "$*" >>"$LOG"
            left=400
            while [ $((left -= 1)) != 0 ] && ! rm "$LOG.go" 2>/dev/null; do sleep 0.05; done
            exit 4"#,
        ),
        ("flock", r#"/usr/bin/flock "$@"; code=$?; echo "$* is $code" >>"$LOG.flock"; exit $code"#),
        ("logger", r#"echo "logger $*" >>"$LOG.said""#),
    ]);
    let here = |name: &str| stubs.path(name).display().to_string();
    let hook = fs::read_to_string(top().join("examples/hooks/ctdb-resync.script")).unwrap();
    let hook = hook.replace("/etc/nlmctl.clients", &here("clients")).replace("/run/nlmctl-ctdb", &here("lock"));
    let hook = stubs.file("61.nlmctl.script", &hook);
    let event = |event: &str| {
        let began = Instant::now();
        let ran = stubs.run(Command::new(&hook).args([event, "some", "arguments"]));
        assert!(ran.status.success() && ran.stdout.is_empty() && ran.stderr.is_empty(), "{ran:?}");
        assert!(began.elapsed() < LIMIT / 2, "the event took {:?}", began.elapsed());
    };
    let run = |client: &str| format!("--quiet --manager nlmd resync --client {client} --yes\n");
    let begins = |client: &str| {
        until(&format!("the run for {client}"), || stubs.path("log").exists());
        assert_eq!(stubs.logged(), run(client));
    };
    let ends = || {
        fs::write(stubs.path("log.go"), "").unwrap();
        until("the end of a run", || !stubs.path("log.go").exists());
    };

    event("ipreallocated");
    fs::write(stubs.path("clients"), "# the ones that matter\n\none.example\ntwo.example\n").unwrap();
    event("monitor");
    event("ipreallocated");
    begins("one.example");
    event("ipreallocated");
    event("ipreallocated");
    until("one of the two waits, and the other one leaves it to that", || {
        let tried = fs::read_to_string(stubs.path("log.flock")).unwrap();
        (tried.matches("--nonblock 8 is 0").count(), tried.matches("--nonblock 8 is 1").count()) == (2, 1)
    });
    ends();
    begins("two.example");
    ends();
    // The two failovers that came meanwhile.
    begins("one.example");
    ends();
    begins("two.example");
    ends();
    until("the last word", || {
        fs::read_to_string(stubs.path("log.said")).is_ok_and(|said| said.matches("ended with exit code 4").count() == 4)
    });
    assert_eq!(stubs.logged(), "", "a third round");
}

/// What Pacemaker says of a fencing, and what the hook then does.
#[test]
fn a_nodes_locks_are_freed_when_it_was_fenced_and_a_failure_is_told() {
    let stubs = Stubs::new(&[
        ("sudo", r#"echo "sudo $*" >>"$LOG"; echo "what nlmctl says"; exit "$CODE""#),
        ("logger", r#"echo "logger $*" >>"$LOG""#),
    ]);
    let hook = top().join("examples/hooks/pacemaker-fence-alert");
    let alert = |kind: &str, rc: &str, task: &str, desc: &str, code: i32| {
        let mut command = Command::new(&hook);
        command.envs([
            ("CRM_alert_kind", kind),
            ("CRM_alert_rc", rc),
            ("CRM_alert_task", task),
            ("CRM_alert_desc", desc),
        ]);
        command.env("CRM_alert_node", "office1").env("CODE", code.to_string());
        (stubs.run(&mut command).status.code().unwrap(), stubs.logged())
    };
    let event = "st_notify_fence";
    let done = |action: &str| format!("Operation {action} of office1 by n2 for pacemaker-controld.9@n2: OK (ref=0a1b)");
    let freed = "sudo -n /usr/bin/nlmctl --quiet release --client office1 --if-held --yes\n";

    for (task, desc) in [(event, done("reboot")), (event, done("off")), ("off", String::new())] {
        let (code, said) = alert("fencing", "0", task, &desc, 0);
        let told =
            said.contains("daemon.notice fenced node office1: nothing of that name is held any more: what nlmctl says");
        assert!(code == 0 && said.starts_with(freed) && told, "{task}, {desc}: {said}");
    }
    for (kind, rc, task, desc) in [
        ("fencing", "0", event, done("on")),
        ("fencing", "0", event, "A fencing device (office1) was added".to_owned()),
        ("fencing", "0", "on", done("off")),
        ("fencing", "1", event, done("reboot")),
        ("node", "0", "", "lost".to_owned()),
    ] {
        assert_eq!(alert(kind, rc, task, &desc, 0), (0, String::new()), "{kind}, {rc}, {task}, {desc}");
    }
    let (code, said) = alert("fencing", "0", event, &done("off"), 4);
    assert_eq!(code, 4);
    let told = said.contains("daemon.err") && said.contains("exit code 4") && said.contains("what nlmctl says");
    assert!(told, "{said}");
    // The line for sudo, which has the node's name as a star, is for this very command.
    let rule = freed.trim_end().replace("sudo -n ", "NOPASSWD: ").replace("office1", "*");
    assert!(fs::read_to_string(&hook).unwrap().contains(&rule), "{rule}");
}

/// On the kernel's lockd a process goes on after the run.
#[test]
fn what_a_round_leaves_running_does_not_keep_the_next_one_away() {
    let stubs =
        Stubs::new(&[("nlmctl", r#"echo "$*" >>"$LOG"; sleep 20 </dev/null >/dev/null 2>&1 & echo $! >>"$LOG.left""#)]);
    let table = fs::read_to_string(top().join("examples/cron/nlmctl")).unwrap();
    let line = table.lines().find(|line| line.ends_with("nlmctl reconcile")).unwrap();
    let (_, command) = line.split_once(" root ").unwrap();
    let command = command.replace("/run/", &format!("{}/", stubs.0.path().display()));
    for _ in 0..2 {
        let ran = stubs.run(Command::new("sh").arg("-c").arg(&command));
        assert!(ran.status.success(), "{ran:?}");
        assert_eq!(stubs.logged(), "reconcile\n");
    }
    let left = fs::read_to_string(stubs.path("log.left")).unwrap();
    Command::new("kill").args(left.split_whitespace()).status().unwrap();
}
