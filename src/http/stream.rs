//! What a subscriber's stream says, whoever writes it: the opening, events, keepalives, checkpoints, the end.
//!
//! One [`EventStream`] has three encodings: server-sent events ([`super::sse`]), WebSocket messages ([`super::ws`]) and the
//! answer to a poll ([`super::poll`]). Each asks it what comes next and tells it what was written.

use std::{
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
};

use serde::Serialize;

use super::{
    alarm::{Alarm, Alarms},
    app::App,
    expiry::{Due, Expiry},
    streams::{StreamHandle, StreamScope},
    survey::Standing,
};
use crate::{
    event::{EventId, Frame, Topic},
    hub::{Opening, Read, Subscriber},
    log::{Budget, Gap, Replay},
    telemetry::{CloseReason, traces},
};

/// What goes out in one go: enough to fill a socket's buffer.
pub(super) const BUDGET: Budget = Budget {
    frames: 256,
    bytes: 64 * 1024,
};

/// What comes next.
pub enum Next<C = Control> {
    /// These events: the caller writes them in order and calls [`EventStream::wrote`] for what left.
    Events,
    /// What the gateway itself has to say.
    Control(C),
    /// Everything up to the ceiling has been read.
    Reached,
    /// Nothing more: the stream is over.
    End,
}

/// What the gateway itself says on a stream.
pub enum Control {
    /// The stream begins. Always the first.
    Open(Box<Opening>),
    /// Events are missing here.
    Gap(Gap),
    /// It has caught up; the cursor is here.
    Live(EventId),
    /// A topic has ended.
    End {
        /// Which.
        topic: Topic,
        /// The id of its end.
        id: EventId,
        /// Whether the id moves the cursor.
        moves: bool,
    },
    /// Nothing was written for a while. The cursor, where it has moved without an event.
    Silence(Option<EventId>),
    /// The cursor has moved without an event.
    Cursor(EventId),
    /// The token ends soon; what to say of it, as JSON.
    AuthExpiring(String),
    /// The replica drains: the last cursor.
    Drain(EventId),
}

enum Phase {
    Opening(Box<Opening>),
    Open,
    Over,
}

/// One subscriber's stream.
pub struct EventStream {
    app: Arc<App>,
    subscriber: Subscriber,
    scope: StreamScope,
    phase: Phase,
    waits_here: bool,
    /// Stays when all its topics have ended: others are about to be added.
    stays: bool,
    /// The tick of the next keepalive, if nothing is written until then.
    keepalive_at: u64,
    alarm: Option<Alarm>,
    opened_us: u64,
    /// How many closes of streams have been looked at.
    closes: u32,
    /// Ticks of silence before a keepalive.
    silence: u32,
    expiry: Expiry,
}

impl EventStream {
    /// A stream that begins with `opening`.
    pub fn new(
        app: Arc<App>,
        subscriber: Subscriber,
        opening: Opening,
        scope: StreamScope,
    ) -> Self {
        count_verdict(&app, &opening.replay);
        let now = app.alarms.now();
        let opened_us = app.hub.now_us();
        let app_closes = app.streams.closes();
        let silence = draw_silence(&app);
        let expiry = Expiry::new(&app, scope.handle());
        let begun = Standing {
            cursor: opening.cursor,
            wrote_at: now,
            behind: false,
        };
        scope.handle().answer.begin(opening.cursor, begun);
        let mut stream = Self {
            app,
            subscriber,
            scope,
            phase: Phase::Opening(Box::new(opening)),
            waits_here: false,
            stays: false,
            keepalive_at: now,
            alarm: None,
            opened_us,
            // Whatever has been asked until now has not been looked at.
            closes: app_closes.wrapping_sub(1),
            silence,
            expiry,
        };
        stream.written();
        stream
    }

    /// What a writer counts into.
    pub fn scope(&mut self) -> &mut StreamScope {
        &mut self.scope
    }

    /// How others reach this stream.
    pub fn handle(&self) -> &Arc<StreamHandle> {
        self.scope.handle()
    }

    /// What everything shares.
    pub fn app(&self) -> &Arc<App> {
        &self.app
    }

    /// Who reads the log for it.
    pub fn subscriber(&self) -> &Subscriber {
        &self.subscriber
    }

    /// The same, to add topics or to take some away.
    pub fn subscriber_mut(&mut self) -> &mut Subscriber {
        &mut self.subscriber
    }

