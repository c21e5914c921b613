//! `nlmctl completions`: what a shell needs to complete a command line.

use clap_complete::{Shell, generate};

use super::args::Cli;
use super::context::to_stdout;
use crate::report::Failure;

pub(super) fn run(shell: Shell) -> Result<u8, Failure> {
    let mut script = Vec::new();
    generate(shell, &mut Cli::line(), "nlmctl", &mut script);
    to_stdout(&String::from_utf8_lossy(&script))?;
    Ok(0)
}
