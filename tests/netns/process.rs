//! Processes that end with their owner.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::await_some;
use super::document::document;

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

impl Ran {
    /// What nlmctl wrote as JSON, which is as its schema says.
    #[track_caller]
    pub fn json(&self) -> Value {
        assert!(!self.stdout.is_empty(), "no JSON: {self:#?}");
        document(&self.stdout)
    }
}

/// A program by its name. Where the search path of a user lacks the administrator's folders, they
/// are searched too.
pub(super) fn tool(name: &str) -> Command {
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

pub(super) fn to_its_end(mut command: Command) -> Ran {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
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
    pub(super) fn start(mut command: Command, log: &Path) -> Self {
        let line = format!("{command:?}");
        let file = File::create(log).unwrap();
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
