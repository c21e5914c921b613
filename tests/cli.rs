//! The binary's own behaviour: bad usage, places, pipes. None of it needs a lock manager.
#![cfg(test)]

#[path = "common/document.rs"]
mod document;
#[path = "common/process.rs"]
mod process;

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use process::Ran;

/// Without anything of this process' environment.
fn nlmctl(args: &[&str]) -> Command {
    let mut command = process::nlmctl(args);
    command.env_clear();
    command
}

fn run(args: &[&str]) -> Ran {
    process::to_its_end(nlmctl(args))
}

#[test]
fn bad_usage_is_exit_2_and_with_json_an_error_on_stdout() {
    for (args, words) in [
        (&["resync", "--grace", "0"][..], "--grace"),
        (&["resync", "--grace", "soon"], "write a number and ms, s, m or h"),
        (&["resync", "--grace", "-5s"], "write a number and ms, s, m or h"),
        (&["resync", "--quiet-time", "2m"], "--quiet-time 2m is longer than --grace 1m 30s"),
        (&["release", "--client", "a", "--owner", "abc"], "write a process number"),
        (&["notify", "--name", "a", "--state", "x"], "write a whole number"),
        (&["resync", "--grace", "25h"], "24h"),
        (&["resync", "--grace", "9s", "--grace-max", "8s"], "--grace-max 8s"),
        (&["resync", "--mode", "brutal"], "--mode"),
        (&["resync", "--mode", "strict", "--client", "a"], "--mode strict"),
        (&["resync", "--unreachable", "maybe"], "--unreachable"),
        (&["resync", "--dry-run", "--resume"], "--resume"),
        (&["resync", "--name", ""], "--name"),
        (&["resync", "--name", "nas:/export"], "not an address or a host name"),
        (&["status", "--manager", "samba"], "samba"),
        (&["--rpcbind-port", "0", "status"], "--rpcbind-port"),
        (&["--rpcbind-port", "65536", "status"], "--rpcbind-port"),
        (&["locks", "--file", "xyz"], "xyz"),
        (&["notify", "--name", "a", "--state", "3", "--sm-dir", "/dev/null"], "not a regular file"),
        (&["notify", "--name", "a", "--state", "3", "--sm-dir", "/etc"], "not the folder of a statd"),
        (&["notify", "--state", "3", "--targets", "/dev/null"], "--name"),
        (&["notify", "--name", "a", "--state", "3", "--targets", "/nonexistent"], "/nonexistent"),
        (&["demo", "--clients", "1", "--dead", "2"], "2 clients"),
        (&["demo", "--clients", "-1"], "--clients"),
        (&["demo", "--clients", "0"], "client"),
        (&["demo", "--clients", "4000000000"], "--clients"),
        (&["runs", "list", "--limit", "0"], "1 or more"),
        (&["runs", "prune"], "--keep"),
        (&["frobnicate"], "frobnicate"),
        (&[], ""),
    ] {
        run(&[&["--json"], args].concat()).refuses(2, words);
    }
}

#[test]
fn what_a_message_quotes_moves_no_cursor() {
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("runs.db");
    let ran = run(&["runs", "show", "\u{1b}[31mred", "--db", db.to_str().unwrap()]).exits(2);
    assert!(ran.stderr.contains("[31mred") && !ran.stderr.contains('\u{1b}'), "{ran:#?}");
}

#[test]
fn without_json_a_failure_is_words_on_stderr_and_stdout_stays_empty() {
    let ran = run(&["--control", "/nonexistent.sock", "status"]).exits(5);
    assert!(ran.stdout.is_empty(), "{ran:#?}");
    assert!(ran.stderr.contains("/nonexistent.sock"), "{ran:#?}");
}

#[test]
fn a_lock_manager_that_cannot_be_reached_is_exit_5_with_the_path_and_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("runs.db");
    let nobody = dir.path().join("nobody.sock");
    drop(std::os::unix::net::UnixListener::bind(&nobody).unwrap());
    for path in [Path::new("/nonexistent.sock"), &nobody, dir.path()] {
        for command in [&["resync", "--yes"][..], &["status"], &["locks"], &["clients"], &["abort"]] {
            let path = path.to_str().unwrap();
            let place = ["--json", "--control", path, "--db", db.to_str().unwrap()];
            run(&[&place, command].concat()).refuses(5, path);
        }
    }
}

