//! nlmctl on a terminal: after Ctrl-C and a change of its width the terminal is as it was.
#![cfg(test)]

mod common;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Instant;

use common::{LIMIT, World};
use nix::pty::openpty;
use nix::sys::termios::{Termios, tcgetattr};
use nlmctl::internals::demo::Behaviour;
use rustix::termios::{Winsize, tcsetwinsize};
use vt100::{Parser, Screen};

const ROWS: u16 = 24;

/// A terminal as a user sees it: the screen is what is left of all that was written.
struct Terminal {
    keyboard: File,
    line: OwnedFd,
    screen: Arc<Mutex<Parser>>,
    /// One for each time that something was written.
    written: mpsc::Receiver<()>,
}

impl Terminal {
    fn open(columns: u16) -> Self {
        let pty = openpty(None, None).unwrap();
        let (keyboard, screen) = (File::from(pty.master), Arc::new(Mutex::new(blank(columns))));
        let (mut output, shown) = (keyboard.try_clone().unwrap(), Arc::clone(&screen));
        let (tell, written) = mpsc::channel();
        // Ends with an error once the line is closed.
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length) = output.read(&mut bytes) {
                shown.lock().unwrap().process(&bytes[..length]);
                let _ = tell.send(());
            }
        });
        let terminal = Self { keyboard, line: pty.slave, screen, written };
        terminal.resize(columns);
        terminal
    }

    fn resize(&self, columns: u16) {
        let mut screen = self.screen.lock().unwrap();
        *screen = blank(columns);
        let size = Winsize { ws_row: ROWS, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.line, size).unwrap();
    }

    /// A command in a session of its own, whose terminal this is.
    fn start(&self, world: &World, arguments: &[&str]) -> Child {
        let end = || Stdio::from(self.line.try_clone().unwrap());
        // A shell that ran these tests in the background has made them ignore Ctrl-C.
        let mut command = Command::new("env");
        command.args(["--default-signal=INT", "setsid", "--ctty", "--wait"]);
        command.args([env!("CARGO_BIN_EXE_nlmctl"), "--config", "/dev/null"]);
        command.arg("--control").arg(world.server.control()).arg("--db").arg(world.db());
        command.args(["--rpcbind-port", &world.farm.rpcbind_port().to_string()]).args(arguments);
        command.env_clear().env("TERM", "xterm").env("PATH", std::env::var_os("PATH").unwrap());
        command.stdin(end()).stdout(end()).stderr(end()).spawn().unwrap()
    }

    fn until(&self, what: &str, is_so: impl Fn(&Screen) -> bool) {
        let limit = Instant::now() + LIMIT;
        while !is_so(self.screen.lock().unwrap().screen()) {
            let told = self.written.recv_timeout(limit.saturating_duration_since(Instant::now()));
            assert!(told.is_ok(), "in vain: {what}; it shows:\n{}", self.shown());
        }
    }

    fn press(&mut self, keys: &[u8]) {
        self.keyboard.write_all(keys).unwrap();
    }

    fn shown(&self) -> String {
        self.screen.lock().unwrap().screen().contents()
    }

    fn attributes(&self) -> Termios {
        tcgetattr(&self.line).unwrap()
    }
}

fn blank(columns: u16) -> Parser {
    Parser::new(ROWS.try_into().unwrap(), columns.try_into().unwrap(), 0)
}

