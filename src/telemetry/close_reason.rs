//! Why a stream ended.

/// Why a stream ended: one closed list for log lines, metrics and tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum CloseReason {
    /// The client went away.
    Gone = 1,
    /// Every topic has ended.
    Finished,
    /// The reader did not read for `stream.write_timeout`.
    Stuck,
    /// The replica drains.
    Drain,
    /// The drain time was over before the stream could be ended politely.
    Cut,
    /// The client sent what no reader of a stream sends.
    Noise,
    /// Its token has expired, or was taken back.
    AuthExpired,
    /// An operator closed it.
    Admin,
}

impl CloseReason {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Gone,
        Self::Finished,
        Self::Stuck,
        Self::Drain,
        Self::Cut,
        Self::Noise,
        Self::AuthExpired,
        Self::Admin,
    ];

    /// As it stands in metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Finished => "finished",
            Self::Stuck => "stuck",
            Self::Drain => "drain",
            Self::Cut => "cut",
            Self::Noise => "noise",
            Self::AuthExpired => "auth_expired",
            Self::Admin => "admin",
        }
    }
}