#[test]
fn variables_set_what_flags_do_not() {
    let by_variable = |json: &str, args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nlmctl"));
        command.env_clear().env("NLMCTL_CONTROL", "/nonexistent/variable.sock").env("NLMCTL_JSON", json);
        command.env("NLMCTL_CONFIG", "/dev/null").args(args);
        process::to_its_end(command)
    };
    by_variable("1", &["status"]).refuses(5, "/nonexistent/variable.sock");
    by_variable("1", &["status", "--control", "/nonexistent/flag.sock"]).refuses(5, "/nonexistent/flag.sock");
    let off = by_variable("0", &["status", "--control", "/x"]);
    assert!(off.stdout.is_empty(), "{off:#?}");
}

#[test]
fn a_variable_with_an_error_is_named_if_it_counts_an_empty_one_is_not_set_and_usage_shows_what_was_typed() {
    let with = |name: &str, value: &str, args: &[&str]| {
        let mut command = nlmctl(args);
        command.env(name, value);
        process::to_its_end(command)
    };
    for (name, value, words) in [
        ("NLMCTL_RPCBIND_PORT", "abc", "a port: 1 to 65535"),
        ("NLMCTL_RPCBIND_PORT", "0", "a port: 1 to 65535"),
        ("NLMCTL_MANAGER", "samba", "auto, nlmd, knfsd or ganesha"),
        ("NLMCTL_NAME", "nas:/export", "not an address or a host name"),
        ("NLMCTL_VERBOSE", "x", "a number"),
    ] {
        with(name, value, &["--json", "status"]).refuses(2, &format!("the variable {name} is \"{value}\""));
        with(name, value, &["--json", "status"]).refuses(2, words);
        with(name, "", &["--json", "status", "--control", "/x.sock"]).refuses(5, "/x.sock");
    }
    for (name, value, flag) in [
        ("NLMCTL_RPCBIND_PORT", "abc", "--rpcbind-port=111"),
        ("NLMCTL_MANAGER", "samba", "--manager=nlmd"),
        ("NLMCTL_NAME", "nas:/export", "--name=nas"),
        ("NLMCTL_VERBOSE", "x", "-v"),
    ] {
        with(name, value, &["--json", "status", "--control", "/x.sock", flag]).refuses(5, "/x.sock");
    }
    with("NLMCTL_CONTROL", "", &["--json", "status", "--manager", "nlmd"]).refuses(5, "/run/nlmd/control.sock");
    let usage = with("NLMCTL_DB", "/x.db", &["runs", "show"]).exits(2);
    assert!(usage.stderr.contains("Usage: nlmctl runs show <ID>"), "{usage:#?}");
}

fn nlmd_says(variables: &[(&str, &str)], args: &[&str], words: &str) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nlmd"));
    command.env_clear().envs(variables.iter().copied()).args(args);
    let ran = process::to_its_end(command).exits(2);
    assert!(ran.stderr.contains(words), "{variables:?}: {ran:#?}");
}

#[test]
fn variables_of_nlmd_are_named_if_they_make_no_sense_and_an_empty_one_opens_nothing() {
    for (variables, words) in [
        (&[("NLMD_GRACE", "5")][..], "the variable NLMD_GRACE: invalid value '5' for '--grace <TIME>'"),
        (&[("NLMD_NLM_PORT", "x")], "the variable NLMD_NLM_PORT: "),
        (&[("NLMD_STATD_DIR", "/x"), ("NLMD_GRACE", ""), ("NLMD_VERSION", "1")], "--statd-dir is for --nsm statd"),
        (&[("NLMD_NSM", "statd"), ("NLMD_NO_RPCBIND", "1")], "--nsm statd needs rpcbind"),
        (&[("NLMD_CONFIG", "/nonexistent/nlmd.toml")], "cannot read the config file /nonexistent/nlmd.toml"),
        (&[("NLMD_ALLOW", "")], "the variable NLMD_ALLOW is empty: give it a value, or unset it"),
        (&[("NLMD_LISTEN", "")], "the variable NLMD_LISTEN is empty"),
        (&[("NLMD_CONFIG", "")], "the variable NLMD_CONFIG is empty"),
    ] {
        nlmd_says(variables, &[], words);
    }
    let typed = ["--statd-dir=/x", "--grace=90s", "--allow=::1", "--listen=::1", "--config=/dev/null"];
    let variables = [("NLMD_GRACE", "rubbish"), ("NLMD_ALLOW", ""), ("NLMD_LISTEN", "x"), ("NLMD_CONFIG", "")];
    nlmd_says(&variables, &typed, "--statd-dir is for --nsm statd");
}

