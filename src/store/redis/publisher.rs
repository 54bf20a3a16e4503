//! Publishes that arrive together leave in one call; many calls are under way at once.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    task::yield_now,
};
use tokio_util::sync::CancellationToken;

use super::{
    Shared,
    calls::{Function, is_missing},
    keys::Keys,
    pipe::{CallError, Pipe},
    resp::{Request, Value},
};
use crate::{
    event::Topic,
    store::{Append, AppendError, Appended, StoreError},
};

/// Events of one call. Redis runs a call alone: others wait for about a millisecond.
const CALL_EVENTS: usize = 256;
/// Bytes of data of one call, unless a single event has more.
const CALL_BYTES: usize = 512 * 1024;
/// Calls that are under way at once.
const CALLS: usize = 16;
/// Publishers that may wait for their turn.
const QUEUE: usize = 1024;

type Answers = Vec<Result<Appended, AppendError>>;

struct Job {
    batch: Vec<Append>,
    answer: oneshot::Sender<Answers>,
}

/// The handle; cheap to clone.
#[derive(Clone)]
pub(super) struct Publisher {
    queue: mpsc::Sender<Job>,
}

pub(super) struct PublisherConfig {
    pub(super) pipe: Pipe,
    pub(super) shared: Arc<Shared>,
    pub(super) wait_replicas: usize,
    pub(super) timeout: Duration,
    pub(super) stop: CancellationToken,
}

impl Publisher {
    /// A publisher, and the task that has to be spawned for it.
    pub(super) fn new(config: PublisherConfig) -> (Self, impl Future<Output = ()> + Send) {
        let (queue, jobs) = mpsc::channel(QUEUE);
        (Self { queue }, run(Arc::new(config), jobs))
    }

    /// # Cancel safety
    /// What has not been sent when the future is dropped is not sent.
    pub(super) async fn append(&self, batch: Vec<Append>) -> Answers {
        let count = batch.len();
        let (answer, answers) = oneshot::channel();
        let stopping = || {
            let error = StoreError::Unavailable("the gateway is stopping".into());
            vec![Err(error.into()); count]
        };
        if self.queue.send(Job { batch, answer }).await.is_err() {
            return stopping();
        }
        answers.await.unwrap_or_else(|_| stopping())
    }
}

async fn run(config: Arc<PublisherConfig>, mut jobs: mpsc::Receiver<Job>) {
    // While one call waits for replicas, the next one gathers: two at once would wait for one another.
    let calls = if config.wait_replicas > 0 { 1 } else { CALLS };
    let calls = Arc::new(Semaphore::new(calls));
    let mut next = None;
    loop {
        let permit = tokio::select! {
            permit = calls.clone().acquire_owned() => permit,
            () = config.stop.cancelled() => return,
        };
        let Ok(permit) = permit else { return };
        let first = match next.take() {
            Some(job) => job,
            None => tokio::select! {
                job = jobs.recv() => match job {
                    Some(job) => job,
                    None => return,
                },
                () = config.stop.cancelled() => return,
            },
        };
        // Others that are ready now arrive together with it.
        yield_now().await;
        let mut gathered = vec![first];
        let (mut events, mut bytes) = size(&gathered[0].batch);
        while let Ok(job) = jobs.try_recv() {
            let more = size(&job.batch);
            if events + more.0 > CALL_EVENTS || bytes + more.1 > CALL_BYTES {
                next = Some(job);
                break;
            }
            (events, bytes) = (events + more.0, bytes + more.1);
            gathered.push(job);
        }
        gathered.retain(|job| !job.answer.is_closed());
        if !gathered.is_empty() {
            send(&config, gathered, permit).await;
        }
    }
}

fn size(batch: &[Append]) -> (usize, usize) {
    let bytes = |append: &Append| append.data.as_ref().map_or(0, |data| data.len());
    (batch.len(), batch.iter().map(bytes).sum())
}

