//! Processes that end with their owner, and what is waited for.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part of it")]

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::document::document;

/// No step of a test takes longer.
pub const LIMIT: Duration = Duration::from_secs(30);
/// Between two looks at a condition.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Waits until `found` gives something.
#[track_caller]
pub fn await_some<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(value) = found() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        thread::sleep(LOOK_EVERY);
    }
}

/// Waits until `holds` does.
#[track_caller]
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    await_some(what, || holds().then_some(()));
}

/// A command that has ended.
#[derive(Debug)]
pub struct Ran {
    /// Its exit code; -1 after a signal.
    pub code: i32,
    /// What it wrote.
    pub stdout: String,
    /// What it complained of.
    pub stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Ran {
    /// What nlmctl wrote as JSON, which is as its schema says.
    #[track_caller]
    pub fn json(&self) -> Value {
        assert!(!self.stdout.is_empty(), "no JSON: {self:#?}");
        document(&self.stdout)
    }
    /// Its exit code was this.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:#?}");
        self
    }
    /// `locks` of its report, as a number.
    #[track_caller]
    pub fn locks(&self, key: &str) -> u64 {
        self.json()["locks"][key].as_u64().unwrap_or_else(|| panic!("no locks.{key}: {self:#?}"))
    }
    /// nlmctl failed with this code, said so as JSON on stdout and in words on stderr, and said what to do.
    #[track_caller]
    pub fn refuses(&self, code: i32, about: &str) {
        assert_eq!(self.code, code, "{self:#?}");
        let report = self.json();
        let error = &report["error"];
        assert_eq!((&report["schema"], &error["exit"]), (&1.into(), &code.into()), "{self:#?}");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(about), "`{about}` is not in: {message}");
        assert!(error["remedy"].as_str().is_some_and(|remedy| !remedy.is_empty()), "no remedy: {self:#?}");
        assert!(self.stderr.contains(about), "stderr does not say it: {self:#?}");
    }
}

/// nlmctl without anything that would configure it: neither from this process' environment nor from this machine.
pub fn nlmctl<S: AsRef<OsStr>>(args: &[S]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nlmctl"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("NLMCTL_") {
            command.env_remove(name);
        }
    }
    command.args(["--config", "/dev/null"]).args(args);
    command
}

/// A program by its name. Where the search path of a user lacks the administrator's folders, they
/// are searched too.
pub fn tool(name: &str) -> Command {
    if name.contains('/') {
        return Command::new(name);
    }
    let folders = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let found = folders.split(':').map(|folder| Path::new(folder).join(name)).find(|path| path.is_file());
    let package = match name {
        "ip" => "iproute2",
        "rpcbind" | "rpcinfo" => "rpcbind",
        "rpc.statd" | "sm-notify" => "nfs-common",
        "ganesha.nfsd" => "nfs-ganesha and nfs-ganesha-vfs",
        "dbus-daemon" => "dbus-daemon",
        "rpcgen" => "rpcsvc-proto",
        "cc" => "gcc",
        other => other,
    };
    Command::new(found.unwrap_or_else(|| panic!("there is no {name} here: install {package}")))
}

/// Runs it to its end.
pub fn to_its_end(mut command: Command) -> Ran {
    command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}")).into()
}

/// A process that is killed and reaped when this is dropped. When a test panics then, its log is shown.
#[derive(Debug)]
pub struct Process {
    child: Child,
    line: String,
    log: PathBuf,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.line, self.log());
        }
    }
}

impl Process {
    /// What it writes to stdout and stderr is appended to `log`.
    pub fn start(mut command: Command, log: &Path) -> Self {
        let line = format!("{command:?}");
        let file = File::options().create(true).append(true).open(log).unwrap();
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        let child = command.spawn().unwrap_or_else(|error| panic!("{line}: {error}"));
        Self { child, line, log: log.to_owned() }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }
    /// What it wrote so far, to stdout and stderr.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }
    /// Waits until its log has this.
    #[track_caller]
    pub fn says(&mut self, words: &str) {
        await_some(&format!("{} says {words:?}", self.line), || {
            let said = self.log().contains(words);
            if !said {
                self.must_run();
            }
            said.then_some(())
        });
    }
    /// Panics if it has ended.
    #[track_caller]
    pub fn must_run(&mut self) {
        let ended = self.child.try_wait().unwrap();
        assert!(ended.is_none(), "{} ended ({ended:?}): {}", self.line, self.log());
    }
    /// Waits for the file in which it says where it listens; if it ends before, how it ended and what it said.
    pub fn ports(&mut self, file: &Path) -> Result<Value, (ExitStatus, String)> {
        let found = await_some(&format!("the ports of {}", self.line), || match self.ended() {
            Some(status) => Some(Err(status)),
            None => std::fs::read(file).ok().map(Ok),
        });
        let text = found.map_err(|status| (status, self.log()))?;
        Ok(serde_json::from_slice(&text).unwrap())
    }
    /// Its status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }
    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }
    /// Waits until it ends by itself.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        await_some(&format!("{} ends", self.line), || self.child.try_wait().unwrap())
    }
    /// Asks it to end (SIGTERM) and waits.
    #[track_caller]
    pub fn stop(mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait()
    }
    /// SIGKILL; it is gone when this returns.
    pub fn kill_9(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}