#[test]
fn what_is_no_file_is_not_replaced_by_one() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let db = dir.path().join("runs.db");
    let metrics =
        ["--json", "--control", "/x.sock", "--manager", "nlmd", "metrics", "--output", pipe.to_str().unwrap()];
    run(&[&metrics[..], &["--db", db.to_str().unwrap()]].concat()).refuses(2, pipe.to_str().unwrap());
    assert!(!pipe.is_file());
}

#[test]
fn a_folder_that_is_missing_is_named_and_no_file_that_was_never_asked_for() {
    let metrics = ["--json", "--control", "/x.sock", "--manager", "nlmd", "--db", "/nonexistent/runs.db", "metrics"];
    let ran = run(&[&metrics[..], &["--output", "/nonexistent/m.prom"]].concat()).exits(1);
    let error = &ran.json()["error"];
    let (message, remedy) = (error["message"].as_str().unwrap(), error["remedy"].as_str().unwrap());
    assert!(message.ends_with("/nonexistent/m.prom: No such file or directory (os error 2)"), "{message}");
    assert!(remedy.contains("create the folder /nonexistent,"), "{remedy}");
}

#[test]
fn a_variable_switches_off_what_the_config_file_switches_on() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("nlmctl.toml");
    fs::write(&file, "json = true\nquiet = true\nverbose = 1\ncontrol = '/x.sock'\n").unwrap();
    let runs = |variables: &[(&str, &str)]| {
        let mut command = nlmctl(&["--config", file.to_str().unwrap(), "runs", "list", "--db", "/nonexistent.db"]);
        command.envs(variables.iter().copied());
        process::to_its_end(command).exits(0)
    };
    let (on, off) = (runs(&[]), runs(&[("NLMCTL_JSON", "0"), ("NLMCTL_QUIET", "no"), ("NLMCTL_VERBOSE", "0")]));
    assert!(on.stdout.starts_with('{') && !on.stderr.contains("there is no record"), "{on:#?}");
    assert!(on.stderr.contains("the record is shown as it is"), "{on:#?}");
    assert!(!off.stdout.starts_with('{') && off.stderr.contains("there is no record"), "{off:#?}");
    assert!(!off.stderr.contains("the record is shown as it is"), "{off:#?}");
}

#[test]
fn of_a_flag_that_is_given_twice_the_last_one_counts() {
    for args in [
        ["--control", "/x/first.sock", "--control", "/x/last.sock", "status"],
        ["--control", "/x/first.sock", "status", "--control", "/x/last.sock"],
    ] {
        run(&[&["--json"][..], &args].concat()).refuses(5, "/x/last.sock");
    }
}

#[test]
fn blanks_around_names_are_no_part_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let targets = dir.path().join("targets");
    fs::write(&targets, "127.0.0.1\n").unwrap();
    let words = ["--json", "notify", "--state", "3", "--own-locks-lost", "--grace-elsewhere", "--name", "aa, bb "];
    run(&[&words[..], &["--targets", targets.to_str().unwrap()]].concat()).refuses(4, "notified that aa, bb rebooted");
}

#[test]
fn names_before_and_behind_the_command_are_all_told() {
    let dir = tempfile::tempdir().unwrap();
    let targets = dir.path().join("targets");
    fs::write(&targets, "127.0.0.1\n").unwrap();
    let words = ["--json", "--name", "before.test", "notify", "--state", "3", "--own-locks-lost", "--grace-elsewhere"];
    let ran = run(&[&words[..], &["--name", "behind.test", "--targets", targets.to_str().unwrap()]].concat());
    ran.refuses(4, "before.test, behind.test");
}

