//! The `nlmd` binary.

fn main() {}
