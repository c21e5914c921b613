//! The binary's own behaviour: bad usage, places, pipes. None of it needs a lock manager.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may panic")]

#[path = "common/document.rs"]
mod document;

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use document::document;
use serde_json::Value;

fn nlmctl(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nlmctl"));
    command.env_clear().args(args).stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Output {
    nlmctl(args).output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The JSON error of a command that failed with this code.
#[track_caller]
fn failed(output: &Output, exit: i32) -> Value {
    assert_eq!(code(output), exit, "{output:?}");
    let report = document(&output.stdout);
    assert_eq!((&report["schema"], &report["error"]["exit"]), (&1.into(), &exit.into()));
    assert!(report["error"]["remedy"].as_str().is_some_and(|r| !r.is_empty()), "{report}");
    report["error"].clone()
}

#[track_caller]
fn says(error: &Value, words: &str) {
    let message = error["message"].as_str().unwrap();
    assert!(message.contains(words), "{words:?} is not in {message:?}");
}

const NO_CONFIG: [&str; 2] = ["--config", "/dev/null"];

#[test]
fn bad_usage_is_exit_2_and_with_json_an_error_on_stdout() {
    for (args, words) in [
        (&["--json", "resync", "--grace", "0"][..], "--grace"),
        (&["--json", "resync", "--grace", "soon"], "--grace"),
        (&["--json", "resync", "--grace", "25h"], "24h"),
        (&["--json", "resync", "--grace", "9s", "--grace-max", "8s"], "--grace-max 8s"),
        (&["--json", "resync", "--mode", "strict", "--client", "a"], "--mode strict"),
        (&["--json", "resync", "--dry-run", "--resume"], "--resume"),
        (&["--json", "resync", "--name", ""], "--name"),
        (&["--json", "status", "--manager", "samba"], "samba"),
        (&["--json", "locks", "--file", "xyz"], "xyz"),
        (&["--json", "notify", "--name", "a", "--state", "3", "--sm-dir", "/dev/null"], "not a regular file"),
        (&["--json", "notify", "--state", "3", "--targets", "/dev/null"], "--name"),
        (&["--json", "notify", "--name", "a", "--state", "3", "--targets", "/nonexistent"], "/nonexistent"),
        (&["--json", "demo", "--clients", "1", "--dead", "2"], "2 clients"),
        (&["--json", "demo", "--clients", "-1"], "--clients"),
        (&["--json", "frobnicate"], "frobnicate"),
        (&["--json"], ""),
    ] {
        let output = nlmctl(args).env("NLMCTL_CONFIG", "/dev/null").output().unwrap();
        says(&failed(&output, 2), words);
        assert!(stderr(&output).contains(words), "{output:?}");
    }
}

#[test]
fn without_json_a_failure_is_words_on_stderr_and_stdout_stays_empty() {
    let output = run(&["--control", "/nonexistent.sock", "--config", "/dev/null", "status"]);
    assert_eq!(code(&output), 5);
    assert!(output.stdout.is_empty(), "{output:?}");
    assert!(stderr(&output).contains("/nonexistent.sock"), "{output:?}");
}

#[test]
fn a_lock_manager_that_cannot_be_reached_is_exit_5_with_the_path_and_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let nobody = dir.path().join("nobody.sock");
    drop(std::os::unix::net::UnixListener::bind(&nobody).unwrap());
    for path in [Path::new("/nonexistent.sock"), &nobody, dir.path()] {
        for command in ["status", "clients", "locks"] {
            let path = path.to_str().unwrap();
            let output = run(&[&NO_CONFIG[..], &["--json", "--control", path, command]].concat());
            says(&failed(&output, 5), path);
        }
    }
}

#[test]
fn variables_set_what_flags_do_not() {
    let by_variable = |args: &[&str]| {
        let output = nlmctl(args)
            .env("NLMCTL_CONTROL", "/nonexistent/variable.sock")
            .env("NLMCTL_JSON", "1")
            .env("NLMCTL_CONFIG", "/dev/null")
            .output()
            .unwrap();
        failed(&output, 5)
    };
    says(&by_variable(&["status"]), "/nonexistent/variable.sock");
    says(&by_variable(&["status", "--control", "/nonexistent/flag.sock"]), "/nonexistent/flag.sock");
    let off = nlmctl(&["status", "--control", "/x", "--config", "/dev/null"]).env("NLMCTL_JSON", "0").output().unwrap();
    assert!(off.stdout.is_empty(), "{off:?}");
}

#[test]
fn of_a_flag_that_is_given_twice_the_last_one_counts() {
    for args in [
        ["--control", "/x/first.sock", "--control", "/x/last.sock", "status"],
        ["--control", "/x/first.sock", "status", "--control", "/x/last.sock"],
    ] {
        let output = run(&[&NO_CONFIG[..], &["--json"], &args].concat());
        says(&failed(&output, 5), "/x/last.sock");
    }
}

#[test]
fn an_unknown_key_of_the_config_file_is_refused_with_file_and_key() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("nlmctl.toml");
    fs::write(&file, "contrl = '/run/x'\n").unwrap();
    let output = run(&["--json", "--config", file.to_str().unwrap(), "status"]);
    let error = failed(&output, 2);
    says(&error, "contrl");
    says(&error, "nlmctl.toml");
}

