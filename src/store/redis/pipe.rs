//! Many requests under way on one connection, each answered in its turn.
//!
//! Whoever asks learns more than that it failed: whether the request may have reached Redis. That is the difference between
//! "nothing has happened" and "repeat it with its key".
//!
//! # Invariants
//! 1. A request is sent once at most, and not at all when its asker has gone before its turn.
//! 2. [`CallError::NotSent`]: not one byte of it was handed to the connection.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, mpsc, oneshot},
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;

use super::{
    backoff::Backoff,
    link::{Endpoint, Link, LinkError, Output, lost, read},
    resp::{Request, Value},
    stats::{Counters, Health},
};

/// Requests that may wait for the connection.
const QUEUE: usize = 1024;
/// Bytes that are gathered before the connection has taken them.
const OUTPUT: usize = 1024 * 1024;
/// How often an idle connection is asked whether it is still there.
const PING: Duration = Duration::from_secs(1);

/// How long a server that is left may take to answer what it was asked before.
const LEAVE: Duration = Duration::from_millis(250);
/// The same where another one is the master now, or will be 50 to 100 ms after that was announced.
const LEAVE_LOST: Duration = Duration::from_millis(25);
/// How long a request waits for a connection that is about to come, because Redis is there.
const GRACE: Duration = Duration::from_secs(1);

/// How often it is looked whether the server is still worth waiting for.
const LOOK: Duration = Duration::from_millis(100);

/// Why a request has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CallError {
    /// It was not sent.
    NotSent(Arc<str>),
    /// It was sent, or a part of it, and no answer came.
    Unknown,
}

/// Requests that stay together, with one reply each.
struct Job {
    requests: Vec<Request>,
    answer: oneshot::Sender<Result<Vec<Value>, CallError>>,
}

/// What of the answers is worth something.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Believed {
    All,
    /// That nothing was done. What was done may be lost, because another server is the master already.
    Refusals,
}

/// A request that was handed to the connection.
struct UnderWay {
    start: u64,
    at: Instant,
    replies: usize,
    values: Vec<Value>,
    /// None: nobody waits, it only shows that Redis answers.
    answer: Option<oneshot::Sender<Result<Vec<Value>, CallError>>>,
}

/// What is done with a fresh connection before it is used.
pub(super) type Prepare =
    Arc<dyn for<'a> Fn(&'a mut Link) -> BoxFuture<'a, Result<(), LinkError>> + Send + Sync>;

/// The handle; cheap to clone.
#[derive(Clone)]
pub(super) struct Pipe {
    queue: mpsc::Sender<Job>,
    away: Arc<Away>,
    health: Arc<Health>,
    endpoint: Arc<Endpoint>,
}

/// Why there is no connection, while there is none.
struct Away {
    why: Mutex<Option<Arc<str>>>,
    /// There is one.
    over: Notify,
}

impl Away {
    fn why(&self) -> Option<Arc<str>> {
        self.why.lock().clone()
    }

    fn set(&self, why: Option<Arc<str>>) {
        let over = why.is_none();
        *self.why.lock() = why;
        if over {
            self.over.notify_waiters();
        }
    }
}

pub(super) struct PipeConfig {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) purpose: &'static str,
    /// After this time without the oldest reply the connection is given up.
    pub(super) timeout: Duration,
    pub(super) counters: Arc<Counters>,
    pub(super) health: Arc<Health>,
    pub(super) prepare: Prepare,
    pub(super) stop: CancellationToken,
}

impl Pipe {
    /// A pipe, and the task that has to be spawned for it.
    pub(super) fn new(config: PipeConfig) -> (Self, impl Future<Output = ()> + Send) {
        let (queue, jobs) = mpsc::channel(QUEUE);
        let away = Arc::new(Away {
            why: Mutex::new(Some("it was not reached yet".into())),
            over: Notify::new(),
        });
        let pipe = Self {
            queue,
            away: away.clone(),
            health: config.health.clone(),
            endpoint: config.endpoint.clone(),
        };
        (pipe, Runner { config, away }.run(jobs))
    }

    /// Sends a request and waits for its reply.
    ///
    /// # Cancel safety
    /// A request whose turn has not come when the future is dropped is not sent.
    pub(super) async fn call(&self, request: Request) -> Result<Value, CallError> {
        let replies = self.send(vec![request]).await;
        let mut replies = replies.await.unwrap_or(Err(CallError::Unknown))?;
        replies.pop().ok_or(CallError::Unknown)
    }

