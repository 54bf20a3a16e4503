//! One WebSocket, from the first message to the last.
//!
//! The stream goes out as it does over SSE: from a cursor, without a queue, as fast as the reader reads. What the client
//! asks is worked off one by one, in order; while a request is under way, or its answer has not left, nothing more is read,
//! so a client that asks faster than it listens waits on its own socket.

mod requests;

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::{Sink, Stream, future::BoxFuture};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::tungstenite::{
    Error, Message, Utf8Bytes,
    error::ProtocolError,
    protocol::{CloseFrame, frame::coding::CloseCode},
};

use self::requests::Done;
use super::{encode, joining::Joining, message, socket::Socket};
use crate::{
    event::{EventId, Frame},
    http::{
        Caller,
        alarm::{Alarm, Alarms},
        app::App,
        problem::{Code, Problem},
        stream::{Control, EventStream, Next, OpenData, draw_silence},
        writer::LINGER,
    },
    hub::Read,
    layers::rate::{self, Key},
    telemetry::CloseReason,
};

/// Pings without an answer after which a client is gone.
const PINGS: u8 = 2;
/// Messages beyond the rate, one after another, after which a client is cut off.
const PATIENCE: u32 = 100;
/// Turns of one poll; then others have theirs.
const TURNS: usize = 4;

/// The task of one WebSocket.
pub(super) struct Session<S> {
    app: Arc<App>,
    socket: Socket<S>,
    stream: EventStream,
    caller: Caller,
    /// Topics that catch up beside the stream, one after another.
    joining: VecDeque<Joining>,
    /// The stream has read up to the place where it meets the first of them.
    reached: bool,
    /// Whose turn it is to read: the stream's, or that of the first one that joins.
    joins_next: bool,
    request: Option<BoxFuture<'static, Done>>,
    /// Answers, which go before everything else; a request has at most two.
    answers: VecDeque<String>,
    /// Messages beyond the rate, one after another.
    refused: u32,
    phase: Phase,
    /// The stream is over: what is under way is finished, nothing more is read.
    leaving: bool,
    /// Pings that have no answer yet.
    unanswered: u8,
    /// The tick of the next one.
    ping_at: u64,
    alarm: Option<Alarm>,
    /// What the socket had taken at the last look, and the tick of that look.
    written: u64,
    progress: u64,
}

enum Phase {
    Open,
    /// The close frame is on its way; the other one's has until this tick.
    Closing(u64),
    /// Everything has been said, and nothing is understood any more: what still comes is thrown away until this tick. A
    /// socket that is closed with unread bytes would reset the close frame away.
    Leaving(u64),
}

/// How a turn went.
enum Turn {
    /// Something happened; there may be more.
    Again,
    /// Nothing can be done at the moment.
    Wait,
    /// It is over.
    Over(CloseReason),
}