/// One call on its way.
struct Call {
    /// Topics of its events, in order.
    topics: Vec<Topic>,
    /// Kept for the one repetition that is certain to be the first execution.
    request: Request,
    replies: oneshot::Receiver<Result<Vec<Value>, CallError>>,
}

/// Sends what was gathered, in its order, and leaves the answers to a task.
async fn send(config: &Arc<PublisherConfig>, gathered: Vec<Job>, permit: OwnedSemaphorePermit) {
    let (mut askers, mut appends) = (Vec::with_capacity(gathered.len()), Vec::new());
    for job in gathered {
        askers.push((job.batch.len(), job.answer));
        appends.extend(job.batch);
    }
    let mut calls = Vec::new();
    let mut rest = &appends[..];
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = |append: &&Append| {
            bytes += append.data.as_ref().map_or(0, |data| data.len());
            bytes <= CALL_BYTES
        };
        let count = rest
            .iter()
            .take(CALL_EVENTS)
            .take_while(fits)
            .count()
            .max(1);
        let (these, others) = rest.split_at(count);
        rest = others;
        let request = request(&config.shared.keys, these);
        let replies = replies(config, request.clone()).await;
        calls.push(Call {
            topics: these.iter().map(|append| append.topic.clone()).collect(),
            request,
            replies,
        });
    }
    drop(appends);
    let config = config.clone();
    tokio::spawn(async move {
        let mut answers = Vec::new();
        // What one publisher wants in an order is not done in another one.
        let alone = calls.len() == 1;
        for call in calls {
            answers.extend(answer(&config, call, alone).await);
        }
        drop(permit);
        let mut answers = answers.into_iter();
        for (count, asker) in askers {
            let _ = asker.send(answers.by_ref().take(count).collect());
        }
    });
}

/// The call of the batch function for these events.
fn request(keys: &Keys, appends: &[Append]) -> Request {
    let mut topics: HashMap<&Topic, usize> = HashMap::new();
    let mut named: Vec<&Topic> = Vec::new();
    let mut idempotency = Vec::new();
    for append in appends {
        topics.entry(&append.topic).or_insert_with(|| {
            named.push(&append.topic);
            named.len()
        });
        if let Some(key) = &append.key {
            idempotency.push(keys.idempotency(&append.topic, key));
        }
    }
    let mut names = Vec::with_capacity(3 + 2 * named.len() + idempotency.len());
    names.extend([&keys.meta, &keys.last, &keys.heads].map(Clone::clone));
    for topic in &named {
        names.push(keys.topic(topic));
        names.push(keys.channel(topic));
    }
    names.extend(idempotency);
    let mut request = Request::call(Function::PUBLISH_BATCH, &names).arg(named.len().to_string());
    for topic in &named {
        request.push(topic.as_str());
    }
    let mut keyed = 0;
    for append in appends {
        request.push(topics[&append.topic].to_string());
        request.push(match (append.end, &append.data) {
            (false, _) => "",
            (true, Some(_)) => "x",
            (true, None) => "X",
        });
        request.push(append.kind.as_str());
        request.push(append.data.as_deref().unwrap_or_default());
        if append.key.is_some() {
            keyed += 1;
            request.push(keyed.to_string());
        } else {
            request.push("0");
        }
    }
    request
}

async fn replies(
    config: &PublisherConfig,
    request: Request,
) -> oneshot::Receiver<Result<Vec<Value>, CallError>> {
    if let Some(why) = config.shared.health.why_closed() {
        let (answer, answered) = oneshot::channel();
        let _ = answer.send(Err(CallError::NotSent(why)));
        return answered;
    }
    if config.wait_replicas == 0 {
        return config.pipe.send(vec![request]).await;
    }
    // Less than what a publish may take, so that there is time for an answer.
    let patience = config.timeout.mul_f64(0.8).as_millis();
    let wait = Request::new("WAIT")
        .arg(config.wait_replicas.to_string())
        .arg(patience.to_string());
    config.pipe.send(vec![request, wait]).await
}

