//! Where the log stands, asked by many at once and read once.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{
    Shared, ask,
    calls::Function,
    entry,
    pipe::Pipe,
    resp::{Request, Value},
    unexpected,
};
use crate::{
    event::Topic,
    store::{Position, StoreError},
};

/// Who waits for a position of the log: one read answers all who asked before it began.
#[derive(Clone, Default)]
pub(super) struct Positions {
    waiting: Arc<Mutex<Waiting>>,
}

#[derive(Default)]
struct Waiting {
    /// Somebody is at it.
    reading: bool,
    answers: Vec<oneshot::Sender<Result<Position, StoreError>>>,
}

impl Positions {
    /// A position that is not older than this call.
    pub(super) fn ask(
        &self,
        pipe: &Pipe,
        shared: &Arc<Shared>,
    ) -> impl Future<Output = Result<Position, StoreError>> + use<> {
        let (answer, answered) = oneshot::channel();
        let idle = {
            let mut waiting = self.waiting.lock();
            waiting.answers.push(answer);
            !std::mem::replace(&mut waiting.reading, true)
        };
        if idle {
            tokio::spawn(self.clone().answer(pipe.clone(), shared.clone()));
        }
        async move { answered.await.unwrap_or_else(|_| Err(unexpected())) }
    }

    /// Reads until nobody waits any more.
    async fn answer(self, pipe: Pipe, shared: Arc<Shared>) {
        loop {
            let asking = {
                let mut waiting = self.waiting.lock();
                waiting.reading = !waiting.answers.is_empty();
                std::mem::take(&mut waiting.answers)
            };
            if asking.is_empty() {
                return;
            }
            let position = read(&pipe, &shared, &[]).await;
            for answer in asking {
                let _ = answer.send(position.clone());
            }
        }
    }
}

/// Where the log and these topics stand.
pub(super) async fn read(
    pipe: &Pipe,
    shared: &Shared,
    topics: &[Topic],
) -> Result<Position, StoreError> {
    let answer = ask(pipe, position_request(shared, topics)).await;
    if answer.is_err() {
        // A log that is gone is made anew on the feed.
        shared.exchange.join(Vec::new(), false);
    }
    parse_position(&answer?, topics.len()).ok_or_else(unexpected)
}

/// The call that asks where the log and these topics stand.
pub(super) fn position_request(shared: &Shared, topics: &[Topic]) -> Request {
    let keys = &shared.keys;
    let mut names = Vec::with_capacity(3 + topics.len());
    names.extend([&keys.meta, &keys.last, &keys.lost].map(Clone::clone));
    names.extend(topics.iter().map(|topic| keys.topic(topic)));
    Request::call(Function::POSITION, &names).args(topics.iter().map(Topic::as_str))
}

/// Reads the answer to it.
pub(super) fn parse_position(reply: &Value, topics: usize) -> Option<Position> {
    let values = reply.array()?;
    if values.len() != 4 + 4 * topics {
        return None;
    }
    let id = |at: usize| values[at].text()?.parse().ok();
    Some(Position {
        born: id(0)?,
        last: id(1)?,
        horizon: id(2)?,
        now_ms: values[3].text()?.parse().ok()?,
        topics: values[4..]
            .chunks_exact(4)
            .map(entry::topic_position)
            .collect::<Option<_>>()?,
    })
}
