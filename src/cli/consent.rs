//! The person at the terminal who is asked for consent.

use std::io::{self, BufRead, IsTerminal, Write};

use super::context::folded;
use crate::resync::consent::Person;

pub(super) struct Terminal;

impl Person for Terminal {
    fn is_there(&self) -> bool {
        io::stdin().is_terminal() && io::stderr().is_terminal()
    }
    fn ask(&mut self, question: &str) -> io::Result<String> {
        let mut stderr = io::stderr();
        stderr.write_all(folded(question).as_bytes())?;
        stderr.flush()?;
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line)?;
        Ok(line)
    }
}