#[test]
fn an_unknown_key_of_the_config_file_is_refused_with_file_and_key() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("nlmctl.toml");
    fs::write(&file, "contrl = '/run/x'\n").unwrap();
    let ran = run(&["--json", "--config", file.to_str().unwrap(), "status"]);
    ran.refuses(2, "contrl");
    ran.refuses(2, "nlmctl.toml");
}

#[test]
fn notices_are_refused_for_an_even_state_or_without_grace() {
    let dir = tempfile::tempdir().unwrap();
    let targets = dir.path().join("targets");
    fs::write(&targets, "127.0.0.1\n").unwrap();
    let control = dir.path().join("nobody.sock");
    let notify = |args: &[&str]| {
        let common = ["--json", "--control", control.to_str().unwrap(), "notify", "--name", "server.test"];
        run(&[&common[..], &["--targets", targets.to_str().unwrap(), "--own-locks-lost"], args].concat())
    };
    notify(&["--state", "4", "--yes", "--grace-elsewhere"]).refuses(4, "even");
    notify(&["--state", "3", "--yes"]).refuses(4, "no grace");
    notify(&["--state", "3", "--grace-elsewhere"]).refuses(4, "consent");
}

#[test]
fn runs_of_a_record_that_is_not_there_are_none() {
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("runs.db");
    let db = db.to_str().unwrap();
    let runs = |args: &[&str]| run(&[&["--db", db, "runs"], args].concat());
    let list = runs(&["list", "--json"]).exits(0);
    assert_eq!(list.stdout.trim(), r#"{"schema":1,"runs":[]}"#);
    assert!(list.stderr.contains(db), "{list:#?}");
    assert!(runs(&["list", "-q"]).stderr.is_empty());
    runs(&["show", "abc", "--json"]).refuses(2, "abc");
    assert!(!Path::new(db).exists());
}

#[test]
fn reading_the_default_record_makes_no_folder() {
    if nix::unistd::geteuid().is_root() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let mut command = nlmctl(&["runs", "list"]);
    command.env("HOME", home.path());
    let list = process::to_its_end(command).exits(0);
    assert!(list.stderr.contains(".local/state/nlmctl/runs.db"), "{list:#?}");
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
}

#[test]
fn how_much_to_say_may_come_from_a_variable() {
    let refused = |level| {
        let mut command = nlmctl(&["runs", "list", "--db", "/nonexistent.db", "--control", "/x.sock"]);
        command.env("NLMCTL_VERBOSE", level);
        process::to_its_end(command).stderr.contains("the record is shown as it is")
    };
    assert!(refused("1"));
    assert!(!refused("0"));
}

#[test]
fn a_record_that_is_no_database_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let db = dir.path().join("runs.db");
    fs::write(&db, "no database ".repeat(100)).unwrap();
    let db = db.to_str().unwrap();
    run(&["--json", "--db", db, "runs", "list"]).refuses(1, db);
}

#[test]
fn a_closed_pipe_is_quiet() {
    for args in [&["--help"][..], &["runs", "list", "--db", "/nonexistent.db", "-q"]] {
        let mut child =
            nlmctl(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
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
        let ran = run(args).exits(0);
        assert!(!ran.stdout.is_empty() && ran.stderr.is_empty(), "{args:?}");
    }
    let help = run(&["--help"]).stdout;
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
    let (behind, before) = (run(&["resync", "--help"]).exits(0), run(&["help", "resync"]).exits(0));
    assert_eq!(behind.stdout, before.stdout);
}

#[test]
fn a_shell_that_is_known_gets_completions_and_another_one_the_list_of_shells() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = run(&["completions", shell]).exits(0).stdout;
        assert!(["resync", "include-unmonitored"].iter().all(|word| script.contains(word)), "{shell}");
    }
    run(&["--json", "completions", "tcsh"]).refuses(2, "fish");
}

#[test]
fn dry_run_and_yes_have_short_forms() {
    let folder = tempfile::tempdir().unwrap();
    let (control, record) = (folder.path().join("none.sock"), folder.path().join("runs.db"));
    let (control, record) = (control.to_str().unwrap(), record.to_str().unwrap());
    for command in [&["resync", "-n"][..], &["resync", "-y"], &["release", "--client", "a", "-ny"]] {
        run(&[&["--json", "--db", record, "--control", control], command].concat()).refuses(5, control);
    }
}
