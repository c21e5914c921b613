//! The `nlmctl` binary.

fn main() {}
