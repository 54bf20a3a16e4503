//! A stream ends when its token does, and is told before.

use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::{
    alarm::Alarms,
    app::{App, rfc3339},
    streams::StreamHandle,
};

/// What a stream has to do about its token.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Nothing, for now.
    Nothing,
    /// Say that it expires: the data of `$auth_expiring`.
    Tell(String),
    /// End.
    End,
}

/// When a stream has to look at its token again.
#[derive(Debug)]
pub(super) struct Expiry {
    /// The tick; `u64::MAX` for a token that never ends.
    next: u64,
    /// The end that was told last, or will be.
    end: Option<SystemTime>,
    told: bool,
}

impl Expiry {
    pub(super) fn new(app: &App, handle: &StreamHandle) -> Self {
        let mut expiry = Self {
            next: u64::MAX,
            end: None,
            told: false,
        };
        expiry.renewed(app, handle);
        expiry
    }

    /// Something was asked of a stream: its token may be another one. What was told of this one is not told again.
    pub(super) fn look(&mut self, app: &App, handle: &StreamHandle) {
        if !self.told || handle.expires() != self.end {
            self.renewed(app, handle);
        }
    }

    fn renewed(&mut self, app: &App, handle: &StreamHandle) {
        self.told = false;
        self.end = handle.expires();
        self.next = match left(handle) {
            None => u64::MAX,
            Some(left) => {
                let until_notice = left.saturating_sub(app.config().auth.expiry_notice);
                app.alarms.now() + ticks(until_notice)
            }
        };
    }

    /// The tick of the next look.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// To be asked when its tick has come.
    pub(super) fn due(&mut self, app: &App, handle: &StreamHandle) -> Due {
        let Some(left) = left(handle) else {
            self.next = u64::MAX;
            return Due::Nothing;
        };
        if left.is_zero() {
            return Due::End;
        }
        if !self.told && left > app.config().auth.expiry_notice + TOLERANCE {
            // The clock was set back, or the setting is another one.
            self.renewed(app, handle);
            return Due::Nothing;
        }
        self.next = app.alarms.now() + ticks(left).max(1);
        if std::mem::replace(&mut self.told, true) {
            return Due::Nothing;
        }
        Due::Tell(notice(handle, left))
    }
}

/// Ticks are coarse: the notice may be this much early.
const TOLERANCE: Duration = Duration::from_millis(200);

fn ticks(duration: Duration) -> u64 {
    u64::from(Alarms::ticks(duration))
}

fn left(handle: &StreamHandle) -> Option<Duration> {
    let left = handle.expires()?.duration_since(SystemTime::now());
    Some(left.unwrap_or_default())
}

fn notice(handle: &StreamHandle, left: Duration) -> String {
    #[derive(Serialize)]
    struct Notice {
        expires: String,
        in_ms: u64,
    }
    let notice = Notice {
        expires: handle.expires().map_or_else(String::new, rfc3339),
        in_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
    };
    serde_json::to_string(&notice).expect("text with text keys is JSON")
}
