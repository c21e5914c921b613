//! Where the examples are.

use std::path::PathBuf;
use std::process::Command;

/// The binary of an example, as it is now: `cargo test --test` builds no examples, and an old one
/// would test what is not there any more.
pub(crate) fn binary(name: &str) -> PathBuf {
    let build = ["build", "--quiet", "--locked", "--example", name];
    let status = Command::new(env!("CARGO")).args(build).current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap();
    assert!(status.success(), "the example {name} does not build");
    let this = std::env::current_exe().unwrap();
    this.parent().unwrap().parent().unwrap().join("examples").join(name)
}
