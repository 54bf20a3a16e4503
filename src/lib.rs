//! Tidegate: an SSE-first event streaming gateway.
//!
//! A topic is a log, a connection is a cursor into it. The rooms, each importing only what stands below it:
//!
//! - [`cli`]: the commands of the binary
//! - [`http`], with its `layers` and `admin` routes, and [`auth`]: the only place that knows HTTP
//! - [`presence`]: who they are
//! - [`hub`]: topics in memory and who follows them
//! - [`store`]: the whole log, as far as retention keeps it
//! - [`log`], [`event`]: the rules and the formats, pure
//! - [`config`], [`telemetry`]: serve all but the pure ones

mod admin;
pub mod auth;
pub mod cli;
pub mod config;
pub mod event;
pub mod http;
pub mod hub;
mod layers;
pub mod log;
pub mod presence;
pub mod store;
pub mod telemetry;
