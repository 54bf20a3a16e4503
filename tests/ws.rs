//! The same stream over WebSocket: events in order, once, byte for byte, with the cursors and verdicts of `/events`; and
//! what only a WebSocket can do: follow and leave topics in mid-stream, and publish.

mod cuts;
mod handshake;
mod leaving;
mod messages;
mod places;
mod protocol;
mod publish;
mod random;
mod refused;
mod rights;
mod stream;
mod subscribe;
mod watched;
