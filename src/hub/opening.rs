//! How a subscription begins: join its topics, judge its cursor, place its start.
//!
//! The verdict is made before the first byte is sent, because the response head states it.

use std::{
    future::poll_fn,
    sync::{Arc, atomic::Ordering},
    task::Poll,
    time::Duration,
};

use tokio::time::Instant;

use super::{
    Hub, Shared,
    shelf::{HubPage, Shelved},
    subscriber::{Followed, Subscriber},
};
use crate::{
    event::{EventId, Topic},
    log::{Gap, GapReason, Replay, Start, Tail},
    store::{Position, StoreError},
};

/// How long a new stream waits for a store that is known to be away: it may be back in a moment.
const AWAY: Duration = Duration::from_millis(500);

/// What a new subscriber is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    /// Whether the resume is complete.
    pub replay: Replay,
    /// The cursor from which the stream goes on.
    pub cursor: EventId,
    /// The greatest end, if every topic of the subscription is finished.
    pub ended: Option<EventId>,
}

/// Why a subscription could not begin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubscribeError {
    /// This replica follows as many topics as it may.
    #[error("this replica follows {0} topics, which is its limit")]
    TooManyTopics(usize),
    /// The store could not be asked, and what is in memory proves nothing about this start.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Where to begin, and what that means for the client.
struct Plan {
    replay: Replay,
    cursor: EventId,
    /// Topics of which it is of no concern what lies before their first entry: asked for, or told already.
    anywhere: Vec<Topic>,
    /// Whether the client is told when it has caught up.
    tells_live: bool,
}

impl Plan {
    fn now(cursor: EventId) -> Self {
        Self {
            replay: Replay::None,
            cursor,
            anywhere: Vec::new(),
            tells_live: false,
        }
    }

    fn asked(cursor: EventId, topics: &[Topic]) -> Self {
        Self {
            replay: Replay::None,
            cursor,
            anywhere: topics.to_vec(),
            tells_live: true,
        }
    }
}

impl Hub {
    /// Follows `topics` from `start`.
    ///
    /// # Errors
    /// See [`SubscribeError`].
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind.
    pub async fn subscribe(
        &self,
        topics: &[Topic],
        start: Start,
    ) -> Result<(Subscriber, Opening), SubscribeError> {
        let shared = &self.shared;
        let followed = shared.follow(topics)?;
        let mut subscriber = Subscriber::new(shared.clone(), followed);
        let plan = loop {
            let patience = shared.config.join_timeout;
            let patience = if shared.store.away() {
                patience.min(AWAY)
            } else {
                patience
            };
            let joined = tokio::time::timeout(patience, subscriber.joined()).await;
            joined.map_err(|_| StoreError::Unavailable("it did not answer in time".into()))?;
            if let Some(last) = shared.store.last() {
                shared.reach(last).await?;
            }
            let epoch = subscriber.before_verdict();
            let plan = plan(shared, &mut subscriber, topics, start).await?;
            // A verdict about a log that is gone meanwhile is none.
            if shared.frontier().epoch == epoch {
                break plan;
            }
        };
        let excused = if plan.anywhere.is_empty() {
            EventId::ZERO
        } else {
            // What is published from here on is not excused.
            let position = shared.store.position(&[]).await;
            let frontier = shared.frontier();
            // While a log that was born again is being joined, the frontier is still that of the one before.
            let known = frontier.id.max(frontier.born);
            position.map_or(known, |position| position.last.max(known))
        };
        subscriber.begin(plan.cursor, &plan.anywhere, excused, plan.tells_live);
        let ended = subscriber.ended();
        Ok((
            subscriber,
            Opening {
                replay: plan.replay,
                cursor: plan.cursor,
                ended,
            },
        ))
    }
}

impl Shared {
    fn follow(&self, topics: &[Topic]) -> Result<Vec<Followed>, SubscribeError> {
        let mut new = Vec::new();
        let mut followed = Vec::with_capacity(topics.len());
        let mut full = false;
        let most = self.topics.load(Ordering::Relaxed);
        for topic in topics {
            match self.registry.follow(topic, most) {
                Ok((log, is_new)) => {
                    followed.push(Followed::new(log));
                    if is_new {
                        new.push(topic.clone());
                    }
                }
                Err(_) => full = true,
            }
        }
        // Also when this subscription is refused: another one may have found the new ones meanwhile and wait for them.
        if !new.is_empty() {
            self.store.join(new, self.frontier().id);
        }
        if full {
            Err(SubscribeError::TooManyTopics(most))
        } else {
            Ok(followed)
        }
    }
}

async fn plan(
    shared: &Arc<Shared>,
    subscriber: &mut Subscriber,
    topics: &[Topic],
    start: Start,
) -> Result<Plan, SubscribeError> {
    Ok(match start {
        Start::Now | Start::Last(0) => Plan::now(now(shared).await),
        Start::Unreadable => unknown(topics, now(shared).await),
        Start::After(cursor) => after(shared, subscriber, topics, cursor.id()).await?,
        Start::Earliest => Plan::asked(EventId::ZERO, topics),
        Start::Since(ms) => since(shared, topics, ms, &fresh(shared).await?).await?,
        Start::Age(age_ms) => {
            let position = fresh(shared).await?;
            since(
                shared,
                topics,
                position.now_ms.saturating_sub(age_ms),
                &position,
            )
            .await?
        }
        Start::Last(count) => {
            let position = fresh(shared).await?;
            let mut newest = Vec::new();
            for topic in topics {
                newest.extend(shared.store.newest(topic, count).await?);
            }
            newest.sort_unstable_by(|a, b| b.cmp(a));
            match newest.get(count - 1).or(newest.last()) {
                Some(first) => Plan::asked(first.previous().max(position.born), topics),
                None => Plan::asked(shared.frontier().id, topics),
            }
        }
    })
}