fn ended(mut child: Child) -> Option<i32> {
    let (tell, told) = mpsc::channel();
    thread::spawn(move || tell.send(child.wait().unwrap().code()));
    told.recv_timeout(LIMIT).expect("it ends")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_with_live_progress_leaves_the_terminal_as_it_was_after_a_resize_and_ctrl_c() {
    let world = World::locked(2, 2).await;
    world.farm.crash(world.clients[1]);
    let mut terminal = Terminal::open(120);
    let before = terminal.attributes();
    let run = terminal.start(&world, &["resync", "--yes", "--grace", "60s"]);
    terminal.until("progress", |screen| screen.contents().contains("1 of 2 clients acked"));

    terminal.resize(50);
    let first = |screen: &Screen| screen.contents().chars().find(|c| !c.is_whitespace());
    terminal.until("progress in the new width", |screen| first(screen).is_some());
    let spinner = first(terminal.screen.lock().unwrap().screen());
    terminal.until("the spinner turns", |screen| first(screen).is_some() && first(screen) != spinner);
    let lines = terminal.shown().lines().filter(|line| !line.trim().is_empty()).count();
    assert_eq!(lines, 1, "progress is one line also when it is cut:\n{}", terminal.shown());

    terminal.press(b"\x03");
    assert_eq!(ended(run), Some(1));
    terminal.until("its last words", |screen| screen.contents().contains("resync --resume"));
    assert!(!terminal.shown().contains(['█', '░']), "the bar is gone:\n{}", terminal.shown());
    let screen = terminal.screen.lock().unwrap();
    assert!(!screen.screen().hide_cursor());
    assert_eq!(screen.screen().cursor_position().1, 0, "the prompt begins a line:\n{}", screen.screen().contents());
    assert!(terminal.attributes() == before, "the line's settings are as they were");
}

#[tokio::test(flavor = "multi_thread")]
async fn notices_are_refused_where_grace_has_ended_before_the_question_was_answered() {
    let world = World::locked(2, 1).await;
    world.farm.crash(world.clients[0]);
    let targets = world.server.dir().join("targets");
    std::fs::write(&targets, "127.9.0.2\n").unwrap();
    let run = world.start(&["resync", "--yes", "--grace", "60s"]);
    world.until("the run tells its clients", |farm| !farm.notices().is_empty()).await;
    let mut terminal = Terminal::open(100);
    let words = ["notify", "--name", common::SERVER, "--state", "99", "--targets", targets.to_str().unwrap()];
    let notify = terminal.start(&world, &words);
    terminal.until("the question", |screen| screen.contents().contains("Continue?"));
    world.run(&["abort"]).await.exits(0);
    run.end().await.exits(1);
    world.until_open().await;
    terminal.press(b"y\n");
    assert_eq!(ended(notify), Some(4));
    terminal.until("why", |screen| screen.contents().contains("no grace period is active"));
    assert!(world.farm.notices().iter().all(|notice| notice.state.0 != 99));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_back_before_the_question_was_answered_keeps_its_locks() {
    let world = World::locked(1, 2).await;
    world.behave(0, Behaviour::dead());
    let mut terminal = Terminal::open(100);
    let release = terminal.start(&world, &["release", "--client", "host1.test"]);
    terminal.until("the question", |screen| screen.contents().contains("Continue?"));
    world.behave(0, Behaviour::default());
    terminal.press(b"y\n");
    assert_eq!(ended(release), Some(4));
    terminal.until("why", |screen| screen.contents().contains("host1.test answers"));
    assert_eq!(world.held().await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_that_is_ended_by_ctrl_c_leaves_the_terminal_as_it_was() {
    let world = World::locked(1, 1).await;
    world.farm.crash(world.clients[0]);
    let mut terminal = Terminal::open(100);
    let before = terminal.attributes();
    let ended_by_the_key = (0..5).any(|_| {
        *terminal.screen.lock().unwrap() = blank(100);
        let probe = terminal.start(&world, &["clients", "--probe"]);
        terminal.until("whom it waits for", |screen| screen.contents().contains("for statd of host1.test"));
        terminal.press(b"\x03");
        // On a machine that is slow enough the probe, which takes 3 s, is over before the key comes.
        let was_over = ended(probe) == Some(0);
        !was_over
    });
    assert!(ended_by_the_key);
    assert!(!terminal.screen.lock().unwrap().screen().hide_cursor());
    assert!(terminal.attributes() == before, "the line's settings are as they were");
}
