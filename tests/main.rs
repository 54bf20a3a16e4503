//! The promises of the gateway as tests: one file for each, told by the real binary over real sockets.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

mod acknowledged;
mod admin;
mod architecture;
mod attacks;
mod auth;
mod auth_expiry;
mod chaos;
mod cli;
mod client_address;
mod config;
mod console;
mod corpus;
mod development;
mod docs;
mod drain;
mod examples;
mod fallback_auth;
mod fallback_drain;
mod fallback_limits;
mod fallback_origins;
mod fallback_rates;
mod fallback_scenarios;
mod fallback_seen;
mod fallback_tls;
mod finished;
mod functions;
mod gap;
mod health;
mod interop;
mod keepalive;
mod limits;
mod logs;
mod metrics;
mod order;
mod origins;
mod poll;
mod producers;
mod rates;
mod redis;
mod refusals;
mod reload;
mod resume;
mod slow;
mod stats;
mod store_contract;
mod stuck_reader;
mod survey;
mod tickets;
mod tls;
#[cfg(feature = "otlp")]
mod traces;
mod wire;
mod ws;
