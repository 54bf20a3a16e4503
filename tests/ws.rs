//! The same stream over WebSocket: events in order, once, byte for byte, with the cursors and verdicts of `/events`; and
//! what only a WebSocket can do: follow and leave topics in mid-stream, and publish.

mod handshake;
mod stream;
