//! nlmctl's hidden commands, which run as processes of their own: how one is started, and says that it is ready.

use std::io::{self, BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

/// What such a process says once it is ready. Else it says why it is not.
pub const READY: &str = "ready";
/// Longest line that is read of it, in bytes.
const ANSWER: u64 = 4096;

/// Starts one, and waits until it is ready. Gives what it said if it is not.
pub(super) fn start(command: &mut Command) -> io::Result<Result<Child, String>> {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let answers = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let mut line = String::new();
    BufReader::new(answers.take(ANSWER)).read_line(&mut line)?;
    if line.trim_end() == READY {
        return Ok(Ok(child));
    }
    let _ = child.wait();
    Ok(Err(line.trim_end().to_owned()))
}
