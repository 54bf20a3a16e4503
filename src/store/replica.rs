//! What a replica says of itself to the others.

use serde::{Deserialize, Serialize};

/// One replica at one moment; at most a second old where it is alive.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaReport {
    /// Its name, drawn when it started.
    pub id: String,
    /// Where its public listener is.
    pub address: String,
    /// Which version it runs.
    pub version: String,
    /// When it started, as RFC 3339.
    pub started: String,
    /// Open streams.
    pub connections: u64,
    /// Events stored through it.
    pub published: u64,
    /// Bytes of data of these.
    pub published_bytes: u64,
    /// Events written to streams.
    pub delivered: u64,
    /// Bytes written to streams.
    pub delivered_bytes: u64,
    /// Streams whose readers take nothing at the moment. This and what follows is zero where an older version says it.
    #[serde(default)]
    pub lagging: u64,
    /// Topics that it has in memory.
    #[serde(default)]
    pub topics: u64,
    /// Entries of the store's feed that wait.
    #[serde(default)]
    pub feed_backlog: u64,
    /// Bytes of these.
    #[serde(default)]
    pub feed_backlog_bytes: u64,
    /// Resident memory.
    #[serde(default)]
    pub resident_bytes: u64,
    /// Bytes of all tails.
    #[serde(default)]
    pub tail_bytes: u64,
}
