//! What is new, in order: sharded channels and position reads on one connection of their own.
//!
//! Redis answers on a connection in the order in which it did things. So a position that was asked for here comes after every
//! message that was published before it, and before all that were published later: that is what makes it a place in the feed.
//! Reasons and proof stand in `ARCHITECTURE.md`.
//!
//! # Invariants
//! 1. Entries of a topic are handed over only after its first position, and from then on all of them, until a cut is said.
//! 2. The birth of the log changes only between two positions, so no position speaks of two logs.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::time::{self, Instant, MissedTickBehavior};

use super::{
    Shared,
    backoff::Backoff,
    calls::Calls,
    cluster,
    entry::{self, EntryError, Message},
    letters, library,
    link::{Link, LinkError, Output, lost, read, role},
    positions::{parse_position, position_request},
    resp::{Request, Value},
};
use crate::{
    event::{EventId, Topic},
    store::FeedItem,
};

/// Topics that one command names.
const TOPICS_AT_ONCE: usize = 500;
/// How often the position is read, if nobody asks for it.
const POSITION: Duration = Duration::from_millis(500);
/// How often it is looked at what was published, against what was heard of it.
const HEADS: Duration = Duration::from_secs(5);
/// After this time without a reply the connection is given up.
const SILENCE: Duration = Duration::from_secs(3);
/// Milliseconds that an id may lie ahead of the clock of Redis, as in `functions.lua`, and some for the way.
const AHEAD_MS: u64 = 660_000;

/// Keeps the feed for ever.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut backoff = Backoff::default();
    let stop = shared.stop.clone();
    loop {
        let mut place = shared.endpoint.place.mark();
        let error = tokio::select! {
            error = connection(&shared, &mut backoff) => error,
            () = stop.cancelled() => return,
        };
        shared.endpoint.failed(&error);
        let why = error.to_string();
        if shared.health.why_away().as_deref() != Some(&why) {
            tracing::warn!(%why, "the feed from Redis is gone, trying again");
        }
        shared.health.away(&why);
        tokio::select! {
            () = time::sleep(backoff.next()) => {}
            () = place.lost() => backoff.reset(),
            () = stop.cancelled() => return,
        }
    }
}

async fn connection(shared: &Arc<Shared>, backoff: &mut Backoff) -> LinkError {
    let opened = async {
        let mut link = shared.endpoint.connect("feed").await?;
        library::load(&mut link).await?;
        let born = library::begin(&mut link, shared).await?;
        Ok((link, born))
    };
    let (link, born) = match opened.await {
        Ok(opened) => opened,
        Err(error) => return error,
    };
    shared.counters.connected();
    shared.health.called(link.calls);
    let mut session = Session {
        shared,
        calls: link.calls,
        subscriptions: HashMap::new(),
        leaving: HashMap::new(),
        expected: VecDeque::new(),
        heard: Instant::now(),
        numbers: 0,
        output: Output::new(&link),
        accepted: born,
        settling: false,
        heads_since: None,
        clock: None,
        proven: false,
        letters: false,
        writing: None,
    };
    let error = session.run(link).await;
    if session.proven {
        backoff.reset();
    }
    // Also where nothing has come yet: the session has taken what the hub asked for.
    shared.push(FeedItem::Cut);
    error
}

/// A channel that was asked for.
struct Subscription {
    topic: Topic,
    /// Tells it from one of the same topic that was given up.
    number: u64,
    /// Its position has been handed over.
    joined: bool,
    /// Milliseconds of the newest entry that was heard of.
    newest_ms: u64,
}

/// What a reply answers.
enum Expected {
    /// A position with these topics, and the numbers of their subscriptions.
    Position(Vec<Topic>, Vec<u64>),
    /// The birth of the log, made or raised.
    Birth,
    /// Who it is that answers.
    Role,
    /// The same; before it, an error if letters are refused.
    Letters,
    /// The secret that was there before, if there was one.
    Secret,
    /// Settings were written.
    Settings,
    /// How it is set up.
    Info,
    /// Only whether it was done.
    Nothing,
    /// What was published lately.
    Heads,
}

