//! What operators see: metrics, logs and traces, and why a stream ended.

mod close_reason;
mod histogram;
pub mod logs;
pub mod metrics;
mod process;
mod shown_path;
mod tls;
pub mod traces;

pub use close_reason::CloseReason;
pub use histogram::Latencies;
pub use metrics::Metrics;
pub use process::{ProcessStats, begin};
pub use shown_path::shown_path;
pub use tls::{InFlight, TlsMetrics};
