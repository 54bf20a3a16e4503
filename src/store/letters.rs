//! Questions between replicas, and their answers.
//!
//! Only the replica that holds a stream can do something to it. Whoever is asked to do it instead writes to that replica and
//! waits for its answer. A question is put once at most; one that is not answered may have been obeyed.
//!
//! ```text
//!  1 q <id> <replica that asks>\n<question>          1 a <id>\n<answer>
//! ```
//!
//! # Invariants
//! 1. What somebody else wrote is passed over and counted, whatever it looks like.
//! 2. Questions under way are bounded, those that are asked as those that are answered.
//!
//! Not here: what is asked; and what was said is never logged, because it may hold a token.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use parking_lot::Mutex;
use tokio::{sync::oneshot, time};

use super::{Mailbox, Store, StoreError};

/// How long an answer is waited for.
pub const PATIENCE: Duration = Duration::from_secs(2);
/// How often a replica that is alive but does not listen, because it is connecting again, is tried.
const AGAIN: Duration = Duration::from_millis(100);
/// Questions of this replica that may wait for their answers.
const ASKED: usize = 1024;
/// Questions of others that are answered at once.
const ANSWERING: usize = 64;

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// There is no such replica.
    #[error("there is no such replica")]
    Nobody,
    /// The replica did not answer in time, or does not listen though it is alive: whether it has done something is unknown.
    #[error("the replica did not answer in time")]
    Silent,
    /// Too many questions wait for their answers: it was not asked.
    #[error("too many questions to other replicas wait for an answer")]
    Busy,
    /// The store does not bring letters now.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Asks other replicas and answers them.
pub struct Letters {
    store: Arc<dyn Store>,
    replica: Box<str>,
    /// Until somebody serves it.
    mailbox: Mutex<Option<Mailbox>>,
    waiting: Mutex<HashMap<u64, oneshot::Sender<String>>>,
    dropped: AtomicU64,
}

impl Letters {
    /// The letters of this replica. From here on others can write to it; [`Letters::serve`] reads them.
    ///
    /// # Panics
    /// When the replica already takes letters from this store.
    pub fn new(store: Arc<dyn Store>, replica: &str) -> Self {
        Self {
            mailbox: Mutex::new(Some(store.mailbox(replica))),
            store,
            replica: replica.into(),
            waiting: Mutex::default(),
            dropped: AtomicU64::new(0),
        }
    }

    /// Letters that were passed over: not of ours, too late, or too many. Those that the store dropped are not among them.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Puts a question to a replica, this one included, and waits for its answer for [`PATIENCE`] at most.
    ///
    /// # Errors
    /// After [`AskError::Silent`] it is unknown whether the replica has done something; after all others it has not, except
    /// where the error of the store says otherwise.
    ///
    /// # Cancel safety
    /// A question that was sent is not taken back.
    pub async fn ask(&self, replica: &str, question: &str) -> Result<String, AskError> {
        // A name from outside would become one of a channel.
        if !is_name(replica) {
            return Err(AskError::Nobody);
        }
        let id = rand::random();
        let (answer, answered) = oneshot::channel();
        {
            let mut waiting = self.waiting.lock();
            if waiting.len() >= ASKED {
                return Err(AskError::Busy);
            }
            waiting.insert(id, answer);
        }
        let _forget = Forget { letters: self, id };
        let letter = format!("1 q {id:016x} {}\n{question}", self.replica);
        let asked = async {
            self.put(replica, &letter).await?;
            answered.await.map_err(|_| AskError::Silent)
        };
        time::timeout(PATIENCE, asked)
            .await
            .unwrap_or(Err(AskError::Silent))
    }

    /// Sends until somebody listens, for as long as the replica is known to be alive.
    async fn put(&self, replica: &str, letter: &str) -> Result<(), AskError> {
        loop {
            if self.store.send(replica, letter).await? {
                return Ok(());
            }
            // Its last word counts for some seconds; a replica that was not told to end may be connecting again.
            let replicas = self.store.replicas().await?;
            if replicas.iter().all(|report| report.id != replica) {
                return Err(AskError::Nobody);
            }
            time::sleep(AGAIN).await;
        }
    }