    /// Hands requests over, which stay together; what is handed over first is sent first.
    pub(super) async fn send(
        &self,
        requests: Vec<Request>,
    ) -> oneshot::Receiver<Result<Vec<Value>, CallError>> {
        let (answer, answered) = oneshot::channel();
        let job = Job { requests, answer };
        let over = self.away.over.notified();
        if self.away.why().is_some()
            && (self.health.why_away().is_none() || self.endpoint.place.is_moving())
        {
            // Redis is there, or will be in a moment, only this connection is not yet: a publisher need not hear of it.
            let _ = time::timeout(GRACE, over).await;
        }
        match self.away.why() {
            Some(why) => {
                let _ = job.answer.send(Err(CallError::NotSent(why)));
            }
            None => {
                if let Err(job) = self.queue.send(job).await {
                    let why = "the gateway is stopping".into();
                    let _ = job.0.answer.send(Err(CallError::NotSent(why)));
                }
            }
        }
        answered
    }
}

struct Runner {
    config: PipeConfig,
    away: Arc<Away>,
}

impl Runner {
    async fn run(self, mut jobs: mpsc::Receiver<Job>) {
        let mut backoff = Backoff::default();
        let stop = self.config.stop.clone();
        while !stop.is_cancelled() {
            let mut place = self.config.endpoint.place.mark();
            let why = tokio::select! {
                why = self.connection(&mut jobs, &mut backoff) => why,
                () = stop.cancelled() => return,
            };
            self.config.endpoint.failed(&why);
            let why: Arc<str> = why.to_string().into();
            tracing::debug!(purpose = self.config.purpose, %why, "no connection to Redis");
            self.away.set(Some(why.clone()));
            let wait = time::sleep(backoff.next());
            let opened = self.config.health.opened.notified();
            tokio::pin!(wait, opened);
            loop {
                tokio::select! {
                    () = &mut wait => break,
                    () = &mut opened => break,
                    () = place.lost() => {
                        backoff.reset();
                        break;
                    }
                    () = stop.cancelled() => return,
                    job = jobs.recv(), if !self.config.endpoint.place.is_moving() => match job {
                        Some(job) => refuse(job, &why),
                        None => return,
                    },
                    () = time::sleep(LOOK), if self.config.endpoint.place.is_moving() => {}
                }
            }
        }
    }

    /// Opens a connection and serves it until it ends.
    async fn connection(&self, jobs: &mut mpsc::Receiver<Job>, backoff: &mut Backoff) -> LinkError {
        let connect = async {
            let mut link = self.config.endpoint.connect(self.config.purpose).await?;
            (self.config.prepare)(&mut link).await?;
            Ok(link)
        };
        tokio::pin!(connect);
        let link = loop {
            tokio::select! {
                link = &mut connect => match link {
                    Ok(link) => break link,
                    Err(error) => return error,
                },
                // What was handed over just before waits for a server that will be there in a moment.
                job = jobs.recv(), if !self.config.endpoint.place.is_moving() => match job {
                    Some(job) => {
                        refuse(job, &self.away.why().unwrap_or_default());
                    }
                    // Nobody can ask any more.
                    None => return LinkError::Closed,
                },
                () = time::sleep(LOOK), if self.config.endpoint.place.is_moving() => {}
            }
        };
        backoff.reset();
        self.config.counters.connected();
        self.away.set(None);
        let mut under_way = VecDeque::new();
        let (error, written) = self.serve(link, jobs, &mut under_way).await;
        // From here on nobody is told that the request may have been sent, unless it was.
        let why: Arc<str> = error.to_string().into();
        self.away.set(Some(why.clone()));
        for request in under_way {
            let sent = request.start < written;
            if let Some(answer) = request.answer {
                let _ = answer.send(Err(if sent {
                    CallError::Unknown
                } else {
                    CallError::NotSent(why.clone())
                }));
            }
        }
        error
    }