#[test]
fn notices_are_refused_for_an_even_state_or_without_grace() {
    let dir = tempfile::tempdir().unwrap();
    let targets = dir.path().join("targets");
    fs::write(&targets, "127.0.0.1\n").unwrap();
    let control = dir.path().join("nobody.sock");
    let notify = |args: &[&str]| {
        let common = ["--json", "--control", control.to_str().unwrap(), "notify", "--name", "server.test"];
        run(&[&NO_CONFIG[..], &common, &["--targets", targets.to_str().unwrap(), "--own-locks-lost"], args].concat())
    };
    says(&failed(&notify(&["--state", "4", "--yes", "--grace-elsewhere"]), 4), "even");
    says(&failed(&notify(&["--state", "3", "--yes"]), 4), "no grace");
    says(&failed(&notify(&["--state", "3", "--grace-elsewhere"]), 4), "consent");
}

#[test]
fn runs_of_a_record_that_is_not_there_are_none() {
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("runs.db");
    let db = db.to_str().unwrap();
    let runs = |args: &[&str]| run(&[&NO_CONFIG[..], &["--db", db, "runs"], args].concat());
    let list = runs(&["list", "--json"]);
    assert_eq!((code(&list), String::from_utf8_lossy(&list.stdout).trim()), (0, r#"{"schema":1,"runs":[]}"#));
    assert!(stderr(&list).contains(db), "{list:?}");
    assert!(runs(&["list", "-q"]).stderr.is_empty());
    says(&failed(&runs(&["show", "abc", "--json"]), 2), "abc");
    assert!(!Path::new(db).exists());
}

#[test]
fn reading_the_default_record_makes_no_folder() {
    if nix::unistd::geteuid().is_root() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let list = nlmctl(&["runs", "list", "--config", "/dev/null"]).env("HOME", home.path()).output().unwrap();
    assert_eq!(code(&list), 0, "{list:?}");
    assert!(stderr(&list).contains(".local/state/nlmctl/runs.db"), "{list:?}");
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
}

#[test]
fn how_much_to_say_may_come_from_a_variable() {
    let refused = |level| {
        let status =
            nlmctl(&["runs", "list", "--config", "/dev/null", "--db", "/nonexistent.db", "--control", "/x.sock"])
                .env("NLMCTL_VERBOSE", level)
                .output()
                .unwrap();
        stderr(&status).contains("the record is shown as it is")
    };
    assert!(refused("1"));
    assert!(!refused("0"));
}

#[test]
fn a_record_that_is_no_database_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("runs.db");
    fs::write(&db, "no database ".repeat(100)).unwrap();
    let output = run(&[&NO_CONFIG[..], &["--json", "--db", db.to_str().unwrap(), "runs", "list"]].concat());
    says(&failed(&output, 1), db.to_str().unwrap());
}

#[test]
fn a_closed_pipe_is_quiet() {
    for args in [&["--help"][..], &["runs", "list", "--db", "/nonexistent.db", "-q", "--config", "/dev/null"]] {
        let mut child = nlmctl(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let mut words = String::new();
        child.stderr.take().unwrap().read_to_string(&mut words).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0), "{args:?}");
        assert_eq!(words, "", "{args:?}");
    }
}