    /// Reads the letters to this replica: answers questions by `answer`, and hands answers to whoever waits for them. Ends
    /// when the store does.
    ///
    /// # Panics
    /// When it is called a second time.
    ///
    /// # Cancel safety
    /// Dropping the future ends the mailbox: others are told that nobody listens.
    pub async fn serve<F>(&self, answer: F)
    where
        F: Fn(String) -> BoxFuture<'static, String> + Send + Sync,
    {
        let mailbox = self.mailbox.lock().take();
        let mut mailbox = mailbox.expect("letters are served once");
        let mut answering = FuturesUnordered::new();
        loop {
            tokio::select! {
                letter = mailbox.next() => match letter.as_deref().map(parse) {
                    None => return,
                    Some(Some(Letter::Answer(id, text))) => self.answered(id, text),
                    Some(Some(Letter::Question(id, replica, text)))
                        if answering.len() < ANSWERING =>
                    {
                        let (replica, answer) = (replica.to_owned(), answer(text.to_owned()));
                        answering.push(async move { self.answer(id, &replica, answer).await });
                    }
                    Some(_) => self.drop_one(),
                },
                Some(()) = answering.next() => {}
            }
        }
    }

    fn answered(&self, id: u64, text: &str) {
        let asker = self.waiting.lock().remove(&id);
        // Nobody waits for it any more, or nobody ever did.
        if asker.is_none_or(|asker| asker.send(text.to_owned()).is_err()) {
            self.drop_one();
        }
    }

    async fn answer(&self, id: u64, replica: &str, answer: BoxFuture<'static, String>) {
        // Whoever asked does not wait for longer.
        let Ok(text) = time::timeout(PATIENCE, answer).await else {
            return;
        };
        let letter = format!("1 a {id:016x}\n{text}");
        let sent = time::timeout(PATIENCE, self.store.send(replica, &letter)).await;
        if !matches!(sent, Ok(Ok(true))) {
            tracing::debug!(replica, "an answer to another replica could not be sent");
        }
    }

    fn drop_one(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }
}

/// Nobody waits for the answer any more.
struct Forget<'a> {
    letters: &'a Letters,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.letters.waiting.lock().remove(&self.id);
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Letter<'a> {
    /// Of this number, asked by this replica.
    Question(u64, &'a str, &'a str),
    /// To the question of this number.
    Answer(u64, &'a str),
}

/// Whether it may be the name of a replica.
fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=64).contains(&name.len()) && name.bytes().all(allowed)
}