    /// Whether the stream shall go on though all its topics have ended.
    pub fn stay(&mut self, stays: bool) {
        self.stays = stays;
    }

    /// What comes next; events are put into `frames`, which is empty.
    pub fn poll_next(&mut self, cx: &Context<'_>, frames: &mut Vec<Arc<Frame>>) -> Poll<Next> {
        self.poll_next_to(EventId::MAX, cx, frames)
    }

    /// As [`Self::poll_next`], but no event above `ceiling`.
    pub fn poll_next_to(
        &mut self,
        ceiling: EventId,
        cx: &Context<'_>,
        frames: &mut Vec<Arc<Frame>>,
    ) -> Poll<Next> {
        if !std::mem::replace(&mut self.waits_here, true) {
            self.subscriber.wake_here(cx);
            self.scope.handle().wake_here(cx.waker());
        }
        loop {
            match &self.phase {
                Phase::Opening(_) => {
                    let Phase::Opening(opening) = std::mem::replace(&mut self.phase, Phase::Open)
                    else {
                        continue;
                    };
                    return Poll::Ready(Next::Control(Control::Open(opening)));
                }
                Phase::Over => return Poll::Ready(Next::End),
                Phase::Open => {}
            }
            if let Some(reason) = self.asked_to_end() {
                match self.leave(reason) {
                    Some(last) => return Poll::Ready(Next::Control(last)),
                    None => continue,
                }
            }
            if self.app.alarms.now() >= self.expiry.next() {
                match self.expiry.due(&self.app, self.scope.handle()) {
                    Due::Nothing => {}
                    Due::Tell(data) => {
                        return Poll::Ready(Next::Control(Control::AuthExpiring(data)));
                    }
                    Due::End => match self.leave(CloseReason::AuthExpired) {
                        Some(last) => return Poll::Ready(Next::Control(last)),
                        None => continue,
                    },
                }
            }
            let said = match self.subscriber.poll_read_to(ceiling, cx, frames, BUDGET) {
                Poll::Ready(Read::Events) => return Poll::Ready(Next::Events),
                Poll::Ready(Read::Reached) => return Poll::Ready(Next::Reached),
                Poll::Ready(Read::Over) if !self.stays => {
                    self.scope.ends(CloseReason::Finished);
                    self.phase = Phase::Over;
                    continue;
                }
                Poll::Ready(Read::Gap(gap)) => {
                    self.app.metrics.gap(gap.reason.as_str());
                    Control::Gap(gap)
                }
                Poll::Ready(Read::Live) => Control::Live(self.subscriber.cursor()),
                Poll::Ready(Read::End { topic, id, moves }) => Control::End { topic, id, moves },
                Poll::Ready(Read::Over) | Poll::Pending
                    if self.app.alarms.now() >= self.keepalive_at =>
                {
                    // The setting may be another by now. Silence begins anew, also for a client to whom nothing is said.
                    self.silence = draw_silence(&self.app);
                    self.written();
                    Control::Silence(self.subscriber.checkpoint())
                }
                Poll::Ready(Read::Over) | Poll::Pending => {
                    self.ring_at(self.keepalive_at.min(self.expiry.next()), cx);
                    return Poll::Pending;
                }
            };
            return Poll::Ready(Next::Control(said));
        }
    }

    fn asked_to_end(&mut self) -> Option<CloseReason> {
        let closes = self.app.streams.closes();
        if std::mem::replace(&mut self.closes, closes) == closes {
            return None;
        }
        self.expiry.look(&self.app, self.scope.handle());
        self.answer(self.last_write(), false);
        self.scope.handle().closing()
    }

    /// Ends the stream for `reason`; the last that it says, where there is something to say.
    fn leave(&mut self, reason: CloseReason) -> Option<Control> {
        self.scope.ends(reason);
        self.phase = Phase::Over;
        match reason {
            CloseReason::Drain => {
                self.subscriber.checkpoint();
                Some(Control::Drain(self.subscriber.cursor()))
            }
            CloseReason::AuthExpired | CloseReason::Admin => {
                self.subscriber.checkpoint().map(Control::Cursor)
            }
            _ => None,
        }
    }

