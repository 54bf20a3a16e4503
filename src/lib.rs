//! Tidegate: an SSE-first event streaming gateway.
//!
//! A topic is a log, a connection is a cursor into it. The rooms, each importing only what stands below it:
//!
//! - [`hub`]: topics in memory and who follows them
//! - [`store`]: the whole log, as far as retention keeps it
//! - [`log`], [`event`]: the rules and the formats, pure

pub mod event;
pub mod hub;
pub mod log;
pub mod store;