impl<S> Session<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    pub(super) fn new(socket: Socket<S>, stream: EventStream, caller: Caller) -> Self {
        stream.handle().owned.store(true, Ordering::Relaxed);
        let app = stream.app().clone();
        let now = app.alarms.now();
        let mut session = Self {
            socket,
            stream,
            caller,
            joining: VecDeque::new(),
            reached: false,
            joins_next: false,
            request: None,
            answers: VecDeque::new(),
            refused: 0,
            phase: Phase::Open,
            leaving: false,
            unanswered: 0,
            ping_at: now,
            alarm: None,
            written: 0,
            progress: now,
            app,
        };
        session.heard();
        session
    }

    /// The client is there: silence begins anew.
    fn heard(&mut self) {
        self.unanswered = 0;
        self.ping_later();
    }

    fn ping_later(&mut self) {
        self.ping_at = self.app.alarms.now() + u64::from(draw_silence(&self.app));
    }

    fn ring_at(&mut self, tick: u64, cx: &Context<'_>) {
        self.alarm = Some(self.app.alarms.set(self.alarm, tick, cx.waker()));
    }

    fn turn(&mut self, cx: &mut Context<'_>) -> Turn {
        match self.phase {
            Phase::Open => {}
            Phase::Closing(until) => return self.say_goodbye(cx, until),
            Phase::Leaving(until) => return self.discard(cx, until),
        }
        let mut moved = match self.poll_input(cx) {
            Ok(moved) => moved,
            Err(turn) => return turn,
        };
        if let Some(request) = &mut self.request
            && let Poll::Ready(done) = request.as_mut().poll(cx)
        {
            self.request = None;
            self.finish(done);
            moved = true;
        }
        match Pin::new(&mut self.socket).poll_ready(cx) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) => return Turn::Over(CloseReason::Gone),
            Poll::Pending => return self.blocked(cx),
        }
        if let Some(answer) = self.answers.pop_front() {
            return self.say(answer);
        }
        match self.poll_stream(cx) {
            Turn::Wait => {}
            turn => return turn,
        }
        if self.app.alarms.now() >= self.ping_at {
            if self.unanswered == PINGS {
                return Turn::Over(CloseReason::Gone);
            }
            self.unanswered += 1;
            self.ping_later();
            return self.send(Message::Ping(Bytes::new()));
        }
        if moved {
            return Turn::Again;
        }
        match Pin::new(&mut self.socket).poll_flush(cx) {
            Poll::Ready(Ok(())) => {
                self.took();
                self.stream.scope().behind(false);
                self.ring_at(self.ping_at, cx);
                Turn::Wait
            }
            Poll::Ready(Err(_)) => Turn::Over(CloseReason::Gone),
            Poll::Pending => self.blocked(cx),
        }
    }

    /// Looks whether the socket has taken something since the last look.
    fn took(&mut self) -> bool {
        let written = self.socket.get_ref().written();
        let took = std::mem::replace(&mut self.written, written) != written;
        if took {
            self.progress = self.app.alarms.now();
            if self.stream.scope().is_behind() {
                // Room where there was none is made by a reader that reads. Its pongs may be late: before the pings there is
                // everything that it has still to read.
                self.heard();
            }
        }
        took
    }

    /// The reader does not read: everything waits for it, for a time.
    fn blocked(&mut self, cx: &Context<'_>) -> Turn {
        if !self.took() && !self.stream.scope().is_behind() {
            // It begins to owe us now.
            self.progress = self.app.alarms.now();
        }
        self.stream.scope().behind(true);
        self.stream.answer(self.progress, true);
        // There is no way to be polite to a reader that takes nothing.
        if let Some(reason @ (CloseReason::Cut | CloseReason::Admin)) =
            self.stream.handle().closing()
        {
            return Turn::Over(reason);
        }
        let timeout = self.app.config().stream.write_timeout;
        // The last progress lay somewhere within its tick: one more makes sure that all of the time has passed.
        let deadline = self.progress + u64::from(Alarms::ticks(timeout)) + 1;
        if self.app.alarms.now() >= deadline {
            return Turn::Over(CloseReason::Stuck);
        }
        self.ring_at(deadline, cx);
        Turn::Wait
    }

    fn send(&mut self, message: Message) -> Turn {
        match Pin::new(&mut self.socket).start_send(message) {
            Ok(()) => Turn::Again,
            Err(_) => Turn::Over(CloseReason::Gone),
        }
    }

    fn say(&mut self, text: String) -> Turn {
        let bytes = on_the_wire(text.len());
        let turn = self.send(Message::text(text));
        self.stream.wrote(&[], bytes);
        turn
    }

    /// Ends the WebSocket; the other end has a moment to agree (RFC 6455, 7.1.1).
    fn close(&mut self, code: CloseCode, reason: &str, why: CloseReason) -> Turn {
        self.stream.scope().ends(why);
        self.request = None;
        self.joining.clear();
        let until = self.app.alarms.now() + u64::from(Alarms::ticks(LINGER));
        self.phase = Phase::Closing(until);
        let frame = CloseFrame {
            code,
            reason: reason.into(),
        };
        match self.send(Message::Close(Some(frame))) {
            Turn::Over(_) => Turn::Over(why),
            turn => turn,
        }
    }

    fn say_goodbye(&mut self, cx: &mut Context<'_>, until: u64) -> Turn {
        let why = CloseReason::Finished;
        if self.app.alarms.now() >= until {
            return Turn::Over(why);
        }
        if let Poll::Ready(Err(_)) = Pin::new(&mut self.socket).poll_flush(cx) {
            return Turn::Over(why);
        }
        match Pin::new(&mut self.socket).poll_next(cx) {
            Poll::Ready(Some(Ok(_))) => return Turn::Again,
            Poll::Ready(None | Some(Err(_))) => {
                let _ = Pin::new(self.socket.get_mut()).poll_shutdown(cx);
                self.phase = Phase::Leaving(until);
                return Turn::Again;
            }
            Poll::Pending => {}
        }
        self.stream.answer(self.progress, false);
        self.ring_at(until, cx);
        Turn::Wait
    }

    fn discard(&mut self, cx: &mut Context<'_>, until: u64) -> Turn {
        let mut room = [0; 512];
        let mut room = ReadBuf::new(&mut room);
        match Pin::new(self.socket.get_mut()).poll_read(cx, &mut room) {
            Poll::Ready(Ok(())) if !room.filled().is_empty() && self.app.alarms.now() < until => {
                Turn::Again
            }
            Poll::Pending if self.app.alarms.now() < until => {
                self.stream.answer(self.progress, false);
                self.ring_at(until, cx);
                Turn::Wait
            }
            _ => Turn::Over(CloseReason::Finished),
        }
    }

    /// Takes one message, if its time has come. Whether there was one.
    fn poll_input(&mut self, cx: &mut Context<'_>) -> Result<bool, Turn> {
        if self.leaving || self.request.is_some() || !self.answers.is_empty() {
            return Ok(false);
        }
        let message = match Pin::new(&mut self.socket).poll_next(cx) {
            Poll::Pending => return Ok(false),
            Poll::Ready(None) => return Err(Turn::Over(CloseReason::Gone)),
            Poll::Ready(Some(Err(error))) => return Err(self.broken(&error)),
            Poll::Ready(Some(Ok(message))) => message,
        };
        self.heard();
        if let Message::Close(_) = message {
            // The library has answered; what is left is to let the answer leave.
            self.stream.scope().ends(CloseReason::Gone);
            let until = self.app.alarms.now() + u64::from(Alarms::ticks(LINGER));
            self.phase = Phase::Closing(until);
            return Err(Turn::Again);
        }
        if let Err(problem) = self.admit() {
            self.refused += 1;
            if self.refused >= PATIENCE {
                let (code, why) = (CloseCode::Policy, CloseReason::Noise);
                return Err(self.close(code, problem.code.as_str(), why));
            }
            if !matches!(message, Message::Ping(_) | Message::Pong(_)) {
                // Whoever waits for the answer to one request has to learn which it is.
                let reference = message.to_text().ok().and_then(message::reference_of);
                self.answers
                    .push_back(encode::error(reference.as_ref(), &problem));
            }
            return Ok(true);
        }
        self.refused = 0;
        match message {
            Message::Text(text) => self.receive(&text),
            Message::Binary(_) => {
                let detail = "messages are text, this one is binary";
                let problem = Problem::new(Code::MessageInvalid, detail);
                self.answers.push_back(encode::error(None, &problem));
            }
            _ => {}
        }
        Ok(true)
    }

    /// What ends a WebSocket that has broken the protocol, or is not there any more.
    fn broken(&mut self, error: &Error) -> Turn {
        let (code, reason) = match error {
            Error::Capacity(_) => (CloseCode::Size, Code::BodyTooLarge.as_str()),
            Error::Utf8(_) => (CloseCode::Invalid, Code::Utf8Invalid.as_str()),
            Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
                return Turn::Over(CloseReason::Gone);
            }
            Error::Protocol(_) => (CloseCode::Protocol, "protocol_error"),
            _ => return Turn::Over(CloseReason::Gone),
        };
        self.close(code, reason, CloseReason::Noise)
    }

    /// Refuses a client that says too much.
    fn admit(&self) -> Result<(), Problem> {
        let config = self.app.config();
        if config.development() {
            return Ok(());
        }
        rate::admit(
            &self.app.rates.message,
            Key::address(self.caller.address),
            config.limits.rate.message,
            "limits.rate.message",
        )
    }

    /// Reads on, the stream and what joins it by turns.
    fn poll_stream(&mut self, cx: &mut Context<'_>) -> Turn {
        self.stream
            .stay(!self.joining.is_empty() || self.request.is_some());
        self.joins_next = !self.joins_next;
        for joins in [self.joins_next, !self.joins_next] {
            let turn = if joins {
                self.poll_joining(cx)
            } else {
                self.poll_main(cx)
            };
            if !matches!(turn, Turn::Wait) {
                return turn;
            }
        }
        self.meet()
    }

    fn poll_main(&mut self, cx: &mut Context<'_>) -> Turn {
        let meeting = self.joining.front().and_then(Joining::meeting);
        let ceiling = meeting.unwrap_or(EventId::MAX);
        let mut frames = Vec::new();
        match self.stream.poll_next_to(ceiling, cx, &mut frames) {
            Poll::Pending => Turn::Wait,
            Poll::Ready(Next::Reached) => {
                self.reached = true;
                Turn::Wait
            }
            Poll::Ready(Next::Events) => {
                let (sent, bytes) = match self.write(cx, &frames, true) {
                    Ok(written) => written,
                    Err(turn) => return turn,
                };
                self.stream.wrote(&frames[..sent], bytes);
                Turn::Again
            }
            Poll::Ready(Next::Control(control)) => self.control(control),
            Poll::Ready(Next::End) if self.request.is_some() => {
                self.leaving = true;
                Turn::Wait
            }
            Poll::Ready(Next::End) => {
                let reason = self.stream.scope().reason();
                let (code, word) = match reason {
                    CloseReason::Finished => (CloseCode::Normal, "finished"),
                    CloseReason::AuthExpired => (encode::UNAUTHORIZED, "auth_expired"),
                    CloseReason::Admin => (CloseCode::Restart, "closed"),
                    _ => (CloseCode::Away, "draining"),
                };
                self.close(code, word, reason)
            }
        }
    }

    fn poll_joining(&mut self, cx: &mut Context<'_>) -> Turn {
        let Some(joining) = self.joining.front_mut() else {
            return Turn::Wait;
        };
        let mut frames = Vec::new();
        match joining.poll_read(cx, &mut frames) {
            Poll::Ready(Read::Events) => {
                let (sent, bytes) = match self.write(cx, &frames, false) {
                    Ok(written) => written,
                    Err(turn) => return turn,
                };
                self.stream.scope().wrote(sent as u64, bytes as u64);
                self.stream.written();
                if let Some(joining) = self.joining.front_mut() {
                    joining.advance(&frames[..sent]);
                }
                Turn::Again
            }
            Poll::Ready(Read::Gap(gap)) => {
                self.app.metrics.gap(gap.reason.as_str());
                self.say(encode::gap(&gap))
            }
            Poll::Ready(Read::End { topic, id, .. }) => self.say(encode::end(&topic, id, None)),
            Poll::Ready(_) | Poll::Pending => Turn::Wait,
        }
    }

    /// Hands topics over that stand where the stream stands.
    fn meet(&mut self) -> Turn {
        let cursor = self.stream.subscriber().cursor();
        let Some(joining) = self.joining.front_mut() else {
            return Turn::Wait;
        };
        if joining.fix_meeting(cursor) {
            // From here on the stream knows how far it may read.
            return Turn::Again;
        }
        if !(joining.is_there() && self.reached) {
            return Turn::Wait;
        }
        self.reached = false;
        let Some(joining) = self.joining.pop_front() else {
            return Turn::Wait;
        };
        let (subscriber, asked) = joining.into_parts();
        match self.stream.subscriber_mut().absorb(subscriber) {
            Ok(()) => {
                let cursor = self.stream.subscriber().cursor();
                self.say(encode::live(asked.iter(), cursor))
            }
            Err(subscriber) => {
                // The log was born again between the two: they meet elsewhere.
                self.joining.push_front(Joining::new(*subscriber, asked));
                Turn::Again
            }
        }
    }

    /// Writes events as far as the socket takes them; the rest is read again. Returns how many, and their bytes.
    fn write(
        &mut self,
        cx: &mut Context<'_>,
        frames: &[Arc<Frame>],
        with_cursor: bool,
    ) -> Result<(usize, usize), Turn> {
        let mut bytes = 0;
        for (sent, frame) in frames.iter().enumerate() {
            if sent > 0 {
                match Pin::new(&mut self.socket).poll_ready(cx) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(_)) => return Err(Turn::Over(CloseReason::Gone)),
                    Poll::Pending => return Ok((sent, bytes)),
                }
            }
            let message = frame.message(with_cursor);
            bytes += on_the_wire(message.len());
            let text = Utf8Bytes::try_from(message).expect("JSON is UTF-8");
            if let turn @ Turn::Over(_) = self.send(Message::Text(text)) {
                return Err(turn);
            }
        }
        Ok((frames.len(), bytes))
    }

    fn control(&mut self, control: Control) -> Turn {
        let retry = self.app.retry_ms();
        let text = match control {
            Control::Open(opening) => {
                let connection = self.stream.scope().connection();
                let data = OpenData::new(&connection, &opening, self.stream.subscriber());
                encode::open(&data, opening.cursor, retry)
            }
            Control::Gap(gap) => encode::gap(&gap),
            Control::Live(cursor) => encode::live(self.stream.subscriber().topics(), cursor),
            Control::End { topic, id, moves } => encode::end(&topic, id, moves.then_some(id)),
            Control::Cursor(cursor) | Control::Silence(Some(cursor)) => encode::cursor(cursor),
            // The ping fills the silence.
            Control::Silence(None) => return Turn::Again,
            Control::AuthExpiring(data) => encode::auth_expiring(&data),
            Control::Drain(cursor) => encode::drain(cursor, retry),
        };
        self.say(text)
    }
}

/// What a message of so many bytes takes with its head (RFC 6455, 5.2).
fn on_the_wire(payload: usize) -> usize {
    payload
        + match payload {
            0..=125 => 2,
            126..=65_535 => 4,
            _ => 10,
        }
}

impl<S> Future for Session<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        for _ in 0..TURNS {
            match this.turn(cx) {
                Turn::Again => {}
                Turn::Wait => return Poll::Pending,
                Turn::Over(reason) => {
                    // One that was closed has said why.
                    if matches!(this.phase, Phase::Open) {
                        this.stream.scope().ends(reason);
                    }
                    return Poll::Ready(());
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<S> Drop for Session<S> {
    fn drop(&mut self) {
        if let Some(alarm) = self.alarm {
            self.app.alarms.cancel(alarm);
        }
    }
}
