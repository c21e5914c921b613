//! The `nlmctl` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    nlmctl::cli::main(std::env::args_os())
}