/// A position of now, which the frontier has reached.
async fn fresh(shared: &Shared) -> Result<Position, StoreError> {
    let position = shared.store.position(&[]).await?;
    shared.reach(position.last).await?;
    Ok(position)
}

/// The place after everything that was stored before this moment; while the store is away, after everything that is known.
async fn now(shared: &Shared) -> EventId {
    let _ = fresh(shared).await;
    shared.frontier().id
}

fn unknown(topics: &[Topic], now: EventId) -> Plan {
    let gap = Gap {
        reason: GapReason::Unknown,
        topics: topics.to_vec(),
        missed_at_least: None,
    };
    Plan {
        replay: Replay::Gap(gap),
        tells_live: true,
        ..Plan::now(now)
    }
}

async fn after(
    shared: &Arc<Shared>,
    subscriber: &mut Subscriber,
    topics: &[Topic],
    cursor: EventId,
) -> Result<Plan, SubscribeError> {
    if cursor > shared.frontier().id {
        // Replicas lag: whether a cursor lies in the future is for the store to say.
        let last = shared.store.position(&[]).await?.last;
        if cursor > last {
            if shared.store.settling() {
                // It may have been given out by a server that is gone, and be judged truly in a moment.
                let why = "replicas have not all found the new master yet".to_owned();
                return Err(StoreError::Unavailable(why).into());
            }
            // Below that it may have seen what is still there: it would get it again.
            shared.reach(last).await?;
            return Ok(unknown(topics, shared.frontier().id));
        }
        shared.reach(cursor).await?;
    }
    let plan = Plan {
        replay: Replay::Complete,
        cursor,
        anywhere: Vec::new(),
        tells_live: true,
    };
    let born = shared.frontier().born;
    if cursor < born {
        let gap = Gap {
            reason: GapReason::Reset,
            topics: topics.to_vec(),
            missed_at_least: None,
        };
        return Ok(Plan {
            replay: Replay::Gap(gap),
            cursor: born,
            anywhere: topics.to_vec(),
            ..plan
        });
    }
    let mut missing = Vec::new();
    for (at, topic) in topics.iter().enumerate() {
        if let Some(reason) = subscriber.missing(at, cursor).await? {
            missing.push((reason, topic.clone()));
        }
    }
    let Some(reason) = missing.iter().map(|(reason, _)| *reason).max() else {
        return Ok(plan);
    };
    let missed_at_least = Some(missing.len() as u64);
    let missing: Vec<Topic> = missing.into_iter().map(|(_, topic)| topic).collect();
    let gap = Gap {
        reason,
        topics: missing.clone(),
        missed_at_least,
    };
    Ok(Plan {
        replay: Replay::Gap(gap),
        anywhere: missing,
        ..plan
    })
}

async fn since(
    shared: &Shared,
    topics: &[Topic],
    ms: u64,
    position: &Position,
) -> Result<Plan, SubscribeError> {
    if ms > position.now_ms {
        return Ok(Plan::now(shared.frontier().id));
    }
    let before = EventId::new(ms, 0).previous();
    let mut first: Option<EventId> = None;
    for topic in topics {
        let page = shared.store.read(topic, before, 1).await?;
        first = page
            .events
            .first()
            .map(|event| event.id)
            .into_iter()
            .chain(first)
            .min();
    }
    let from = first.map_or(shared.frontier().id, |first| {
        first.previous().max(position.born)
    });
    Ok(Plan::asked(from, topics))
}

impl Subscriber {
    /// Waits until every topic is joined.
    async fn joined(&mut self) {
        poll_fn(|cx| {
            self.register(cx.waker());
            if self.followed().iter().all(|followed| followed.log.joined()) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }

    /// Why entries of the topic at `at` after `cursor` are missing, if they are.
    async fn missing(
        &mut self,
        at: usize,
        cursor: EventId,
    ) -> Result<Option<GapReason>, StoreError> {
        {
            let state = self.followed()[at].log.read();
            if state.lost.iter().any(|lost| lost.range.holds(cursor)) {
                return Ok(Some(GapReason::Lost));
            }
            if state
                .tail
                .as_ref()
                .is_some_and(|tail| cursor >= tail.floor())
            {
                return Ok(None);
            }
        }
        let page =
            tokio::time::timeout(self.shared().config.join_timeout, self.fetch(at, cursor)).await;
        match page {
            Ok(page) => Ok(page?.and_then(|page| page.proof.missing(cursor))),
            Err(_) => Err(StoreError::Unavailable("it did not answer in time".into())),
        }
    }

    /// The page after `cursor`; none if the tail has it meanwhile.
    async fn fetch(
        &mut self,
        at: usize,
        cursor: EventId,
    ) -> Result<Option<Arc<HubPage>>, StoreError> {
        let asked = Some(Instant::now());
        poll_fn(|cx| {
            let followed = &self.followed()[at];
            match followed.log.read().tail.as_ref().map(Tail::floor) {
                // The log was born again: this is woken when the topic is joined again.
                None => return Poll::Pending,
                Some(floor) if cursor >= floor => return Poll::Ready(Ok(None)),
                Some(_) => {}
            }
            let slot = followed.slot();
            match self
                .shared()
                .page(&followed.log, cursor, slot, asked, cx.waker())
            {
                Shelved::Page(page) => Poll::Ready(Ok(Some(page))),
                Shelved::Wait => match followed.log.shelf.lock().failure() {
                    Some(error) => Poll::Ready(Err(error)),
                    None => Poll::Pending,
                },
            }
        })
        .await
    }
}
