//! The promises of the gateway as tests: one file for each, told by the real binary over real sockets.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

mod acknowledged;
mod architecture;
mod cli;
mod config;
mod corpus;
mod development;
mod docs;
mod drain;
mod finished;
mod gap;
mod health;
mod keepalive;
mod metrics;
mod order;
mod refusals;
mod resume;
mod stats;
mod stuck_reader;
mod wire;
