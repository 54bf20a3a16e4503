//! What a client asks over its WebSocket: `subscribe`, `unsubscribe`, `publish`, `ping`.
//!
//! A request is read, judged by the rights that its sender has by now, and answered at once or by what becomes of it. One is
//! under way at a time; the session asks for nothing more until it is done and its answers have left.

use std::sync::Arc;

use super::Session;
use crate::{
    auth::{Auth, Identity},
    config::Right,
    event::{PublishItem, Topic},
    http::{
        access::allowed,
        presence,
        problem::{Code, Problem},
        publish::{self, Rules},
        stream::count_verdict,
        ws::{
            encode,
            joining::Joining,
            message::{self, Reference, Request},
        },
    },
    hub::{Opening, Subscriber},
    layers::rate::{self, Key},
    log::{Replay, Start},
    store::Appended,
};

/// What became of a request.
pub(super) enum Done {
    Subscribed {
        reference: Option<Reference>,
        asked: Vec<Topic>,
        auth: Arc<Auth>,
        begun: Result<(Subscriber, Opening), Problem>,
    },
    Published {
        reference: Option<Reference>,
        stored: Result<Appended, Problem>,
    },
}

impl<S> Session<S> {
    pub(super) fn receive(&mut self, text: &str) {
        let most = self.app.config().limits.topics_per_connection;
        let (reference, request) = message::read(text, most);
        let answer = match request {
            Ok(Request::Ping) => Ok(encode::pong(reference.as_ref())),
            Ok(Request::Unsubscribe(topics)) => self
                .unsubscribe(&topics)
                .map(|()| encode::unsubscribed(reference.as_ref(), &topics)),
            Ok(Request::Subscribe(topics, start)) => {
                match self.subscribe(reference.clone(), topics, start, most) {
                    Ok(()) => return,
                    Err(problem) => Err(problem),
                }
            }
            Ok(Request::Publish(item)) => match self.publish(reference.clone(), item) {
                Ok(()) => return,
                Err(problem) => Err(problem),
            },
            Err(problem) => Err(problem),
        };
        self.answers.push_back(
            answer.unwrap_or_else(|problem| encode::error(reference.as_ref(), &problem)),
        );
    }

    /// Everything that is followed, or about to be.
    fn topics(&self) -> impl Iterator<Item = &Topic> {
        let joining = self.joining.iter().flat_map(Joining::topics);
        self.stream.subscriber().topics().chain(joining)
    }

    /// Who it is by now: a renewal may have put another token in the place of the one that it came with, and a reload may
    /// have left it fewer rights than that one had.
    fn identity(&self, auth: &Auth) -> Result<Arc<Identity>, Problem> {
        let identity = auth.current(&self.stream.handle().identity());
        let taken_back = "the credential of this connection is no longer accepted";
        identity
            .map(Arc::new)
            .ok_or_else(|| Problem::new(Code::Unauthorized, taken_back))
    }

    /// What others see of it.
    fn told(&self) {
        let topics = self.topics().cloned().collect();
        self.app.streams.follow(self.stream.handle(), &topics);
    }

    fn subscribe(
        &mut self,
        reference: Option<Reference>,
        asked: Vec<Topic>,
        start: Start,
        most: usize,
    ) -> Result<(), Problem> {
        let new: Vec<Topic> = asked
            .iter()
            .filter(|topic| self.topics().all(|followed| followed != *topic))
            .cloned()
            .collect();
        if self.topics().count() + new.len() > most {
            let detail = format!("a connection may follow {most} topics, these would be more");
            return Err(Problem::new(Code::TooManyTopics, detail));
        }
        let (app, auth) = (self.app.clone(), self.app.auth());
        presence::followable(&app.config(), &asked)?;
        let identity = self.identity(&auth)?;
        allowed(&auth, &identity, Right::Subscribe, &asked)?;
        if new.is_empty() {
            // What is followed stays as it is: another start would be a hole, or everything twice.
            let cursor = self.stream.subscriber().cursor();
            let opening = Opening {
                replay: Replay::None,
                cursor,
                ended: None,
            };
            let subscribed = encode::subscribed(reference.as_ref(), &asked, &opening);
            self.answers.push_back(subscribed);
            // What still catches up is live when it has, and not before.
            let mut joining = self.joining.iter_mut().rev();
            match joining.find(|joining| joining.follows_any(&asked)) {
                Some(joining) => joining.tell_of(asked),
                None => self.answers.push_back(encode::live(asked.iter(), cursor)),
            }
            return Ok(());
        }
        self.request = Some(Box::pin(async move {
            let begun = app.hub.subscribe(&new, start).await;
            Done::Subscribed {
                reference,
                asked,
                auth,
                begun: begun.map_err(Problem::from),
            }
        }));
        Ok(())
    }

    fn unsubscribe(&mut self, topics: &[Topic]) -> Result<(), Problem> {
        if let Some(stranger) = topics
            .iter()
            .find(|topic| self.topics().all(|followed| followed != *topic))
        {
            let detail = format!("{stranger} is not followed on this connection");
            return Err(Problem::new(Code::TopicNotFollowed, detail));
        }
        self.stream.subscriber_mut().leave(topics);
        self.joining.retain_mut(|joining| !joining.leave(topics));
        self.reached = false;
        self.told();
        Ok(())
    }

    fn publish(&mut self, reference: Option<Reference>, item: PublishItem) -> Result<(), Problem> {
        let rules = Rules::of(&self.app);
        let auth = self.app.auth();
        self.caller.identity = self.identity(&auth)?;
        if !rules.config.development() {
            let (rates, config) = (&self.app.rates, &rules.config.limits.rate);
            let address = Key::address(self.caller.address);
            rate::admit(
                &rates.publish,
                address,
                config.publish,
                "limits.rate.publish",
            )?;
            if self.caller.identity.subject().is_some() {
                rate::admit(
                    &rates.publish_per_subject,
                    rates.subject(self.caller.identity.caller()),
                    config.publish_per_subject,
                    "limits.rate.publish_per_subject",
                )?;
            }
        }
        allowed(&auth, &self.caller.identity, Right::Publish, &[])?;
        let append = publish::append(&rules, &self.caller, item, None)?;
        let app = self.app.clone();
        self.request = Some(Box::pin(async move {
            let stored = publish::store(&app, vec![Ok(append)]).await;
            let stored = stored.into_iter().next().expect("an answer for each item");
            Done::Published { reference, stored }
        }));
        Ok(())
    }

    pub(super) fn finish(&mut self, done: Done) {
        match done {
            Done::Published { reference, stored } => {
                let reference = reference.as_ref();
                self.answers.push_back(match stored {
                    Ok(appended) => encode::ack(reference, &appended),
                    Err(problem) => encode::error(reference, &problem),
                });
            }
            Done::Subscribed {
                reference,
                begun: Err(problem),
                ..
            } => self
                .answers
                .push_back(encode::error(reference.as_ref(), &problem)),
            Done::Subscribed {
                reference,
                asked,
                auth,
                begun: Ok((subscriber, opening)),
            } => {
                count_verdict(&self.app, &opening.replay);
                let subscribed = encode::subscribed(reference.as_ref(), &asked, &opening);
                self.answers.push_back(subscribed);
                self.joining.push_back(Joining::new(subscriber, asked));
                self.told();
                // A reload may have taken a right back meanwhile.
                if !Arc::ptr_eq(&auth, &self.app.auth()) {
                    self.app.judge(self.stream.handle());
                }
            }
        }
    }
}
