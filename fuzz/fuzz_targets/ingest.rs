//! See `oracles::ingest`.
#![no_main]

#[path = "../oracles.rs"]
#[expect(dead_code, reason = "each target holds one of them")]
mod oracles;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| oracles::ingest(bytes));
