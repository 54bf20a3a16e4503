//! What the kernel says of this process.

use std::{
    fs,
    time::{SystemTime, UNIX_EPOCH},
};

use prometheus_client::{
    metrics::{counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

/// A look at `/proc/self`; zeros where there is none.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct ProcessStats {
    /// Resident memory in bytes.
    pub resident_bytes: u64,
    /// CPU time used, in seconds.
    pub cpu_seconds: f64,
    /// Open file descriptors.
    pub open_files: u64,
    /// The limit of these.
    pub max_files: u64,
    /// Threads.
    pub threads: u64,
}

impl ProcessStats {
    /// Reads all of them.
    #[expect(clippy::cast_precision_loss, reason = "seconds are reported as floats")]
    pub fn read() -> Self {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        // The name in parentheses may hold spaces; fields are counted from behind it (proc(5)).
        let fields: Vec<u64> = stat.rsplit_once(") ").map_or_else(Vec::new, |(_, rest)| {
            rest.split(' ')
                .map(|field| field.trim().parse().unwrap_or(0))
                .collect()
        });
        let field = |number: usize| fields.get(number - 3).copied().unwrap_or(0);
        let limits = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        Self {
            resident_bytes: field(24) * rustix::param::page_size() as u64,
            cpu_seconds: (field(14) + field(15)) as f64
                / rustix::param::clock_ticks_per_second() as f64,
            open_files: fs::read_dir("/proc/self/fd").map_or(0, |files| files.count() as u64),
            max_files: limits.current.unwrap_or(u64::MAX),
            threads: field(20),
        }
    }

    /// Resident memory in bytes alone, which is cheap to ask for.
    pub fn resident() -> usize {
        let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
        let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok());
        pages.unwrap_or(0_usize) * rustix::param::page_size()
    }

    pub(super) fn register(self, r: &mut Registry) {
        let bytes = |number: u64| ConstGauge::new(i64::try_from(number).unwrap_or(i64::MAX));
        r.register(
            "cpu_seconds",
            "CPU time used",
            ConstCounter::new(self.cpu_seconds),
        );
        r.register(
            "resident_memory_bytes",
            "Resident memory",
            bytes(self.resident_bytes),
        );
        r.register("open_fds", "Open file descriptors", bytes(self.open_files));
        r.register(
            "max_fds",
            "Limit of open file descriptors",
            bytes(self.max_files),
        );
        r.register("threads", "Threads", bytes(self.threads));
        r.register(
            "start_time_seconds",
            "When this process started, in Unix seconds",
            ConstGauge::new(started()),
        );
    }
}

/// Remembers when this process began to serve; the first call counts.
pub fn begin() {
    started();
}

fn started() -> f64 {
    static STARTED: std::sync::OnceLock<f64> = std::sync::OnceLock::new();
    *STARTED.get_or_init(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        now.map_or(0.0, |age| age.as_secs_f64())
    })
}