async fn answer(config: &PublisherConfig, call: Call, alone: bool) -> Answers {
    let unknown = || Err(CallError::Unknown);
    let mut replies = call.replies.await.unwrap_or_else(|_| unknown());
    if let Ok([Value::Error(text), ..]) = replies.as_deref()
        && is_missing(text)
    {
        // Somebody took the functions away, so this call has certainly done nothing.
        let loaded = config.pipe.call(call.request.loading()).await;
        tracing::warn!(
            loaded = loaded.is_ok(),
            "the functions were gone, they are loaded again"
        );
        let again = self::replies(config, call.request.clone()).await;
        replies = again.await.unwrap_or_else(|_| unknown());
    }
    if let Ok([Value::Error(text), ..]) = replies.as_deref()
        && alone
        && text.starts_with("MOVED ")
    {
        // Nothing was done here, and the pipe follows to where the keys are. What follows of the same publisher waits.
        let again = self::replies(config, call.request).await;
        replies = again.await.unwrap_or_else(|_| unknown());
    }
    let all = |error: StoreError| vec![Err(AppendError::Store(error)); call.topics.len()];
    let replies = match replies {
        Ok(replies) => replies,
        Err(CallError::NotSent(why)) => return all(StoreError::Unavailable(why.to_string())),
        Err(CallError::Unknown) => return all(StoreError::Timeout),
    };
    match &replies[0] {
        Value::Error(text) => all(refusal(text)),
        Value::Array(values) if values.len() == call.topics.len() => {
            let enough = match replies.get(1) {
                Some(count) => count.number().is_some_and(|count| {
                    usize::try_from(count).unwrap_or(0) >= config.wait_replicas
                }),
                None => true,
            };
            let answers = values.iter().zip(call.topics);
            let answers: Answers = answers
                .map(
                    |(value, topic)| match one(value.text().unwrap_or_default(), topic) {
                        // Stored here, but not as durably as is asked for.
                        Ok(_) if !enough => Err(AppendError::Store(StoreError::Timeout)),
                        answer => answer,
                    },
                )
                .collect();
            // Whoever was told an id has seen it: a master that has lost it must not give it out again.
            let newest = answers.iter().flatten().map(|it| it.id).max();
            let mut seen = config.shared.seen.lock();
            seen.highest = seen.highest.max(newest.unwrap_or_default());
            drop(seen);
            answers
        }
        other => {
            tracing::error!(
                ?other,
                "tidegate_publish_batch answered something else than was expected"
            );
            all(StoreError::Timeout)
        }
    }
}

/// What an error of the whole call means: most say that nothing was done.
fn refusal(text: &str) -> StoreError {
    const NOTHING_DONE: [&str; 13] = [
        "OOM",
        "LOADING",
        "READONLY",
        "MASTERDOWN",
        "NOREPLICAS",
        "MISCONF",
        "BUSY",
        "CLUSTERDOWN",
        "MOVED",
        "ASK",
        "NOPERM",
        "TRYAGAIN",
        "KEYS_INVALID",
    ];
    let code = text.split(' ').next().unwrap_or_default();
    if NOTHING_DONE.contains(&code) || is_missing(text) {
        StoreError::Unavailable(text.into())
    } else {
        tracing::error!(error = text, "a publish failed in Redis");
        StoreError::Timeout
    }
}

/// The answer to one event.
fn one(text: &str, topic: Topic) -> Result<Appended, AppendError> {
    let unexpected = || AppendError::Store(StoreError::Timeout);
    let (mark, rest) = text.split_at_checked(1).ok_or_else(unexpected)?;
    let id = || rest.parse().map_err(|_| unexpected());
    match mark {
        "+" => Ok(Appended {
            id: id()?,
            duplicate: false,
        }),
        "=" => Ok(Appended {
            id: id()?,
            duplicate: true,
        }),
        _ => Err(match rest.split(' ').next().unwrap_or_default() {
            "TOPIC_FINISHED" => AppendError::Finished(topic),
            "IDEMPOTENCY_MISMATCH" => AppendError::Mismatch,
            _ => AppendError::Store(StoreError::Unavailable(rest.into())),
        }),
    }
}