    async fn serve(
        &self,
        link: Link,
        jobs: &mut mpsc::Receiver<Job>,
        under_way: &mut VecDeque<UnderWay>,
    ) -> (LinkError, u64) {
        let mut output = Output::new(&link);
        let Link {
            mut reader,
            mut writer,
            mut decoder,
            mut input,
            calls,
            mut hold,
            ..
        } = link;
        let mut heard = Instant::now();
        let mut batch = Vec::new();
        // Why the server is left, as soon as it has answered what is under way: with the same, most likely, and that is more
        // than not to know.
        let mut leaving: Option<(LinkError, Instant)> = None;
        let mut believed = Believed::All;
        let ended = async {
            loop {
                // A reply that stands behind others is late, but not missing.
                let deadline = under_way.front().map_or(PING, |oldest| {
                    let silent = oldest.at.elapsed().min(heard.elapsed());
                    self.config.timeout.saturating_sub(silent)
                });
                let deadline = match &leaving {
                    Some((_, until)) => until.saturating_duration_since(Instant::now()),
                    None => deadline,
                };
                tokio::select! {
                    biased;
                    read = read(&mut reader, &mut input) => {
                        read?;
                        heard = Instant::now();
                        while let Some(value) = decoder.decode(&mut input)? {
                            let left = self.reply(value, under_way, believed)?;
                            leaving = leaving.or(left.map(|why| (why, Instant::now() + LEAVE)));
                        }
                        if let Some((why, _)) = leaving.take_if(|_| under_way.is_empty()) {
                            return Err(why);
                        }
                    }
                    () = lost(&mut hold), if leaving.is_none() => {
                        // Whatever has not begun to leave stays here: this server may lose it.
                        let sent = under_way.partition_point(|it| it.start < output.written);
                        if let Some(first) = under_way.get(sent) {
                            output.keep_until(first.start);
                        }
                        for unsent in under_way.drain(sent..) {
                            if let Some(answer) = unsent.answer {
                                let why = LinkError::Elsewhere.to_string().into();
                                let _ = answer.send(Err(CallError::NotSent(why)));
                            }
                        }
                        if under_way.is_empty() {
                            return Err(LinkError::Elsewhere);
                        }
                        // While a replica is being promoted the old master is one for some moments more, and passes on what
                        // it answers now. Afterwards only a refusal can be believed.
                        if !self.config.endpoint.place.is_promoting() {
                            believed = Believed::Refusals;
                        }
                        leaving = Some((LinkError::Elsewhere, Instant::now() + LEAVE_LOST));
                    }
                    sent = output.write(&mut writer), if output.is_pending() => sent?,
                    count = jobs.recv_many(&mut batch, 64), if output.bytes.len() < OUTPUT && leaving.is_none() => {
                        if count == 0 {
                            return Err(LinkError::Closed);
                        }
                        for job in batch.drain(..) {
                            // Whoever has given up is told nothing, so nothing may happen.
                            if job.answer.is_closed() {
                                continue;
                            }
                            under_way.push_back(UnderWay {
                                start: output.end(),
                                at: Instant::now(),
                                replies: job.requests.len(),
                                values: Vec::with_capacity(job.requests.len()),
                                answer: Some(job.answer),
                            });
                            for request in &job.requests {
                                request.write(calls, &mut output.bytes);
                            }
                        }
                    }
                    () = time::sleep(deadline) => {
                        if let Some((why, _)) = leaving.take() {
                            return Err(why);
                        }
                        if !under_way.is_empty() {
                            return Err(LinkError::Silent);
                        }
                        under_way.push_back(UnderWay {
                            start: output.end(),
                            at: Instant::now(),
                            replies: 1,
                            values: Vec::new(),
                            answer: None,
                        });
                        Request::new("PING").write(calls, &mut output.bytes);
                    }
                }
            }
        };
        let error = match ended.await {
            Ok(()) => LinkError::Closed,
            Err(error) => error,
        };
        (error, output.written)
    }

    /// Hands a reply to whoever waits for it. Returns why the connection is to be left, if it says so.
    fn reply(
        &self,
        value: Value,
        under_way: &mut VecDeque<UnderWay>,
        believed: Believed,
    ) -> Result<Option<LinkError>, LinkError> {
        if matches!(value, Value::Push(_)) {
            return Ok(None);
        }
        let Some(oldest) = under_way.front_mut() else {
            return Err(LinkError::Unexpected);
        };
        // The server is none that takes writes any more, or has the keys no more: the right one has to be found.
        let left = match &value {
            Value::Error(text) if text.starts_with("READONLY") => Some(LinkError::Replica),
            Value::Error(text) if text.starts_with("MOVED ") => {
                Some(LinkError::Refused(text.clone()))
            }
            _ => None,
        };
        oldest.values.push(value);
        if oldest.values.len() == oldest.replies
            && let Some(done) = under_way.pop_front()
        {
            self.config.counters.command(done.at.elapsed());
            if let Some(answer) = done.answer {
                let refused = matches!(done.values.first(), Some(Value::Error(_)));
                let _ = answer.send(if refused || believed == Believed::All {
                    Ok(done.values)
                } else {
                    Err(CallError::Unknown)
                });
            }
        }
        Ok(left)
    }
}

fn refuse(job: Job, why: &Arc<str>) {
    let _ = job.answer.send(Err(CallError::NotSent(why.clone())));
}