    /// Says where the stream stands, if somebody wants to know.
    pub fn answer(&self, wrote_at: u64, behind: bool) {
        let answer = &self.scope.handle().answer;
        if answer.is_wanted() {
            answer.give(self.standing(wrote_at, behind));
        }
    }

    fn standing(&self, wrote_at: u64, behind: bool) -> Standing {
        Standing {
            cursor: self.subscriber.cursor(),
            wrote_at,
            behind,
        }
    }

    /// The tick of the last write.
    fn last_write(&self) -> u64 {
        self.keepalive_at.saturating_sub(u64::from(self.silence))
    }

    /// Sees to it that the stream is polled at `tick` or before.
    pub fn ring_at(&mut self, tick: u64, cx: &Context<'_>) {
        self.alarm = Some(self.app.alarms.set(self.alarm, tick, cx.waker()));
    }

    /// Counts events that have left, and moves the cursor over them.
    pub fn wrote(&mut self, frames: &[Arc<Frame>], bytes: usize) {
        if let (Some(first), Some(last)) = (frames.first(), frames.last()) {
            self.subscriber.advance(last.id());
            // What is replayed has waited for its reader, not for us.
            if first.arrived_us() >= self.opened_us {
                let waited = self.app.hub.now_us().saturating_sub(first.arrived_us());
                self.app.metrics.latency.observe_us(waited);
            }
            traces::wrote(frames);
        }
        self.scope.wrote(frames.len() as u64, bytes as u64);
        self.written();
    }

    /// Something was written: silence begins anew.
    pub fn written(&mut self) {
        self.keepalive_at = self.app.alarms.now() + u64::from(self.silence);
    }

    /// The stream is asked for more by an HTTP library; where it stands once that has been handed over.
    pub fn polled(&self) {
        let now = self.app.alarms.now();
        self.scope.handle().polled_at.store(now, Ordering::Relaxed);
    }

    /// From here on nobody may ask for more, and then there is no other way to find out where it stands.
    pub fn handed_over(&self) {
        let standing = self.standing(self.last_write(), false);
        self.scope.handle().answer.note(standing);
    }
}

/// Counts what a stream, or topics that join one, was told of its resume.
pub(super) fn count_verdict(app: &App, replay: &Replay) {
    app.metrics.opened(replay.as_str());
    if let Replay::Gap(gap) = replay {
        app.metrics.gap(gap.reason.as_str());
    }
}

/// Ticks of silence before a keepalive, whatever that is: at least 85 % of the setting, at most the setting itself, which proxies rely on.
pub(super) fn draw_silence(app: &App) -> u32 {
    let ticks = Alarms::ticks(app.config().stream.keepalive);
    ticks - rand::random_range(0..=ticks / 100 * 15 + ticks % 100 * 15 / 100)
}

impl Drop for EventStream {
    fn drop(&mut self) {
        let standing = self.standing(self.last_write(), false);
        self.scope.handle().answer.give(standing);
        if let Some(alarm) = self.alarm {
            self.app.alarms.cancel(alarm);
        }
    }
}

/// What is said of a gap, in all encodings.
#[derive(Serialize)]
pub(super) struct GapData<'a> {
    reason: &'a str,
    topics: &'a [Topic],
    #[serde(skip_serializing_if = "Option::is_none")]
    missed_at_least: Option<u64>,
}

impl<'a> GapData<'a> {
    pub(super) fn new(gap: &'a Gap) -> Self {
        Self {
            reason: gap.reason.as_str(),
            topics: &gap.topics,
            missed_at_least: gap.missed_at_least,
        }
    }
}

/// What is said of an opening, in all encodings that keep a connection.
#[derive(Serialize)]
pub(super) struct OpenData<'a> {
    connection: &'a str,
    replay: &'a str,
    #[serde(flatten)]
    gap: Option<GapData<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    topics: Option<Vec<&'a Topic>>,
}

impl<'a> OpenData<'a> {
    pub(super) fn new(
        connection: &'a str,
        opening: &'a Opening,
        subscriber: &'a Subscriber,
    ) -> Self {
        let (gap, topics) = match &opening.replay {
            Replay::Gap(gap) => (Some(GapData::new(gap)), None),
            _ => (None, Some(subscriber.topics().collect())),
        };
        Self {
            connection,
            replay: opening.replay.as_str(),
            gap,
            topics,
        }
    }
}

/// Text with text keys as JSON.
pub(super) fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("text with text keys is JSON")
}
