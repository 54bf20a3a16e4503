//! What operators see: metrics and logs, and why a stream ended.

mod close_reason;
mod histogram;
pub mod logs;
pub mod metrics;
mod process;
mod tls;

pub use close_reason::CloseReason;
pub use histogram::Latencies;
pub use metrics::Metrics;
pub use process::{ProcessStats, begin};
pub use tls::{InFlight, TlsMetrics};
