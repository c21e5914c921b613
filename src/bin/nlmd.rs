//! The `nlmd` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    nlmctl::lockd::main(std::env::args_os())
}
