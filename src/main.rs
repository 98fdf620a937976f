//! The `athanor` command.
fn main() {}