/// One connection's time.
struct Session<'a> {
    shared: &'a Arc<Shared>,
    calls: Calls,
    subscriptions: HashMap<Topic, Subscription>,
    /// How many times the end of a subscription was asked for and has not been confirmed.
    leaving: HashMap<Topic, u32>,
    expected: VecDeque<(Expected, Instant)>,
    /// When something last came.
    heard: Instant,
    /// How many subscriptions there have been.
    numbers: u64,
    output: Output,
    /// The birth of the log above which everything lies that this replica has seen.
    accepted: EventId,
    /// The birth is being made or raised: no position means anything before that is done.
    settling: bool,
    /// From which millisecond on the heads are looked at next.
    heads_since: Option<u64>,
    /// What the clock of Redis said, and when.
    clock: Option<(u64, Instant)>,
    /// A position has been read: the connection is of use.
    proven: bool,
    /// The letters to this replica were asked for.
    letters: bool,
    /// The number of the settings that are being written.
    writing: Option<u64>,
}

impl Session<'_> {
    async fn run(&mut self, link: Link) -> LinkError {
        let Link {
            mut reader,
            mut writer,
            mut decoder,
            mut input,
            mut hold,
            ..
        } = link;
        let mut positions = time::interval(POSITION);
        positions.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // How the server is set up is known before the first position says that all is well.
        self.look_at_server();
        let mut heads = time::interval_at(Instant::now() + HEADS, HEADS);
        heads.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let shared = self.shared;
        loop {
            let step = tokio::select! {
                read = read(&mut reader, &mut input) => read.and_then(|()| {
                    let at = Instant::now();
                    self.heard = at;
                    while let Some(value) = decoder.decode(&mut input)? {
                        self.take(value, at)?;
                    }
                    Ok(())
                }),
                sent = self.output.write(&mut writer), if self.output.is_pending() => sent,
                () = lost(&mut hold) => Err(LinkError::Elsewhere),
                () = shared.exchange.asked.notified() => {
                    self.ask();
                    Ok(())
                }
                _ = positions.tick() => {
                    // A reply that stands behind megabytes of messages is late, but not missing.
                    let late = self.expected.front().is_some_and(|(_, at)| at.elapsed() > SILENCE);
                    if late && self.heard.elapsed() > SILENCE {
                        Err(LinkError::Silent)
                    } else {
                        self.leave_letters();
                        if self.expected.is_empty() {
                            shared.exchange.asks.lock().position = true;
                            self.ask();
                        }
                        Ok(())
                    }
                }
                _ = heads.tick() => {
                    self.look_at_server();
                    self.look_at_heads();
                    Ok(())
                }
            };
            if let Err(error) = step {
                return error;
            }
        }
    }

    fn send(&mut self, request: &Request) {
        request.write(self.calls, &mut self.output.bytes);
    }

    fn expect(&mut self, expected: Expected) {
        self.expected.push_back((expected, Instant::now()));
    }

    /// Does what the hub, or somebody else, has asked for.
    fn ask(&mut self) {
        if !self.letters {
            self.subscribe_to_letters();
        }
        if self.settling {
            return;
        }
        self.write_settings();
        let asks = std::mem::take(&mut *self.shared.exchange.asks.lock());
        if asks.raise
            && let Some(raise) = library::raise_request(self.shared)
        {
            self.send(&raise);
            self.expect(Expected::Birth);
            self.settling = true;
            let mut again = self.shared.exchange.asks.lock();
            again.join.extend(asks.join);
            again.leave.extend(asks.leave);
            again.position = true;
            return;
        }
        let left: Vec<Topic> = asks.leave.into_iter().collect();
        for topics in left.chunks(TOPICS_AT_ONCE) {
            let mut request = Request::new("SUNSUBSCRIBE");
            let mut any = false;
            for topic in topics {
                if self.subscriptions.remove(topic).is_some() {
                    request.push(self.shared.keys.channel(topic));
                    *self.leaving.entry(topic.clone()).or_default() += 1;
                    any = true;
                }
            }
            if any {
                self.send(&request);
            }
        }
        let joining: Vec<Topic> = asks.join.into_iter().collect();
        for topics in joining.chunks(TOPICS_AT_ONCE) {
            let channels = topics.iter().map(|topic| self.shared.keys.channel(topic));
            self.send(&Request::new("SSUBSCRIBE").args(channels));
            for topic in topics {
                self.numbers += 1;
                let number = self.numbers;
                self.subscriptions
                    .entry(topic.clone())
                    .or_insert_with(|| Subscription {
                        topic: topic.clone(),
                        number,
                        joined: false,
                        newest_ms: 0,
                    });
            }
            self.position(topics.to_vec());
        }
        if joining.is_empty() && asks.position {
            self.position(Vec::new());
        }
    }

    /// Asks for the position, which is a place in the feed because it is asked for here.
    fn position(&mut self, topics: Vec<Topic>) {
        let request = position_request(self.shared, &topics);
        self.send(&request);
        let number = |topic| self.subscriptions.get(topic).map_or(0, |it| it.number);
        let numbers = topics.iter().map(number).collect();
        self.expect(Expected::Position(topics, numbers));
    }

    fn look_at_server(&mut self) {
        // A server that has become a replica keeps its connections, and says what others have written.
        if !self.subscribe_to_letters() {
            self.send(&Request::new("HELLO"));
            self.expect(Expected::Role);
        }
        self.send(&library::info_request());
        self.expect(Expected::Info);
        if let Some(offer) = self.shared.secret.offer(&self.shared.keys) {
            self.send(&offer);
            self.expect(Expected::Secret);
        }
    }

    /// A subscription has no reply, but a refusal is one. So something is asked behind it that is never refused: what comes
    /// before the answer to that is the refusal.
    fn subscribe_to_letters(&mut self) -> bool {
        let Some(subscribe) = letters::subscribe(self.shared) else {
            return false;
        };
        self.letters = true;
        self.send(&subscribe);
        self.send(&Request::new("HELLO"));
        self.expect(Expected::Letters);
        true
    }

    fn leave_letters(&mut self) {
        if self.letters
            && let Some(unsubscribe) = letters::unsubscribe(self.shared)
        {
            self.letters = false;
            self.send(&unsubscribe);
        }
    }

    fn write_settings(&mut self) {
        if self.writing.is_none() && self.shared.settings.are_unwritten() {
            let (init, number) = library::init_request(self.shared);
            self.send(&init);
            self.expect(Expected::Settings);
            self.writing = Some(number);
        }
    }

    fn look_at_heads(&mut self) {
        let Some(since) = self.heads_since else {
            return;
        };
        if self.subscriptions.is_empty() || self.settling {
            return;
        }
        let request = Request::new("ZRANGEBYSCORE")
            .arg(&self.shared.keys.heads)
            .arg(since.to_string())
            .arg("+inf")
            .args(["WITHSCORES", "LIMIT", "0", "1000"]);
        self.send(&request);
        self.expect(Expected::Heads);
    }

    fn take(&mut self, value: Value, at: Instant) -> Result<(), LinkError> {
        match value {
            Value::Push(values) => self.pushed(&values, at),
            value => {
                let (expected, _) = self.expected.pop_front().ok_or(LinkError::Unexpected)?;
                match expected {
                    Expected::Position(topics, numbers) => {
                        self.positioned(topics, &numbers, &value)
                    }
                    Expected::Birth => self.settled(&value),
                    Expected::Heads => self.heads(&value),
                    Expected::Letters => {
                        if let Value::Error(text) = value {
                            self.shared.health.letters(Some(&text));
                            self.expected.push_front((Expected::Role, Instant::now()));
                            return Ok(());
                        }
                        self.shared.health.letters(None);
                        is_master(&value)
                    }
                    Expected::Role => is_master(&value),
                    Expected::Secret => {
                        self.shared.secret.answered(&value);
                        Ok(())
                    }
                    Expected::Settings => {
                        if let Value::Error(text) = value {
                            return Err(LinkError::Refused(text));
                        }
                        if let Some(number) = self.writing.take() {
                            self.shared.settings.written(number);
                        }
                        tracing::info!("the settings of the log were changed");
                        self.ask();
                        Ok(())
                    }
                    Expected::Info => {
                        self.shared.health.warn(library::warnings_of(&value));
                        Ok(())
                    }
                    Expected::Nothing => match value {
                        Value::Error(text) => Err(LinkError::Refused(text)),
                        _ => Ok(()),
                    },
                }
            }
        }
    }

    fn pushed(&mut self, values: &[Value], at: Instant) -> Result<(), LinkError> {
        let shared = self.shared;
        if letters::take(shared, values) {
            return Ok(());
        }
        let kind = values.first().and_then(Value::text);
        let channel = values.get(1).and_then(Value::bytes);
        let name = channel.and_then(|channel| shared.keys.topic_of_channel(channel));
        match (kind, name) {
            (Some("smessage"), Some(name)) => {
                let Some(subscription) = self.subscriptions.get_mut(name).filter(|it| it.joined)
                else {
                    // What comes before the first position lies below it.
                    return Ok(());
                };
                let payload = values
                    .get(2)
                    .and_then(Value::bytes)
                    .map_or(&[][..], |payload| payload);
                match entry::message(&subscription.topic, payload) {
                    Ok(Message::Entry(event)) if is_ahead(self.clock, event.id) => {
                        shared.counters.skipped("feed", EntryError::Id);
                    }
                    Ok(Message::Entry(event)) => {
                        subscription.newest_ms = subscription.newest_ms.max(event.id.ms());
                        let mut seen = shared.seen.lock();
                        seen.highest = seen.highest.max(event.id);
                        drop(seen);
                        shared.push(FeedItem::Event(Arc::new(event), at));
                    }
                    Ok(Message::Deleted(through)) => {
                        let topic = subscription.topic.clone();
                        shared.push(FeedItem::Trimmed(topic, through));
                    }
                    Ok(Message::Lost(range)) => {
                        let topic = subscription.topic.clone();
                        shared.push(FeedItem::Lost(topic, range));
                    }
                    Err(error) => shared.counters.skipped("feed", error),
                }
                Ok(())
            }
            (Some("sunsubscribe"), Some(name)) => {
                match self.leaving.get_mut(name) {
                    Some(1) => drop(self.leaving.remove(name)),
                    Some(count) => *count -= 1,
                    // Nobody asked for it: the channel has moved away.
                    None => return Err(LinkError::Unsubscribed),
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Asks again for what has to wait until the birth is settled.
    fn again(&self, topics: Vec<Topic>) {
        let mut asks = self.shared.exchange.asks.lock();
        for topic in topics {
            if !asks.leave.contains(&topic) {
                asks.join.insert(topic);
            }
        }
        asks.position = true;
    }

    fn positioned(
        &mut self,
        mut topics: Vec<Topic>,
        numbers: &[u64],
        reply: &Value,
    ) -> Result<(), LinkError> {
        if let Value::Error(text) = reply {
            if cluster::is_moving(text) {
                // Nothing more can be said of the log before it has arrived, here or elsewhere.
                self.again(topics);
                self.proven = false;
                self.shared.health.away(text);
                return Ok(());
            }
            // Where the functions are gone, a new connection brings them.
            if !text.starts_with("NOT_INITIALISED") {
                return Err(LinkError::Refused(text.clone()));
            }
            self.again(topics);
            if !std::mem::replace(&mut self.settling, true) {
                let (init, _) = library::init_request(self.shared);
                self.send(&init);
                self.expect(Expected::Birth);
            }
            return Ok(());
        }
        let mut position = parse_position(reply, topics.len()).ok_or(LinkError::Unexpected)?;
        {
            let mut seen = self.shared.seen.lock();
            let known = seen.born.is_none_or(|born| born == position.born);
            if !known && position.born != self.accepted {
                // Another log. Before it is told, it has to lie above everything of the old one.
                drop(seen);
                self.again(topics);
                if !std::mem::replace(&mut self.settling, true) {
                    // Whoever published first made it, without the settings.
                    let (init, _) = library::init_request(self.shared);
                    self.send(&init);
                    self.expect(Expected::Nothing);
                    if let Some(raise) = library::raise_request(self.shared) {
                        self.send(&raise);
                        self.expect(Expected::Birth);
                    }
                }
                return Ok(());
            }
            // Another log was accepted because it was born above everything of the old one.
            seen.highest = seen.highest.max(position.last);
            seen.confirmed = position.last;
            seen.born = Some(position.born);
        }
        self.heads_since.get_or_insert(position.now_ms);
        self.clock = Some((position.now_ms, Instant::now()));
        if !std::mem::replace(&mut self.proven, true) {
            self.shared.health.back();
            tracing::info!(born = %position.born, "the feed from Redis is open");
        }
        // A topic that was left, and followed again, waits for the position of its new subscription.
        let stays = |topic: &Topic, number: u64| {
            self.subscriptions
                .get(topic)
                .is_some_and(|it| it.number == number)
        };
        let stay: Vec<bool> = topics
            .iter()
            .zip(numbers)
            .map(|(topic, &number)| stays(topic, number))
            .collect();
        let mut which = stay.iter();
        topics.retain(|_| which.next() == Some(&true));
        let mut which = stay.iter();
        position.topics.retain(|_| which.next() == Some(&true));
        for (topic, stand) in topics.iter().zip(&position.topics) {
            if let Some(subscription) = self.subscriptions.get_mut(topic) {
                subscription.joined = true;
                let newest = stand.last.max(stand.end).unwrap_or_default();
                subscription.newest_ms = subscription.newest_ms.max(newest.ms());
            }
        }
        self.shared
            .push(FeedItem::Joined(topics, Box::new(position)));
        Ok(())
    }

    fn settled(&mut self, reply: &Value) -> Result<(), LinkError> {
        if let Value::Error(text) = reply {
            return Err(LinkError::Refused(text.clone()));
        }
        self.accepted = library::birth(reply).ok_or(LinkError::Unexpected)?;
        self.settling = false;
        self.ask();
        Ok(())
    }

    /// An entry that was published and not heard of: the subscription is gone without a word. It is made again, and what is
    /// missing is read.
    fn heads(&mut self, reply: &Value) -> Result<(), LinkError> {
        if let Value::Error(text) = reply {
            if cluster::is_moving(text) {
                return Ok(());
            }
            return Err(LinkError::Refused(text.clone()));
        }
        let pairs = reply.array().ok_or(LinkError::Unexpected)?;
        // RESP3 puts each pair into an array of its own.
        let flat: Vec<&Value> = pairs
            .iter()
            .flat_map(|value| value.array().unwrap_or(std::slice::from_ref(value)))
            .collect();
        let mut missed = Vec::new();
        for pair in flat.chunks_exact(2) {
            let (Some(name), Some(ms)) = (pair[0].text(), pair[1].text()) else {
                continue;
            };
            let Some(ms) = ms.parse::<f64>().ok().filter(|ms| *ms >= 0.0) else {
                continue;
            };
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a score is a whole number of milliseconds"
            )]
            let ms = ms as u64;
            self.heads_since = self.heads_since.max(Some(ms));
            if let Some(subscription) = self.subscriptions.get(name)
                && subscription.joined
                && subscription.newest_ms < ms
            {
                missed.push(subscription.topic.clone());
            }
        }
        if !missed.is_empty() {
            tracing::warn!(
                topics = missed.len(),
                "the feed has passed over entries, joining their topics again"
            );
            self.again(missed);
            self.ask();
        }
        Ok(())
    }
}

/// Whether the server, as `HELLO` describes it, is one to stay with.
fn is_master(about: &Value) -> Result<(), LinkError> {
    match role(about) {
        Some("master") | None => Ok(()),
        Some(_) => Err(LinkError::Replica),
    }
}

/// Whether an id lies further in the future than the functions would give one.
fn is_ahead(clock: Option<(u64, Instant)>, id: EventId) -> bool {
    clock.is_some_and(|(ms, at)| {
        let passed = u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX);
        id.ms() > ms.saturating_add(passed).saturating_add(AHEAD_MS)
    })
}
