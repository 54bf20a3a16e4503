//! Promises as tests.
fn main() {}
