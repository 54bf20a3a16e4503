//! One guide, a sentinel or a node of a cluster, asked all the time where the server is that takes writes.
//!
//! Also while all is well: a master that was cut off from the others does not say so, and its connections stay open.

use std::{sync::Arc, time::Duration};

use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;

use super::{
    backoff::Backoff,
    cluster,
    council::Word,
    link::{Link, LinkError, mode, read},
    place::{Place, Via},
    resp::Value,
    sentinel,
    url::Address,
};

/// How long opening a connection, and each answer, may take. There are others to ask.
const ANSWER: Duration = Duration::from_secs(1);
/// How often it is asked.
const POLL: Duration = Duration::from_secs(1);
/// The same while a connection has failed: somebody else may be the master any moment now.
const POLL_IN_DOUBT: Duration = Duration::from_millis(100);

/// Asks until it is stopped.
pub(super) async fn run(place: Arc<Place>, guide: Address, stop: CancellationToken) {
    let mut backoff = Backoff::default();
    loop {
        let error = tokio::select! {
            error = session(&place, &guide, &mut backoff) => error,
            () = stop.cancelled() => return,
        };
        tracing::debug!(%guide, why = %error, "no word of a guide");
        let why = match error {
            // Which one it is, is told with it.
            LinkError::Connect(_, error) => error.to_string(),
            error => error.to_string(),
        };
        place.heard(&guide, Err(why));
        tokio::select! {
            () = time::sleep(backoff.next()) => {}
            () = stop.cancelled() => return,
        }
    }
}

async fn session(place: &Arc<Place>, guide: &Address, backoff: &mut Backoff) -> LinkError {
    let opened = async {
        let mut link = place.door.open(guide).await?;
        let about = place.door.hello(&mut link, "guide").await?;
        if let Via::Sentinel(_) = place.via() {
            if mode(&about).is_some_and(|mode| mode != "sentinel") {
                return Err(LinkError::NoSentinel);
            }
            sentinel::listen(&mut link).await?;
        }
        Ok(link)
    };
    let mut link = match in_time(opened).await {
        Ok(link) => link,
        Err(error) => return error,
    };
    let mut known = Vec::new();
    loop {
        let asking = async {
            match place.via() {
                Via::Sentinel(sentinels) => {
                    sentinel::ask(&mut link, &sentinels.master, &mut known).await
                }
                _ => cluster::ask(&mut link, guide).await,
            }
        };
        let asked = in_time(asking).await;
        take_news(place, &mut link);
        match asked {
            Ok(word) => place.heard(guide, word_or_why(place, word)),
            Err(error) => return error,
        }
        backoff.reset();
        if let Err(error) = pause(place, &mut link).await {
            return error;
        }
    }
}

/// A guide that knows of no server is as good as silent.
fn word_or_why(place: &Place, word: Word) -> Result<Word, String> {
    match (&word.master, place.via()) {
        (Some(_), _) => Ok(word),
        (None, Via::Sentinel(_)) => Err("it knows no master of that name".into()),
        (None, _) => Err("it knows no node that has the slot of the keys".into()),
    }
}

/// Only one kind of news says more than "ask again".
fn take_news(place: &Arc<Place>, link: &mut Link) {
    for news in link.news.drain(..) {
        if let Via::Sentinel(sentinels) = place.via()
            && let Some(replica) = sentinel::chosen(&news, &sentinels.master)
        {
            place.promoting(replica);
        }
    }
}

async fn in_time<T>(what: impl Future<Output = Result<T, LinkError>>) -> Result<T, LinkError> {
    let done = time::timeout(ANSWER, what).await;
    done.map_err(|_| LinkError::Silent)?
}

/// Waits until it is time to ask again: because time has passed, a connection has failed, or the guide has news.
async fn pause(place: &Arc<Place>, link: &mut Link) -> Result<(), LinkError> {
    let since = Instant::now();
    loop {
        let poll = if place.is_doubted() {
            POLL_IN_DOUBT
        } else {
            POLL
        };
        let asked = place.asked.notified();
        tokio::select! {
            () = time::sleep(poll.saturating_sub(since.elapsed())) => return Ok(()),
            () = asked => {
                // Each of our connections may say so at the same moment.
                if since.elapsed() >= POLL_IN_DOUBT / 10 {
                    return Ok(());
                }
            }
            read = read(&mut link.reader, &mut link.input) => {
                read?;
                while let Some(value) = link.decoder.decode(&mut link.input)? {
                    match value {
                        Value::Push(values) => link.news.push(values),
                        _ => return Err(LinkError::Unexpected),
                    }
                }
                let news = !link.news.is_empty();
                take_news(place, link);
                if news {
                    return Ok(());
                }
            }
        }
    }
}