/// Reads a letter; none: it is not one of ours.
fn parse(letter: &str) -> Option<Letter<'_>> {
    let (head, text) = letter.split_once('\n')?;
    let mut words = head.split(' ');
    let ("1", kind, id) = (words.next()?, words.next()?, words.next()?) else {
        return None;
    };
    let is_id = id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    let id = u64::from_str_radix(id, 16).ok().filter(|_| is_id)?;
    let replica = words.next();
    match (kind, replica, words.next()) {
        ("q", Some(replica), None) if is_name(replica) => Some(Letter::Question(id, replica, text)),
        ("a", None, None) => Some(Letter::Answer(id, text)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use proptest::prelude::*;
    use tokio::time::Instant;

    use super::*;
    use crate::store::{LETTER_BYTES, ReplicaReport, contract::everything, memory::MemoryStore};

    fn store() -> Arc<dyn Store> {
        Arc::new(MemoryStore::new(everything()))
    }

    /// A replica that echoes, in capital letters.
    fn serving(store: &Arc<dyn Store>, replica: &str) -> Arc<Letters> {
        let letters = Arc::new(Letters::new(store.clone(), replica));
        let served = letters.clone();
        tokio::spawn(async move {
            let answer = |question: String| async move { question.to_uppercase() }.boxed();
            served.serve(answer).await;
        });
        letters
    }

    #[tokio::test]
    async fn a_question_is_answered_by_the_replica_that_was_asked() {
        let store = store();
        let (a, b) = (serving(&store, "a"), serving(&store, "b"));
        assert_eq!(a.ask("b", "line\nline").await, Ok("LINE\nLINE".into()));
        assert_eq!(b.ask("a", "").await, Ok(String::new()));
        assert_eq!(a.ask("a", "itself").await, Ok("ITSELF".into()));
        assert_eq!((a.dropped(), b.dropped()), (0, 0));
        assert!(a.waiting.lock().is_empty());
    }

    #[tokio::test]
    async fn many_questions_at_once_get_each_its_own_answer() {
        let store = store();
        let (a, _b) = (serving(&store, "a"), serving(&store, "b"));
        let ask = |number: usize| {
            let a = a.clone();
            async move { a.ask("b", &format!("x{number}")).await }
        };
        let answers = futures_util::future::join_all((0..ANSWERING).map(ask)).await;
        for (number, answer) in answers.into_iter().enumerate() {
            assert_eq!(answer, Ok(format!("X{number}")));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_replica_that_is_gone_is_said_to_be_gone_at_once() {
        let store = store();
        let a = serving(&store, "a");
        let begun = Instant::now();
        for name in ["b", "", "no name", "*", &"x".repeat(65)] {
            assert_eq!(a.ask(name, "?").await, Err(AskError::Nobody), "{name}");
        }
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_replica_that_is_connecting_again_is_waited_for() {
        let store = store();
        let a = serving(&store, "a");
        let report = ReplicaReport {
            id: "b".into(),
            ..ReplicaReport::default()
        };
        store.announce(&report).await.expect("the store is well");
        let later = store.clone();
        tokio::spawn(async move {
            time::sleep(Duration::from_millis(500)).await;
            serving(&later, "b");
        });
        assert_eq!(a.ask("b", "x").await, Ok("X".into()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_replica_that_does_not_answer_is_not_waited_for_for_ever() {
        let store = store();
        let a = serving(&store, "a");
        let _silent = store.mailbox("b");
        let begun = Instant::now();
        assert_eq!(a.ask("b", "?").await, Err(AskError::Silent));
        assert_eq!(begun.elapsed(), PATIENCE);
        assert!(a.waiting.lock().is_empty(), "nothing is left of it");
    }

    #[tokio::test]
    async fn a_question_that_is_too_long_is_not_sent() {
        let store = store();
        let (a, _b) = (serving(&store, "a"), serving(&store, "b"));
        let answer = a.ask("b", &"x".repeat(LETTER_BYTES)).await;
        assert!(matches!(answer, Err(AskError::Store(_))), "{answer:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn foreign_letters_are_passed_over_and_counted() {
        let store = store();
        let (a, b) = (serving(&store, "a"), serving(&store, "b"));
        let id = format!("{:016x}", 7);
        let foreign = [
            "",
            "\n",
            "hello",
            "1 q",
            "1 q 7 a\nx",
            &format!("1 q {id}\nx"),
            &format!("1 q {id} a"),
            &format!("1 q {id} a b\nx"),
            &format!("1 q {id} *\nx"),
            &format!("2 q {id} a\nx"),
            &format!("1 a {id} a\nx"),
            // Nobody asked.
            &format!("1 a {id}\nx"),
        ];
        for letter in foreign {
            assert_eq!(store.send("b", letter).await, Ok(true));
        }
        assert_eq!(a.ask("b", "still there").await, Ok("STILL THERE".into()));
        assert_eq!(b.dropped(), foreign.len() as u64);
    }

    #[tokio::test(start_paused = true)]
    async fn more_questions_than_can_be_answered_are_passed_over() {
        let store = store();
        let a = Arc::new(Letters::new(store.clone(), "a"));
        let served = a.clone();
        tokio::spawn(async move {
            let never = |_: String| std::future::pending().boxed();
            served.serve(never).await;
        });
        for number in 0..ANSWERING + 5 {
            let letter = format!("1 q {number:016x} b\n");
            assert_eq!(store.send("a", &letter).await, Ok(true));
        }
        time::sleep(PATIENCE / 2).await;
        assert_eq!(a.dropped(), 5);
    }

    proptest! {
        #[test]
        fn no_letter_panics(letter in ".{0,60}") {
            let _ = parse(&letter);
        }

        #[test]
        fn a_letter_reads_back_as_it_was(id in any::<u64>(), name in "[a-zA-Z0-9._-]{1,64}", text in "(?s).{0,40}") {
            let question = format!("1 q {id:016x} {name}\n{text}");
            prop_assert_eq!(parse(&question), Some(Letter::Question(id, &name, &text)));
            let answer = format!("1 a {id:016x}\n{text}");
            prop_assert_eq!(parse(&answer), Some(Letter::Answer(id, &text)));
        }
    }
}