#[test]
fn help_and_version_are_no_errors() {
    for args in [&["--help"][..], &["resync", "--help"], &["--version"]] {
        let output = run(args);
        assert_eq!(code(&output), 0, "{args:?}");
        assert!(!output.stdout.is_empty() && output.stderr.is_empty(), "{args:?}");
    }
    let help = String::from_utf8(run(&["--help"]).stdout).unwrap();
    for command in ["resync", "status", "locks", "clients", "abort", "notify", "runs", "demo"] {
        assert!(help.lines().any(|line| line.trim_start().starts_with(command)), "{command} is not in:\n{help}");
    }
    assert!(!help.contains("nlmd --"), "{help}");
}

#[test]
fn a_record_survives_the_death_of_its_controller() {
    use nlmctl::internals::controller::Store;
    // A process that holds the controller's lock and is killed: flock(1) does what nlmctl does.
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("runs.db");
    let store = Store::open(&db).unwrap();
    let lock = dir.path().join("runs.db.lock");
    let Ok(mut holder) = Command::new("flock").arg("-x").arg(&lock).args(["sleep", "60"]).spawn() else { return };
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while store.begin_controller().is_ok() {
        assert!(std::time::Instant::now() < deadline, "flock did not start");
        std::thread::yield_now();
    }
    let children = format!("/proc/{0}/task/{0}/children", holder.id());
    let sleeping = fs::read_to_string(children).unwrap_or_default();
    holder.kill().unwrap();
    holder.wait().unwrap();
    for child in sleeping.split_whitespace() {
        let _ = Command::new("kill").args(["-9", child]).status();
    }
    while store.begin_controller().is_err() {
        assert!(std::time::Instant::now() < deadline, "the lock outlives its holder");
        std::thread::yield_now();
    }
}

#[test]
fn help_of_a_command_is_the_same_by_either_way() {
    let (behind, before) = (run(&["resync", "--help"]), run(&["help", "resync"]));
    assert_eq!((code(&behind), code(&before)), (0, 0));
    assert_eq!(String::from_utf8(behind.stdout).unwrap(), String::from_utf8(before.stdout).unwrap());
}

#[test]
fn a_shell_that_is_known_gets_completions_and_another_one_the_list_of_shells() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = run(&["completions", shell]);
        assert_eq!(code(&script), 0, "{script:?}");
        let script = String::from_utf8(script.stdout).unwrap();
        assert!(["resync", "include-unmonitored"].iter().all(|word| script.contains(word)), "{shell}");
    }
    says(&failed(&run(&["--json", "completions", "tcsh"]), 2), "fish");
}

#[test]
fn dry_run_and_yes_have_short_forms() {
    let folder = tempfile::tempdir().unwrap();
    let (control, record) = (folder.path().join("none.sock"), folder.path().join("runs.db"));
    let (control, record) = (control.to_str().unwrap(), record.to_str().unwrap());
    for command in [&["resync", "-n"][..], &["resync", "-y"], &["release", "--client", "a", "-ny"]] {
        let place = [&["--json", "--config", "/dev/null", "--db", record, "--control", control], command].concat();
        failed(&run(&place), 5);
    }
}
