//! What a caller may do with which topics. Who it is has been found out before ([`crate::layers`]).

use std::time::SystemTime;

use super::problem::{Code, Problem};
use crate::{
    auth::{Auth, Identity},
    config::Right,
    event::Topic,
};

/// Refuses a caller who may not do this with every one of the topics.
pub(crate) fn allowed(
    auth: &Auth,
    identity: &Identity,
    right: Right,
    topics: &[Topic],
) -> Result<(), Problem> {
    if auth.anybody_may(right, topics) {
        return Ok(());
    }
    if !identity.is_known() {
        return Err(credentials_needed(right));
    }
    // A body that streams for hours may outlive the token that it came with.
    if identity
        .expires()
        .is_some_and(|end| end <= SystemTime::now())
    {
        return Err(Problem {
            outdated: true,
            shown: true,
            ..Problem::new(Code::Unauthorized, "the token has expired")
        });
    }
    match topics
        .iter()
        .find(|topic| !auth.may(identity, right, topic))
    {
        None => Ok(()),
        Some(topic) => {
            let verb = match right {
                Right::Subscribe => "follow",
                Right::Publish => "publish to",
                Right::Presence => "know who follows",
            };
            let detail = format!("these credentials do not allow to {verb} {topic}");
            Err(forbidden(detail))
        }
    }
}

fn credentials_needed(right: Right) -> Problem {
    let what = match right {
        Right::Subscribe => "following topics",
        Right::Publish => "publishing",
        Right::Presence => "knowing who follows a topic",
    };
    let detail = format!(
        "{what} needs credentials here: Authorization: Bearer …, ?ticket=, ?access_token= or a cookie"
    );
    Problem::new(Code::Unauthorized, detail)
}

/// The credentials are good, but not for this.
pub(crate) fn forbidden(detail: String) -> Problem {
    Problem {
        shown: true,
        ..Problem::new(Code::Forbidden, detail)
    }
}
