//! What a subscriber's stream says, whoever writes it: `$open`, events, keepalives, checkpoints, the end.
//!
//! One [`EventStream`] has two kinds of writers: [`super::writer`], which owns the socket, and the body of a response,
//! where an HTTP library does. Both ask it what comes next and tell it what was written.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use serde::Serialize;

use super::{
    alarm::{Alarm, Alarms},
    app::App,
    expiry::{Due, Expiry},
    streams::{StreamHandle, StreamScope},
    survey::Standing,
};
use crate::{
    event::{ControlFrame, Envelope, EventId, Frame, Topic},
    hub::{Opening, Read, Subscriber},
    log::{Budget, Gap, Replay},
    telemetry::{CloseReason, traces},
};

/// What goes out in one go: enough to fill a socket's buffer.
const BUDGET: Budget = Budget {
    frames: 256,
    bytes: 64 * 1024,
};

/// How the client wants its stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamOptions {
    /// How events are written.
    pub envelope: Envelope,
    /// `heartbeat=event`: `$heartbeat` instead of a comment.
    pub heartbeat: bool,
    /// `control=off`: no `$` event at all.
    pub quiet: bool,
}

/// What comes next.
pub enum Next {
    /// These events: the caller writes them in order and calls [`EventStream::wrote`] for what left.
    Events,
    /// A frame of the gateway's own, as SSE bytes.
    Control(Vec<u8>),
    /// Nothing more: the stream is over.
    End,
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
    options: StreamOptions,
    phase: Phase,
    waits_here: bool,
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
        options: StreamOptions,
    ) -> Self {
        app.metrics.opened(opening.replay.as_str());
        if let Replay::Gap(gap) = &opening.replay {
            app.metrics.gap(gap.reason.as_str());
        }
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
            options,
            phase: Phase::Opening(Box::new(opening)),
            waits_here: false,
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

    /// How events are written.
    pub fn envelope(&self) -> Envelope {
        self.options.envelope
    }

    /// What comes next; events are put into `frames`, which is empty.
    pub fn poll_next(&mut self, cx: &Context<'_>, frames: &mut Vec<Arc<Frame>>) -> Poll<Next> {
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
                    return Poll::Ready(Next::Control(self.open(&opening)));
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
                    Due::Tell(_) if self.options.quiet => {}
                    Due::Tell(data) => {
                        let frame = ControlFrame {
                            event: Some("$auth_expiring"),
                            data: Some(&data),
                            ..ControlFrame::default()
                        };
                        return Poll::Ready(Next::Control(frame.encode()));
                    }
                    Due::End => match self.leave(CloseReason::AuthExpired) {
                        Some(last) => return Poll::Ready(Next::Control(last)),
                        None => continue,
                    },
                }
            }
            match self.subscriber.poll_read(cx, frames, BUDGET) {
                Poll::Ready(Read::Events) => return Poll::Ready(Next::Events),
                Poll::Ready(read) => {
                    if let Some(control) = self.control(read) {
                        return Poll::Ready(Next::Control(control));
                    }
                }
                Poll::Pending => {
                    if self.app.alarms.now() >= self.keepalive_at {
                        return Poll::Ready(Next::Control(self.keepalive()));
                    }
                    self.ring_at(self.keepalive_at.min(self.expiry.next()), cx);
                    return Poll::Pending;
                }
            }
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

    /// Ends the stream for `reason`; its last frame, where there is something to say.
    fn leave(&mut self, reason: CloseReason) -> Option<Vec<u8>> {
        self.scope.ends(reason);
        self.phase = Phase::Over;
        match reason {
            CloseReason::Drain => Some(self.farewell()),
            CloseReason::AuthExpired | CloseReason::Admin => self.checkpoint(),
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

    /// The next piece for a body that an HTTP library writes.
    pub fn poll_bytes(&mut self, cx: &Context<'_>) -> Poll<Option<Bytes>> {
        self.scope
            .handle()
            .polled_at
            .store(self.app.alarms.now(), std::sync::atomic::Ordering::Relaxed);
        let mut frames = Vec::new();
        let piece = match std::task::ready!(self.poll_next(cx, &mut frames)) {
            Next::End => return Poll::Ready(None),
            Next::Control(control) => {
                let bytes = Bytes::from(control);
                self.wrote(&[], bytes.len());
                bytes
            }
            Next::Events => {
                let bytes = match &*frames {
                    [frame] => frame.sse(self.options.envelope),
                    frames => {
                        let mut bytes = BytesMut::with_capacity(
                            frames.iter().map(|frame| frame.wire_bytes()).sum(),
                        );
                        for frame in frames {
                            bytes.extend_from_slice(&frame.sse(self.options.envelope));
                        }
                        bytes.freeze()
                    }
                };
                self.wrote(&frames, bytes.len());
                bytes
            }
        };
        // From here on nobody may ask for more, and then there is no other way to find out.
        let standing = self.standing(self.last_write(), false);
        self.scope.handle().answer.note(standing);
        Poll::Ready(Some(piece))
    }

    fn open(&self, opening: &Opening) -> Vec<u8> {
        #[derive(Serialize)]
        struct Open<'a> {
            connection: &'a str,
            replay: &'a str,
            #[serde(flatten)]
            gap: Option<GapData<'a>>,
            #[serde(skip_serializing_if = "Option::is_none")]
            topics: Option<Vec<&'a Topic>>,
        }
        let connection = self.scope.connection();
        let (gap, topics) = match &opening.replay {
            Replay::Gap(gap) => (Some(GapData::new(gap)), None),
            _ => (None, Some(self.subscriber.topics().collect())),
        };
        let data = json(&Open {
            connection: &connection,
            replay: opening.replay.as_str(),
            gap,
            topics,
        });
        let frame = ControlFrame {
            retry_ms: Some(self.app.retry_ms()),
            id: Some(opening.cursor),
            event: Some("$open"),
            data: Some(&data),
        };
        self.encode(frame)
    }

    /// A control frame; with `control=off` only what moves the cursor.
    fn encode(&self, frame: ControlFrame<'_>) -> Vec<u8> {
        if self.options.quiet {
            return ControlFrame {
                event: None,
                data: None,
                ..frame
            }
            .encode();
        }
        frame.encode()
    }

    fn control(&mut self, read: Read) -> Option<Vec<u8>> {
        fn frame<'a>(id: Option<EventId>, event: &'a str, data: &'a str) -> ControlFrame<'a> {
            ControlFrame {
                retry_ms: None,
                id,
                event: Some(event),
                data: Some(data),
            }
        }
        match read {
            Read::Events => None,
            Read::Gap(gap) => {
                self.app.metrics.gap(gap.reason.as_str());
                (!self.options.quiet)
                    .then(|| frame(None, "$gap", &json(&GapData::new(&gap))).encode())
            }
            Read::Live => Some(self.encode(frame(Some(self.subscriber.cursor()), "$live", "{}"))),
            Read::End { topic, id, moves } => {
                #[derive(Serialize)]
                struct End<'a> {
                    topic: &'a Topic,
                }
                if self.options.quiet && !moves {
                    return None;
                }
                Some(self.encode(frame(
                    moves.then_some(id),
                    "$end",
                    &json(&End { topic: &topic }),
                )))
            }
            Read::Over => {
                self.scope.ends(CloseReason::Finished);
                self.phase = Phase::Over;
                None
            }
        }
    }

    /// What fills a silence: the cursor where it has moved without an event, else a comment or a heartbeat.
    fn keepalive(&mut self) -> Vec<u8> {
        // The setting may be another by now.
        self.silence = draw_silence(&self.app);
        let heartbeat = self.options.heartbeat && !self.options.quiet;
        let mut bytes = self.checkpoint().unwrap_or_default();
        if heartbeat {
            bytes.extend(
                ControlFrame {
                    event: Some("$heartbeat"),
                    data: Some(""),
                    ..ControlFrame::default()
                }
                .encode(),
            );
        } else if bytes.is_empty() {
            bytes.extend_from_slice(b": keepalive\n\n");
        }
        bytes
    }

    /// The cursor, where it has moved without an event.
    fn checkpoint(&mut self) -> Option<Vec<u8>> {
        let cursor = self.subscriber.checkpoint()?;
        Some(self.encode(ControlFrame {
            retry_ms: None,
            id: Some(cursor),
            event: Some("$cursor"),
            data: Some(""),
        }))
    }

    /// The last frame of a stream that is drained: when to come back, and from where.
    fn farewell(&mut self) -> Vec<u8> {
        self.subscriber.checkpoint();
        let id = Some(self.subscriber.cursor());
        self.encode(ControlFrame {
            retry_ms: Some(self.app.retry_ms()),
            id,
            event: Some("$drain"),
            data: Some("{}"),
        })
    }
}

/// Ticks of silence before a keepalive: at least 85 % of the setting, at most the setting itself, which proxies rely on.
fn draw_silence(app: &App) -> u32 {
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

#[derive(Serialize)]
struct GapData<'a> {
    reason: &'a str,
    topics: &'a [Topic],
    #[serde(skip_serializing_if = "Option::is_none")]
    missed_at_least: Option<u64>,
}

impl<'a> GapData<'a> {
    fn new(gap: &'a Gap) -> Self {
        Self {
            reason: gap.reason.as_str(),
            topics: &gap.topics,
            missed_at_least: gap.missed_at_least,
        }
    }
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("text with text keys is JSON")
}
